//! Listing keys, newest first: 200 of a million, whatever they are filtered by, in a few
//! milliseconds.
//!
//! What is asked for is found by the narrowest of the filters that an index serves. Where such a
//! filter leaves few rows, all of them are looked at; else rows are looked at in order, and no more
//! than [`LOOKED_AT_MAX`] of them for one page, which then may be short and says where to go on.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::fault::Fault;
use super::read::days;
use super::rows::{
    Columns, Decoder, KEY_COLUMNS, KEY_WIDTH, REAL, USER_COLUMNS, USER_WIDTH, damaged_key, hash_at, id_at,
};
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, KeyId, ProjectId, Status, UserId};
use crate::store::{KeyPage, KeyQuery};

/// How many rows are looked at for one page at most.
pub(super) const LOOKED_AT_MAX: i64 = 4000;
/// Up to how many rows a filter leaves few.
pub(super) const FEW: i64 = 2000;

const LAST_USED: &str = "(SELECT max(w.last_used_at) FROM key_usage w WHERE w.key_id = k.id)";
const USE_COUNT: &str = "(SELECT sum(w.count) FROM key_usage w WHERE w.key_id = k.id)";

/// Conditions joined by AND, each with its values.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
}

impl Conditions {
    /// `condition` holds one `?` for each of `values`.
    pub(super) fn and(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
        self.sql.push_str(condition);
        self.values.extend(values);
    }

    fn and_text(&mut self, condition: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.and(condition, [text_value(text)]);
        }
    }
}

fn text_value(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn time(time: Timestamp) -> Value {
    Value::Integer(time.nanos())
}

/// A filter that an index serves.
#[derive(Debug)]
struct Way {
    index: &'static str,
    condition: String,
    values: Vec<Value>,
    order: Order,
    /// Whether it can be told only where few users are off.
    needs_few_users: bool,
}

/// Which users are off, as the index of them has it.
const USERS_OFF: &str = "active = 0 OR deleted = 1";

/// In which order an index gives its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As lists want them.
    Listed,
    /// By something else, so that only all of them can be put in order.
    Other,
}

/// The filters of `query` that an index serves, the narrowest first as far as one can say.
fn ways(query: &KeyQuery, now: Timestamp) -> Vec<Way> {
    let mut ways = Vec::new();
    let mut add = |index, condition: &str, values: Vec<Value>, order| {
        let needs_few_users = index == "keys_by_user" && order == Order::Other;
        ways.push(Way { index, condition: condition.to_owned(), values, order, needs_few_users });
    };
    if let Some(lineage) = query.lineage {
        let id = Value::Blob(lineage.bits().to_be_bytes().to_vec());
        add("keys_by_lineage", "k.lineage = ?", vec![id], Order::Listed);
    }
    if let Some(user) = &query.user {
        add("keys_by_user", "k.user_id = ?", vec![text_value(user.as_str())], Order::Listed);
    }
    match query.status {
        Some(Status::Revoked) => add("keys_revoked", "k.revoked = 1", vec![], Order::Listed),
        Some(Status::Disabled) => add("keys_disabled", "k.disabled = 1", vec![], Order::Listed),
        Some(Status::UserDisabled) => {
            add(
                "keys_by_user",
                &format!("k.user_id IN (SELECT id FROM users WHERE {USERS_OFF})"),
                vec![],
                Order::Other,
            );
        }
        Some(Status::Expired) => add("keys_by_expiry", "k.expires_at <= ?", vec![time(now)], Order::Other),
        Some(Status::Grace) => add("keys_by_grace", "k.grace_expires_at > ?", vec![time(now)], Order::Other),
        Some(Status::Listed | Status::Superseded | Status::Active) | None => {}
    }
    if let Some(count) = query.expires_within_days {
        let ends = vec![time(now), time(now.plus(days(count)))];
        add("keys_by_expiry", "k.expires_at > ? AND k.expires_at <= ?", ends, Order::Other);
    }
    let project = query.project.as_ref().map(|project| text_value(project.as_str()));
    let environment = query.environment.as_ref().map(|environment| text_value(environment.as_str()));
    match (project, environment) {
        (Some(project), Some(environment)) => {
            add("keys_by_place", "k.project = ? AND k.environment = ?", vec![project, environment], Order::Listed);
        }
        (Some(project), None) => add("keys_by_project", "k.project = ?", vec![project], Order::Listed),
        (None, Some(environment)) => add("keys_by_environment", "k.environment = ?", vec![environment], Order::Listed),
        (None, None) => {}
    }
    if query.status == Some(Status::Active) {
        let working = "k.revoked = 0 AND k.disabled = 0 AND k.superseded = 0";
        add("keys_working", working, vec![], Order::Listed);
    }
    ways
}

/// Where the keys of `query` belong, whatever else is asked of them.
fn place(query: &KeyQuery) -> Conditions {
    let mut conditions = Conditions::default();
    conditions.and_text("k.project = ?", query.project.as_ref().map(ProjectId::as_str));
    conditions.and_text("k.environment = ?", query.environment.as_ref().map(EnvironmentId::as_str));
    conditions
}

/// All that `query` asks for, as conditions on a key `k` and its user `u`.
fn filters(query: &KeyQuery, now: Timestamp) -> Conditions {
    let mut conditions = place(query);
    conditions.and(REAL, []);
    conditions.and_text("k.user_id = ?", query.user.as_ref().map(UserId::as_str));
    if let Some(text) = &query.text {
        let [name, id, prefix] = [text.to_ascii_lowercase(), text.to_ascii_lowercase(), text.clone()].map(Value::Text);
        conditions.and(
            "(instr(lower(k.name), ?) > 0 OR instr('key_' || lower(hex(k.id)), ?) = 1 OR instr(k.shown_prefix, ?) = 1)",
            [name, id, prefix],
        );
    }
    if let Some(count) = query.expires_within_days {
        conditions.and("k.expires_at > ? AND k.expires_at <= ?", [time(now), time(now.plus(days(count)))]);
    }
    if let Some(count) = query.unused_for_days {
        let since = now.minus(days(count));
        // Nobody uses a key before it is made: the second is cheap, and most often enough.
        conditions.and(
            &format!("k.created_at <= ? AND coalesce({LAST_USED}, k.created_at) <= ?"),
            [time(since), time(since)],
        );
    }
    if let Some(lineage) = query.lineage {
        conditions.and("k.lineage = ?", [Value::Blob(lineage.bits().to_be_bytes().to_vec())]);
    }
    if query.unrevoked {
        conditions.and("k.revoked = 0", []);
    }
    if let Some(status) = query.status {
        of_status(status, now, &mut conditions);
    }
    conditions
}

/// What a key's status says of its row. Held against the rule itself once the row is read.
fn of_status(status: Status, now: Timestamp, conditions: &mut Conditions) {
    const OFF: &str = "(k.user_id IS NOT NULL AND NOT coalesce(u.active = 1 AND u.deleted = 0, 0))";
    const ON: &str = "(k.user_id IS NULL OR coalesce(u.active = 1 AND u.deleted = 0, 0))";
    let mut and = |condition: &str| conditions.and(condition, []);
    match status {
        Status::Listed => return and("0"),
        Status::Revoked => return and("k.revoked = 1"),
        Status::Disabled => return and("k.revoked = 0 AND k.disabled = 1"),
        Status::UserDisabled => {
            and("k.revoked = 0 AND k.disabled = 0");
            return and(OFF);
        }
        Status::Expired | Status::Superseded | Status::Grace | Status::Active => {
            and("k.revoked = 0 AND k.disabled = 0");
            and(ON);
        }
    }
    match status {
        Status::Expired => return conditions.and("k.expires_at <= ?", [time(now)]),
        _ => conditions.and("(k.expires_at IS NULL OR k.expires_at > ?)", [time(now)]),
    }
    match status {
        Status::Superseded => conditions.and("(k.superseded = 1 OR k.grace_expires_at <= ?)", [time(now)]),
        Status::Grace => conditions.and("k.superseded = 0 AND k.grace_expires_at > ?", [time(now)]),
        _ => conditions.and("k.superseded = 0 AND k.grace_expires_at IS NULL", []),
    }
}

/// A statement and its values.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
}

/// Keys with user and usage, newest first.
pub(super) fn list_keys(connection: &Connection, query: &KeyQuery, now: Timestamp) -> Result<KeyPage, Fault> {
    if query.status == Some(Status::Listed) {
        // Only a gateway knows its deny list.
        return Ok(KeyPage::default());
    }
    let Some(before) = number_before(connection, query.before)? else { return Ok(KeyPage::default()) };
    let (statement, last) = planned(connection, query, before, now)?;
    let mut prepared = connection.prepare_cached(&statement.sql)?;
    let mut rows = prepared.query(params_from_iter(statement.values))?;
    let (mut decoder, mut page) = (Decoder::default(), KeyPage::default());
    while let Some(row) = rows.next()? {
        let (key, user) = match decoder.key(row, 0).and_then(|key| Ok((key, decoder.user_or_none(row, KEY_WIDTH)?))) {
            Ok(found) => found,
            Err(Fault::Stored(cause)) => {
                page.damaged.push((damaged_key(id_at(row, 0), hash_at(row, 0)), cause));
                continue;
            }
            Err(fault) => return Err(fault),
        };
        // The status is the key's own rule, and the one in SQL only helps to find it.
        if query.status.is_some_and(|status| key.status(user.as_ref(), now) != status) {
            continue;
        }
        let usage = Columns { row, next: KEY_WIDTH + USER_WIDTH }.usage(key.id)?;
        let id = key.id;
        page.keys.push((key, user, usage));
        if page.keys.len() == query.limit {
            page.next = Some(id);
            return Ok(page);
        }
    }
    page.next = last;
    Ok(page)
}

/// The number of the key before which to list: past all of them where none is named, none where it
/// is not stored.
fn number_before(connection: &Connection, before: Option<KeyId>) -> Result<Option<i64>, Fault> {
    let Some(id) = before else { return Ok(Some(i64::MAX)) };
    let mut statement = connection.prepare_cached("SELECT number FROM keys WHERE id = ?1")?;
    Ok(statement.query_row([id.bits().to_be_bytes()], |row| row.get(0)).optional()?)
}

/// What to ask the file for, and where to go on once that is exhausted, if there is more.
pub(super) fn planned(
    connection: &Connection,
    query: &KeyQuery,
    before: i64,
    now: Timestamp,
) -> Result<(Statement, Option<KeyId>), Fault> {
    let mut filters = filters(query, now);
    filters.and("k.number < ?", [Value::Integer(before)]);
    if query.limit == 0 {
        return Ok((statement("", &filters), None));
    }
    let ways = ways(query, now);
    for way in &ways {
        if is_narrow(connection, way, before)? {
            filters.and(&format!("({})", way.condition), way.values.iter().cloned());
            return Ok((statement(&format!(" INDEXED BY {}", way.index), &filters), None));
        }
    }
    let way = ways.iter().find(|way| way.order == Order::Listed);
    let index = way.map(|way| format!(" INDEXED BY {}", way.index)).unwrap_or_default();
    if let Some(way) = way {
        filters.and(&format!("({})", way.condition), way.values.iter().cloned());
    }
    let mut top = before;
    loop {
        let from = match way {
            Some(way) => nth_before(connection, way, top)?,
            None => last_number(connection, "", &Conditions::default(), top)?
                .map(|newest| newest - LOOKED_AT_MAX)
                .filter(|from| *from > 0),
        };
        let Some(from) = from else { return Ok((statement(&index, &filters), None)) };
        // What a page says to go on from is a key of its place, so that it tells of no other place.
        if let Some(next) = first_of_place(connection, query, from, top)? {
            filters.and("k.number >= ?", [Value::Integer(from)]);
            return Ok((statement(&index, &filters), Some(next)));
        }
        match last_number(connection, place_index(query), &place(query), from)? {
            Some(number) => top = number + 1,
            None => return Ok((statement(&index, &filters), None)),
        }
    }
}

/// The index of all keys of a place.
const fn place_index(query: &KeyQuery) -> &'static str {
    match (&query.project, &query.environment) {
        (Some(_), Some(_)) => " INDEXED BY keys_by_place",
        (Some(_), None) => " INDEXED BY keys_by_project",
        (None, Some(_)) => " INDEXED BY keys_by_environment",
        (None, None) => "",
    }
}

/// The key of the query's place that was stored first from the number `from` on, and before `before`.
fn first_of_place(connection: &Connection, query: &KeyQuery, from: i64, before: i64) -> Result<Option<KeyId>, Fault> {
    let mut conditions = place(query);
    conditions.and("k.number >= ? AND k.number < ?", [from, before].map(Value::Integer));
    conditions.and(REAL, []);
    let sql = format!("SELECT k.id FROM keys k{}{} ORDER BY k.number LIMIT 1", place_index(query), conditions.sql);
    let mut statement = connection.prepare_cached(&sql)?;
    let id: Option<[u8; 16]> = statement.query_row(params_from_iter(conditions.values), |row| row.get(0)).optional()?;
    Ok(id.map(|bytes| KeyId::from_bits(u128::from_be_bytes(bytes))))
}

/// The number of the newest key of `place` before the number `before`.
fn last_number(connection: &Connection, index: &str, place: &Conditions, before: i64) -> Result<Option<i64>, Fault> {
    let mut conditions = place.clone();
    conditions.and("k.number < ?", [Value::Integer(before)]);
    let sql = format!("SELECT max(k.number) FROM keys k{index}{}", conditions.sql);
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_row(params_from_iter(conditions.values), |row| row.get(0))?)
}

fn statement(index: &str, filters: &Conditions) -> Statement {
    let sql = format!(
        "SELECT {KEY_COLUMNS}, {USER_COLUMNS}, {LAST_USED}, {USE_COUNT} \
         FROM keys k{index} LEFT JOIN users u ON u.id = k.user_id{} ORDER BY k.number DESC",
        filters.sql
    );
    Statement { sql, values: filters.values.clone() }
}

/// Whether `way` leaves few rows.
fn is_narrow(connection: &Connection, way: &Way, before: i64) -> Result<bool, Fault> {
    if way.needs_few_users {
        let sql =
            format!("SELECT count(*) FROM (SELECT 1 FROM users INDEXED BY users_off WHERE {USERS_OFF} LIMIT {FEW})");
        let count: i64 = connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
        if count >= FEW {
            return Ok(false);
        }
    }
    let (sql, values) = few(way, before);
    let count: i64 = connection.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0))?;
    Ok(count < FEW)
}

/// Counts the rows of `way`, and looks at no more of them than it counts. Those before a number are together
/// only where an index has them in order.
fn few(way: &Way, before: i64) -> (String, Vec<Value>) {
    let bound = match way.order {
        Order::Listed => Some(Value::Integer(before)),
        Order::Other => None,
    };
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM keys k INDEXED BY {} WHERE ({}){} LIMIT {FEW})",
        way.index,
        way.condition,
        if bound.is_some() { " AND k.number < ?" } else { "" }
    );
    (sql, way.values.iter().cloned().chain(bound).collect())
}

/// The number of the last row of `way` that one page looks at; none where it looks at all.
fn nth_before(connection: &Connection, way: &Way, before: i64) -> Result<Option<i64>, Fault> {
    let sql = format!(
        "SELECT k.number FROM keys k INDEXED BY {} WHERE ({}) AND k.number < ? ORDER BY k.number DESC \
         LIMIT 1 OFFSET {LOOKED_AT_MAX}",
        way.index, way.condition
    );
    let values = way.values.iter().cloned().chain([Value::Integer(before)]);
    Ok(connection.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0)).optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::store::SqliteStore;
    use crate::store::contract::queries;
    use std::sync::Arc;

    fn plan(connection: &Connection, sql: &str, values: &[Value]) -> Vec<String> {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
        let rows = statement.query_map(params_from_iter(values), |row| row.get(3)).expect("a plan");
        rows.collect::<Result<_, _>>().expect("a plan is text")
    }

    #[test]
    fn no_list_reads_all_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keyward.db");
        let now = Timestamp::from_seconds(1000);
        drop(SqliteStore::create(&path, Arc::new(ManualClock::at(now))).expect("a store"));
        let connection = Connection::open(&path).expect("the file is there");
        for query in queries().into_iter().filter(|query| query.status != Some(Status::Listed)) {
            let query = KeyQuery { limit: 200, ..query };
            let is_searched = |steps: Vec<String>| {
                let scanned = steps.iter().find(|step| step.starts_with("SCAN k"));
                assert!(scanned.is_none(), "{query:?}: {steps:?}");
                steps
            };
            // However many rows a filter leaves, for which the file of this test has too few.
            let mut filters = filters(&query, now);
            filters.and("k.number < ? AND k.number >= ?", [Value::Integer(9000), Value::Integer(5000)]);
            let ways = ways(&query, now);
            match ways.iter().find(|way| way.order == Order::Listed) {
                None => {
                    let Statement { sql, values } = statement("", &filters);
                    let steps = is_searched(plan(&connection, &sql, &values));
                    if ways.is_empty() {
                        assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{query:?}: {steps:?}");
                    }
                }
                Some(way) => {
                    let mut filters = filters.clone();
                    filters.and(&format!("({})", way.condition), way.values.iter().cloned());
                    let Statement { sql, values } = statement(&format!(" INDEXED BY {}", way.index), &filters);
                    let steps = is_searched(plan(&connection, &sql, &values));
                    assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{query:?}: {steps:?}");
                }
            }
            for way in &ways {
                let sql = format!("SELECT k.number FROM keys k INDEXED BY {} WHERE ({})", way.index, way.condition);
                is_searched(plan(&connection, &sql, &way.values));
                let (sql, values) = few(way, 9000);
                is_searched(plan(&connection, &sql, &values));
                // Where the index has no order of numbers, one would be looked for through all of it.
                assert_eq!(sql.contains("k.number < ?"), way.order == Order::Listed, "{sql}");
            }
            planned(&connection, &query, i64::MAX, now).expect("it can be asked");
        }
    }
}
