//! The whole table in one file.
//!
//! Keys are records of one size, which name projects, environments, users and flag sets by number; the tables
//! of these follow behind. Read back by two threads where there are many.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::{io, mem};

use super::codec::{Nonsense, Put, Reader, bits_of, states_of};
use super::disk::Disk;
use super::seal::{self, Broken, MacKey};
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, FlagSet, KeyId, Label, LineageId, ProjectId, UserId};
use crate::store::{CommitId, Cursor, StoreId};
use crate::table::{Head, KeyRef, Load, Table, UserRow};

const MAGIC: &[u8; 8] = b"KWSNAP01";
const HEADER_BYTES: usize = 72;
const KEY_BYTES: usize = 32 + 16 + 16 + 1 + 4 * 4 + 9 * 2 + 12;
const TRAILER_BYTES: usize = 16;
/// The number of nothing.
const NONE: u32 = u32::MAX;

/// What a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The store.
    pub(super) store: StoreId,
    /// Where in its history. No row is newer, but for what has ended.
    pub(super) cursor: Cursor,
    /// When it was begun.
    pub(super) taken_at: Timestamp,
    /// When the table was last known to be like the store.
    pub(super) contact_at: Timestamp,
    /// The last journal record that it contains.
    pub(super) sequence: u64,
}

/// The file of a snapshot.
pub(super) fn name(number: u64) -> String {
    format!("snapshot.{number}")
}

/// A snapshot that was begun: all of its journal's records lie in the table.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) number: u64,
    pub(super) key: MacKey,
    pub(super) header: Header,
}

impl Plan {
    /// When it was begun.
    pub(crate) const fn taken_at(&self) -> Timestamp {
        self.header.taken_at
    }

    /// Whether a simulated disk writes it no sooner than it is asked for: the table may have changed by then.
    #[cfg(test)]
    pub(crate) const fn is_late(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    /// Writes it. The table may change meanwhile: what is newer will be in the journal too.
    pub(crate) fn write(&self, table: &Table) -> io::Result<()> {
        seal::replace(&*self.disk, &name(self.number), MAGIC, &self.key, |file| {
            let mut buffer = Vec::with_capacity(1 << 17);
            put_header(&mut buffer, &self.header);
            let mut tables = Tables::default();
            let mut keys: u64 = 0;
            let mut fault = None;
            let newest = self.header.cursor.revision;
            table.for_each_key(|key| {
                // What came since is in the journal, or comes by the feed again: a snapshot knows of one
                // place of the history alone. What ended stays ended in every history: a restored store may
                // have gone back behind it, and nothing else remembers it then.
                if key.stamp.revision > newest && !key.states.is_terminal() {
                    return;
                }
                put_key(&mut buffer, key, &mut tables);
                keys += 1;
                if buffer.len() > 1 << 16 {
                    fault = fault.take().or(file.put(&buffer).err());
                    buffer.clear();
                }
            });
            if let Some(fault) = fault {
                return Err(fault);
            }
            file.put(&mem::take(&mut buffer))?;
            let at = file.written();
            tables.users_of(table, newest);
            tables.put(&mut buffer);
            buffer.put_bytes(&keys.to_le_bytes());
            buffer.put_bytes(&at.to_le_bytes());
            file.put(&buffer)
        })
    }
}

fn put_header(bytes: &mut Vec<u8>, header: &Header) {
    bytes.put_bytes(&header.store.0.to_le_bytes());
    bytes.put_bytes(&header.cursor.revision.to_le_bytes());
    bytes.put_bytes(&header.cursor.commit.0.to_le_bytes());
    bytes.put_time(header.taken_at);
    bytes.put_time(header.contact_at);
    bytes.put_bytes(&header.sequence.to_le_bytes());
}

fn put_key(bytes: &mut Vec<u8>, key: &KeyRef<'_>, tables: &mut Tables) {
    bytes.put_bytes(key.head.as_bytes());
    bytes.put_bytes(&key.id.bits().to_le_bytes());
    bytes.put_bytes(&key.lineage.bits().to_le_bytes());
    bytes.put_bytes(&[bits_of(key.states)]);
    let numbers = [
        key.project.map_or(NONE, |project| tables.projects.number(project)),
        tables.environments.number(key.environment),
        key.user.map_or(NONE, |user| tables.user_ids.number(user)),
        key.flags.map_or(NONE, |flags| tables.flag_sets.number(flags)),
    ];
    for number in numbers {
        bytes.put_bytes(&number.to_le_bytes());
    }
    bytes.put_optional_time(key.expires_at);
    bytes.put_optional_time(key.grace_expires_at);
    bytes.put_stamp(key.stamp);
}

/// Values in the order of their numbers.
#[derive(Debug)]
struct Numbered<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { values: Vec::new(), numbers: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Numbered<T> {
    fn number(&mut self, value: &T) -> u32 {
        if let Some(&number) = self.numbers.get(value) {
            return number;
        }
        let number = u32::try_from(self.values.len()).unwrap_or(NONE);
        self.values.push(value.clone());
        self.numbers.insert(value.clone(), number);
        number
    }
}

#[derive(Debug, Default)]
struct Tables {
    projects: Numbered<ProjectId>,
    environments: Numbered<EnvironmentId>,
    user_ids: Numbered<UserId>,
    flag_sets: Numbered<FlagSet>,
    users: Vec<(u32, u32, UserRow)>,
}

impl Tables {
    fn users_of(&mut self, table: &Table, newest: u64) {
        table.for_each_user(|mut user| {
            if user.stamp.revision > newest && !user.deleted {
                return;
            }
            let numbers = (self.user_ids.number(&user.id), self.flag_sets.number(&user.flags));
            user.flags = FlagSet::default();
            self.users.push((numbers.0, numbers.1, user));
        });
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        put_count(bytes, self.projects.values.len());
        self.projects.values.iter().for_each(|project| bytes.put_text(project.as_str()));
        put_count(bytes, self.environments.values.len());
        self.environments.values.iter().for_each(|environment| bytes.put_text(environment.as_str()));
        put_count(bytes, self.user_ids.values.len());
        self.user_ids.values.iter().for_each(|user| bytes.put_text(user.as_str()));
        put_count(bytes, self.flag_sets.values.len());
        self.flag_sets.values.iter().for_each(|flags| bytes.put_flags(flags));
        put_count(bytes, self.users.len());
        for (id, flags, user) in &self.users {
            bytes.put_bytes(&id.to_le_bytes());
            bytes.put_bytes(&flags.to_le_bytes());
            bytes.put_bytes(&[u8::from(user.active), u8::from(user.deleted)]);
            bytes.put_stamp(user.stamp);
        }
    }
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.put_bytes(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

/// A snapshot whose code was found right, not yet parsed.
#[derive(Debug)]
pub(super) struct Sealed {
    bytes: Vec<u8>,
    /// What it is of.
    pub(super) header: Header,
}

/// Reads the snapshot of this number.
pub(super) fn read(disk: &dyn Disk, number: u64, key: &MacKey) -> Result<Sealed, Broken> {
    let bytes = seal::read(disk, &name(number), MAGIC, key)?;
    let header = parse_header(&bytes).map_err(|Nonsense| Broken::Content)?;
    Ok(Sealed { bytes, header })
}

fn parse_header(bytes: &[u8]) -> Result<Header, Nonsense> {
    let mut reader = Reader::new(bytes);
    reader.bytes(MAGIC.len())?;
    Ok(Header {
        store: StoreId(reader.u128()?),
        cursor: Cursor { revision: reader.u64()?, commit: CommitId(reader.u128()?) },
        taken_at: reader.time()?,
        contact_at: reader.time()?,
        sequence: reader.u64()?,
    })
}

/// A snapshot of fewer keys is taken over by one thread.
const SHARED_KEYS_MIN: usize = 50_000;

impl Sealed {
    /// Hands everything to `load`.
    pub(super) fn load(&self, load: &Load) -> Result<(), Broken> {
        let parsed = Parsed::of(&self.bytes).map_err(|Nonsense| Broken::Content)?;
        parsed.users.iter().for_each(|user| load.user(user));
        let keys = parsed.records.len() / KEY_BYTES;
        let first = if keys < SHARED_KEYS_MIN { keys } else { keys / 2 };
        let (first, second) = parsed.records.split_at_checked(first * KEY_BYTES).ok_or(Broken::Content)?;
        let taken = std::thread::scope(|scope| {
            let other = (!second.is_empty()).then(|| scope.spawn(|| parsed.take_over(second, load)));
            let taken = parsed.take_over(first, load);
            taken.and(other.map_or(Ok(()), |other| other.join().unwrap_or(Err(Nonsense))))
        });
        taken.map_err(|Nonsense| Broken::Content)
    }

    /// Hands only keys and users that have ended to `load`.
    pub(super) fn load_ended(&self, load: &Load) -> Result<(), Broken> {
        let ended = || {
            let parsed = Parsed::of(&self.bytes)?;
            parsed.users.iter().filter(|user| user.deleted).for_each(|user| load.user(user));
            let mut reader = Reader::new(parsed.records);
            while !reader.is_empty() {
                let (key, _label) = parsed.key(&mut reader)?;
                if key.states.is_terminal() {
                    load.key(&key);
                }
            }
            Ok(())
        };
        ended().map_err(|Nonsense| Broken::Content)
    }
}

/// No more labels than this are kept by one thread, so that a set in which each key has another does not fill
/// the memory.
const LABELS_KEPT_MAX: usize = 4_096;

/// The numbers of a key's project, environment and flags.
type LabelNumbers = [u32; 3];

/// A snapshot whose tables were read, and its keys not yet.
struct Parsed<'a> {
    records: &'a [u8],
    projects: Vec<ProjectId>,
    environments: Vec<EnvironmentId>,
    user_ids: Vec<UserId>,
    flag_sets: Vec<Arc<FlagSet>>,
    users: Vec<UserRow>,
}

impl<'a> Parsed<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, Nonsense> {
        let trailer = bytes.len().checked_sub(TRAILER_BYTES).ok_or(Nonsense)?;
        let (content, trailer) = bytes.split_at_checked(trailer).ok_or(Nonsense)?;
        let mut trailer = Reader::new(trailer);
        let keys = usize::try_from(trailer.u64()?).map_err(|_large| Nonsense)?;
        let at = usize::try_from(trailer.u64()?).map_err(|_large| Nonsense)?;
        let (front, tables) = content.split_at_checked(at).ok_or(Nonsense)?;
        let (_header, records) = front.split_at_checked(HEADER_BYTES).ok_or(Nonsense)?;
        if keys.checked_mul(KEY_BYTES) != Some(records.len()) {
            return Err(Nonsense);
        }
        let mut reader = Reader::new(tables);
        let projects: Vec<ProjectId> = many(&mut reader, Reader::text)?;
        let environments: Vec<EnvironmentId> = many(&mut reader, Reader::text)?;
        let user_ids: Vec<UserId> = many(&mut reader, Reader::text)?;
        let flag_sets: Vec<Arc<FlagSet>> = many(&mut reader, |reader| reader.flags().map(Arc::new))?;
        let users = many(&mut reader, |reader| {
            Ok(UserRow {
                id: user_ids.get(index(reader.u32()?)).ok_or(Nonsense)?.clone(),
                flags: flag_sets.get(index(reader.u32()?)).ok_or(Nonsense)?.as_ref().clone(),
                active: reader.u8()? != 0,
                deleted: reader.u8()? != 0,
                stamp: reader.stamp()?,
            })
        })?;
        Ok(Self { records, projects, environments, user_ids, flag_sets, users })
    }

    /// The next key.
    fn key(&self, reader: &mut Reader<'_>) -> Result<(KeyRef<'_>, LabelNumbers), Nonsense> {
        let (head, id) = (Head::from_bytes(reader.array()?), KeyId::from_bits(reader.u128()?));
        let (lineage, states) = (LineageId::from_bits(reader.u128()?), states_of(reader.u8()?)?);
        let (project, environment, user, flags) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
        let key = KeyRef {
            head,
            id,
            lineage,
            states,
            project: named(&self.projects, project)?,
            environment: named(&self.environments, environment)?.ok_or(Nonsense)?,
            user: named(&self.user_ids, user)?,
            flags: named(&self.flag_sets, flags)?.map(AsRef::as_ref),
            expires_at: reader.optional_time()?,
            grace_expires_at: reader.optional_time()?,
            stamp: reader.stamp()?,
        };
        Ok((key, [project, environment, flags]))
    }

    /// Hands the keys of these records to `load`.
    fn take_over(&self, records: &[u8], load: &Load) -> Result<(), Nonsense> {
        let (mut lane, mut reader) = (load.lane(), Reader::new(records));
        let mut labels: HashMap<LabelNumbers, Arc<Label>> = HashMap::new();
        while !reader.is_empty() {
            let (key, numbers) = self.key(&mut reader)?;
            if labels.len() > LABELS_KEPT_MAX {
                labels.clear();
            }
            let label = labels.entry(numbers).or_insert_with(|| {
                let [_, _, flags] = numbers;
                Arc::new(Label {
                    project: key.project.cloned(),
                    environment: key.environment.clone(),
                    flags: self.flag_sets.get(index(flags)).cloned(),
                })
            });
            lane.take(&key, label);
        }
        Ok(())
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The value of a number; none for the number of nothing.
fn named<T>(values: &[T], number: u32) -> Result<Option<&T>, Nonsense> {
    if number == NONE { Ok(None) } else { values.get(index(number)).map(Some).ok_or(Nonsense) }
}

fn many<'a, T>(
    reader: &mut Reader<'a>,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T, Nonsense>,
) -> Result<Vec<T>, Nonsense> {
    let count = reader.u32()?;
    (0..count).map(|_| one(reader)).collect()
}
