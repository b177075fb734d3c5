//! What is read, each call in one transaction, so that all of it is of one moment.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::Shared;
use super::fault::Fault;
use super::rows::{
    Columns, Decoder, EVENT_COLUMNS, KEY_COLUMNS, KEY_WIDTH, REAL, TALLY_COLUMNS, USER_COLUMNS, USER_WIDTH, event,
    id_at, id_of, tally, to_count, to_sql, unsigned,
};
use super::session::{NOW, Param, READING, Transaction, unexpected};
use crate::clock::Timestamp;
use crate::key::{Actor, Event, EventKind, Key, KeyId, ProjectId, Stamp, Subject, TokenHash, User, UserId};
use crate::store::{
    Batch, COUNTED_MAX, CommitId, Cursor, EventQuery, GATEWAY_LOGIN, Kept, NumberedSecret, ONCE_KEPT, OnceKey,
    OwnedKey, Poll, ReadRequest, Reading, RefusalQuery, RefusalTally, StoreId, UserQuery,
};

/// Reads everything that `request` asks for, outside of a mutation.
pub(super) async fn reading(transaction: &Transaction, request: &ReadRequest) -> Result<Reading, Fault> {
    let sql = format!(
        "SELECT c.revision, c.commit_id, EXISTS (SELECT 1 FROM keyward.keys k WHERE {REAL}) FROM keyward.counter c"
    );
    let row = transaction.first(&sql, &[]).await?.ok_or_else(no_counter)?;
    let mut columns = Columns::of(&row);
    let newest = columns.cursor()?;
    let any_key = columns.yes()?;
    let base = Reading { now: transaction.now(), any_key, newest, next: newest, ..Reading::default() };
    fill(transaction, request, base).await
}

pub(super) fn no_counter() -> Fault {
    Fault::Stored("it has no counter".to_owned())
}

/// Adds to `reading` everything that `request` asks for.
pub(super) async fn fill(
    transaction: &Transaction,
    request: &ReadRequest,
    mut reading: Reading,
) -> Result<Reading, Fault> {
    let now = reading.now;
    let mut gathered = Gathered { transaction, decoder: Decoder::default(), seen: HashSet::new(), keys: Vec::new() };
    if !request.keys.is_empty() {
        let ids: Vec<Uuid> = request.keys.iter().map(|id| id_of(*id)).collect();
        gathered.keys("k.id = ANY($1) ORDER BY array_position($1, k.id)", &[(&ids, Type::UUID_ARRAY)]).await?;
    }
    if let Some(id) = request.lineage_of {
        let condition = "k.lineage = (SELECT lineage FROM keyward.keys WHERE id = $1) ORDER BY k.number DESC LIMIT $2";
        let newest = limit(request.lineage_newest);
        gathered.keys(condition, &[(&id_of(id), Type::UUID), (&newest, Type::INT8)]).await?;
    }
    let with_usage: Vec<Uuid> = gathered.keys.iter().map(|key| id_of(key.id)).collect();
    if let Some(id) = request.descendants_of {
        // A recursion goes no further than its rows are asked for.
        let condition = format!(
            "k.id IN (WITH RECURSIVE minted (id) AS (SELECT k.id FROM keyward.keys k WHERE k.minted_by = $1 AND {REAL} \
             UNION SELECT k.id FROM keyward.keys k JOIN minted ON k.minted_by = minted.id WHERE {REAL}) \
             SELECT id FROM minted LIMIT $2) ORDER BY k.id"
        );
        let most = limit(request.descendants_max);
        gathered.keys(&condition, &[(&id_of(id), Type::UUID), (&most, Type::INT8)]).await?;
    }
    if let Some(user) = &request.keys_of_user {
        let condition = "k.user_id = $1 AND NOT k.revoked ORDER BY k.id";
        gathered.keys(condition, &[(&user.as_str(), Type::TEXT)]).await?;
    }
    for some in request.hashes.chunks(1000) {
        let hashes: Vec<&[u8]> = some.iter().map(|hash| hash.as_bytes().as_slice()).collect();
        gathered.keys("k.hash = ANY($1) ORDER BY k.id", &[(&hashes, Type::BYTEA_ARRAY)]).await?;
    }
    if let Some(once) = request.once {
        reading.once = kept(transaction, once, now).await?;
    }
    if let Some(user) = &request.count_of_user {
        reading.count_of_user = count_of_user(transaction, user, now).await?;
    }
    if let Some((user, within)) = &request.made_for_itself {
        reading.made_for_itself = made_for_itself(transaction, user, now.minus(*within)).await?;
    }
    if let Some(revision) = request.users_changed_after {
        let sql = "SELECT EXISTS (SELECT 1 FROM keyward.events WHERE revision > $1 AND user_id IS NOT NULL)";
        let row = transaction.first(sql, &[(&to_sql(revision), Type::INT8)]).await?;
        reading.users_changed = Columns::of(&row.ok_or_else(unexpected)?).yes()?;
    }
    if let Some(id) = request.disabled {
        reading.disabled = last_disabled(transaction, id).await?;
    }
    if let Some((id, most)) = request.newest_events {
        let sql = format!(
            "SELECT {EVENT_COLUMNS} FROM keyward.events e WHERE e.key_id = $1 \
             ORDER BY e.key_id DESC, e.revision DESC, e.ordinal DESC LIMIT $2"
        );
        let rows = transaction.query(&sql, &[(&id_of(id), Type::UUID), (&to_count(most), Type::INT8)]).await?;
        reading.newest_events = rows.iter().map(event).collect::<Result<_, _>>()?;
    }
    let mut users: HashSet<&str> = request.users.iter().map(UserId::as_str).collect();
    users.extend(gathered.keys.iter().filter_map(|key| key.user.as_ref()).map(UserId::as_str));
    if !users.is_empty() {
        let users: Vec<&str> = users.into_iter().collect();
        let sql = format!("SELECT {USER_COLUMNS} FROM keyward.users u WHERE u.id = ANY($1)");
        let mut decoder = Decoder::default();
        for row in transaction.query(&sql, &[(&users, Type::TEXT_ARRAY)]).await? {
            reading.users.push(decoder.user(&row, 0)?);
        }
    }
    if !with_usage.is_empty() {
        let sql = "SELECT key_id, max(last_used_at), sum(count)::bigint FROM keyward.key_usage \
                   WHERE key_id = ANY($1) GROUP BY key_id";
        for row in transaction.query(sql, &[(&with_usage, Type::UUID_ARRAY)]).await? {
            let key = KeyId::from_bits(Columns::of(&row).bits()?);
            reading.usage.extend(Columns { row: &row, next: 1 }.usage(key)?);
        }
    }
    reading.keys = gathered.keys;
    if request.ended_by_gateways {
        reading.ended_by_gateways = ended_by_gateways(transaction, &reading).await?;
    }
    if let Some(cursor) = request.leads_on_from {
        reading.leads_on = poll(transaction, cursor).await?.leads_on_from(cursor);
    }
    Ok(reading)
}

/// Keys that were read, each once.
struct Gathered<'a> {
    transaction: &'a Transaction,
    decoder: Decoder,
    seen: HashSet<KeyId>,
    keys: Vec<Key>,
}

impl Gathered<'_> {
    async fn keys(&mut self, condition: &str, params: &[Param<'_>]) -> Result<(), Fault> {
        let sql = format!("SELECT {KEY_COLUMNS} FROM keyward.keys k WHERE {REAL} AND {condition}");
        for row in self.transaction.query(&sql, params).await? {
            let key = self.decoder.key(&row, 0)?;
            if self.seen.insert(key.id) {
                self.keys.push(key);
            }
        }
        Ok(())
    }
}

/// An answer that was kept and is still remembered.
async fn kept(transaction: &Transaction, once: OnceKey, now: Timestamp) -> Result<Option<Kept>, Fault> {
    let sql = "SELECT request, key_id, revision, sealed, until FROM keyward.once WHERE once = $1 AND at > $2";
    let since = now.minus(ONCE_KEPT).nanos();
    let params: [Param<'_>; 2] = [(&once.0.as_slice(), Type::BYTEA), (&since, Type::INT8)];
    let Some(row) = transaction.first(sql, &params).await? else { return Ok(None) };
    let mut columns = Columns::of(&row);
    let (request, key) = (columns.bytes()?, columns.bits_or_none()?.map(KeyId::from_bits));
    let revision = unsigned(columns.integer()?)?;
    let sealed = columns.bytes_or_none()?.map(<[u8]>::to_vec);
    let is_kept = now < columns.time()?;
    Ok(Some(Kept { request, key, revision, sealed: sealed.filter(|_| is_kept) }))
}

/// How many keys `user` has that have not ended, counted no further than is of use.
async fn count_of_user(transaction: &Transaction, user: &UserId, now: Timestamp) -> Result<usize, Fault> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM keyward.keys k WHERE user_id = $1 AND NOT revoked AND NOT superseded \
         AND (expires_at IS NULL OR expires_at > $2) AND (grace_expires_at IS NULL OR grace_expires_at > $2) \
         AND {REAL} LIMIT $3) counted"
    );
    let params: [Param<'_>; 3] =
        [(&user.as_str(), Type::TEXT), (&now.nanos(), Type::INT8), (&to_count(COUNTED_MAX), Type::INT8)];
    let row = transaction.first(&sql, &params).await?.ok_or_else(unexpected)?;
    unsigned(Columns::of(&row).integer()?)
}

/// How many of the newest keys of `user` were minted by its own keys after `after`.
async fn made_for_itself(transaction: &Transaction, user: &UserId, after: Timestamp) -> Result<usize, Fault> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT k.created_at, k.minted_by FROM keyward.keys k WHERE k.user_id = $1 AND {REAL} \
         ORDER BY k.user_id DESC, k.number DESC LIMIT $3) k JOIN keyward.keys m ON m.id = k.minted_by \
         WHERE k.created_at > $2 AND m.user_id = $1"
    );
    let params: [Param<'_>; 3] =
        [(&user.as_str(), Type::TEXT), (&after.nanos(), Type::INT8), (&to_count(COUNTED_MAX), Type::INT8)];
    let row = transaction.first(&sql, &params).await?.ok_or_else(unexpected)?;
    unsigned(Columns::of(&row).integer()?)
}

/// The newest event that switched the key off.
async fn last_disabled(transaction: &Transaction, id: KeyId) -> Result<Option<Event>, Fault> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM keyward.events e WHERE e.key_id = $1 AND e.kind = $2 \
         ORDER BY e.revision DESC, e.ordinal DESC LIMIT 1"
    );
    let params: [Param<'_>; 2] = [(&id_of(id), Type::UUID), (&EventKind::KeyDisabled.as_str(), Type::TEXT)];
    transaction.first(&sql, &params).await?.map(|row| event(&row)).transpose()
}

/// Of the keys and users in `reading`: those that a gateway ended last.
async fn ended_by_gateways(transaction: &Transaction, reading: &Reading) -> Result<HashSet<Subject>, Fault> {
    let gateway = Actor::Local(GATEWAY_LOGIN.to_owned()).to_string();
    let newest = |of| {
        format!(
            "SELECT ended.{of} FROM (SELECT DISTINCT ON ({of}) {of}, actor FROM keyward.events \
             WHERE {of} = ANY($1) AND kind = $2 ORDER BY {of}, revision DESC, ordinal DESC) ended WHERE actor = $3"
        )
    };
    let mut ended = HashSet::new();
    let revoked = reading.keys.iter().filter(|key| key.states.revoked);
    let keys: Vec<Uuid> = revoked.map(|key| id_of(key.id)).collect();
    if !keys.is_empty() {
        let kind = EventKind::KeyRevoked.as_str();
        let params: [Param<'_>; 3] = [(&keys, Type::UUID_ARRAY), (&kind, Type::TEXT), (&gateway, Type::TEXT)];
        for row in transaction.query(&newest("key_id"), &params).await? {
            ended.insert(Subject::Key(KeyId::from_bits(Columns::of(&row).bits()?)));
        }
    }
    for user in reading.users.iter().filter(|user| user.deleted) {
        let kind = EventKind::UserDeleted.as_str();
        let id = [user.id.as_str()];
        let params: [Param<'_>; 3] = [(&id.as_slice(), Type::TEXT_ARRAY), (&kind, Type::TEXT), (&gateway, Type::TEXT)];
        if transaction.first(&newest("user_id"), &params).await?.is_some() {
            ended.insert(Subject::User(user.id.clone()));
        }
    }
    Ok(ended)
}

/// Refused attempts, newest first.
pub(super) async fn list_refusals(transaction: &Transaction, query: &RefusalQuery) -> Result<Vec<RefusalTally>, Fault> {
    let sql = format!(
        "SELECT {TALLY_COLUMNS} FROM keyward.audit_refusals \
         WHERE ($1::bigint IS NULL OR minute < $1) AND ($2::text IS NULL OR actor = $2) \
         ORDER BY minute DESC, actor, address, operation, code LIMIT $3"
    );
    let actor = query.actor.as_ref().map(ToString::to_string);
    let params: [Param<'_>; 3] =
        [(&query.before.map(Timestamp::nanos), Type::INT8), (&actor, Type::TEXT), (&limit(query.limit), Type::INT8)];
    transaction.query(&sql, &params).await?.iter().map(tally).collect()
}

/// A limit as PostgreSQL takes it: none is all.
pub(super) fn limit(limit: usize) -> Option<i64> {
    (limit > 0).then(|| to_count(limit))
}

const POLL: &str = "SELECT (SELECT store_id FROM keyward.meta), c.revision, c.commit_id, \
     (SELECT r.commit_id FROM keyward.revisions r WHERE r.revision = $1) FROM keyward.counter c";

/// One poll, in one exchange with the server.
pub(super) async fn poll_alone(
    shared: &Shared,
    cursor: Cursor,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<Poll, Fault> {
    let sql = format!(
        "{}; SELECT {NOW}, pg_is_in_recovery(), (SELECT store_id FROM keyward.meta), c.revision, c.commit_id, \
         (SELECT r.commit_id FROM keyward.revisions r WHERE r.revision = {}) FROM keyward.counter c; COMMIT",
        shared.opening(READING, shared.statement_timeout),
        to_sql(cursor.revision)
    );
    let (transaction, rows) = shared.begin_by(&sql, permit).await?;
    transaction.release();
    let row = rows.last().ok_or_else(no_counter)?;
    if row.get(1) != Some("f") {
        return Err(Fault::Replica);
    }
    let bits = |at: usize| row.get(at).and_then(|text| Uuid::parse_str(text).ok()).map(|id| id.as_u128());
    let recorded = bits(5).map(CommitId);
    Ok(Poll {
        store: StoreId(bits(2).ok_or_else(|| Fault::Stored("it has no store id".to_owned()))?),
        newest: Cursor {
            revision: row.get(3).and_then(|text| text.parse().ok()).ok_or_else(no_counter)?,
            commit: CommitId(bits(4).ok_or_else(no_counter)?),
        },
        at_cursor: if cursor.revision == 0 { Some(CommitId::default()) } else { recorded },
        now: shared.time(row.get(0))?,
    })
}

/// One poll, of the transaction's moment.
pub(super) async fn poll(transaction: &Transaction, cursor: Cursor) -> Result<Poll, Fault> {
    let revision = to_sql(cursor.revision);
    let row = transaction.first(POLL, &[(&revision, Type::INT8)]).await?.ok_or_else(no_counter)?;
    let mut columns = Columns::of(&row);
    let store = StoreId(columns.bits()?);
    let newest = columns.cursor()?;
    let recorded = columns.bits_or_none()?.map(CommitId);
    let at_cursor = if cursor.revision == 0 { Some(CommitId::default()) } else { recorded };
    Ok(Poll { store, newest, at_cursor, now: transaction.now() })
}

/// The key of `hash` with its user, and the newest revision.
pub(super) async fn find(transaction: &Transaction, hash: &TokenHash) -> Result<(Option<OwnedKey>, Cursor), Fault> {
    let sql = format!(
        "SELECT {KEY_COLUMNS}, {USER_COLUMNS}, c.revision, c.commit_id FROM keyward.counter c \
         LEFT JOIN keyward.keys k ON k.hash = $1 AND {REAL} LEFT JOIN keyward.users u ON u.id = k.user_id"
    );
    let row = transaction.first(&sql, &[(&hash.as_bytes().as_slice(), Type::BYTEA)]).await?.ok_or_else(no_counter)?;
    let newest = Columns { row: &row, next: KEY_WIDTH + USER_WIDTH }.cursor()?;
    let mut decoder = Decoder::default();
    let found = match id_at(&row, 0) {
        None => None,
        Some(_) => Some((decoder.key(&row, 0)?, decoder.user_or_none(&row, KEY_WIDTH)?)),
    };
    Ok((found, newest))
}

pub(super) fn days(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 24 * 60 * 60)
}

/// Users by id.
pub(super) async fn list_users(transaction: &Transaction, query: &UserQuery) -> Result<Vec<User>, Fault> {
    let sql = format!(
        "SELECT {USER_COLUMNS} FROM keyward.users u WHERE ($1::text IS NULL OR u.project = $1) \
         AND NOT ($2 AND u.deleted) AND ($3::text IS NULL OR u.id > $3) ORDER BY u.id LIMIT $4"
    );
    let params: [Param<'_>; 4] = [
        (&query.project.as_ref().map(ProjectId::as_str), Type::TEXT),
        (&query.undeleted, Type::BOOL),
        (&query.after.as_ref().map(UserId::as_str), Type::TEXT),
        (&limit(query.limit), Type::INT8),
    ];
    let mut decoder = Decoder::default();
    transaction.query(&sql, &params).await?.iter().map(|row| decoder.user(row, 0)).collect()
}

/// A stretch of the history: the events from one revision to another, or under a stage's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    first: i64,
    last: i64,
    /// The ordinal of `first` after which it begins; -1 for all of it.
    after: i64,
}

impl Stretch {
    pub(super) const CONDITION: &str = "(e.revision, e.ordinal) > ($1, $2) AND e.revision <= $3";

    /// What the condition wants, in its order.
    pub(super) const fn values(self) -> [i64; 3] {
        [self.first, self.after, self.last]
    }
}

/// The history after `after`, in order.
pub(super) async fn stretches(transaction: &Transaction, after: Stamp) -> Result<Vec<Stretch>, Fault> {
    let start = to_sql(after.revision);
    let mut begin = (start, i64::from(after.ordinal));
    let sql = "SELECT revision, number FROM keyward.stages WHERE revision >= $1 ORDER BY revision";
    let mut found = Vec::new();
    for row in transaction.query(sql, &[(&start, Type::INT8)]).await? {
        let mut columns = Columns::of(&row);
        let (revision, stage) = (columns.integer()?, columns.integer()?);
        if revision == begin.0 {
            found.push(Stretch { first: stage, last: stage, after: begin.1 });
        } else {
            found.push(Stretch { first: begin.0, last: revision - 1, after: begin.1 });
            found.push(Stretch { first: stage, last: stage, after: -1 });
        }
        // What was written by the same mutation comes after what it took in.
        begin = (revision, if revision == start { i64::from(after.ordinal) } else { -1 });
    }
    found.push(Stretch { first: begin.0, last: i64::MAX, after: begin.1 });
    Ok(found)
}

/// Events, oldest first.
pub(super) async fn list_events(transaction: &Transaction, query: &EventQuery) -> Result<Vec<Event>, Fault> {
    let (key, user) = super::rows::subject_columns(query.subject.as_ref());
    let of = match query.subject {
        None => "",
        Some(Subject::Key(_)) => " AND e.key_id = $5",
        Some(Subject::User(_)) => " AND e.user_id = $5",
    };
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM keyward.events e WHERE {}{of} ORDER BY e.revision, e.ordinal LIMIT $4",
        Stretch::CONDITION
    );
    let mut events = Vec::new();
    for stretch in stretches(transaction, query.after).await? {
        let limit = limit(query.limit.saturating_sub(events.len()));
        let mut params: Vec<Param<'_>> = vec![
            (&stretch.first, Type::INT8),
            (&stretch.after, Type::INT8),
            (&stretch.last, Type::INT8),
            (&limit, Type::INT8),
        ];
        match query.subject {
            None => {}
            Some(Subject::Key(_)) => params.push((&key, Type::UUID)),
            Some(Subject::User(_)) => params.push((&user, Type::TEXT)),
        }
        for row in transaction.query(&sql, &params).await? {
            events.push(event(&row)?);
        }
        if query.limit > 0 && events.len() >= query.limit {
            break;
        }
    }
    Ok(events)
}

/// The number and fingerprint of every secret.
pub(super) async fn secrets(transaction: &Transaction) -> Result<Vec<NumberedSecret>, Fault> {
    let rows = transaction.query("SELECT number, fingerprint FROM keyward.secrets ORDER BY number", &[]).await?;
    let secret = |row| {
        let mut columns = Columns::of(row);
        Ok((unsigned(columns.integer()?)?, columns.bytes()?))
    };
    rows.iter().map(secret).collect()
}

/// The feed after `cursor`, row by row.
pub(super) async fn changes_after(
    transaction: &Transaction,
    cursor: Cursor,
    sink: &mut (dyn FnMut(Batch) + Send),
) -> Result<(), Fault> {
    // Before the rows, but of the same snapshot.
    let poll = poll(transaction, cursor).await?;
    if cursor.revision == 0 {
        everything(transaction, sink).await?;
    } else if poll.newest.revision > cursor.revision {
        changes(transaction, cursor, sink).await?;
    }
    sink(Batch::End(poll));
    Ok(())
}

async fn everything(transaction: &Transaction, sink: &mut (dyn FnMut(Batch) + Send)) -> Result<(), Fault> {
    let mut decoder = Decoder::default();
    users(transaction, &mut decoder, &format!("SELECT {USER_COLUMNS} FROM keyward.users u"), &[], sink).await?;
    // In whatever order they lie: sorting ten million rows by number would take longer than reading them.
    let sql = format!("SELECT {KEY_COLUMNS} FROM keyward.keys k WHERE {REAL}");
    keys(transaction, &mut decoder, &sql, &[], sink).await
}

/// One page of everything, for a reader at a cursor: what comes after a subject, at most so many rows.
pub(super) async fn walk(
    transaction: &Transaction,
    (cursor, after, limit): (Cursor, Option<&Subject>, u32),
    sink: &mut (dyn FnMut(Batch) + Send),
) -> Result<(), Fault> {
    // Before the rows, but of the same snapshot.
    let poll = poll(transaction, cursor).await?;
    let mut decoder = Decoder::default();
    let (user, key) = match after {
        None => (Some(""), None),
        Some(Subject::User(id)) => (Some(id.as_str()), None),
        Some(Subject::Key(id)) => (None, Some(id_of(*id))),
    };
    let mut left = i64::from(limit);
    if let Some(user) = user {
        let sql = format!("SELECT {USER_COLUMNS} FROM keyward.users u WHERE u.id > $1 ORDER BY u.id LIMIT $2");
        let mut count = |batch| {
            left -= 1;
            sink(batch);
        };
        users(transaction, &mut decoder, &sql, &[(&user, Type::TEXT), (&i64::from(limit), Type::INT8)], &mut count)
            .await?;
    }
    if left > 0 {
        // Where there is no key to begin after, the smallest id comes after nothing.
        let (relation, key) = key.map_or((">=", Uuid::nil()), |key| (">", key));
        let sql = format!(
            "SELECT {KEY_COLUMNS} FROM keyward.keys k WHERE k.id {relation} $1 AND {REAL} ORDER BY k.id LIMIT $2"
        );
        keys(transaction, &mut decoder, &sql, &[(&key, Type::UUID), (&left, Type::INT8)], sink).await?;
    }
    sink(Batch::End(poll));
    Ok(())
}

/// Hands over the users that `sql` selects.
async fn users(
    transaction: &Transaction,
    decoder: &mut Decoder,
    sql: &str,
    params: &[Param<'_>],
    sink: &mut (dyn FnMut(Batch) + Send),
) -> Result<(), Fault> {
    let mut rows = transaction.stream(sql, params).await?;
    while let Some(row) = rows.next().await? {
        sink(decoder.user_read(&row)?);
    }
    Ok(())
}

/// The same for keys.
async fn keys(
    transaction: &Transaction,
    decoder: &mut Decoder,
    sql: &str,
    params: &[Param<'_>],
    sink: &mut (dyn FnMut(Batch) + Send),
) -> Result<(), Fault> {
    let mut rows = transaction.stream(sql, params).await?;
    while let Some(row) = rows.next().await? {
        sink(decoder.key_read(&row)?);
    }
    Ok(())
}

async fn changes(transaction: &Transaction, cursor: Cursor, sink: &mut (dyn FnMut(Batch) + Send)) -> Result<(), Fault> {
    for stretch in stretches(transaction, Stamp { revision: cursor.revision, ordinal: u32::MAX }).await? {
        changes_of(transaction, stretch, sink).await?;
    }
    Ok(())
}

async fn changes_of(
    transaction: &Transaction,
    stretch: Stretch,
    sink: &mut (dyn FnMut(Batch) + Send),
) -> Result<(), Fault> {
    let mut decoder = Decoder::default();
    let sql = format!(
        "SELECT {KEY_COLUMNS}, {USER_COLUMNS}, CASE WHEN e.revision > 0 THEN e.revision ELSE \
         (SELECT s.revision FROM keyward.stages s WHERE s.number = e.revision) END, e.ordinal, e.key_id IS NULL, \
         e.key_id, e.user_id FROM keyward.events e LEFT JOIN keyward.keys k ON k.id = e.key_id \
         LEFT JOIN keyward.users u ON u.id = e.user_id WHERE {} ORDER BY e.revision, e.ordinal",
        Stretch::CONDITION
    );
    let params: [Param<'_>; 3] =
        [(&stretch.first, Type::INT8), (&stretch.after, Type::INT8), (&stretch.last, Type::INT8)];
    let mut rows = transaction.stream(&sql, &params).await?;
    while let Some(row) = rows.next().await? {
        sink(decoder.changed_read(&row)?);
    }
    Ok(())
}
