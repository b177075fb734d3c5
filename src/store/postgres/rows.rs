//! Rows as PostgreSQL keeps them: which columns are read, what each holds, and how values are sent.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::fault::Fault;
use crate::key::{KeyId, Subject};
use crate::report::Chain;
use crate::store::decode::{self, Cells, OfRow};
pub(super) use crate::store::decode::{
    Decoder, KEY_WIDTH, TALLY_COLUMNS, USER_WIDTH, damaged_key, event, hash_at, id_at, json, tally,
};

/// A row's columns, read one after the other.
pub(super) type Columns<'a> = decode::Columns<'a, Row>;

/// The columns of a key in the order in which [`Decoder::key`] reads them.
pub(super) const KEY_COLUMNS: &str = "k.id, k.lineage, k.hash, k.format, k.shown_prefix, k.last_four, k.name, \
     k.project, k.environment, k.user_id, k.inherit, k.flags, k.props, k.may_grant, k.operates, k.operates_project, \
     k.operates_environment, k.self_rotate, k.minted_by, k.revoked, k.disabled, k.superseded, k.revoked_at, \
     k.replaced_by, k.expires_at, k.grace_expires_at, k.rotation_days, k.rotation_next_at, k.rotation_webhook_url, \
     k.webhook_secret_version, k.webhook_old_secret_until, k.created_at, CASE WHEN k.revision > 0 THEN k.updated_at \
     ELSE (SELECT s.at FROM keyward.stages s WHERE s.number = k.revision) END, CASE WHEN k.revision > 0 THEN k.revision \
     ELSE (SELECT s.revision FROM keyward.stages s WHERE s.number = k.revision) END, k.ordinal";
/// The columns of a key in the order in which [`Decoder::loaded`] reads them.
pub(super) const LOADED_COLUMNS: &str = "k.id, k.lineage, k.hash, k.project, k.environment, k.inherit, k.flags, \
     k.user_id, k.revoked, k.disabled, k.superseded, k.expires_at, k.grace_expires_at, CASE WHEN k.revision > 0 \
     THEN k.revision ELSE (SELECT s.revision FROM keyward.stages s WHERE s.number = k.revision) END, k.ordinal";
/// The columns of a user in the order in which [`Decoder::user`] reads them.
pub(super) const USER_COLUMNS: &str =
    "u.id, u.project, u.flags, u.active, u.deleted, u.created_at, u.updated_at, u.revision, u.ordinal";
/// The columns of an event in the order in which [`event`] reads them.
pub(super) const EVENT_COLUMNS: &str = "CASE WHEN e.revision > 0 THEN e.revision ELSE \
     (SELECT s.revision FROM keyward.stages s WHERE s.number = e.revision) END, e.ordinal, \
     CASE WHEN e.revision > 0 THEN e.at ELSE (SELECT s.at FROM keyward.stages s WHERE s.number = e.revision) END, \
     e.kind, e.actor, e.key_id, e.user_id, e.changes, e.address";
/// Whether a key `k` is one, and not merely staged.
pub(super) const REAL: &str =
    "(k.revision > 0 OR k.revision IN (SELECT number FROM keyward.stages WHERE revision IS NOT NULL))";
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

/// A key's and a user's id, one of them none.
pub(super) fn subject_columns(subject: Option<&Subject>) -> (Option<Uuid>, Option<&str>) {
    match subject {
        Some(Subject::Key(key)) => (Some(id_of(*key)), None),
        Some(Subject::User(user)) => (None, Some(user.as_str())),
        None => (None, None),
    }
}

impl Cells for Row {
    type Fault = Fault;

    fn text(&self, at: usize) -> Result<Option<&str>, Fault> {
        cell(self, at)
    }

    fn integer(&self, at: usize) -> Result<Option<i64>, Fault> {
        cell(self, at)
    }

    fn yes(&self, at: usize) -> Result<Option<bool>, Fault> {
        cell(self, at)
    }

    fn bits(&self, at: usize) -> Result<Option<u128>, Fault> {
        Ok(cell::<Option<Uuid>>(self, at)?.map(|id| id.as_u128()))
    }

    fn bytes(&self, at: usize) -> Result<Option<&[u8]>, Fault> {
        cell(self, at)
    }
}

fn cell<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Fault> {
    row.try_get(at).map_err(|error| Fault::Stored(format!("column {} of a row: {}", at + 1, Chain(&error))))
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
