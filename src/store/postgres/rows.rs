//! Rows as PostgreSQL keeps them: read column by column, cheaply enough to read ten million at start,
//! and written in bulk, one array a column.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::fault::Fault;
use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, Event, FlagSet, Format, Grants, Key, KeyId, LineageId, OperatorScope, ProjectId, Rotation, Stamp,
    States, Subject, TokenHash, User, UserId,
};
use crate::report::Chain;
use crate::store::{Cursor, KeyUsage, RefusalTally};

/// The columns of a key in the order in which [`Decoder::key`] reads them.
pub(super) const KEY_COLUMNS: &str = "k.id, k.lineage, k.hash, k.format, k.shown_prefix, k.last_four, k.name, \
     k.project, k.environment, k.user_id, k.inherit, k.flags, k.props, k.may_grant, k.operates, k.operates_project, \
     k.operates_environment, k.self_rotate, k.minted_by, k.revoked, k.disabled, k.superseded, k.revoked_at, \
     k.replaced_by, k.expires_at, k.grace_expires_at, k.rotation_days, k.rotation_next_at, k.rotation_webhook_url, \
     k.webhook_secret_version, k.webhook_old_secret_until, k.created_at, CASE WHEN k.revision > 0 THEN k.updated_at \
     ELSE (SELECT s.at FROM keyward.stages s WHERE s.number = k.revision) END, CASE WHEN k.revision > 0 THEN k.revision \
     ELSE (SELECT s.revision FROM keyward.stages s WHERE s.number = k.revision) END, k.ordinal";
/// How many those are.
pub(super) const KEY_WIDTH: usize = 35;
/// The columns of a user in the order in which [`Decoder::user`] reads them.
pub(super) const USER_COLUMNS: &str =
    "u.id, u.project, u.flags, u.active, u.deleted, u.created_at, u.updated_at, u.revision, u.ordinal";
/// How many those are.
pub(super) const USER_WIDTH: usize = 9;
/// The columns of an event in the order in which [`event`] reads them.
pub(super) const EVENT_COLUMNS: &str = "CASE WHEN e.revision > 0 THEN e.revision ELSE \
     (SELECT s.revision FROM keyward.stages s WHERE s.number = e.revision) END, e.ordinal, \
     CASE WHEN e.revision > 0 THEN e.at ELSE (SELECT s.at FROM keyward.stages s WHERE s.number = e.revision) END, \
     e.kind, e.actor, e.key_id, e.user_id, e.changes, e.address";
/// Whether a key `k` is one, and not merely staged.
pub(super) const REAL: &str =
    "(k.revision > 0 OR k.revision IN (SELECT number FROM keyward.stages WHERE revision IS NOT NULL))";
/// The columns of refused attempts in the order in which [`tally`] reads them.
pub(super) const TALLY_COLUMNS: &str = "minute, actor, address, operation, code, key_id, user_id, count, last_at";

/// A number as PostgreSQL keeps it.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How many, as PostgreSQL counts.
pub(super) fn to_count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A key's id as PostgreSQL keeps it.
pub(super) fn id_of(key: KeyId) -> Uuid {
    Uuid::from_u128(key.bits())
}

/// Reads rows, and keeps one copy of names that come again and again.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    projects: HashSet<ProjectId>,
    environments: HashSet<EnvironmentId>,
}

/// More names than this are not kept, so that a store of many projects does not fill the memory.
const NAMES_KEPT_MAX: usize = 4096;

impl Decoder {
    /// The key whose columns begin at `first`.
    pub(super) fn key(&mut self, row: &Row, first: usize) -> Result<Key, Fault> {
        self.try_key(row, first).map_err(|fault| match (fault, id_at(row, first)) {
            (Fault::Stored(cause), Some(id)) => Fault::Stored(format!("{id}: {cause}")),
            (fault, _) => fault,
        })
    }

    fn try_key(&mut self, row: &Row, first: usize) -> Result<Key, Fault> {
        let mut columns = Columns { row, next: first };
        let id = KeyId::from_bits(columns.bits()?);
        let lineage = LineageId::from_bits(columns.bits()?);
        let hash = TokenHash::from_bytes(columns.bytes()?);
        let format = match columns.text()? {
            "opaque" => Format::Opaque,
            "jwt" => Format::Jwt,
            "imported" => Format::Imported,
            other => return Err(Fault::Stored(format!("a key has the format {other:?}"))),
        };
        let shown_prefix = columns.text_or_none()?.map(str::to_owned);
        let last_four = columns.text_or_none()?.map(str::to_owned);
        let name = columns.text()?.to_owned();
        let project = columns.text_or_none()?.map(|text| named(&mut self.projects, text)).transpose()?;
        let environment = named(&mut self.environments, columns.text()?)?;
        let user = columns.text_or_none()?.map(parsed::<UserId>).transpose()?;
        let inherit = columns.yes()?;
        let flags = flags(columns.text()?)?;
        let grants = if inherit { Grants::Inherit } else { Grants::Only(flags) };
        let props = map(columns.text()?)?;
        let may_grant = self::flags(columns.text()?)?;
        let operates = columns.yes()?;
        let scope = OperatorScope {
            project: columns.text_or_none()?.map(|text| named(&mut self.projects, text)).transpose()?,
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
            states: States { revoked: columns.yes()?, disabled: columns.yes()?, superseded: columns.yes()? },
            revoked_at: columns.time_or_none()?,
            replaced_by: columns.bits_or_none()?.map(KeyId::from_bits),
            expires_at: columns.time_or_none()?,
            grace_expires_at: columns.time_or_none()?,
            rotation: Rotation {
                interval_days: columns.integer_or_none()?.map(unsigned).transpose()?,
                next_at: columns.time_or_none()?,
                webhook_url: columns.text_or_none()?.map(str::to_owned),
                secret_version: unsigned(columns.integer()?)?,
                old_secret_until: columns.time_or_none()?,
            },
            created_at: columns.time()?,
            updated_at: columns.time()?,
            stamp: columns.stamp()?,
        })
    }

    /// The user whose columns begin at `first`.
    pub(super) fn user(&mut self, row: &Row, first: usize) -> Result<User, Fault> {
        let mut columns = Columns { row, next: first };
        Ok(User {
            id: parsed(columns.text()?)?,
            project: columns.text_or_none()?.map(|text| named(&mut self.projects, text)).transpose()?,
            flags: flags(columns.text()?)?,
            active: columns.yes()?,
            deleted: columns.yes()?,
            created_at: columns.time()?,
            updated_at: columns.time()?,
            stamp: columns.stamp()?,
        })
    }

    /// The user whose columns begin at `first`, if the outer join found one.
    pub(super) fn user_or_none(&mut self, row: &Row, first: usize) -> Result<Option<User>, Fault> {
        match (Columns { row, next: first }).text_or_none()? {
            None => Ok(None),
            Some(_) => self.user(row, first).map(Some),
        }
    }
}

/// The id of the key whose columns begin at `first`, if that much can be read.
pub(super) fn id_at(row: &Row, first: usize) -> Option<KeyId> {
    Columns { row, next: first }.bits_or_none().ok().flatten().map(KeyId::from_bits)
}

/// The hash of the key whose columns begin at `first`, if that much can be read.
pub(super) fn hash_at(row: &Row, first: usize) -> Option<TokenHash> {
    Columns { row, next: first + 2 }.bytes().ok().map(TokenHash::from_bytes)
}

/// The id of the user whose columns begin at `first`, if that much can be read.
pub(super) fn user_at(row: &Row, first: usize) -> Option<UserId> {
    Columns { row, next: first }.text().ok()?.parse().ok()
}

/// The usage whose columns, the last instant and the count, begin at `first`.
pub(super) fn usage_at(row: &Row, first: usize, key: KeyId) -> Result<Option<KeyUsage>, Fault> {
    let mut columns = Columns { row, next: first };
    match (columns.integer_or_none()?, columns.integer_or_none()?) {
        (Some(last), Some(count)) => {
            Ok(Some(KeyUsage { key, last_used_at: Timestamp::from_nanos(last), count: unsigned(count)? }))
        }
        (None, _) | (_, None) => Ok(None),
    }
}

/// The event of a row that holds [`EVENT_COLUMNS`].
pub(super) fn event(row: &Row) -> Result<Event, Fault> {
    let mut columns = Columns { row, next: 0 };
    let stamp = columns.stamp()?;
    let at = columns.time()?;
    let kind = parsed_or(columns.text()?, "event kind")?;
    let actor = parsed_or(columns.text()?, "actor")?;
    let subject = subject(&mut columns)?;
    let subject = subject.ok_or_else(|| Fault::Stored("an event has no one subject".to_owned()))?;
    let changes = map(columns.text()?)?;
    let from = columns.text_or_none()?.map(|text| parsed_or(text, "address")).transpose()?;
    Ok(Event { stamp, at, kind, actor, from, subject, changes })
}

/// What the next two columns name: a key or a user; none where neither or both are there.
fn subject(columns: &mut Columns<'_>) -> Result<Option<Subject>, Fault> {
    let key = columns.bits_or_none()?.map(KeyId::from_bits);
    let user = columns.text_or_none()?.map(parsed::<UserId>).transpose()?;
    Ok(match (key, user) {
        (Some(key), None) => Some(Subject::Key(key)),
        (None, Some(user)) => Some(Subject::User(user)),
        (None, None) | (Some(_), Some(_)) => None,
    })
}

/// A key's and a user's id, one of them none.
pub(super) fn subject_columns(subject: Option<&Subject>) -> (Option<Uuid>, Option<&str>) {
    match subject {
        Some(Subject::Key(key)) => (Some(id_of(*key)), None),
        Some(Subject::User(user)) => (None, Some(user.as_str())),
        None => (None, None),
    }
}

/// The refused attempts of a row that holds [`TALLY_COLUMNS`].
pub(super) fn tally(row: &Row) -> Result<RefusalTally, Fault> {
    let mut columns = Columns { row, next: 0 };
    let minute = columns.time()?;
    let actor = parsed_or(columns.text()?, "actor")?;
    let from = match columns.text()? {
        "" => None,
        text => Some(parsed_or(text, "address")?),
    };
    let (operation, code) = (columns.text()?.to_owned(), columns.text()?.to_owned());
    let subject = subject(&mut columns)?;
    let count = unsigned(columns.integer()?)?;
    Ok(RefusalTally { minute, actor, from, operation, code, subject, count, last_at: columns.time()? })
}

/// A row's columns, read one after the other.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    /// The row.
    pub(super) row: &'a Row,
    /// The column to read next.
    pub(super) next: usize,
}

impl<'a> Columns<'a> {
    pub(super) fn of(row: &'a Row) -> Self {
        Self { row, next: 0 }
    }

    fn get<T: FromSql<'a>>(&mut self) -> Result<T, Fault> {
        let value = self.row.try_get(self.next);
        self.next += 1;
        value.map_err(|error| Fault::Stored(format!("column {} of a row: {}", self.next, Chain(&error))))
    }

    pub(super) fn text_or_none(&mut self) -> Result<Option<&'a str>, Fault> {
        self.get()
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Fault> {
        self.get()
    }

    pub(super) fn integer(&mut self) -> Result<i64, Fault> {
        self.get()
    }

    pub(super) fn integer_or_none(&mut self) -> Result<Option<i64>, Fault> {
        self.get()
    }

    pub(super) fn yes(&mut self) -> Result<bool, Fault> {
        self.get()
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, Fault> {
        self.integer().map(Timestamp::from_nanos)
    }

    pub(super) fn time_or_none(&mut self) -> Result<Option<Timestamp>, Fault> {
        Ok(self.integer_or_none()?.map(Timestamp::from_nanos))
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes: &[u8] = self.get()?;
        bytes.try_into().map_err(|_other_length| Fault::Stored(format!("{} bytes where {N} belong", bytes.len())))
    }

    pub(super) fn bytes_or_none(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        self.get()
    }

    pub(super) fn bits(&mut self) -> Result<u128, Fault> {
        Ok(self.get::<Uuid>()?.as_u128())
    }

    pub(super) fn bits_or_none(&mut self) -> Result<Option<u128>, Fault> {
        Ok(self.get::<Option<Uuid>>()?.map(|id| id.as_u128()))
    }

    pub(super) fn stamp(&mut self) -> Result<Stamp, Fault> {
        Ok(Stamp { revision: unsigned(self.integer()?)?, ordinal: unsigned(self.integer()?)? })
    }

    pub(super) fn cursor(&mut self) -> Result<Cursor, Fault> {
        Ok(Cursor { revision: unsigned(self.integer()?)?, commit: crate::store::CommitId(self.bits()?) })
    }
}

/// A stored number that is never negative.
pub(super) fn unsigned<T: TryFrom<i64>>(number: i64) -> Result<T, Fault> {
    T::try_from(number).map_err(|_outside| Fault::Stored(format!("the number {number} where it cannot be")))
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(|error: T::Err| Fault::Stored(error.to_string()))
}

fn parsed_or<T: FromStr>(text: &str, what: &str) -> Result<T, Fault> {
    text.parse().map_err(|_unhelpful| Fault::Stored(format!("{text:?} is no {what}")))
}

fn named<T>(known: &mut HashSet<T>, text: &str) -> Result<T, Fault>
where
    T: FromStr<Err: std::fmt::Display> + std::borrow::Borrow<str> + Clone + Eq + std::hash::Hash,
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

fn flags(text: &str) -> Result<FlagSet, Fault> {
    if text.is_empty() {
        return Ok(FlagSet::default());
    }
    FlagSet::parse(text.split(' ')).map_err(|error| Fault::Stored(error.to_string()))
}

fn map(text: &str) -> Result<BTreeMap<String, String>, Fault> {
    if text == "{}" {
        return Ok(BTreeMap::new());
    }
    serde_json::from_str(text).map_err(|error| Fault::Stored(format!("props or changes: {error}")))
}

/// A map as it is kept.
pub(super) fn json(map: &BTreeMap<String, String>) -> String {
    serde_json::to_string(map).expect("a map of text to text is always JSON")
}
