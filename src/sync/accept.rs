//! Which restored backups, of those that an operator accepted, this gateway has taken over. Kept in the state
//! folder: one that was taken over once is never a reason again to forget what has ended.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::{Acceptance, AcceptanceId};

/// The file's name in the state folder.
const NAME: &str = "accepted";

/// What was taken over.
#[derive(Debug)]
pub(super) struct Accepted {
    file: PathBuf,
    known: BTreeSet<AcceptanceId>,
    is_written: bool,
}

impl Accepted {
    /// What the state folder says; what cannot be read there was not taken over.
    pub(super) fn read(folder: &Path) -> Self {
        let file = folder.join(NAME);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let known = text.lines().filter_map(|line| u128::from_str_radix(line, 16).ok()).map(AcceptanceId).collect();
        Self { file, known, is_written: true }
    }

    /// Whether the newest of these is none that was taken over.
    pub(super) fn lacks_newest(&self, all: &[Acceptance]) -> bool {
        all.last().is_some_and(|newest| !self.known.contains(&newest.id))
    }

    /// The store was taken over with all of these.
    pub(super) fn learn(&mut self, all: &[Acceptance]) {
        let before = self.known.len();
        self.known.extend(all.iter().map(|acceptance| acceptance.id));
        self.is_written &= self.known.len() == before;
    }

    /// Writes down what is not written yet.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.is_written {
            return Ok(());
        }
        let text: String = self.known.iter().map(|id| format!("{:032x}\n", id.0)).collect();
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &self.file)?;
        self.is_written = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::key::Actor;

    fn acceptance(id: u128) -> Acceptance {
        Acceptance { id: AcceptanceId(id), revision: 1, at: Timestamp::EPOCH, actor: Actor::System }
    }

    #[test]
    fn what_was_taken_over_once_is_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (acceptance(1), acceptance(2));
        let mut accepted = Accepted::read(folder.path());
        assert!(accepted.lacks_newest(std::slice::from_ref(&one)) && !accepted.lacks_newest(&[]));
        accepted.learn(&[one.clone(), two.clone()]);
        accepted.write().expect("a file");
        let accepted = Accepted::read(folder.path());
        assert!(!accepted.lacks_newest(&[one.clone(), two]));
        // An older backup, from before the second.
        assert!(!accepted.lacks_newest(std::slice::from_ref(&one)));
        assert!(accepted.lacks_newest(&[one, acceptance(3)]));
    }
}
