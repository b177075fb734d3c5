//! Announcements in PostgreSQL.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::PostgresStore;
use super::fault::Fault;
use super::rows::{
    Columns, Decoder, KEY_COLUMNS, KEY_WIDTH, USER_COLUMNS, USER_WIDTH, id_at, id_of, to_count, to_sql, unsigned,
};
use super::session::{Kind, Param, Transaction, unexpected};
use crate::clock::Timestamp;
use crate::key::{EventKind, Key, KeyId, LineageId, ROTATION_OVERDUE_AFTER, Stamp};
use crate::store::{
    Answer, Claim, Claimed, Delivery, DeliveryId, DeliveryState, NewDelivery, Notice, NoticeKind, RotationCounts,
    RotationStore, Settlement, Unannounced,
};

/// How many events are read at a time: those of other kinds are passed over.
const EVENTS_READ_MAX: usize = 2048;
/// How many announcements are forgotten at a time.
const FORGOTTEN_MAX: usize = 1000;
/// The lock that announcements are leased under, until the transaction ends.
const CLAIM_LOCK: i64 = 0x4B57_7264_0000_0003;

/// Keys that work at `$5`: one that does not cannot be rotated, and is announced when it works again.
const WORKS: &str = "NOT k.revoked AND NOT k.disabled AND NOT k.superseded \
     AND (k.expires_at IS NULL OR k.expires_at > $5) AND (k.grace_expires_at IS NULL OR k.grace_expires_at > $5) \
     AND (k.user_id IS NULL OR (u.active AND NOT u.deleted))";

const DELIVERY_COLUMNS: &str = "d.id, d.key_id, d.lineage, d.kind, d.at, d.body, d.created_at, d.attempts, \
     d.next_attempt_at, d.state, d.told";
const DELIVERY_WIDTH: usize = 11;

impl RotationStore for PostgresStore {
    fn unannounced(&self, expiring: Duration, limit: usize) -> Answer<'_, Unannounced> {
        self.read_with(Kind::Read, move |transaction| {
            Box::pin(async move { unannounced(transaction, expiring, limit).await })
        })
    }

    fn announce(&self, deliveries: Vec<NewDelivery>, read: (Stamp, Stamp)) -> Answer<'_, usize> {
        self.write_with(move |transaction| {
            let deliveries = deliveries.clone();
            Box::pin(async move { announce(transaction, &deliveries, read).await })
        })
    }

    fn claim(&self, claim: Claim) -> Answer<'_, Vec<Claimed>> {
        Box::pin(async move {
            // Mostly there is nothing, and looking needs no lock.
            let look = self.read_with(Kind::Read, move |transaction| {
                Box::pin(async move { Ok(claimable(transaction, claim).await?.is_empty()) })
            });
            if look.await? {
                return Ok(Vec::new());
            }
            self.write_with(move |transaction| Box::pin(async move { self::claim(transaction, claim).await })).await
        })
    }

    fn settle(&self, settlement: Settlement) -> Answer<'_, ()> {
        self.write_with(move |transaction| {
            let settlement = settlement.clone();
            Box::pin(async move { settle(transaction, &settlement).await })
        })
    }

    fn rotation_counts(&self) -> Answer<'_, RotationCounts> {
        self.read_with(Kind::Read, |transaction| Box::pin(async move { counts(transaction).await }))
    }

    fn deliveries(&self, lineage: LineageId, limit: usize) -> Answer<'_, Vec<Delivery>> {
        self.read_with(Kind::Read, move |transaction| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {DELIVERY_COLUMNS} FROM keyward.webhook_deliveries d WHERE d.lineage = $1 \
                     ORDER BY d.created_at DESC, d.id DESC LIMIT $2"
                );
                let lineage = Uuid::from_u128(lineage.bits());
                let params: [Param<'_>; 2] = [(&lineage, Type::UUID), (&to_count(limit), Type::INT8)];
                transaction.query(&sql, &params).await?.iter().map(|row| delivery(row, 0)).collect()
            })
        })
    }

    fn forget_deliveries(&self, before: Timestamp) -> Answer<'_, usize> {
        self.write_with(move |transaction| {
            Box::pin(async move {
                let sql = "DELETE FROM keyward.webhook_deliveries WHERE id IN (SELECT id FROM \
                           keyward.webhook_deliveries WHERE state <> 'pending' AND finished_at < $1 LIMIT $2)";
                let params: [Param<'_>; 2] = [(&before.nanos(), Type::INT8), (&to_count(FORGOTTEN_MAX), Type::INT8)];
                let forgotten = transaction.execute(sql, &params).await?;
                Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
            })
        })
    }
}

async fn unannounced(transaction: &Transaction, expiring: Duration, limit: usize) -> Result<Unannounced, Fault> {
    let now = transaction.now();
    let mut found = Unannounced { now, ..Unannounced::default() };
    // A date that lies too far back for anybody to care was announced when it came, or before there
    // was a URL; so there is no lower bound for rotations, which stay due.
    let due = NoticeKind::RotationDue;
    let conditions = "k.rotation_next_at IS NOT NULL AND k.rotation_next_at <= $1 AND k.rotation_next_at > $2";
    let range = (now, Timestamp::from_nanos(i64::MIN));
    dates(&mut found, transaction, due, "k.rotation_next_at", conditions, range, limit).await?;
    let conditions = "k.expires_at IS NOT NULL AND k.expires_at <= $1 AND k.expires_at > $2 AND k.replaced_by IS NULL";
    let range = (now.plus(expiring), now);
    dates(&mut found, transaction, NoticeKind::Expiring, "k.expires_at", conditions, range, limit).await?;
    events(&mut found, transaction).await?;
    Ok(found)
}

/// Adds dates of live keys that were not announced: `column`, within what `conditions` say of the range.
async fn dates(
    found: &mut Unannounced,
    transaction: &Transaction,
    kind: NoticeKind,
    column: &str,
    conditions: &str,
    (upto, after): (Timestamp, Timestamp),
    limit: usize,
) -> Result<(), Fault> {
    let sql = format!(
        "SELECT {KEY_COLUMNS}, {USER_COLUMNS} FROM keyward.keys k LEFT JOIN keyward.users u ON u.id = k.user_id \
         WHERE k.rotation_webhook_url IS NOT NULL AND {conditions} AND {WORKS} AND NOT EXISTS \
         (SELECT 1 FROM keyward.webhook_notices n WHERE n.key_id = k.id AND n.kind = $3 AND n.at = {column}) \
         ORDER BY {column}, k.number LIMIT $4"
    );
    let params: [Param<'_>; 5] = [
        (&upto.nanos(), Type::INT8),
        (&after.nanos(), Type::INT8),
        (&kind.as_str(), Type::TEXT),
        (&to_count(limit), Type::INT8),
        (&found.now.nanos(), Type::INT8),
    ];
    let rows = transaction.query(&sql, &params).await?;
    found.more |= rows.len() == limit;
    let mut decoder = Decoder::default();
    for row in &rows {
        let (key, user) = match (decoder.key(row, 0), decoder.user_or_none(row, KEY_WIDTH)) {
            (Ok(key), Ok(user)) => (key, user),
            // A row that cannot be read holds up no other.
            (Err(Fault::Stored(_)), _) | (_, Err(Fault::Stored(_))) => continue,
            (Err(fault), _) | (_, Err(fault)) => return Err(fault),
        };
        let at = if kind == NoticeKind::RotationDue { key.rotation.next_at } else { key.expires_at };
        // The status is the key's own rule; the conditions only keep out what would fill the limit.
        if let Some(at) = at.filter(|_| key.status(user.as_ref(), found.now).is_usable()) {
            found.notices.push(Notice { kind, key, at });
        }
    }
    Ok(())
}

async fn events(found: &mut Unannounced, transaction: &Transaction) -> Result<(), Fault> {
    let row = transaction.first("SELECT revision, ordinal FROM keyward.webhook_cursor", &[]).await?;
    let Some(row) = row else { return Err(Fault::Stored("it has no webhook cursor".to_owned())) };
    let from = Columns::of(&row).stamp()?;
    found.read = (from, from);
    let sql = format!(
        "SELECT {KEY_COLUMNS}, e.revision, e.ordinal, e.at, e.kind FROM \
         (SELECT revision, ordinal, at, kind, key_id FROM keyward.events WHERE (revision, ordinal) > ($1, $2) \
         ORDER BY revision, ordinal LIMIT $3) e \
         LEFT JOIN keyward.keys k ON k.id = e.key_id AND e.kind IN ($4, $5) AND k.rotation_webhook_url IS NOT NULL \
         ORDER BY e.revision, e.ordinal"
    );
    let (rotated, revoked) = (EventKind::KeyRotated.as_str(), EventKind::KeyRevoked.as_str());
    let params: [Param<'_>; 5] = [
        (&to_sql(from.revision), Type::INT8),
        (&i64::from(from.ordinal), Type::INT8),
        (&to_count(EVENTS_READ_MAX), Type::INT8),
        (&rotated, Type::TEXT),
        (&revoked, Type::TEXT),
    ];
    let rows = transaction.query(&sql, &params).await?;
    found.more |= rows.len() == EVENTS_READ_MAX;
    let mut decoder = Decoder::default();
    for row in &rows {
        let mut columns = Columns { row, next: KEY_WIDTH };
        found.read.1 = columns.stamp()?;
        let (at, is_rotation) = (columns.time()?, columns.text()? == rotated);
        if id_at(row, 0).is_none() {
            continue;
        }
        let kind = if is_rotation { NoticeKind::Rotated } else { NoticeKind::Revoked };
        match decoder.key(row, 0) {
            Ok(key) => found.notices.push(Notice { kind, key, at }),
            Err(Fault::Stored(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

async fn announce(
    transaction: &Transaction,
    deliveries: &[NewDelivery],
    (from, to): (Stamp, Stamp),
) -> Result<usize, Fault> {
    // Whoever comes second waits here, and then finds what the first has noted.
    transaction.simple("SELECT 1 FROM keyward.webhook_cursor FOR UPDATE").await?;
    let params: [Param<'_>; 4] = [
        (&to_sql(to.revision), Type::INT8),
        (&i64::from(to.ordinal), Type::INT8),
        (&to_sql(from.revision), Type::INT8),
        (&i64::from(from.ordinal), Type::INT8),
    ];
    let move_on = "UPDATE keyward.webhook_cursor SET revision = $1, ordinal = $2 WHERE (revision, ordinal) = ($3, $4)";
    let is_first = from == to || 1 == transaction.execute(move_on, &params).await?;
    let now = transaction.now().nanos();
    let mut taken_on = 0;
    for new in deliveries {
        let (id, key, lineage) = (Uuid::from_u128(new.id.bits()), id_of(new.key), Uuid::from_u128(new.lineage.bits()));
        let (kind, at) = (new.kind.as_str(), new.at.nanos());
        let is_new = match new.kind {
            NoticeKind::RotationDue | NoticeKind::Expiring => {
                let sql = "INSERT INTO keyward.webhook_notices AS old (key_id, kind, at) VALUES ($1, $2, $3) \
                     ON CONFLICT (key_id, kind) DO UPDATE SET at = excluded.at WHERE old.at <> excluded.at";
                let params: [Param<'_>; 3] = [(&key, Type::UUID), (&kind, Type::TEXT), (&at, Type::INT8)];
                transaction.execute(sql, &params).await? == 1
            }
            NoticeKind::Rotated | NoticeKind::Revoked => is_first,
        };
        if is_new {
            let params: [Param<'_>; 8] = [
                (&id, Type::UUID),
                (&key, Type::UUID),
                (&lineage, Type::UUID),
                (&kind, Type::TEXT),
                (&at, Type::INT8),
                (&new.host, Type::TEXT),
                (&new.body, Type::TEXT),
                (&now, Type::INT8),
            ];
            let sql = "INSERT INTO keyward.webhook_deliveries (id, key_id, lineage, kind, at, host, body, created_at, \
                 attempts, next_attempt_at, leased_until, state, told) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $8, 0, 'pending', '')";
            transaction.execute(sql, &params).await?;
            taken_on += 1;
        }
    }
    Ok(taken_on)
}

/// The announcements that `claim` would lease. Those that are being sent come first in the count of
/// their host and of their project.
async fn claimable(transaction: &Transaction, claim: Claim) -> Result<Vec<Uuid>, Fault> {
    let sql = "SELECT id FROM (SELECT placed.*, row_number() OVER (PARTITION BY project \
         ORDER BY leased_until > $1 DESC, next_attempt_at, id) AS turn FROM \
         (SELECT d.id, d.next_attempt_at, d.leased_until, k.project, \
         row_number() OVER (PARTITION BY d.host ORDER BY d.leased_until > $1 DESC, d.next_attempt_at, d.id) AS place \
         FROM keyward.webhook_deliveries d JOIN keyward.keys k ON k.id = d.key_id \
         WHERE d.state = 'pending' AND d.next_attempt_at <= $1) placed WHERE place <= $2) turned \
         WHERE turn <= $3 AND leased_until <= $1 ORDER BY turn, next_attempt_at, id LIMIT $4";
    let params: [Param<'_>; 4] = [
        (&transaction.now().nanos(), Type::INT8),
        (&to_count(claim.per_host), Type::INT8),
        (&to_count(claim.per_project), Type::INT8),
        (&to_count(claim.limit), Type::INT8),
    ];
    let rows = transaction.query(sql, &params).await?;
    rows.iter().map(|row| Ok(Uuid::from_u128(Columns::of(row).bits()?))).collect()
}

async fn claim(transaction: &Transaction, claim: Claim) -> Result<Vec<Claimed>, Fault> {
    transaction.simple(&format!("SELECT pg_advisory_xact_lock({CLAIM_LOCK})")).await?;
    let ids = claimable(transaction, claim).await?;
    let owner = Uuid::from_u128(claim.owner);
    let until = transaction.now().plus(claim.lease).nanos();
    let params: [Param<'_>; 3] = [(&ids, Type::UUID_ARRAY), (&owner, Type::UUID), (&until, Type::INT8)];
    let lease = "UPDATE keyward.webhook_deliveries SET lease_owner = $2, leased_until = $3 WHERE id = ANY($1)";
    transaction.execute(lease, &params).await?;
    // An old key may have been written last when its lineage had another secret: the newest is taken.
    let sql = format!(
        "SELECT {DELIVERY_COLUMNS}, {KEY_COLUMNS}, {USER_COLUMNS}, s.webhook_secret_version, \
         s.webhook_old_secret_until FROM keyward.webhook_deliveries d \
         JOIN keyward.keys k ON k.id = d.key_id LEFT JOIN keyward.users u ON u.id = k.user_id \
         CROSS JOIN LATERAL (SELECT o.webhook_secret_version, o.webhook_old_secret_until FROM keyward.keys o \
         WHERE o.lineage = k.lineage ORDER BY o.webhook_secret_version DESC LIMIT 1) s WHERE d.id = ANY($1)"
    );
    let mut decoder = Decoder::default();
    let mut found: HashMap<Uuid, Claimed> = HashMap::new();
    for row in transaction.query(&sql, &[(&ids, Type::UUID_ARRAY)]).await? {
        match claimed(&row, &mut decoder) {
            Ok(claimed) => {
                found.insert(Uuid::from_u128(claimed.delivery.id.bits()), claimed);
            }
            // What cannot be read waits for its lease to end, and holds up no other.
            Err(Fault::Stored(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

fn claimed(row: &Row, decoder: &mut Decoder) -> Result<Claimed, Fault> {
    let mut key: Key = decoder.key(row, DELIVERY_WIDTH)?;
    let user = decoder.user_or_none(row, DELIVERY_WIDTH + KEY_WIDTH)?;
    let mut columns = Columns { row, next: DELIVERY_WIDTH + KEY_WIDTH + USER_WIDTH };
    key.rotation.secret_version = unsigned(columns.integer()?)?;
    key.rotation.old_secret_until = columns.time_or_none()?;
    Ok(Claimed { delivery: delivery(row, 0)?, key, user })
}

async fn settle(transaction: &Transaction, settlement: &Settlement) -> Result<(), Fault> {
    let Settlement { id, owner, state, next_attempt_at, told } = settlement;
    let (id, owner) = (Uuid::from_u128(id.bits()), Uuid::from_u128(*owner));
    if *state == DeliveryState::Pending {
        let params: [Param<'_>; 4] =
            [(&id, Type::UUID), (&owner, Type::UUID), (&next_attempt_at.nanos(), Type::INT8), (told, Type::TEXT)];
        let sql = "UPDATE keyward.webhook_deliveries SET attempts = attempts + 1, next_attempt_at = $3, told = $4, \
             leased_until = 0, lease_owner = NULL WHERE id = $1 AND lease_owner = $2 AND state = 'pending'";
        transaction.execute(sql, &params).await?;
    } else {
        let now = transaction.now().nanos();
        let params: [Param<'_>; 4] =
            [(&id, Type::UUID), (&state.as_str(), Type::TEXT), (told, Type::TEXT), (&now, Type::INT8)];
        let sql = "UPDATE keyward.webhook_deliveries SET state = $2, told = $3, next_attempt_at = $4, \
             finished_at = $4, leased_until = 0, lease_owner = NULL WHERE id = $1 AND state = 'pending'";
        transaction.execute(sql, &params).await?;
    }
    Ok(())
}

async fn counts(transaction: &Transaction) -> Result<RotationCounts, Fault> {
    let now = transaction.now();
    let overdue = now.minus(ROTATION_OVERDUE_AFTER);
    let sql = "SELECT d.*, p.* FROM \
         (SELECT count(*), count(*) FILTER (WHERE rotation_next_at <= $2) FROM keyward.keys \
         WHERE rotation_next_at IS NOT NULL AND rotation_next_at <= $1 AND NOT revoked AND NOT disabled \
         AND NOT superseded AND (expires_at IS NULL OR expires_at > $1)) d, \
         (SELECT count(*), min(created_at) FROM keyward.webhook_deliveries WHERE state = 'pending') p";
    let params: [Param<'_>; 2] = [(&now.nanos(), Type::INT8), (&overdue.nanos(), Type::INT8)];
    let row = transaction.first(sql, &params).await?.ok_or_else(unexpected)?;
    let mut columns = Columns::of(&row);
    Ok(RotationCounts {
        due: unsigned(columns.integer()?)?,
        overdue: unsigned(columns.integer()?)?,
        pending: unsigned(columns.integer()?)?,
        oldest_pending: columns.time_or_none()?,
        now,
    })
}

/// The announcement of a row whose [`DELIVERY_COLUMNS`] begin at `first`.
fn delivery(row: &Row, first: usize) -> Result<Delivery, Fault> {
    let mut columns = Columns { row, next: first };
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
