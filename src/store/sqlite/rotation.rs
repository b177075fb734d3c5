//! Announcements in SQLite.

use std::time::Duration;

use rusqlite::{Connection, Params, Row, params};

use super::fault::Fault;
use super::rows::{Columns, Decoder, KEY_COLUMNS, KEY_WIDTH, USER_COLUMNS, to_sql, unsigned};
use super::{OfStore, SqliteStore};
use crate::clock::Timestamp;
use crate::key::{EventKind, Key, KeyId, LineageId, ROTATION_OVERDUE_AFTER, Stamp};
use crate::store::{
    Answer, Claim, Claimed, Delivery, DeliveryId, DeliveryState, NewDelivery, Notice, NoticeKind, RotationCounts,
    RotationStore, Settlement, Unannounced,
};

/// How many events are read at a time: those of other kinds are passed over.
const EVENTS_READ_MAX: usize = 2048;
/// How many announcements are forgotten at a time, so that no mutation waits long.
const FORGOTTEN_MAX: usize = 1000;

/// Keys that work at `?5`: one that does not cannot be rotated, and is announced when it works again.
const WORKS: &str = "k.revoked = 0 AND k.disabled = 0 AND k.superseded = 0 \
     AND (k.expires_at IS NULL OR k.expires_at > ?5) AND (k.grace_expires_at IS NULL OR k.grace_expires_at > ?5) \
     AND (k.user_id IS NULL OR (u.active = 1 AND u.deleted = 0))";

const DELIVERY_COLUMNS: &str = "d.id, d.key_id, d.lineage, d.kind, d.at, d.body, d.created_at, d.attempts, \
     d.next_attempt_at, d.state, d.told";
const DELIVERY_WIDTH: usize = 11;

impl RotationStore for SqliteStore {
    fn unannounced(&self, expiring: Duration, limit: usize) -> Answer<'_, Unannounced> {
        self.read_with(OfStore::This, move |connection, shared| {
            unannounced(connection, expiring, limit, shared.clock.now())
        })
    }

    fn announce(&self, deliveries: Vec<NewDelivery>, read: (Stamp, Stamp)) -> Answer<'_, usize> {
        self.write_with(move |connection, now| announce(connection, &deliveries, read, now))
    }

    fn claim(&self, claim: Claim) -> Answer<'_, Vec<Claimed>> {
        Box::pin(async move {
            // Mostly there is nothing, and looking needs no write lock and no flush of the disk.
            let look = move |connection: &Connection, shared: &super::Shared| {
                Ok(!claimable(connection, claim, shared.clock.now())?.is_empty())
            };
            if !self.read_with(OfStore::This, look).await? {
                return Ok(Vec::new());
            }
            self.write_with(move |connection, now| self::claim(connection, claim, now)).await
        })
    }

    fn settle(&self, settlement: Settlement) -> Answer<'_, ()> {
        self.write_with(move |connection, now| settle(connection, &settlement, now))
    }

    fn rotation_counts(&self) -> Answer<'_, RotationCounts> {
        self.read_with(OfStore::This, |connection, shared| counts(connection, shared.clock.now()))
    }

    fn deliveries(&self, lineage: LineageId, limit: usize) -> Answer<'_, Vec<Delivery>> {
        self.read_with(OfStore::This, move |connection, _shared| {
            let sql = format!(
                "SELECT {DELIVERY_COLUMNS} FROM webhook_deliveries d WHERE d.lineage = ?1 \
                 ORDER BY d.created_at DESC, d.id DESC LIMIT ?2"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![lineage.bits().to_be_bytes(), to_count(limit)])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(delivery(row)?);
            }
            Ok(found)
        })
    }

    fn forget_deliveries(&self, before: Timestamp) -> Answer<'_, usize> {
        Box::pin(async move {
            let sql = "SELECT EXISTS (SELECT 1 FROM webhook_deliveries WHERE state <> 'pending' AND finished_at < ?1)";
            let look = move |connection: &Connection, _shared: &super::Shared| {
                Ok(connection.prepare_cached(sql)?.query_row(params![before.nanos()], |row| row.get(0))?)
            };
            if !self.read_with(OfStore::This, look).await? {
                return Ok(0);
            }
            let sql = "DELETE FROM webhook_deliveries WHERE id IN (SELECT id FROM webhook_deliveries \
                       WHERE state <> 'pending' AND finished_at < ?1 LIMIT ?2)";
            self.write_with(move |connection, _now| {
                Ok(connection.prepare_cached(sql)?.execute(params![before.nanos(), to_count(FORGOTTEN_MAX)])?)
            })
            .await
        })
    }
}

fn to_count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unannounced(
    connection: &Connection,
    expiring: Duration,
    limit: usize,
    now: Timestamp,
) -> Result<Unannounced, Fault> {
    let mut found = Unannounced { now, ..Unannounced::default() };
    // A date that lies too far back for anybody to care was announced when it came, or before there
    // was a URL; so there is no lower bound for rotations, which stay due.
    let due = NoticeKind::RotationDue;
    let conditions = "k.rotation_next_at IS NOT NULL AND k.rotation_next_at <= ?1 AND k.rotation_next_at > ?2";
    found.dates(connection, due, "k.rotation_next_at", conditions, (now, Timestamp::from_nanos(i64::MIN)), limit)?;
    let conditions = "k.expires_at IS NOT NULL AND k.expires_at <= ?1 AND k.expires_at > ?2 AND k.replaced_by IS NULL";
    found.dates(connection, NoticeKind::Expiring, "k.expires_at", conditions, (now.plus(expiring), now), limit)?;
    found.events(connection)?;
    Ok(found)
}

impl Unannounced {
    /// Dates of live keys that were not announced: `column`, within what `conditions` say of `range`.
    fn dates(
        &mut self,
        connection: &Connection,
        kind: NoticeKind,
        column: &str,
        conditions: &str,
        (upto, after): (Timestamp, Timestamp),
        limit: usize,
    ) -> Result<(), Fault> {
        let sql = format!(
            "SELECT {KEY_COLUMNS}, {USER_COLUMNS} FROM keys k LEFT JOIN users u ON u.id = k.user_id \
             WHERE k.rotation_webhook_url IS NOT NULL AND {conditions} AND {WORKS} AND NOT EXISTS \
             (SELECT 1 FROM webhook_notices n WHERE n.key_id = k.id AND n.kind = ?3 AND n.at = {column}) \
             ORDER BY {column} LIMIT ?4"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let values = params![upto.nanos(), after.nanos(), kind.as_str(), to_count(limit), self.now.nanos()];
        let mut rows = statement.query(values)?;
        let (mut decoder, mut seen) = (Decoder::default(), 0);
        while let Some(row) = rows.next()? {
            seen += 1;
            let (key, user) = match (decoder.key(row, 0), decoder.user_or_none(row, KEY_WIDTH)) {
                (Ok(key), Ok(user)) => (key, user),
                // A row that cannot be read holds up no other.
                (Err(Fault::Stored(_)), _) | (_, Err(Fault::Stored(_))) => continue,
                (Err(fault), _) | (_, Err(fault)) => return Err(fault),
            };
            let at = if kind == NoticeKind::RotationDue { key.rotation.next_at } else { key.expires_at };
            // The status is the key's own rule; the conditions only keep out what would fill the limit.
            if let Some(at) = at.filter(|_| key.status(user.as_ref(), self.now).is_usable()) {
                self.notices.push(Notice { kind, key, at });
            }
        }
        self.more |= seen == limit;
        Ok(())
    }

    fn events(&mut self, connection: &Connection) -> Result<(), Fault> {
        let mut statement = connection.prepare_cached("SELECT revision, ordinal FROM webhook_cursor")?;
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else { return Err(Fault::Stored("it has no webhook cursor".to_owned())) };
        let from = Columns { row, next: 0 }.stamp()?;
        self.read = (from, from);
        let sql = format!(
            "SELECT {KEY_COLUMNS}, e.revision, e.ordinal, e.at, e.kind FROM \
             (SELECT * FROM events WHERE (revision, ordinal) > (?1, ?2) ORDER BY revision, ordinal LIMIT ?3) e \
             LEFT JOIN keys k ON k.id = e.key_id AND e.kind IN (?4, ?5) AND k.rotation_webhook_url IS NOT NULL \
             ORDER BY e.revision, e.ordinal"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let (rotated, revoked) = (EventKind::KeyRotated.as_str(), EventKind::KeyRevoked.as_str());
        let values = params![to_sql(from.revision), from.ordinal, to_count(EVENTS_READ_MAX), rotated, revoked];
        let mut rows = statement.query(values)?;
        let (mut decoder, mut seen) = (Decoder::default(), 0);
        while let Some(row) = rows.next()? {
            seen += 1;
            let mut columns = Columns { row, next: KEY_WIDTH };
            self.read.1 = columns.stamp()?;
            let (at, is_rotation) = (columns.time()?, columns.text()? == rotated);
            if matches!(row.get_ref(0)?, rusqlite::types::ValueRef::Null) {
                continue;
            }
            let kind = if is_rotation { NoticeKind::Rotated } else { NoticeKind::Revoked };
            match decoder.key(row, 0) {
                Ok(key) => self.notices.push(Notice { kind, key, at }),
                Err(Fault::Stored(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        self.more |= seen == EVENTS_READ_MAX;
        Ok(())
    }
}

fn announce(
    connection: &Connection,
    deliveries: &[NewDelivery],
    (from, to): (Stamp, Stamp),
    now: Timestamp,
) -> Result<usize, Fault> {
    let is_first = from == to
        || 1 == connection
            .prepare_cached(
                "UPDATE webhook_cursor SET revision = ?1, ordinal = ?2 WHERE (revision, ordinal) = (?3, ?4)",
            )?
            .execute(params![to_sql(to.revision), to.ordinal, to_sql(from.revision), from.ordinal])?;
    let mut note = connection.prepare_cached(
        "INSERT INTO webhook_notices (key_id, kind, at) VALUES (?1, ?2, ?3) \
         ON CONFLICT (key_id, kind) DO UPDATE SET at = excluded.at WHERE at <> excluded.at",
    )?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO webhook_deliveries (id, key_id, lineage, kind, at, host, body, created_at, attempts, \
         next_attempt_at, leased_until, state, told) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?8, 0, 'pending', '')",
    )?;
    let mut taken_on = 0;
    for new in deliveries {
        let key = new.key.bits().to_be_bytes();
        let is_new = match new.kind {
            NoticeKind::RotationDue | NoticeKind::Expiring => {
                note.execute(params![key, new.kind.as_str(), new.at.nanos()])? == 1
            }
            NoticeKind::Rotated | NoticeKind::Revoked => is_first,
        };
        if is_new {
            let (id, lineage) = (new.id.bits().to_be_bytes(), new.lineage.bits().to_be_bytes());
            let (kind, at) = (new.kind.as_str(), new.at.nanos());
            insert.execute(params![id, key, lineage, kind, at, new.host, new.body, now.nanos()])?;
            taken_on += 1;
        }
    }
    Ok(taken_on)
}

/// The announcements that `claim` would lease. Those that are being sent come first in the count of
/// their host and of their project.
fn claimable(connection: &Connection, claim: Claim, now: Timestamp) -> Result<Vec<[u8; 16]>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM (SELECT *, row_number() OVER (PARTITION BY project ORDER BY leased_until > ?1 DESC, \
         next_attempt_at, id) AS turn FROM (SELECT d.id, d.next_attempt_at, d.leased_until, k.project, \
         row_number() OVER (PARTITION BY d.host ORDER BY d.leased_until > ?1 DESC, d.next_attempt_at, d.id) AS place \
         FROM webhook_deliveries d JOIN keys k ON k.id = d.key_id \
         WHERE d.state = 'pending' AND d.next_attempt_at <= ?1) WHERE place <= ?2) \
         WHERE turn <= ?3 AND leased_until <= ?1 ORDER BY turn, next_attempt_at, id LIMIT ?4",
    )?;
    let values = params![now.nanos(), to_count(claim.per_host), to_count(claim.per_project), to_count(claim.limit)];
    let ids = statement.query_map(values, |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(ids)
}

fn claim(connection: &Connection, claim: Claim, now: Timestamp) -> Result<Vec<Claimed>, Fault> {
    let mut lease =
        connection.prepare_cached("UPDATE webhook_deliveries SET lease_owner = ?2, leased_until = ?3 WHERE id = ?1")?;
    let sql = format!(
        "SELECT {DELIVERY_COLUMNS}, {KEY_COLUMNS}, {USER_COLUMNS} FROM webhook_deliveries d \
         JOIN keys k ON k.id = d.key_id LEFT JOIN users u ON u.id = k.user_id WHERE d.id = ?1"
    );
    let mut decoder = Decoder::default();
    let mut claimed = Vec::new();
    for id in claimable(connection, claim, now)? {
        lease.execute(params![id, claim.owner.to_be_bytes(), now.plus(claim.lease).nanos()])?;
        let read = one(connection, &sql, params![id], |row| {
            let key = decoder.key(row, DELIVERY_WIDTH)?;
            let user = decoder.user_or_none(row, DELIVERY_WIDTH + KEY_WIDTH)?;
            Ok(Claimed { delivery: delivery(row)?, key, user })
        });
        match read {
            Ok(None) => {}
            Ok(Some(mut found)) => {
                newest_secret(connection, &mut found.key)?;
                claimed.push(found);
            }
            // What cannot be read waits for its lease to end, and holds up no other.
            Err(Fault::Stored(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(claimed)
}

/// An old key may have been written last when its lineage had another secret.
fn newest_secret(connection: &Connection, key: &mut Key) -> Result<(), Fault> {
    let sql = "SELECT webhook_secret_version, webhook_old_secret_until FROM keys WHERE lineage = ?1 \
               ORDER BY webhook_secret_version DESC LIMIT 1";
    let newest = one(connection, sql, params![key.lineage.bits().to_be_bytes()], |row| {
        let mut columns = Columns { row, next: 0 };
        Ok((unsigned(columns.integer()?)?, columns.integer_or_none()?.map(Timestamp::from_nanos)))
    })?;
    if let Some((version, until)) = newest {
        (key.rotation.secret_version, key.rotation.old_secret_until) = (version, until);
    }
    Ok(())
}

fn one<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    rows.next()?.map(read).transpose()
}

fn settle(connection: &Connection, settlement: &Settlement, now: Timestamp) -> Result<(), Fault> {
    let Settlement { id, owner, state, next_attempt_at, told } = settlement;
    let (id, owner) = (id.bits().to_be_bytes(), owner.to_be_bytes());
    if *state == DeliveryState::Pending {
        connection
            .prepare_cached(
                "UPDATE webhook_deliveries SET attempts = attempts + 1, next_attempt_at = ?3, told = ?4, \
                 leased_until = 0, lease_owner = NULL WHERE id = ?1 AND lease_owner = ?2 AND state = 'pending'",
            )?
            .execute(params![id, owner, next_attempt_at.nanos(), told])?;
    } else {
        connection
            .prepare_cached(
                "UPDATE webhook_deliveries SET state = ?2, told = ?3, next_attempt_at = ?4, finished_at = ?4, \
                 leased_until = 0, lease_owner = NULL WHERE id = ?1 AND state = 'pending'",
            )?
            .execute(params![id, state.as_str(), told, now.nanos()])?;
    }
    Ok(())
}

fn counts(connection: &Connection, now: Timestamp) -> Result<RotationCounts, Fault> {
    let overdue = now.minus(ROTATION_OVERDUE_AFTER);
    let mut statement = connection.prepare_cached(
        "SELECT count(*), count(*) FILTER (WHERE rotation_next_at <= ?2) FROM keys \
         WHERE rotation_next_at IS NOT NULL AND rotation_next_at <= ?1 AND revoked = 0 AND disabled = 0 \
         AND superseded = 0 AND (expires_at IS NULL OR expires_at > ?1)",
    )?;
    let (due, overdue): (i64, i64) =
        statement.query_row(params![now.nanos(), overdue.nanos()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut statement = connection
        .prepare_cached("SELECT count(*), min(created_at) FROM webhook_deliveries WHERE state = 'pending'")?;
    let (pending, oldest): (i64, Option<i64>) = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(RotationCounts {
        due: unsigned(due)?,
        overdue: unsigned(overdue)?,
        pending: unsigned(pending)?,
        oldest_pending: oldest.map(Timestamp::from_nanos),
        now,
    })
}

/// The announcement of a row that begins with [`DELIVERY_COLUMNS`].
fn delivery(row: &Row<'_>) -> Result<Delivery, Fault> {
    let mut columns = Columns { row, next: 0 };
    let unknown = |what: &str| Fault::Stored(format!("an announcement has an unknown {what}"));
    Ok(Delivery {
        id: DeliveryId::from_bits(columns.bits()?),
        key: KeyId::from_bits(columns.bits()?),
        lineage: LineageId::from_bits(columns.bits()?),
        kind: columns.text()?.parse().map_err(|()| unknown("kind"))?,
        at: columns.time()?,
        body: columns.text()?.to_owned(),
        created_at: columns.time()?,
        attempts: unsigned(columns.integer()?)?,
        next_attempt_at: columns.time()?,
        state: columns.text()?.parse().map_err(|()| unknown("state"))?,
        told: columns.text()?.to_owned(),
    })
}
