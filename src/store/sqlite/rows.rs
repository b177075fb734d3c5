//! Rows as SQLite keeps them: written and read column by column, cheaply enough to read a million
//! at start.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::fault::Fault;
use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, Event, FlagSet, Format, Grants, Key, KeyId, LineageId, OperatorScope, ProjectId, Rotation, Stamp,
    States, Subject, TokenHash, User, UserId,
};
use crate::store::{CommitId, Keep, Kept, ONCE_KEPT, OnceKey, RefusalTally};

/// The columns of a key in the order in which [`Decoder::key`] reads them.
pub(super) const KEY_COLUMNS: &str = "k.id, k.lineage, k.hash, k.format, k.shown_prefix, k.last_four, k.name, \
     k.project, k.environment, k.user_id, k.inherit, k.flags, k.props, k.may_grant, k.operates, k.operates_project, \
     k.operates_environment, k.self_rotate, k.minted_by, k.revoked, k.disabled, k.superseded, k.revoked_at, \
     k.replaced_by, k.expires_at, k.grace_expires_at, k.rotation_days, k.rotation_next_at, k.rotation_webhook_url, \
     k.webhook_secret_version, k.webhook_old_secret_until, k.created_at, \
     CASE WHEN k.revision > 0 THEN k.updated_at ELSE (SELECT s.at FROM stages s WHERE s.number = k.revision) END, \
     CASE WHEN k.revision > 0 THEN k.revision ELSE (SELECT s.revision FROM stages s WHERE s.number = k.revision) END, \
     k.ordinal";
/// How many those are.
pub(super) const KEY_WIDTH: usize = 35;
/// The columns of a user in the order in which [`Decoder::user`] reads them.
pub(super) const USER_COLUMNS: &str =
    "u.id, u.project, u.flags, u.active, u.deleted, u.created_at, u.updated_at, u.revision, u.ordinal";
/// How many those are.
pub(super) const USER_WIDTH: usize = 9;
/// The columns of an event in the order in which [`event`] reads them.
pub(super) const EVENT_COLUMNS: &str = "\
     CASE WHEN e.revision > 0 THEN e.revision ELSE (SELECT s.revision FROM stages s WHERE s.number = e.revision) END, \
     e.ordinal, \
     CASE WHEN e.revision > 0 THEN e.at ELSE (SELECT s.at FROM stages s WHERE s.number = e.revision) END, \
     e.kind, e.actor, e.key_id, e.user_id, e.changes, e.address";
/// Whether a key `k` is one, and not merely staged.
pub(super) const REAL: &str =
    "(k.revision > 0 OR k.revision IN (SELECT number FROM stages WHERE revision IS NOT NULL))";

/// Where a row stands in the history: at a revision, or while it is staged at its stage's number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) revision: i64,
    pub(super) ordinal: u32,
}

impl From<Stamp> for Place {
    fn from(stamp: Stamp) -> Self {
        Self { revision: to_sql(stamp.revision), ordinal: stamp.ordinal }
    }
}

/// A number as SQLite keeps it.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
    pub(super) fn key(&mut self, row: &Row<'_>, first: usize) -> Result<Key, Fault> {
        self.try_key(row, first).map_err(|fault| match (fault, id_at(row, first)) {
            (Fault::Stored(cause), Some(id)) => Fault::Stored(format!("{id}: {cause}")),
            (fault, _) => fault,
        })
    }

    fn try_key(&mut self, row: &Row<'_>, first: usize) -> Result<Key, Fault> {
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
    pub(super) fn user(&mut self, row: &Row<'_>, first: usize) -> Result<User, Fault> {
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
    pub(super) fn user_or_none(&mut self, row: &Row<'_>, first: usize) -> Result<Option<User>, Fault> {
        match row.get_ref(first)? {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => {
                self.user(row, first).map(Some)
            }
        }
    }
}

/// The id of the key whose columns begin at `first`, if that much can be read.
pub(super) fn id_at(row: &Row<'_>, first: usize) -> Option<KeyId> {
    Columns { row, next: first }.bits().ok().map(KeyId::from_bits)
}

/// The hash of the key whose columns begin at `first`, if that much can be read.
pub(super) fn hash_at(row: &Row<'_>, first: usize) -> Option<TokenHash> {
    Columns { row, next: first + 2 }.bytes().ok().map(TokenHash::from_bytes)
}

/// The id of the user whose columns begin at `first`, if that much can be read.
pub(super) fn user_at(row: &Row<'_>, first: usize) -> Option<UserId> {
    Columns { row, next: first }.text().ok()?.parse().ok()
}

/// The event of a row that holds [`EVENT_COLUMNS`].
pub(super) fn event(row: &Row<'_>) -> Result<Event, Fault> {
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
fn subject(columns: &mut Columns<'_, '_>) -> Result<Option<Subject>, Fault> {
    let key = columns.bits_or_none()?.map(KeyId::from_bits);
    let user = columns.text_or_none()?.map(parsed::<UserId>).transpose()?;
    Ok(match (key, user) {
        (Some(key), None) => Some(Subject::Key(key)),
        (None, Some(user)) => Some(Subject::User(user)),
        (None, None) | (Some(_), Some(_)) => None,
    })
}

/// A key's and a user's id, one of them none.
fn subject_columns(subject: Option<&Subject>) -> (Option<[u8; 16]>, Option<&str>) {
    match subject {
        Some(Subject::Key(key)) => (Some(key.bits().to_be_bytes()), None),
        Some(Subject::User(user)) => (None, Some(user.as_str())),
        None => (None, None),
    }
}

/// The columns of refused attempts in the order in which [`tally`] reads them.
pub(super) const TALLY_COLUMNS: &str = "minute, actor, address, operation, code, key_id, user_id, count, last_at";

/// The refused attempts of a row that holds [`TALLY_COLUMNS`].
pub(super) fn tally(row: &Row<'_>) -> Result<RefusalTally, Fault> {
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

/// Adds up refused attempts.
pub(super) fn write_tally(connection: &Connection, tally: &RefusalTally) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO audit_refusals (minute, actor, address, operation, code, key_id, user_id, count, last_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         ON CONFLICT (minute, actor, address, operation, code) DO UPDATE SET key_id = excluded.key_id, \
         user_id = excluded.user_id, count = count + excluded.count, last_at = max(last_at, excluded.last_at)",
    )?;
    let (key, user) = subject_columns(tally.subject.as_ref());
    statement.execute(params![
        tally.minute.nanos(),
        tally.actor.to_string(),
        tally.from.map(|address| address.to_string()).unwrap_or_default(),
        tally.operation,
        tally.code,
        key,
        user,
        to_sql(tally.count),
        tally.last_at.nanos(),
    ])?;
    Ok(())
}

/// Keeps an answer for as long as it is remembered.
pub(super) fn write_kept(connection: &Connection, keep: &Keep, revision: u64, at: Timestamp) -> Result<(), Fault> {
    // What is past its time is as if it had never been, whether it was swept yet or not.
    let mut statement = connection.prepare_cached(
        "INSERT INTO once (once, request, key_id, revision, sealed, until, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
         ON CONFLICT (once) DO UPDATE SET request = excluded.request, key_id = excluded.key_id, \
         revision = excluded.revision, sealed = excluded.sealed, until = excluded.until, at = excluded.at",
    )?;
    statement.execute(params![
        keep.once.0,
        keep.request,
        keep.key.map(|id| id.bits().to_be_bytes()),
        to_sql(revision),
        keep.sealed,
        keep.until.nanos(),
        at.nanos(),
    ])?;
    Ok(())
}

/// An answer that was kept and is still remembered.
pub(super) fn kept(connection: &Connection, once: OnceKey, now: Timestamp) -> Result<Option<Kept>, Fault> {
    let mut statement = connection
        .prepare_cached("SELECT request, key_id, revision, sealed, until FROM once WHERE once = ?1 AND at > ?2")?;
    let mut rows = statement.query(params![once.0, now.minus(ONCE_KEPT).nanos()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut columns = Columns { row, next: 0 };
    let (request, key) = (columns.bytes()?, columns.bits_or_none()?.map(KeyId::from_bits));
    let revision = unsigned(columns.integer()?)?;
    let sealed = columns.value()?.as_blob_or_null().map_err(|error| columns.wrong(&error))?.map(<[u8]>::to_vec);
    let is_kept = now < columns.time()?;
    Ok(Some(Kept { request, key, revision, sealed: sealed.filter(|_| is_kept) }))
}

/// Writes a key: inserts it where its id is new, and else replaces all but what never changes.
pub(super) fn write_key(connection: &Connection, key: &Key, at: Timestamp, place: Place) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO keys (id, lineage, hash, format, shown_prefix, last_four, name, project, environment, user_id, \
         inherit, flags, props, may_grant, operates, operates_project, operates_environment, self_rotate, minted_by, \
         revoked, disabled, superseded, revoked_at, replaced_by, expires_at, grace_expires_at, rotation_days, \
         rotation_next_at, rotation_webhook_url, webhook_secret_version, webhook_old_secret_until, created_at, \
         updated_at, revision, ordinal) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
         ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, project = excluded.project, \
         environment = excluded.environment, inherit = excluded.inherit, \
         flags = excluded.flags, props = excluded.props, may_grant = excluded.may_grant, \
         operates = excluded.operates, operates_project = excluded.operates_project, \
         operates_environment = excluded.operates_environment, self_rotate = excluded.self_rotate, \
         revoked = excluded.revoked, disabled = excluded.disabled, superseded = excluded.superseded, \
         revoked_at = excluded.revoked_at, replaced_by = excluded.replaced_by, expires_at = excluded.expires_at, \
         grace_expires_at = excluded.grace_expires_at, rotation_days = excluded.rotation_days, \
         rotation_next_at = excluded.rotation_next_at, rotation_webhook_url = excluded.rotation_webhook_url, \
         webhook_secret_version = excluded.webhook_secret_version, \
         webhook_old_secret_until = excluded.webhook_old_secret_until, \
         updated_at = excluded.updated_at, revision = excluded.revision, ordinal = excluded.ordinal",
    )?;
    let (inherit, flags) = match &key.grants {
        Grants::Inherit => (true, String::new()),
        Grants::Only(flags) => (false, flags.to_string()),
    };
    let scope = key.operates_on.as_ref();
    statement.execute(params![
        key.id.bits().to_be_bytes(),
        key.lineage.bits().to_be_bytes(),
        key.hash.as_bytes(),
        key.format.as_str(),
        key.shown_prefix,
        key.last_four,
        key.name,
        key.project.as_ref().map(ProjectId::as_str),
        key.environment.as_str(),
        key.user.as_ref().map(UserId::as_str),
        inherit,
        flags,
        json(&key.props),
        key.may_grant.to_string(),
        scope.is_some(),
        scope.and_then(|scope| scope.project.as_ref()).map(ProjectId::as_str),
        scope.and_then(|scope| scope.environment.as_ref()).map(EnvironmentId::as_str),
        key.self_rotate,
        key.minted_by.map(|id| id.bits().to_be_bytes()),
        key.states.revoked,
        key.states.disabled,
        key.states.superseded,
        key.revoked_at.map(Timestamp::nanos),
        key.replaced_by.map(|id| id.bits().to_be_bytes()),
        key.expires_at.map(Timestamp::nanos),
        key.grace_expires_at.map(Timestamp::nanos),
        key.rotation.interval_days,
        key.rotation.next_at.map(Timestamp::nanos),
        key.rotation.webhook_url,
        key.rotation.secret_version,
        key.rotation.old_secret_until.map(Timestamp::nanos),
        key.created_at.nanos(),
        at.nanos(),
        place.revision,
        place.ordinal,
    ])?;
    Ok(())
}

/// Writes a user: inserts it where its id is new, and else replaces all but its birth.
pub(super) fn write_user(connection: &Connection, user: &User, at: Timestamp, stamp: Stamp) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO users (id, project, flags, active, deleted, created_at, updated_at, revision, ordinal) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         ON CONFLICT (id) DO UPDATE SET project = excluded.project, flags = excluded.flags, \
         active = excluded.active, deleted = excluded.deleted, updated_at = excluded.updated_at, \
         revision = excluded.revision, ordinal = excluded.ordinal",
    )?;
    statement.execute(params![
        user.id.as_str(),
        user.project.as_ref().map(ProjectId::as_str),
        user.flags.to_string(),
        user.active,
        user.deleted,
        user.created_at.nanos(),
        at.nanos(),
        to_sql(stamp.revision),
        stamp.ordinal,
    ])?;
    Ok(())
}

/// Appends an event, which stands at `place`.
pub(super) fn write_event(connection: &Connection, event: &Event, place: Place) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO events (revision, ordinal, at, kind, actor, key_id, user_id, changes, address) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let (key, user) = subject_columns(Some(&event.subject));
    statement.execute(params![
        place.revision,
        place.ordinal,
        event.at.nanos(),
        event.kind.as_str(),
        event.actor.to_string(),
        key,
        user,
        json(&event.changes),
        event.from.map(|address| address.to_string()),
    ])?;
    Ok(())
}

/// A row's columns, read one after the other.
pub(super) struct Columns<'a, 'statement> {
    /// The row.
    pub(super) row: &'a Row<'statement>,
    /// The column to read next.
    pub(super) next: usize,
}

impl<'a> Columns<'a, '_> {
    fn value(&mut self) -> Result<ValueRef<'a>, Fault> {
        let value = self.row.get_ref(self.next)?;
        self.next += 1;
        Ok(value)
    }

    fn text_or_none(&mut self) -> Result<Option<&'a str>, Fault> {
        self.value()?.as_str_or_null().map_err(|error| self.wrong(&error))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Fault> {
        self.value()?.as_str().map_err(|error| self.wrong(&error))
    }

    pub(super) fn integer(&mut self) -> Result<i64, Fault> {
        self.value()?.as_i64().map_err(|error| self.wrong(&error))
    }

    pub(super) fn integer_or_none(&mut self) -> Result<Option<i64>, Fault> {
        self.value()?.as_i64_or_null().map_err(|error| self.wrong(&error))
    }

    fn yes(&mut self) -> Result<bool, Fault> {
        Ok(self.integer()? != 0)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, Fault> {
        self.integer().map(Timestamp::from_nanos)
    }

    fn time_or_none(&mut self) -> Result<Option<Timestamp>, Fault> {
        Ok(self.integer_or_none()?.map(Timestamp::from_nanos))
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let blob = self.value()?.as_blob().map_err(|error| self.wrong(&error))?;
        blob.try_into().map_err(|_other_length| Fault::Stored(format!("{} bytes where {N} belong", blob.len())))
    }

    pub(super) fn bits(&mut self) -> Result<u128, Fault> {
        self.bytes().map(u128::from_be_bytes)
    }

    pub(super) fn bits_or_none(&mut self) -> Result<Option<u128>, Fault> {
        if matches!(self.row.get_ref(self.next)?, ValueRef::Null) {
            self.next += 1;
            return Ok(None);
        }
        self.bits().map(Some)
    }

    pub(super) fn commit_or_none(&mut self) -> Result<Option<CommitId>, Fault> {
        Ok(self.bits_or_none()?.map(CommitId))
    }

    pub(super) fn stamp(&mut self) -> Result<Stamp, Fault> {
        Ok(Stamp { revision: unsigned(self.integer()?)?, ordinal: unsigned(self.integer()?)? })
    }

    fn wrong(&self, error: &rusqlite::types::FromSqlError) -> Fault {
        Fault::Stored(format!("column {} of a row: {error}", self.next))
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

fn json(map: &BTreeMap<String, String>) -> String {
    serde_json::to_string(map).expect("a map of text to text is always JSON")
}
