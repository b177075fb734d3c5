//! The deny list: keys that this gateway refuses whatever the store says. For a leaked key while
//! the database is down.
//!
//! One entry a line: a key id, a lineage id, or the 128 hexadecimal digits of a hash. Blank lines
//! and what follows a `#` are passed over. A bad line spoils only itself, and a report of it never
//! shows what it holds: somebody will have pasted the leaked token.

use crate::key::{KeyId, LineageId, Record, TokenHash};

/// A line of the deny list that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: neither a key id (key_ and 32 digits), a lineage id (lin_ and 32 digits) nor a hash (128 digits)"
)]
pub struct LineFault {
    /// Its number, from 1.
    pub line: usize,
}

/// An immutable set of refused keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DenyList {
    keys: Box<[KeyId]>,
    lineages: Box<[LineageId]>,
    heads: Box<[[u8; 32]]>,
}

impl DenyList {
    /// The list of all good lines of `text`, and the bad ones.
    #[must_use]
    pub fn parse(text: impl AsRef<[u8]>) -> (Self, Vec<LineFault>) {
        let (mut keys, mut lineages, mut heads, mut faults) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (at, line) in text.as_ref().split(|&byte| byte == b'\n').enumerate() {
            // What is not UTF-8 is no entry, but may stand in a comment.
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
            let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let entry = std::str::from_utf8(line).unwrap_or_default();
            if let Ok(key) = entry.parse() {
                keys.push(key);
            } else if let Ok(lineage) = entry.parse() {
                lineages.push(lineage);
            } else if let Some(hash) = TokenHash::from_hex(entry) {
                heads.push(hash.head());
            } else {
                faults.push(LineFault { line: at + 1 });
            }
        }
        (Self { keys: sorted(keys), lineages: sorted(lineages), heads: sorted(heads) }, faults)
    }

    /// Whether the key, its lineage or its hash is on the list.
    #[must_use]
    pub fn names(&self, record: &Record) -> bool {
        self.names_key(record.id, record.lineage, &record.hash_head)
    }

    /// The same, from the parts: id, lineage and the first 32 bytes of the hash.
    #[must_use]
    pub fn names_key(&self, id: KeyId, lineage: LineageId, head: &[u8; 32]) -> bool {
        self.keys.binary_search(&id).is_ok()
            || self.lineages.binary_search(&lineage).is_ok()
            || self.heads.binary_search(head).is_ok()
    }

    /// Whether this hash is on the list: for a token that the table does not know.
    #[must_use]
    pub fn names_hash(&self, hash: &TokenHash) -> bool {
        self.heads.binary_search(&hash.head()).is_ok()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len() + self.lineages.len() + self.heads.len()
    }

    /// Whether nothing is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn sorted<T: Ord>(mut entries: Vec<T>) -> Box<[T]> {
    entries.sort_unstable();
    entries.dedup();
    entries.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_named_by_id_lineage_or_hash() {
        let record = testing::record(7, &["**"]);
        let hash = TokenHash::from_bytes({
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(&record.hash_head);
            bytes
        });
        for line in [record.id.to_string(), record.lineage.to_string(), hash.to_hex(), hash.to_hex().to_uppercase()] {
            let (list, faults) = DenyList::parse(&line);
            assert!(list.names(&record), "{line}");
            assert!(!list.names(&testing::record(8, &["**"])), "{line}");
            assert!(faults.is_empty());
        }
        assert!(DenyList::parse(hash.to_hex()).0.names_hash(&hash));
        assert!(!DenyList::default().names(&record));
    }

    #[test]
    fn good_lines_apply_beside_bad_ones() {
        let record = testing::record(7, &[]);
        let text = format!("\u{feff}# leaked\r\n\r\nkw_live_pasted\n  {} # ann's\nkey_12\n\t\n", record.id);
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(b"\xff\xfe\n# \xff\n");
        let (list, faults) = DenyList::parse(&bytes);
        assert_eq!(list.len(), 1);
        assert!(list.names(&record));
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [3, 5, 7]);
    }

    #[test]
    fn a_fault_never_shows_the_line() {
        let (_, faults) = DenyList::parse("kw_live_secret");
        assert!(!faults[0].to_string().contains("secret"));
        assert!(!format!("{faults:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_line_by_line(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (list, faults) = DenyList::parse(&bytes);
            prop_assert!(list.len() + faults.len() <= bytes.split(|&byte| byte == b'\n').count());
        }
    }
}
