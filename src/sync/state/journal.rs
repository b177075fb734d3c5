//! Changes since the snapshot of the same number, one record each, every record with its own code
//! and a sequence number that the next goes on from.

use std::io;

use super::codec::{Put, Reader};
use super::disk::{Disk, DiskFile};
use super::seal::{Broken, MacKey, TAG_BYTES};
use crate::store::{CommitId, Cursor, StoreId};
use crate::table::Row;

const MAGIC: &[u8; 8] = b"KWJRNL02";

/// The file of a journal.
pub(super) fn name(number: u64) -> String {
    format!("journal.{number}")
}

/// One journal, open for adding to its end.
#[derive(Debug)]
pub(super) struct Journal {
    file: Box<dyn DiskFile>,
    bytes: u64,
}

impl Journal {
    /// Opens the journal of this number, empty where it is new.
    pub(super) fn open(disk: &dyn Disk, number: u64) -> io::Result<Self> {
        let file = disk.append(&name(number))?;
        let bytes = file.bytes()?;
        disk.sync_names()?;
        Ok(Self { file, bytes })
    }

    /// Adds rows, from `sequence` on, applied where the table then stood, and returns once they would survive a loss of power. On an
    /// error nothing was added.
    pub(super) fn append(
        &mut self,
        rows: &[Row],
        (sequence, store, reached): (u64, StoreId, Cursor),
        key: &MacKey,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (sequence, row) in (sequence..).zip(rows) {
            let mut body = Vec::with_capacity(256);
            body.put_bytes(&sequence.to_le_bytes());
            body.put_bytes(&store.0.to_le_bytes());
            body.put_bytes(&reached.revision.to_le_bytes());
            body.put_bytes(&reached.commit.0.to_le_bytes());
            body.put_row(row);
            let length = u32::try_from(body.len()).map_err(|_large| io::Error::from(io::ErrorKind::FileTooLarge))?;
            bytes.put_bytes(&length.to_le_bytes());
            bytes.put_bytes(&(!length).to_le_bytes());
            let mut mac = key.begin();
            mac.update(MAGIC);
            mac.update(&body);
            bytes.put_bytes(&body);
            bytes.put_bytes(mac.sign().as_ref());
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync());
        if written.is_err() {
            // Half a record must not stand before the next. Should this fail too, the caller
            // begins another file, and readers stop at the half record in this one.
            self.file.cut(self.bytes)?;
        }
        written?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// One record.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) store: StoreId,
    /// Where the table stood when this was applied: the row is of that history, and no newer.
    pub(super) reached: Cursor,
    pub(super) row: Row,
}

/// A journal that was read.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) entries: Vec<Entry>,
    /// Whether a last record that was not written whole was left out.
    pub(super) torn: bool,
}

/// Reads a journal; a missing one is empty.
pub(super) fn read(disk: &dyn Disk, number: u64, key: &MacKey) -> Result<Entries, Broken> {
    let bytes = match disk.read(&name(number)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::default()),
        Err(error) => return Err(Broken::Io(error)),
    };
    let mut entries = Entries::default();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let Some((body, tag, after)) = next(rest)? else {
            entries.torn = true;
            break;
        };
        let mut sealed = Vec::with_capacity(MAGIC.len() + body.len());
        sealed.put_bytes(MAGIC);
        sealed.put_bytes(body);
        if !key.verifies(&sealed, tag) {
            return Err(Broken::Code);
        }
        entries.entries.push(parse(body).ok_or(Broken::Content)?);
        rest = after;
    }
    Ok(entries)
}

/// The first record of `bytes`, its code, and what follows; none if it ends before its time.
#[expect(clippy::type_complexity, reason = "three slices of one buffer, used once")]
fn next(bytes: &[u8]) -> Result<Option<(&[u8], &[u8], &[u8])>, Broken> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let Some((check, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length);
    // A damaged length must not pass for a record that was not written whole.
    if u32::from_le_bytes(*check) != !length {
        return Err(Broken::Code);
    }
    let length = usize::try_from(length).map_err(|_large| Broken::Code)?;
    let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    Ok(rest.split_at_checked(TAG_BYTES).map(|(tag, rest)| (body, tag, rest)))
}

fn parse(body: &[u8]) -> Option<Entry> {
    let mut reader = Reader::new(body);
    let entry = Entry {
        sequence: reader.u64().ok()?,
        store: StoreId(reader.u128().ok()?),
        reached: Cursor { revision: reader.u64().ok()?, commit: CommitId(reader.u128().ok()?) },
        row: reader.row().ok()?,
    };
    reader.is_empty().then_some(entry)
}
