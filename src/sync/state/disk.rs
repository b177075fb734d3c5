//! The files of the state folder, as they are read and written: so that a test may put a disk in
//! their place that loses what was not flushed when the power goes, as disks do.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// How what takes a disk long is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// On a thread of its own, where nobody waits for it but who must.
    Aside,
    /// By whoever wants it: on a disk that takes no time, and always in the same order.
    #[cfg(test)]
    Simulated,
}

/// Files by name, in one folder.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    /// How it is to be used.
    fn pace(&self) -> Pace {
        Pace::Aside
    }
    /// The whole content of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// An empty file, in place of one that had its name.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// A file to be added to, made where it is missing.
    fn append(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, which is taken from the file that had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names that were added, moved or removed survive a loss of power.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that is open for writing.
pub(crate) trait DiskFile: Write + Send + fmt::Debug {
    /// How long it is.
    fn bytes(&self) -> io::Result<u64>;
    /// Cuts it off after so many bytes.
    fn cut(&self, bytes: u64) -> io::Result<()>;
    /// Makes its content survive a loss of power.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of the machine. What is made in it is for its owner alone.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Disk for Folder {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.0.join(name))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.0)?;
        entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.0.join(name))?;
        Ok(Box::new(file))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().append(true).create(true).mode(0o600).open(self.0.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        // The length is flushed with the content; what else is known of a file is of no use here.
        self.sync_data()
    }
}
