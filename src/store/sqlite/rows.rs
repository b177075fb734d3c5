//! Rows as SQLite keeps them: which columns are read, what each holds, and how they are written.

use rusqlite::{Connection, Row, params};

use super::fault::Fault;
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, Event, Grants, Key, KeyId, ProjectId, Stamp, Subject, User, UserId};
use crate::store::decode::{self, Cells, OfRow, json};
pub(super) use crate::store::decode::{
    Decoder, KEY_WIDTH, TALLY_COLUMNS, USER_WIDTH, damaged_key, event, hash_at, id_at, tally,
};
use crate::store::{Keep, Kept, ONCE_KEPT, OnceKey, RefusalTally};

/// A row's columns, read one after the other.
pub(super) type Columns<'a, 'statement> = decode::Columns<'a, Row<'statement>>;

/// The columns of a key in the order in which [`Decoder::key`] reads them.
pub(super) const KEY_COLUMNS: &str = "k.id, k.lineage, k.hash, k.format, k.shown_prefix, k.last_four, k.name, \
     k.project, k.environment, k.user_id, k.inherit, k.flags, k.props, k.may_grant, k.operates, k.operates_project, \
     k.operates_environment, k.self_rotate, k.minted_by, k.revoked, k.disabled, k.superseded, k.revoked_at, \
     k.replaced_by, k.expires_at, k.grace_expires_at, k.rotation_days, k.rotation_next_at, k.rotation_webhook_url, \
     k.webhook_secret_version, k.webhook_old_secret_until, k.created_at, \
     CASE WHEN k.revision > 0 THEN k.updated_at ELSE (SELECT s.at FROM stages s WHERE s.number = k.revision) END, \
     CASE WHEN k.revision > 0 THEN k.revision ELSE (SELECT s.revision FROM stages s WHERE s.number = k.revision) END, \
     k.ordinal";
/// The columns of a key in the order in which [`Decoder::loaded`] reads them.
pub(super) const LOADED_COLUMNS: &str = "k.id, k.lineage, k.hash, k.project, k.environment, k.inherit, k.flags, \
     k.user_id, k.revoked, k.disabled, k.superseded, k.expires_at, k.grace_expires_at, \
     CASE WHEN k.revision > 0 THEN k.revision ELSE (SELECT s.revision FROM stages s WHERE s.number = k.revision) END, \
     k.ordinal";
/// The columns of a user in the order in which [`Decoder::user`] reads them.
pub(super) const USER_COLUMNS: &str =
    "u.id, u.project, u.flags, u.active, u.deleted, u.created_at, u.updated_at, u.revision, u.ordinal";
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

/// A key's and a user's id, one of them none.
fn subject_columns(subject: Option<&Subject>) -> (Option<[u8; 16]>, Option<&str>) {
    match subject {
        Some(Subject::Key(key)) => (Some(key.bits().to_be_bytes()), None),
        Some(Subject::User(user)) => (None, Some(user.as_str())),
        None => (None, None),
    }
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
    let sealed = columns.bytes_or_none()?.map(<[u8]>::to_vec);
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

impl Cells for Row<'_> {
    type Fault = Fault;

    fn text(&self, at: usize) -> Result<Option<&str>, Fault> {
        self.get_ref(at)?.as_str_or_null().map_err(|error| wrong(at, &error))
    }

    fn integer(&self, at: usize) -> Result<Option<i64>, Fault> {
        self.get_ref(at)?.as_i64_or_null().map_err(|error| wrong(at, &error))
    }

    fn yes(&self, at: usize) -> Result<Option<bool>, Fault> {
        Ok(self.integer(at)?.map(|number| number != 0))
    }

    fn bits(&self, at: usize) -> Result<Option<u128>, Fault> {
        let Some(bytes) = self.bytes(at)? else { return Ok(None) };
        let bits = bytes.try_into().map(u128::from_be_bytes);
        bits.map(Some).map_err(|_other_length| Fault::Stored(format!("{} bytes where 16 belong", bytes.len())))
    }

    fn bytes(&self, at: usize) -> Result<Option<&[u8]>, Fault> {
        self.get_ref(at)?.as_blob_or_null().map_err(|error| wrong(at, &error))
    }
}

fn wrong(at: usize, error: &rusqlite::types::FromSqlError) -> Fault {
    Fault::Stored(format!("column {} of a row: {error}", at + 1))
}

impl OfRow for Fault {
    fn stored(cause: String) -> Self {
        Self::Stored(cause)
    }

    fn of_key(self, id: KeyId) -> Self {
        match self {
            Self::Stored(cause) => Self::Stored(format!("{id}: {cause}")),
            other => other,
        }
    }

    fn cause(self) -> Result<String, Self> {
        match self {
            Self::Stored(cause) => Ok(cause),
            other => Err(other),
        }
    }
}

/// A stored number that is never negative.
pub(super) fn unsigned<T: TryFrom<i64>>(number: i64) -> Result<T, Fault> {
    decode::unsigned(number)
}
