//! Bytes of the state folder's files: fixed widths, little-endian, texts behind their length.

use std::str::FromStr;

use crate::clock::Timestamp;
use crate::key::{FlagSet, Grant, Grants, KeyId, LineageId, Stamp, States};
use crate::table::{Head, KeyRow, Row, UserRow};

/// Bytes that make no sense where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonsense;

/// Takes values from the front of bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Nonsense> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Nonsense)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Nonsense> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Nonsense)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Nonsense> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Nonsense> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Nonsense> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Nonsense> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, Nonsense> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, Nonsense> {
        self.array().map(i64::from_le_bytes).map(Timestamp::from_nanos)
    }

    pub(super) fn stamp(&mut self) -> Result<Stamp, Nonsense> {
        Ok(Stamp { revision: self.u64()?, ordinal: self.u32()? })
    }

    pub(super) fn text<T: FromStr>(&mut self) -> Result<T, Nonsense> {
        let length = usize::from(self.u16()?);
        let text = std::str::from_utf8(self.bytes(length)?).map_err(|_invalid| Nonsense)?;
        text.parse().map_err(|_fault| Nonsense)
    }

    fn optional_text<T: FromStr>(&mut self) -> Result<Option<T>, Nonsense> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            _ => Err(Nonsense),
        }
    }

    pub(super) fn flags(&mut self) -> Result<FlagSet, Nonsense> {
        let count = self.u16()?;
        (0..count).map(|_| self.text::<Grant>()).collect()
    }

    pub(super) fn optional_time(&mut self) -> Result<Option<Timestamp>, Nonsense> {
        let (given, time) = (self.u8()?, self.time()?);
        Ok((given != 0).then_some(time))
    }

    pub(super) fn row(&mut self) -> Result<Row, Nonsense> {
        match self.u8()? {
            KEY => Ok(Row::Key(Box::new(KeyRow {
                head: Head::from_bytes(self.array()?),
                id: KeyId::from_bits(self.u128()?),
                lineage: LineageId::from_bits(self.u128()?),
                states: states_of(self.u8()?)?,
                project: self.optional_text()?,
                environment: self.text()?,
                user: self.optional_text()?,
                grants: match self.u8()? {
                    0 => Grants::Inherit,
                    1 => Grants::Only(self.flags()?),
                    _ => return Err(Nonsense),
                },
                expires_at: self.optional_time()?,
                grace_expires_at: self.optional_time()?,
                stamp: self.stamp()?,
            }))),
            USER => Ok(Row::User(UserRow {
                id: self.text()?,
                flags: self.flags()?,
                active: self.u8()? != 0,
                deleted: self.u8()? != 0,
                stamp: self.stamp()?,
            })),
            _ => Err(Nonsense),
        }
    }
}

const KEY: u8 = 1;
const USER: u8 = 2;

/// Puts values at the end of bytes.
pub(super) trait Put {
    fn put_bytes(&mut self, bytes: &[u8]);

    fn put_time(&mut self, time: Timestamp) {
        self.put_bytes(&time.nanos().to_le_bytes());
    }

    fn put_optional_time(&mut self, time: Option<Timestamp>) {
        self.put_bytes(&[u8::from(time.is_some())]);
        self.put_time(time.unwrap_or_default());
    }

    fn put_stamp(&mut self, stamp: Stamp) {
        self.put_bytes(&stamp.revision.to_le_bytes());
        self.put_bytes(&stamp.ordinal.to_le_bytes());
    }

    /// Texts here are ids and flags, none longer than 256 bytes.
    fn put_text(&mut self, text: &str) {
        self.put_bytes(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.put_bytes(text.as_bytes());
    }

    fn put_optional_text(&mut self, text: Option<&str>) {
        self.put_bytes(&[u8::from(text.is_some())]);
        if let Some(text) = text {
            self.put_text(text);
        }
    }

    /// At most 256 flags.
    fn put_flags(&mut self, flags: &FlagSet) {
        self.put_bytes(&u16::try_from(flags.len()).unwrap_or(u16::MAX).to_le_bytes());
        for flag in flags.iter() {
            self.put_text(flag.as_str());
        }
    }

    fn put_row(&mut self, row: &Row) {
        match row {
            Row::Key(key) => {
                self.put_bytes(&[KEY]);
                self.put_bytes(key.head.as_bytes());
                self.put_bytes(&key.id.bits().to_le_bytes());
                self.put_bytes(&key.lineage.bits().to_le_bytes());
                self.put_bytes(&[bits_of(key.states)]);
                self.put_optional_text(key.project.as_ref().map(|project| project.as_str()));
                self.put_text(key.environment.as_str());
                self.put_optional_text(key.user.as_ref().map(|user| user.as_str()));
                match &key.grants {
                    Grants::Inherit => self.put_bytes(&[0]),
                    Grants::Only(flags) => {
                        self.put_bytes(&[1]);
                        self.put_flags(flags);
                    }
                }
                self.put_optional_time(key.expires_at);
                self.put_optional_time(key.grace_expires_at);
                self.put_stamp(key.stamp);
            }
            Row::User(user) => {
                self.put_bytes(&[USER]);
                self.put_text(user.id.as_str());
                self.put_flags(&user.flags);
                self.put_bytes(&[u8::from(user.active), u8::from(user.deleted)]);
                self.put_stamp(user.stamp);
            }
        }
    }
}

impl Put for Vec<u8> {
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// States as bits.
pub(super) const fn bits_of(states: States) -> u8 {
    states.revoked as u8 | (states.disabled as u8) << 1 | (states.superseded as u8) << 2
}

/// Bits as states; others than these three are nonsense.
pub(super) const fn states_of(bits: u8) -> Result<States, Nonsense> {
    if bits > 7 {
        return Err(Nonsense);
    }
    Ok(States { revoked: bits & 1 != 0, disabled: bits & 2 != 0, superseded: bits & 4 != 0 })
}
