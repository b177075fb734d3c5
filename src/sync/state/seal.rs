//! Files that carry an authentication code, and their replacement in one step.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;

use super::disk::{Disk, DiskFile};

/// The bytes of an authentication code.
pub(super) const TAG_BYTES: usize = 32;
/// The bytes that say what a file is.
pub(super) const MAGIC_BYTES: usize = 8;

/// The keys of the state folder's authentication codes (HMAC-SHA-256): one seals, and what others sealed
/// before it is opened too. Clones are one: what replaces the keys of one replaces those of all.
#[derive(Clone)]
pub struct MacKey(Arc<ArcSwap<Keys>>);

struct Keys {
    sealing: hmac::Key,
    others: Vec<hmac::Key>,
}

impl MacKey {
    /// The key of these bytes, which the caller derived for this use alone.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self::with_others(bytes, [])
    }

    /// One that seals with `sealing`, and opens what one of the others sealed as well.
    #[must_use]
    pub fn with_others<'a>(sealing: &[u8; 32], others: impl IntoIterator<Item = &'a [u8; 32]>) -> Self {
        let key = |bytes: &[u8; 32]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let keys = Keys { sealing: key(sealing), others: others.into_iter().map(key).collect() };
        Self(Arc::new(ArcSwap::from_pointee(keys)))
    }

    /// Uses the keys of `other` from now on.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    pub(super) fn begin(&self) -> hmac::Context {
        hmac::Context::with_key(&self.0.load().sealing)
    }

    /// Whether `tag` is the code of `bytes`. In constant time.
    pub(super) fn verifies(&self, bytes: &[u8], tag: &[u8]) -> bool {
        let keys = self.0.load();
        let mut keys = std::iter::once(&keys.sealing).chain(&keys.others);
        keys.any(|key| hmac::verify(key, bytes, tag).is_ok())
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// Why a sealed file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    /// It was damaged, changed, or sealed with another key.
    #[error(
        "its authentication code is wrong: it was damaged or changed, or the master secret or the store is another"
    )]
    Code,
    /// The code is right and the content makes no sense: written by another version.
    #[error("its content is of another version")]
    Content,
}

/// Writes a sealed file beside its place, then moves it there.
pub(super) struct SealedWriter {
    file: BufWriter<Box<dyn DiskFile>>,
    mac: hmac::Context,
    written: u64,
}

impl SealedWriter {
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mac.update(bytes);
        self.written += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Bytes put so far, the magic included.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }
}

/// Replaces the file `name` by a sealed one that `write` fills: whole, or not at all.
pub(super) fn replace(
    disk: &dyn Disk,
    name: &str,
    magic: &[u8; MAGIC_BYTES],
    key: &MacKey,
    write: impl FnOnce(&mut SealedWriter) -> io::Result<()>,
) -> io::Result<()> {
    let beside = format!("{name}.new");
    let replaced = write_beside(disk, &beside, magic, key, write).and_then(|()| disk.rename(&beside, name));
    if replaced.is_err() {
        // On a full disk, half a file would hold the very room that is lacking. Whether it can be
        // removed is not what failed.
        let _gone = disk.remove(&beside);
    }
    replaced?;
    disk.sync_names()
}

fn write_beside(
    disk: &dyn Disk,
    beside: &str,
    magic: &[u8; MAGIC_BYTES],
    key: &MacKey,
    write: impl FnOnce(&mut SealedWriter) -> io::Result<()>,
) -> io::Result<()> {
    let file = disk.create(beside)?;
    let mut writer = SealedWriter { file: BufWriter::with_capacity(1 << 16, file), mac: key.begin(), written: 0 };
    writer.put(magic)?;
    write(&mut writer)?;
    writer.file.write_all(writer.mac.sign().as_ref())?;
    let file = writer.file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync()
}

/// The content of a sealed file, once its code was found right.
pub(super) fn read(disk: &dyn Disk, name: &str, magic: &[u8; MAGIC_BYTES], key: &MacKey) -> Result<Vec<u8>, Broken> {
    let mut bytes = match disk.read(name) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Broken::Missing),
        Err(error) => return Err(Broken::Io(error)),
    };
    let at = bytes.len().checked_sub(TAG_BYTES).ok_or(Broken::Code)?;
    let (sealed, tag) = bytes.split_at_checked(at).ok_or(Broken::Code)?;
    if !key.verifies(sealed, tag) {
        return Err(Broken::Code);
    }
    if !sealed.starts_with(magic) {
        return Err(Broken::Content);
    }
    bytes.truncate(at);
    Ok(bytes)
}
