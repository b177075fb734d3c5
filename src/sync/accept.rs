//! Which restored backups, of those that an operator accepted, this gateway has taken over. Kept in the state
//! folder: one that was taken over once is never a reason again to forget what has ended.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::state::Disk;
use crate::store::{Acceptance, AcceptanceId};

/// The file's name in the state folder.
const NAME: &str = "accepted";
const UNFINISHED: &str = "accepted.new";

/// What was taken over.
#[derive(Debug)]
pub(super) struct Accepted {
    disk: Arc<dyn Disk>,
    known: BTreeSet<AcceptanceId>,
    is_written: bool,
}

impl Accepted {
    /// What the state folder says; what cannot be read there was not taken over.
    pub(super) fn read(disk: Arc<dyn Disk>) -> Self {
        let text = String::from_utf8(disk.read(NAME).unwrap_or_default()).unwrap_or_default();
        let known = text.lines().filter_map(|line| u128::from_str_radix(line, 16).ok()).map(AcceptanceId).collect();
        Self { disk, known, is_written: true }
    }

    /// Whether the newest of these is none that was taken over.
    pub(super) fn lacks_newest(&self, all: &[Acceptance]) -> bool {
        all.last().is_some_and(|newest| !self.known.contains(&newest.id))
    }

    /// The store was taken over with all of these.
    pub(super) fn learn<'a>(&mut self, all: impl IntoIterator<Item = &'a Acceptance>) {
        let before = self.known.len();
        self.known.extend(all.into_iter().map(|acceptance| acceptance.id));
        self.is_written &= self.known.len() == before;
    }

    /// Writes down what is not written yet.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.is_written {
            return Ok(());
        }
        let text: String = self.known.iter().map(|id| format!("{:032x}\n", id.0)).collect();
        let mut file = self.disk.create(UNFINISHED)?;
        file.write_all(text.as_bytes())?;
        file.sync()?;
        self.disk.rename(UNFINISHED, NAME)?;
        self.disk.sync_names()?;
        self.is_written = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Folder;
    use super::*;
    use crate::clock::Timestamp;
    use crate::key::Actor;

    fn acceptance(id: u128) -> Acceptance {
        Acceptance { id: AcceptanceId(id), revision: 1, at: Timestamp::EPOCH, actor: Actor::System }
    }

    #[test]
    fn what_was_taken_over_once_is_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = || Arc::new(Folder(folder.path().to_owned()));
        let (one, two) = (acceptance(1), acceptance(2));
        let mut accepted = Accepted::read(disk());
        assert!(accepted.lacks_newest(std::slice::from_ref(&one)) && !accepted.lacks_newest(&[]));
        accepted.learn([&one, &two]);
        accepted.write().expect("a file");
        let accepted = Accepted::read(disk());
        assert!(!accepted.lacks_newest(&[one.clone(), two]));
        // An older backup, from before the second.
        assert!(!accepted.lacks_newest(std::slice::from_ref(&one)));
        assert!(accepted.lacks_newest(&[one, acceptance(3)]));
    }
}
