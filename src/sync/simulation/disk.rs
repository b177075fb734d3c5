//! A disk in memory that loses what was not flushed when the power goes, and that may be full.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::sync::state::{Disk, DiskFile, Pace};

/// The disk of one gateway; clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct SimDisk(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    contents: Vec<Content>,
    names: BTreeMap<String, usize>,
    /// The names that would be found after a loss of power.
    flushed: BTreeMap<String, usize>,
    /// How many more changes there is room for.
    room: Option<u32>,
    /// Says that journals are flushed, and does not do it.
    forgets_journals: bool,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    flushed: Vec<u8>,
    is_journal: bool,
}

impl Files {
    fn change(&mut self) -> io::Result<()> {
        match &mut self.room {
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(room) => {
                *room -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl SimDisk {
    pub(super) fn that_forgets_journals(forgets_journals: bool) -> Self {
        Self(Arc::new(Mutex::new(Files { forgets_journals, ..Files::default() })))
    }

    /// There is room for so many changes more, or for any number.
    pub(super) fn set_room(&self, room: Option<u32>) {
        self.0.lock().room = room;
    }

    /// The power goes. Of what was not flushed, `chance` says how much is there all the same.
    pub(super) fn lose_power(&self, chance: u8) {
        let mut files = self.0.lock();
        let Files { contents, names, flushed, .. } = &mut *files;
        if chance & 1 == 0 {
            names.clone_from(flushed);
        }
        for content in contents {
            if content.bytes.starts_with(&content.flushed) {
                let more = content.bytes.len() - content.flushed.len();
                content.bytes.truncate(content.flushed.len() + more * usize::from(chance >> 1) / 127);
            } else {
                content.bytes.clone_from(&content.flushed);
            }
            content.flushed.clone_from(&content.bytes);
        }
        flushed.clone_from(names);
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn pace(&self) -> Pace {
        Pace::Simulated
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let files = self.0.lock();
        let number = files.names.get(name).ok_or_else(missing)?;
        Ok(files.contents[*number].bytes.clone())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut files = self.0.lock();
        files.change()?;
        let number = files.contents.len();
        files.contents.push(Content::default());
        files.names.insert(name.to_owned(), number);
        Ok(Box::new(Open { disk: self.clone(), number }))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let known = self.0.lock().names.get(name).copied();
        if let Some(number) = known {
            return Ok(Box::new(Open { disk: self.clone(), number }));
        }
        let file = self.create(name)?;
        if let Some(content) = self.0.lock().contents.last_mut() {
            content.is_journal = true;
        }
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock();
        files.change()?;
        let number = files.names.remove(from).ok_or_else(missing)?;
        files.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.0.lock();
        files.names.remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut files = self.0.lock();
        files.change()?;
        files.flushed = files.names.clone();
        Ok(())
    }
}

#[derive(Debug)]
struct Open {
    disk: SimDisk,
    number: usize,
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut files = self.disk.0.lock();
        if let Err(full) = files.change() {
            // A full disk takes what it still can.
            files.contents[self.number].bytes.extend_from_slice(&bytes[..bytes.len() / 2]);
            return Err(full);
        }
        files.contents[self.number].bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Open {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().contents[self.number].bytes.len() as u64)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        self.disk.0.lock().contents[self.number].bytes.truncate(length);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut files = self.disk.0.lock();
        files.change()?;
        let forgets = files.forgets_journals;
        let content = &mut files.contents[self.number];
        if !(forgets && content.is_journal) {
            content.flushed.clone_from(&content.bytes);
        }
        Ok(())
    }
}
