//! Which processes of a gateway still run, as the operating system knows it: each holds the lock of a file
//! in the state folder for as long as it lives, however it ends.
//!
//! While one binary takes over from another, both run and both may be letting requests through.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::dir::{private, remove};
use crate::store::Incarnation;

const PREFIX: &str = "process.";

/// This process's file. Its lock ends with the process; dropped before, the file goes too.
#[derive(Debug)]
pub(crate) struct Presence {
    folder: PathBuf,
    own: Incarnation,
    _lock: File,
}

impl Presence {
    /// Says in `folder` that this process runs.
    pub(super) fn tell(folder: &Path, own: Incarnation) -> io::Result<Self> {
        // Locked before it has its name: whoever looks at it finds it held.
        let unnamed = folder.join(format!("new-{PREFIX}{own}"));
        let lock = private().write(true).create(true).truncate(true).open(&unnamed)?;
        lock.try_lock().map_err(io::Error::from)?;
        std::fs::rename(&unnamed, path(folder, own))?;
        Ok(Self { folder: folder.to_owned(), own, _lock: lock })
    }

    /// The other processes that have said so: those that run, and those that have ended.
    pub(crate) fn others(&self) -> io::Result<Others> {
        let mut others = Others::default();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let Ok(other) = name.parse::<Incarnation>() else { continue };
            if other == self.own {
                continue;
            }
            match File::open(path(&self.folder, other)) {
                Ok(file) => match file.try_lock() {
                    Ok(()) => others.ended.push(other),
                    Err(TryLockError::WouldBlock) => others.running.push(other),
                    Err(TryLockError::Error(error)) => return Err(error),
                },
                // It went away by itself just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(others)
    }

    /// Forgets processes that have ended.
    pub(crate) fn forget(&self, ended: &[Incarnation]) -> io::Result<()> {
        ended.iter().try_for_each(|other| remove(&path(&self.folder, *other)))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // What stays behind is found unlocked by the next process.
        remove(&path(&self.folder, self.own)).ok();
    }
}

/// The other processes of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Others {
    pub(crate) running: Vec<Incarnation>,
    pub(crate) ended: Vec<Incarnation>,
}

fn path(folder: &Path, incarnation: Incarnation) -> PathBuf {
    folder.join(format!("{PREFIX}{incarnation}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_there_until_its_lock_is_gone() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let tell = |number| Presence::tell(folder.path(), Incarnation(number));
        let (one, other) = (tell(1)?, tell(2)?);
        assert_eq!(one.others()?.running, [Incarnation(2)]);
        // As a process that was killed leaves it.
        let left = path(folder.path(), Incarnation(3));
        File::create(&left)?;
        let found = one.others()?;
        assert_eq!((found.running, found.ended), (vec![Incarnation(2)], vec![Incarnation(3)]));
        one.forget(&[Incarnation(3)])?;
        assert!(!left.exists());
        drop(other);
        let found = one.others()?;
        assert!(found.running.is_empty() && found.ended.is_empty(), "who ended well leaves nothing behind");
        Ok(())
    }
}
