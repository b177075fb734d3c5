//! Rows as every kind of store keeps them: read column by column, cheaply enough to read ten million at
//! start. What a column holds each kind of store says in its own way, by [`Cells`]; what it means is the
//! same in all of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use super::{Batch, CommitId, Cursor, Damaged, KeyUsage, Loaded, RefusalTally, Row};
use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, Event, FlagSet, Format, Grants, Key, KeyCore, KeyId, Label, LineageId, OperatorScope, ProjectId,
    Rotation, Stamp, States, Subject, TokenHash, User, UserId,
};

/// A row of one kind of store. Columns are counted from 0.
pub(super) trait Cells {
    /// What that store's faults are.
    type Fault: OfRow;

    /// Text, or nothing.
    fn text(&self, at: usize) -> Result<Option<&str>, Self::Fault>;
    /// A number, or nothing.
    fn integer(&self, at: usize) -> Result<Option<i64>, Self::Fault>;
    /// True or false, or nothing.
    fn yes(&self, at: usize) -> Result<Option<bool>, Self::Fault>;
    /// 16 bytes that name something, or nothing.
    fn bits(&self, at: usize) -> Result<Option<u128>, Self::Fault>;
    /// Other bytes, or nothing.
    fn bytes(&self, at: usize) -> Result<Option<&[u8]>, Self::Fault>;
}

/// A fault that may be of what is stored.
pub(super) trait OfRow: Sized {
    /// A stored value breaks a rule.
    fn stored(cause: String) -> Self;

    /// The same, of this key, where it is of what is stored.
    fn of_key(self, id: KeyId) -> Self;

    /// What is wrong with the row, or the fault where it is not of the row.
    fn cause(self) -> Result<String, Self>;
}

/// A row's columns, read one after the other.
#[derive(Debug)]
pub(super) struct Columns<'a, R> {
    /// The row.
    pub(super) row: &'a R,
    /// The column to read next.
    pub(super) next: usize,
}

impl<'a, R: Cells> Columns<'a, R> {
    /// From the first on.
    pub(super) const fn of(row: &'a R) -> Self {
        Self { row, next: 0 }
    }

    fn take(&mut self) -> usize {
        let at = self.next;
        self.next += 1;
        at
    }

    fn there<T>(&self, value: Option<T>) -> Result<T, R::Fault> {
        value.ok_or_else(|| R::Fault::stored(format!("column {} of a row is empty", self.next)))
    }

    pub(super) fn text_or_none(&mut self) -> Result<Option<&'a str>, R::Fault> {
        let at = self.take();
        self.row.text(at)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, R::Fault> {
        let text = self.text_or_none()?;
        self.there(text)
    }

    pub(super) fn integer_or_none(&mut self) -> Result<Option<i64>, R::Fault> {
        let at = self.take();
        self.row.integer(at)
    }

    pub(super) fn integer(&mut self) -> Result<i64, R::Fault> {
        let number = self.integer_or_none()?;
        self.there(number)
    }

    /// A number that is never negative.
    pub(super) fn unsigned<T: TryFrom<i64>>(&mut self) -> Result<T, R::Fault> {
        unsigned(self.integer()?)
    }

    pub(super) fn yes(&mut self) -> Result<bool, R::Fault> {
        let at = self.take();
        let yes = self.row.yes(at)?;
        self.there(yes)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, R::Fault> {
        self.integer().map(Timestamp::from_nanos)
    }

    pub(super) fn time_or_none(&mut self) -> Result<Option<Timestamp>, R::Fault> {
        Ok(self.integer_or_none()?.map(Timestamp::from_nanos))
    }

    pub(super) fn bytes_or_none(&mut self) -> Result<Option<&'a [u8]>, R::Fault> {
        let at = self.take();
        self.row.bytes(at)
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], R::Fault> {
        let bytes = self.bytes_or_none()?;
        let bytes = self.there(bytes)?;
        bytes.try_into().map_err(|_other_length| R::Fault::stored(format!("{} bytes where {N} belong", bytes.len())))
    }

    pub(super) fn bits_or_none(&mut self) -> Result<Option<u128>, R::Fault> {
        let at = self.take();
        self.row.bits(at)
    }

    pub(super) fn bits(&mut self) -> Result<u128, R::Fault> {
        let bits = self.bits_or_none()?;
        self.there(bits)
    }

    pub(super) fn commit_or_none(&mut self) -> Result<Option<CommitId>, R::Fault> {
        Ok(self.bits_or_none()?.map(CommitId))
    }

    pub(super) fn stamp(&mut self) -> Result<Stamp, R::Fault> {
        Ok(Stamp { revision: self.unsigned()?, ordinal: self.unsigned()? })
    }

    pub(super) fn cursor(&mut self) -> Result<Cursor, R::Fault> {
        Ok(Cursor { revision: self.unsigned()?, commit: CommitId(self.bits()?) })
    }

    fn states(&mut self) -> Result<States, R::Fault> {
        Ok(States { revoked: self.yes()?, disabled: self.yes()?, superseded: self.yes()? })
    }

    /// What the next two columns name: a key or a user; none where neither or both are there.
    fn subject(&mut self) -> Result<Option<Subject>, R::Fault> {
        let key = self.bits_or_none()?.map(KeyId::from_bits);
        let user = self.text_or_none()?.map(parsed::<UserId, R::Fault>).transpose()?;
        Ok(match (key, user) {
            (Some(key), None) => Some(Subject::Key(key)),
            (None, Some(user)) => Some(Subject::User(user)),
            (None, None) | (Some(_), Some(_)) => None,
        })
    }

    /// How much `key` was used: when last, and how often.
    pub(super) fn usage(&mut self, key: KeyId) -> Result<Option<KeyUsage>, R::Fault> {
        match (self.integer_or_none()?, self.integer_or_none()?) {
            (Some(last), Some(count)) => {
                Ok(Some(KeyUsage { key, last_used_at: Timestamp::from_nanos(last), count: unsigned(count)? }))
            }
            (None, _) | (_, None) => Ok(None),
        }
    }
}

/// How many columns a key has, read whole.
pub(super) const KEY_WIDTH: usize = 35;
/// How many a user has.
pub(super) const USER_WIDTH: usize = 9;

/// Reads rows, and keeps one copy of what comes again and again.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    projects: HashSet<ProjectId>,
    environments: HashSet<EnvironmentId>,
    labels: HashMap<Box<[u8]>, Arc<Label>>,
    /// What a label is found by, one after the other.
    spelt: Vec<u8>,
}

/// More names or labels than this are not kept, so that a store of many projects does not fill the memory.
const NAMES_KEPT_MAX: usize = 4096;

impl Decoder {
    /// The key whose columns begin at `first`.
    pub(super) fn key<R: Cells>(&mut self, row: &R, first: usize) -> Result<Key, R::Fault> {
        self.try_key(row, first).map_err(|fault| of_row(fault, row, first))
    }

    fn try_key<R: Cells>(&mut self, row: &R, first: usize) -> Result<Key, R::Fault> {
        let mut columns = Columns { row, next: first };
        let id = KeyId::from_bits(columns.bits()?);
        let lineage = LineageId::from_bits(columns.bits()?);
        let hash = TokenHash::from_bytes(columns.bytes()?);
        let format = match columns.text()? {
            "opaque" => Format::Opaque,
            "jwt" => Format::Jwt,
            "imported" => Format::Imported,
            other => return Err(R::Fault::stored(format!("a key has the format {other:?}"))),
        };
        let shown_prefix = columns.text_or_none()?.map(str::to_owned);
        let last_four = columns.text_or_none()?.map(str::to_owned);
        let name = columns.text()?.to_owned();
        let project = self.project(columns.text_or_none()?)?;
        let environment = named(&mut self.environments, columns.text()?)?;
        let user = columns.text_or_none()?.map(parsed::<UserId, R::Fault>).transpose()?;
        let inherit = columns.yes()?;
        let flags = flags(columns.text()?)?;
        let grants = if inherit { Grants::Inherit } else { Grants::Only(flags) };
        let props = map(columns.text()?)?;
        let may_grant = self::flags(columns.text()?)?;
        let operates = columns.yes()?;
        let scope = OperatorScope {
            project: self.project(columns.text_or_none()?)?,
            environment: columns.text_or_none()?.map(|text| named(&mut self.environments, text)).transpose()?,
        };
        Ok(Key {
            id,
            lineage,
            hash,
            format,
            shown_prefix,
            last_four,
            name,
            project,
            environment,
            user,
            grants,
            props,
            may_grant,
            operates_on: operates.then_some(scope),
            self_rotate: columns.yes()?,
            minted_by: columns.bits_or_none()?.map(KeyId::from_bits),
            states: columns.states()?,
            revoked_at: columns.time_or_none()?,
            replaced_by: columns.bits_or_none()?.map(KeyId::from_bits),
            expires_at: columns.time_or_none()?,
            grace_expires_at: columns.time_or_none()?,
            rotation: Rotation {
                interval_days: columns.integer_or_none()?.map(unsigned).transpose()?,
                next_at: columns.time_or_none()?,
                webhook_url: columns.text_or_none()?.map(str::to_owned),
                secret_version: columns.unsigned()?,
                old_secret_until: columns.time_or_none()?,
            },
            created_at: columns.time()?,
            updated_at: columns.time()?,
            stamp: columns.stamp()?,
        })
    }

    /// What decides on requests of the key of a row that holds these columns, in this order: id, lineage,
    /// hash, project, environment, whether it inherits, flags, user, the three states, the two ends, the stamp.
    ///
    /// # Errors
    /// When it is not the row that is at fault.
    pub(super) fn loaded<R: Cells>(&mut self, row: &R) -> Result<Loaded, R::Fault> {
        match self.core(row).map_err(|fault| of_row(fault, row, 0)) {
            Ok(key) => Ok(Loaded::Key(key)),
            Err(fault) => Ok(Loaded::Damaged(damaged_key(id_at(row, 0), hash_at(row, 0)), fault.cause()?)),
        }
    }

    /// The user of a row that begins with its columns.
    pub(super) fn user_loaded<R: Cells>(&mut self, row: &R) -> Result<Loaded, R::Fault> {
        match self.user(row, 0) {
            Ok(user) => Ok(Loaded::User(user)),
            Err(fault) => Ok(Loaded::Damaged(damaged_user(user_at(row, 0)), fault.cause()?)),
        }
    }

    fn core<R: Cells>(&mut self, row: &R) -> Result<KeyCore, R::Fault> {
        let mut columns = Columns::of(row);
        let id = KeyId::from_bits(columns.bits()?);
        let lineage = LineageId::from_bits(columns.bits()?);
        let hash = TokenHash::from_bytes(columns.bytes()?);
        let (project, environment) = (columns.text_or_none()?, columns.text()?);
        let (inherit, flags) = (columns.yes()?, columns.text()?);
        Ok(KeyCore {
            id,
            lineage,
            hash,
            label: self.label(project, environment, (!inherit).then_some(flags))?,
            user: columns.text_or_none()?.map(parsed::<UserId, R::Fault>).transpose()?,
            states: columns.states()?,
            expires_at: columns.time_or_none()?,
            grace_expires_at: columns.time_or_none()?,
            stamp: columns.stamp()?,
        })
    }

    /// The user whose columns begin at `first`.
    pub(super) fn user<R: Cells>(&mut self, row: &R, first: usize) -> Result<User, R::Fault> {
        let mut columns = Columns { row, next: first };
        Ok(User {
            id: parsed(columns.text()?)?,
            project: self.project(columns.text_or_none()?)?,
            flags: flags(columns.text()?)?,
            active: columns.yes()?,
            deleted: columns.yes()?,
            created_at: columns.time()?,
            updated_at: columns.time()?,
            stamp: columns.stamp()?,
        })
    }

    /// The user whose columns begin at `first`, if the outer join found one.
    pub(super) fn user_or_none<R: Cells>(&mut self, row: &R, first: usize) -> Result<Option<User>, R::Fault> {
        match row.text(first)? {
            None => Ok(None),
            Some(_) => self.user(row, first).map(Some),
        }
    }

    /// The key of a row that begins with its columns, as a reader is told of it.
    pub(super) fn key_read<R: Cells>(&mut self, row: &R) -> Result<Batch, R::Fault> {
        match self.key(row, 0) {
            Ok(key) => Ok(Batch::Row(key.stamp, Row::Key(Box::new(key)))),
            Err(fault) => {
                let damaged = damaged_key(id_at(row, 0), hash_at(row, 0));
                Ok(Batch::Damaged(Stamp::default(), damaged, fault.cause()?))
            }
        }
    }

    /// The same of a user.
    pub(super) fn user_read<R: Cells>(&mut self, row: &R) -> Result<Batch, R::Fault> {
        match self.user(row, 0) {
            Ok(user) => Ok(Batch::Row(user.stamp, Row::User(user))),
            Err(fault) => Ok(Batch::Damaged(Stamp::default(), damaged_user(user_at(row, 0)), fault.cause()?)),
        }
    }

    /// What changed, of a row of the feed: a key's columns, a user's, and of the event that tells of it the
    /// stamp, whether it is a user's, and both their ids.
    pub(super) fn changed_read<R: Cells>(&mut self, row: &R) -> Result<Batch, R::Fault> {
        const EVENT: usize = KEY_WIDTH + USER_WIDTH;
        let mut columns = Columns { row, next: EVENT };
        let stamp = columns.stamp()?;
        let changed = if columns.yes()? {
            self.user(row, KEY_WIDTH).map(Row::User)
        } else {
            self.key(row, 0).map(|key| Row::Key(Box::new(key)))
        };
        let fault = match changed {
            Ok(changed) => return Ok(Batch::Row(stamp, changed)),
            Err(fault) => fault,
        };
        // The event says of what it is, whatever became of the row.
        let damaged = match id_at(row, EVENT + 3) {
            Some(id) => damaged_key(Some(id), hash_at(row, 0)),
            None => damaged_user(user_at(row, EVENT + 4)),
        };
        Ok(Batch::Damaged(stamp, damaged, fault.cause()?))
    }

    fn project<F: OfRow>(&mut self, text: Option<&str>) -> Result<Option<ProjectId>, F> {
        text.map(|text| named(&mut self.projects, text)).transpose()
    }

    /// What a key shares with all that have the same texts; `flags` are none where it inherits.
    fn label<F: OfRow>(
        &mut self,
        project: Option<&str>,
        environment: &str,
        flags: Option<&str>,
    ) -> Result<Arc<Label>, F> {
        self.spelt.clear();
        for part in [project, Some(environment), flags] {
            // Whatever a text holds, no two labels are spelt alike.
            let length = part.map_or(u64::MAX, |part| u64::try_from(part.len()).unwrap_or(u64::MAX - 1));
            self.spelt.extend_from_slice(&length.to_le_bytes());
            self.spelt.extend_from_slice(part.unwrap_or_default().as_bytes());
        }
        if let Some(label) = self.labels.get(self.spelt.as_slice()) {
            return Ok(Arc::clone(label));
        }
        let label = Arc::new(Label {
            project: self.project(project)?,
            environment: named(&mut self.environments, environment)?,
            flags: flags.map(|text| self::flags(text).map(Arc::new)).transpose()?,
        });
        if self.labels.len() < NAMES_KEPT_MAX {
            self.labels.insert(self.spelt.as_slice().into(), Arc::clone(&label));
        }
        Ok(label)
    }
}

/// A fault of the key whose columns begin at `first`, by its name as far as that can be read.
fn of_row<R: Cells>(fault: R::Fault, row: &R, first: usize) -> R::Fault {
    match id_at(row, first) {
        Some(id) => fault.of_key(id),
        None => fault,
    }
}

/// The id of the key whose columns begin at `first`, if that much can be read.
pub(super) fn id_at<R: Cells>(row: &R, first: usize) -> Option<KeyId> {
    row.bits(first).ok().flatten().map(KeyId::from_bits)
}

/// The hash of the key whose columns begin at `first`, if that much can be read.
pub(super) fn hash_at<R: Cells>(row: &R, first: usize) -> Option<TokenHash> {
    Columns { row, next: first + 2 }.bytes().ok().map(TokenHash::from_bytes)
}

/// The id of the user whose columns begin at `first`, if that much can be read.
fn user_at<R: Cells>(row: &R, first: usize) -> Option<UserId> {
    row.text(first).ok().flatten()?.parse().ok()
}

/// What a row that cannot be read is of.
pub(super) fn damaged_key(id: Option<KeyId>, hash: Option<TokenHash>) -> Damaged {
    id.map_or(Damaged::Unnamed, |id| Damaged::Key { id, hash })
}

/// The same of a user's row.
fn damaged_user(id: Option<UserId>) -> Damaged {
    id.map_or(Damaged::Unnamed, Damaged::User)
}

/// The event of a row that holds the store's columns of one.
pub(super) fn event<R: Cells>(row: &R) -> Result<Event, R::Fault> {
    let mut columns = Columns::of(row);
    let stamp = columns.stamp()?;
    let at = columns.time()?;
    let kind = parsed_or(columns.text()?, "event kind")?;
    let actor = parsed_or(columns.text()?, "actor")?;
    let subject = columns.subject()?;
    let subject = subject.ok_or_else(|| R::Fault::stored("an event has no one subject".to_owned()))?;
    let changes = map(columns.text()?)?;
    let from = columns.text_or_none()?.map(|text| parsed_or(text, "address")).transpose()?;
    Ok(Event { stamp, at, kind, actor, from, subject, changes })
}

/// The columns of refused attempts in the order in which [`tally`] reads them.
pub(super) const TALLY_COLUMNS: &str = "minute, actor, address, operation, code, key_id, user_id, count, last_at";

/// The refused attempts of a row that holds [`TALLY_COLUMNS`].
pub(super) fn tally<R: Cells>(row: &R) -> Result<RefusalTally, R::Fault> {
    let mut columns = Columns::of(row);
    let minute = columns.time()?;
    let actor = parsed_or(columns.text()?, "actor")?;
    let from = match columns.text()? {
        "" => None,
        text => Some(parsed_or(text, "address")?),
    };
    let (operation, code) = (columns.text()?.to_owned(), columns.text()?.to_owned());
    let subject = columns.subject()?;
    let count = columns.unsigned()?;
    Ok(RefusalTally { minute, actor, from, operation, code, subject, count, last_at: columns.time()? })
}

/// A stored number that is never negative.
pub(super) fn unsigned<T: TryFrom<i64>, F: OfRow>(number: i64) -> Result<T, F> {
    T::try_from(number).map_err(|_outside| F::stored(format!("the number {number} where it cannot be")))
}

fn parsed<T: FromStr<Err: Display>, F: OfRow>(text: &str) -> Result<T, F> {
    text.parse().map_err(|error: T::Err| F::stored(error.to_string()))
}

fn parsed_or<T: FromStr, F: OfRow>(text: &str, what: &str) -> Result<T, F> {
    text.parse().map_err(|_unhelpful| F::stored(format!("{text:?} is no {what}")))
}

fn named<T, F: OfRow>(known: &mut HashSet<T>, text: &str) -> Result<T, F>
where
    T: FromStr<Err: Display> + std::borrow::Borrow<str> + Clone + Eq + std::hash::Hash,
{
    if let Some(name) = known.get(text) {
        return Ok(name.clone());
    }
    let name: T = parsed(text)?;
    if known.len() < NAMES_KEPT_MAX {
        known.insert(name.clone());
    }
    Ok(name)
}

fn flags<F: OfRow>(text: &str) -> Result<FlagSet, F> {
    if text.is_empty() {
        return Ok(FlagSet::default());
    }
    FlagSet::parse(text.split(' ')).map_err(|error| F::stored(error.to_string()))
}

fn map<F: OfRow>(text: &str) -> Result<BTreeMap<String, String>, F> {
    if text == "{}" {
        return Ok(BTreeMap::new());
    }
    serde_json::from_str(text).map_err(|error| F::stored(format!("props or changes: {error}")))
}

/// A map as it is kept.
pub(super) fn json(map: &BTreeMap<String, String>) -> String {
    serde_json::to_string(map).expect("a map of text to text is always JSON")
}
