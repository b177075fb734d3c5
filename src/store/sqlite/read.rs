//! What is read, each call in one transaction, so that all of it is of one moment.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, Params, params, params_from_iter};

use super::fault::Fault;
use super::list::Conditions;
use super::rows::{
    Columns, Decoder, EVENT_COLUMNS, KEY_COLUMNS, KEY_WIDTH, LOADED_COLUMNS, REAL, TALLY_COLUMNS, USER_COLUMNS, event,
    kept, tally, to_sql, unsigned,
};
use crate::clock::Timestamp;
use crate::key::{Actor, Event, EventKind, Key, KeyId, Stamp, Subject, TokenHash, User, UserId};
use crate::store::{
    Batch, COUNTED_MAX, CommitId, Cursor, EventQuery, GATEWAY_LOGIN, KeyUsage, Loaded, NumberedSecret, OwnedKey, Poll,
    ReadRequest, Reading, RefusalQuery, RefusalTally, StoreId, UserQuery,
};

/// Reads everything that `request` asks for.
pub(super) fn reading(connection: &Connection, request: &ReadRequest, now: Timestamp) -> Result<Reading, Fault> {
    let mut gathered = Gathered::default();
    let by_id = format!("SELECT {KEY_COLUMNS} FROM keys k WHERE k.id = ?1 AND {REAL}");
    for id in &request.keys {
        gathered.keys(connection, &by_id, params![id.bits().to_be_bytes()])?;
    }
    if let Some(id) = request.lineage_of {
        let mut sql = format!(
            "SELECT {KEY_COLUMNS} FROM keys k WHERE k.lineage = (SELECT lineage FROM keys WHERE id = ?1) AND {REAL} \
             ORDER BY k.number DESC"
        );
        limited(&mut sql, request.lineage_newest);
        gathered.keys(connection, &sql, params![id.bits().to_be_bytes()])?;
    }
    let with_usage: Vec<KeyId> = gathered.keys.iter().map(|key| key.id).collect();
    if let Some(id) = request.descendants_of {
        let mut minted = format!(
            "SELECT k.id FROM keys k WHERE k.minted_by = ?1 AND {REAL} \
             UNION SELECT k.id FROM minted JOIN keys k ON k.minted_by = minted.id WHERE {REAL}"
        );
        // Within the recursion, which then goes no further.
        limited(&mut minted, request.descendants_max);
        let sql = format!(
            "WITH RECURSIVE minted (id) AS ({minted}) \
             SELECT {KEY_COLUMNS} FROM minted m JOIN keys k ON k.id = m.id ORDER BY k.id"
        );
        gathered.keys(connection, &sql, params![id.bits().to_be_bytes()])?;
    }
    if let Some(user) = &request.keys_of_user {
        let sql =
            format!("SELECT {KEY_COLUMNS} FROM keys k WHERE k.user_id = ?1 AND k.revoked = 0 AND {REAL} ORDER BY k.id");
        gathered.keys(connection, &sql, params![user.as_str()])?;
    }
    let by_hash = format!("SELECT {KEY_COLUMNS} FROM keys k WHERE k.hash = ?1 AND {REAL}");
    for hash in &request.hashes {
        gathered.keys(connection, &by_hash, params![hash.as_bytes()])?;
    }
    let mut users: HashSet<UserId> = request.users.iter().cloned().collect();
    users.extend(gathered.keys.iter().filter_map(|key| key.user.clone()));
    let newest = newest(connection)?;
    let any_key = any_key(connection)?;
    let mut reading = Reading { now, any_key, newest, next: newest, ..Reading::default() };
    if let Some(once) = request.once {
        reading.once = kept(connection, once, now)?;
    }
    if let Some(user) = &request.count_of_user {
        reading.count_of_user = count_of_user(connection, user, now)?;
    }
    if let Some((user, within)) = &request.made_for_itself {
        reading.made_for_itself = made_for_itself(connection, user, now.minus(*within))?;
    }
    if let Some(revision) = request.users_changed_after {
        reading.users_changed = users_changed_after(connection, revision)?;
    }
    if let Some(id) = request.disabled {
        reading.disabled = last_disabled(connection, id)?;
    }
    if let Some((id, most)) = request.newest_events {
        reading.newest_events = newest_events(connection, id, most)?;
    }
    for id in &users {
        reading.users.extend(user(connection, &mut gathered.decoder, id)?);
    }
    for id in with_usage {
        reading.usage.extend(usage(connection, id)?);
    }
    reading.keys = gathered.keys;
    if request.ended_by_gateways {
        reading.ended_by_gateways = ended_by_gateways(connection, &reading)?;
    }
    if let Some(cursor) = request.leads_on_from {
        reading.leads_on = poll(connection, cursor, now)?.leads_on_from(cursor);
    }
    Ok(reading)
}

/// Keys that were read, each once.
#[derive(Debug, Default)]
struct Gathered {
    decoder: Decoder,
    seen: HashSet<KeyId>,
    keys: Vec<Key>,
}

impl Gathered {
    fn keys(&mut self, connection: &Connection, sql: &str, values: impl Params) -> Result<(), Fault> {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        while let Some(row) = rows.next()? {
            let key = self.decoder.key(row, 0)?;
            if self.seen.insert(key.id) {
                self.keys.push(key);
            }
        }
        Ok(())
    }
}

/// How many keys `user` has that have not ended, counted no further than is of use.
fn count_of_user(connection: &Connection, user: &UserId, now: Timestamp) -> Result<usize, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT count(*) FROM (SELECT 1 FROM keys k WHERE user_id = ?1 AND revoked = 0 AND superseded = 0 \
         AND (expires_at IS NULL OR expires_at > ?2) AND (grace_expires_at IS NULL OR grace_expires_at > ?2) \
         AND {REAL} LIMIT ?3)"
    ))?;
    let most = i64::try_from(COUNTED_MAX).unwrap_or(i64::MAX);
    unsigned(statement.query_row(params![user.as_str(), now.nanos(), most], |row| row.get(0))?)
}

/// How many of the newest keys of `user` were minted by its own keys after `after`.
fn made_for_itself(connection: &Connection, user: &UserId, after: Timestamp) -> Result<usize, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT count(*) FROM (SELECT k.created_at, k.minted_by FROM keys k INDEXED BY keys_by_user \
         WHERE k.user_id = ?1 AND {REAL} ORDER BY k.number DESC LIMIT ?3) k \
         JOIN keys m ON m.id = k.minted_by WHERE k.created_at > ?2 AND m.user_id = ?1"
    ))?;
    let most = i64::try_from(COUNTED_MAX).unwrap_or(i64::MAX);
    unsigned(statement.query_row(params![user.as_str(), after.nanos(), most], |row| row.get(0))?)
}

fn users_changed_after(connection: &Connection, revision: u64) -> Result<bool, Fault> {
    let sql = "SELECT EXISTS (SELECT 1 FROM events WHERE revision > ?1 AND user_id IS NOT NULL)";
    Ok(connection.prepare_cached(sql)?.query_row(params![to_sql(revision)], |row| row.get(0))?)
}

/// The newest event that switched the key off.
fn last_disabled(connection: &Connection, id: KeyId) -> Result<Option<Event>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {EVENT_COLUMNS} FROM events e WHERE e.key_id = ?1 AND e.kind = ?2 \
         ORDER BY e.revision DESC, e.ordinal DESC LIMIT 1"
    ))?;
    let mut rows = statement.query(params![id.bits().to_be_bytes(), EventKind::KeyDisabled.as_str()])?;
    rows.next()?.map(event).transpose()
}

/// The newest `most` events of a key, newest first.
fn newest_events(connection: &Connection, id: KeyId, most: usize) -> Result<Vec<Event>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {EVENT_COLUMNS} FROM events e WHERE e.key_id = ?1 ORDER BY e.revision DESC, e.ordinal DESC LIMIT ?2"
    ))?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![id.bits().to_be_bytes(), most])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event(row)?);
    }
    Ok(events)
}

/// Of the keys and users in `reading`: those that a gateway ended last.
fn ended_by_gateways(connection: &Connection, reading: &Reading) -> Result<HashSet<Subject>, Fault> {
    let gateway = Actor::Local(GATEWAY_LOGIN.to_owned()).to_string();
    let newest = |of| {
        format!("SELECT actor FROM events WHERE {of} = ?1 AND kind = ?2 ORDER BY revision DESC, ordinal DESC LIMIT 1")
    };
    let mut ended = HashSet::new();
    let mut statement = connection.prepare_cached(&newest("key_id"))?;
    for key in reading.keys.iter().filter(|key| key.states.revoked) {
        let mut rows = statement.query(params![key.id.bits().to_be_bytes(), EventKind::KeyRevoked.as_str()])?;
        if rows.next()?.map(|row| row.get::<_, String>(0)).transpose()?.is_some_and(|actor| actor == gateway) {
            ended.insert(Subject::Key(key.id));
        }
    }
    let mut statement = connection.prepare_cached(&newest("user_id"))?;
    for user in reading.users.iter().filter(|user| user.deleted) {
        let mut rows = statement.query(params![user.id.as_str(), EventKind::UserDeleted.as_str()])?;
        if rows.next()?.map(|row| row.get::<_, String>(0)).transpose()?.is_some_and(|actor| actor == gateway) {
            ended.insert(Subject::User(user.id.clone()));
        }
    }
    Ok(ended)
}

/// Refused attempts, newest first.
pub(super) fn list_refusals(connection: &Connection, query: &RefusalQuery) -> Result<Vec<RefusalTally>, Fault> {
    let mut conditions = Conditions::default();
    if let Some(before) = query.before {
        conditions.and("minute < ?", [Value::Integer(before.nanos())]);
    }
    if let Some(actor) = &query.actor {
        conditions.and("actor = ?", [Value::Text(actor.to_string())]);
    }
    let mut sql = format!(
        "SELECT {TALLY_COLUMNS} FROM audit_refusals{} ORDER BY minute DESC, actor, address, operation, code",
        conditions.sql
    );
    limited(&mut sql, query.limit);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(params_from_iter(conditions.values))?;
    let mut tallies = Vec::new();
    while let Some(row) = rows.next()? {
        tallies.push(tally(row)?);
    }
    Ok(tallies)
}

fn any_key(connection: &Connection) -> Result<bool, Fault> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM keys k WHERE {REAL})");
    Ok(connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?)
}

fn user(connection: &Connection, decoder: &mut Decoder, id: &UserId) -> Result<Option<User>, Fault> {
    let mut statement = connection.prepare_cached(&format!("SELECT {USER_COLUMNS} FROM users u WHERE u.id = ?1"))?;
    let mut rows = statement.query(params![id.as_str()])?;
    rows.next()?.map(|row| decoder.user(row, 0)).transpose()
}

fn usage(connection: &Connection, key: KeyId) -> Result<Option<KeyUsage>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT max(last_used_at), sum(count) FROM key_usage WHERE key_id = ?1")?;
    let mut rows = statement.query(params![key.bits().to_be_bytes()])?;
    rows.next()?.map_or(Ok(None), |row| Columns { row, next: 0 }.usage(key))
}

/// The newest revision and its commit id.
pub(super) fn newest(connection: &Connection) -> Result<Cursor, Fault> {
    let mut statement = connection.prepare_cached("SELECT revision, commit_id FROM counter")?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Err(Fault::Stored("it has no counter".to_owned())) };
    let mut columns = Columns { row, next: 0 };
    Ok(Cursor { revision: unsigned(columns.integer()?)?, commit: CommitId(columns.bits()?) })
}

/// One poll, in one statement.
pub(super) fn poll(connection: &Connection, cursor: Cursor, now: Timestamp) -> Result<Poll, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT (SELECT store_id FROM meta), c.revision, c.commit_id, \
         (SELECT r.commit_id FROM revisions r WHERE r.revision = ?1) FROM counter c",
    )?;
    let mut rows = statement.query(params![to_sql(cursor.revision)])?;
    let Some(row) = rows.next()? else { return Err(Fault::Stored("it has no counter".to_owned())) };
    let mut columns = Columns { row, next: 0 };
    let store = StoreId(columns.bits()?);
    let newest = columns.cursor()?;
    let recorded = columns.commit_or_none()?;
    let at_cursor = if cursor.revision == 0 { Some(CommitId::default()) } else { recorded };
    Ok(Poll { store, newest, at_cursor, now })
}

/// The key of `hash` with its user, and the newest revision.
pub(super) fn find(connection: &Connection, hash: &TokenHash) -> Result<(Option<OwnedKey>, Cursor), Fault> {
    let sql = format!(
        "SELECT {KEY_COLUMNS}, {USER_COLUMNS} FROM keys k LEFT JOIN users u ON u.id = k.user_id \
         WHERE k.hash = ?1 AND {REAL}"
    );
    let mut decoder = Decoder::default();
    let found = {
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![hash.as_bytes()])?;
        match rows.next()? {
            None => None,
            Some(row) => Some((decoder.key(row, 0)?, decoder.user_or_none(row, KEY_WIDTH)?)),
        }
    };
    Ok((found, newest(connection)?))
}

pub(super) fn days(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 24 * 60 * 60)
}

/// Users by id.
pub(super) fn list_users(connection: &Connection, query: &UserQuery) -> Result<Vec<User>, Fault> {
    let mut conditions = Conditions::default();
    if let Some(project) = &query.project {
        conditions.and("u.project = ?", [Value::Text(project.as_str().to_owned())]);
    }
    if query.undeleted {
        conditions.and("u.deleted = 0", []);
    }
    if let Some(after) = &query.after {
        conditions.and("u.id > ?", [Value::Text(after.as_str().to_owned())]);
    }
    let mut sql = format!("SELECT {USER_COLUMNS} FROM users u{} ORDER BY u.id", conditions.sql);
    limited(&mut sql, query.limit);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(conditions.values))?;
    let (mut decoder, mut users) = (Decoder::default(), Vec::new());
    while let Some(row) = rows.next()? {
        users.push(decoder.user(row, 0)?);
    }
    Ok(users)
}

/// No more rows than `limit`; 0 for all.
fn limited(sql: &mut String, limit: usize) {
    if limit > 0 {
        write!(sql, " LIMIT {limit}").expect("writing to a String never fails");
    }
}

/// A stretch of the history: the events that lie in the file from one revision to another, or under a
/// stage's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    first: i64,
    last: i64,
    /// The ordinal of `first` after which it begins; -1 for all of it.
    after: i64,
}

impl Stretch {
    const CONDITION: &str = "(e.revision, e.ordinal) > (?, ?) AND e.revision <= ?";

    fn values(self) -> [Value; 3] {
        [self.first, self.after, self.last].map(Value::Integer)
    }
}

/// The history after `after`, in order.
fn stretches(connection: &Connection, after: Stamp) -> Result<Vec<Stretch>, Fault> {
    let mut begin = (to_sql(after.revision), i64::from(after.ordinal));
    let mut statement =
        connection.prepare_cached("SELECT revision, number FROM stages WHERE revision >= ?1 ORDER BY revision")?;
    let mut rows = statement.query(params![begin.0])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns { row, next: 0 };
        let (revision, stage) = (columns.integer()?, columns.integer()?);
        if revision == begin.0 {
            found.push(Stretch { first: stage, last: stage, after: begin.1 });
        } else {
            found.push(Stretch { first: begin.0, last: revision - 1, after: begin.1 });
            found.push(Stretch { first: stage, last: stage, after: -1 });
        }
        // What was written by the same mutation comes after what it took in.
        begin = (revision, -1);
        if revision == to_sql(after.revision) {
            begin.1 = i64::from(after.ordinal);
        }
    }
    found.push(Stretch { first: begin.0, last: i64::MAX, after: begin.1 });
    Ok(found)
}

/// Events, oldest first.
pub(super) fn list_events(connection: &Connection, query: &EventQuery) -> Result<Vec<Event>, Fault> {
    let mut events = Vec::new();
    for stretch in stretches(connection, query.after)? {
        let mut conditions = Conditions::default();
        conditions.and(Stretch::CONDITION, stretch.values());
        match &query.subject {
            None => {}
            Some(Subject::Key(id)) => conditions.and("e.key_id = ?", [Value::Blob(id.bits().to_be_bytes().to_vec())]),
            Some(Subject::User(id)) => conditions.and("e.user_id = ?", [Value::Text(id.as_str().to_owned())]),
        }
        let mut sql = format!("SELECT {EVENT_COLUMNS} FROM events e{} ORDER BY e.revision, e.ordinal", conditions.sql);
        limited(&mut sql, query.limit.saturating_sub(events.len()));
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(conditions.values))?;
        while let Some(row) = rows.next()? {
            events.push(event(row)?);
        }
        if query.limit > 0 && events.len() >= query.limit {
            break;
        }
    }
    Ok(events)
}

/// The number and fingerprint of every secret.
pub(super) fn secrets(connection: &Connection) -> Result<Vec<NumberedSecret>, Fault> {
    let mut statement = connection.prepare_cached("SELECT number, fingerprint FROM secrets ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut secrets = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns { row, next: 0 };
        secrets.push((unsigned(columns.integer()?)?, columns.bytes()?));
    }
    Ok(secrets)
}

/// The feed after `cursor`, row by row.
pub(super) fn changes_after(
    connection: &Connection,
    cursor: Cursor,
    now: Timestamp,
    sink: &mut dyn FnMut(Batch),
) -> Result<(), Fault> {
    if cursor.revision == 0 {
        everything(connection, sink)?;
    } else {
        changes(connection, cursor, sink)?;
    }
    sink(Batch::End(poll(connection, cursor, now)?));
    Ok(())
}

fn everything(connection: &Connection, sink: &mut dyn FnMut(Batch)) -> Result<(), Fault> {
    let mut decoder = Decoder::default();
    users(connection, &mut decoder, &format!("SELECT {USER_COLUMNS} FROM users u"), [], sink)?;
    keys(
        connection,
        &mut decoder,
        &format!("SELECT {KEY_COLUMNS} FROM keys k WHERE {REAL} ORDER BY k.number"),
        [],
        sink,
    )?;
    Ok(())
}

/// The whole content, as much of it as decides on requests. Lists are in the order of numbers, and so is the
/// file: in that order nothing is sought.
pub(super) fn load(connection: &Connection, now: Timestamp, sink: &mut dyn FnMut(Loaded)) -> Result<Poll, Fault> {
    let mut decoder = Decoder::default();
    {
        let mut statement = connection.prepare_cached(&format!("SELECT {USER_COLUMNS} FROM users u"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            sink(decoder.user_loaded(row)?);
        }
    }
    let sql = format!("SELECT {LOADED_COLUMNS} FROM keys k WHERE {REAL} ORDER BY k.number");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        sink(decoder.loaded(row)?);
    }
    poll(connection, Cursor::default(), now)
}

/// One page of everything, for a reader at a cursor: what comes after a subject, at most so many rows.
pub(super) fn walk(
    connection: &Connection,
    (cursor, after, limit): (Cursor, Option<&Subject>, u32),
    now: Timestamp,
    sink: &mut dyn FnMut(Batch),
) -> Result<(), Fault> {
    let mut decoder = Decoder::default();
    let (user, key) = match after {
        None => (Some(""), None),
        Some(Subject::User(id)) => (Some(id.as_str()), None),
        Some(Subject::Key(id)) => (None, Some(*id)),
    };
    let mut handed = 0;
    if let Some(user) = user {
        let sql = format!("SELECT {USER_COLUMNS} FROM users u WHERE u.id > ?1 ORDER BY u.id LIMIT ?2");
        handed = users(connection, &mut decoder, &sql, params![user, limit], sink)?;
    }
    if handed < limit {
        // Where there is no key to begin after, every id comes after nothing.
        let after = key.map(|id| id.bits().to_be_bytes().to_vec()).unwrap_or_default();
        let sql = format!("SELECT {KEY_COLUMNS} FROM keys k WHERE k.id > ?1 AND {REAL} ORDER BY k.id LIMIT ?2");
        keys(connection, &mut decoder, &sql, params![after, limit - handed], sink)?;
    }
    sink(Batch::End(poll(connection, cursor, now)?));
    Ok(())
}

/// Hands over the users that `sql` selects. How many.
fn users(
    connection: &Connection,
    decoder: &mut Decoder,
    sql: &str,
    values: impl Params,
    sink: &mut dyn FnMut(Batch),
) -> Result<u32, Fault> {
    let (mut statement, mut handed) = (connection.prepare_cached(sql)?, 0);
    let mut rows = statement.query(values)?;
    while let Some(row) = rows.next()? {
        sink(decoder.user_read(row)?);
        handed += 1;
    }
    Ok(handed)
}

/// The same for keys.
fn keys(
    connection: &Connection,
    decoder: &mut Decoder,
    sql: &str,
    values: impl Params,
    sink: &mut dyn FnMut(Batch),
) -> Result<u32, Fault> {
    let (mut statement, mut handed) = (connection.prepare_cached(sql)?, 0);
    let mut rows = statement.query(values)?;
    while let Some(row) = rows.next()? {
        sink(decoder.key_read(row)?);
        handed += 1;
    }
    Ok(handed)
}

fn changes(connection: &Connection, cursor: Cursor, sink: &mut dyn FnMut(Batch)) -> Result<(), Fault> {
    let read = Stamp { revision: cursor.revision, ordinal: u32::MAX };
    for stretch in stretches(connection, read)? {
        changes_of(connection, stretch, sink)?;
    }
    Ok(())
}

fn changes_of(connection: &Connection, stretch: Stretch, sink: &mut dyn FnMut(Batch)) -> Result<(), Fault> {
    let mut decoder = Decoder::default();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {KEY_COLUMNS}, {USER_COLUMNS}, \
         CASE WHEN e.revision > 0 THEN e.revision ELSE (SELECT s.revision FROM stages s WHERE s.number = e.revision) END, \
         e.ordinal, e.key_id IS NULL, e.key_id, e.user_id \
         FROM events e LEFT JOIN keys k ON k.id = e.key_id LEFT JOIN users u ON u.id = e.user_id \
         WHERE {} ORDER BY e.revision, e.ordinal",
        Stretch::CONDITION
    ))?;
    let mut rows = statement.query(params_from_iter(stretch.values()))?;
    while let Some(row) = rows.next()? {
        sink(decoder.changed_read(row)?);
    }
    Ok(())
}
