//! The mark that snapshot and journal must reach: whoever puts older ones in their place would
//! bring revoked keys back, and is found out.

use super::codec::{Nonsense, Put, Reader};
use super::disk::Disk;
use super::seal::{self, Broken, MacKey};
use crate::clock::Timestamp;
use crate::store::StoreId;

/// The mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HighWater {
    /// The store all of it is of.
    pub(super) store: StoreId,
    /// No snapshot of a smaller number may be used.
    pub(super) oldest: u64,
    /// The journal goes at least this far.
    pub(super) sequence: u64,
    /// When snapshot and journal together were last known to be like the store.
    pub(super) contact_at: Timestamp,
    /// When this was written.
    pub(super) written_at: Timestamp,
}

const NAME: &str = "high-water";
const MAGIC: &[u8; 8] = b"KWHIGH01";

impl HighWater {
    pub(super) fn read(disk: &dyn Disk, key: &MacKey) -> Result<Self, Broken> {
        let bytes = seal::read(disk, NAME, MAGIC, key)?;
        Self::parse(&bytes).map_err(|Nonsense| Broken::Content)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Nonsense> {
        let mut reader = Reader::new(bytes);
        reader.bytes(MAGIC.len())?;
        Ok(Self {
            store: StoreId(reader.u128()?),
            oldest: reader.u64()?,
            sequence: reader.u64()?,
            contact_at: reader.time()?,
            written_at: reader.time()?,
        })
    }

    pub(super) fn write(&self, disk: &dyn Disk, key: &MacKey) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(64);
        bytes.put_bytes(&self.store.0.to_le_bytes());
        bytes.put_bytes(&self.oldest.to_le_bytes());
        bytes.put_bytes(&self.sequence.to_le_bytes());
        bytes.put_time(self.contact_at);
        bytes.put_time(self.written_at);
        seal::replace(disk, NAME, MAGIC, key, |file| file.put(&bytes))
    }
}
