//! Listing keys, newest first: 200 of ten million, whatever they are filtered by, in a few
//! milliseconds.
//!
//! What is asked for is found by the narrowest of the filters that an index serves. Where such a
//! filter leaves few rows, all of them are looked at; else rows are looked at in order, and no more
//! than [`LOOKED_AT_MAX`] of them for one page, which then may be short and says where to go on.
//!
//! The rows to look at are picked by their numbers first, so that no plan that the server chooses
//! can read more of the table than that.

use std::fmt::Write as _;

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::fault::Fault;
use super::read::{days, limit};
use super::rows::{
    Columns, Decoder, KEY_COLUMNS, KEY_WIDTH, REAL, USER_COLUMNS, USER_WIDTH, damaged_key, hash_at, id_at, id_of,
};
use super::session::{Param, Transaction};
use crate::clock::Timestamp;
use crate::key::{KeyId, Status};
use crate::store::{KeyPage, KeyQuery};

/// How many rows are looked at for one page at most.
const LOOKED_AT_MAX: i64 = 4000;
/// Up to how many rows a filter leaves few.
const FEW: i64 = 2000;
/// How often that many rows are looked at that turn out to be of another place.
const WINDOWS_MAX: usize = 2;

/// A value of a condition.
#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Number(i64),
    Numbers(Vec<i64>),
    Id(Uuid),
}

impl Value {
    fn param(&self) -> Param<'_> {
        let value: &(dyn ToSql + Sync) = match self {
            Self::Text(text) => text,
            Self::Number(number) => number,
            Self::Numbers(numbers) => numbers,
            Self::Id(id) => id,
        };
        let of = match self {
            Self::Text(_) => Type::TEXT,
            Self::Number(_) => Type::INT8,
            Self::Numbers(_) => Type::INT8_ARRAY,
            Self::Id(_) => Type::UUID,
        };
        (value, of)
    }
}

/// Conditions joined by AND, each with its values.
#[derive(Debug, Clone, Default)]
struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    /// `condition` holds one `?` for each of `values`, and no other.
    fn and(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
        let mut values = values.into_iter();
        for (at, part) in condition.split('?').enumerate() {
            if at > 0 {
                self.values.extend(values.next());
                let _never = write!(self.sql, "${}", self.values.len());
            }
            self.sql.push_str(part);
        }
    }

    fn params(&self) -> Vec<Param<'_>> {
        self.values.iter().map(Value::param).collect()
    }
}

fn text(text: impl AsRef<str>) -> Value {
    Value::Text(text.as_ref().to_owned())
}

fn time(time: Timestamp) -> Value {
    Value::Number(time.nanos())
}

/// A filter that an index serves.
#[derive(Debug)]
struct Way {
    /// With the bound that begins the page, where the index has its rows in order.
    conditions: Conditions,
    /// What the index gives its rows by, newest first; none where by something else, so that only all
    /// of them can be put in order.
    order: Option<&'static str>,
    /// Whether it gives the rows of the query's place and no other.
    is_place: bool,
}

/// The filters of `query` that an index serves, the narrowest first as far as one can say. Rows come
/// before `before`.
///
/// Where an index begins with columns, they are part of the range and of the order: no other index can
/// serve that, and so the server is not tempted to walk all numbers for rows that may be rare.
fn ways(query: &KeyQuery, before: i64, now: Timestamp) -> Vec<Way> {
    let mut ways = Vec::new();
    let placed = |columns: &str, order: &'static str, values: &[Value]| {
        let marks = vec!["?"; values.len()].join(", ");
        let mut conditions = Conditions::default();
        let with = |number| values.iter().cloned().chain([Value::Number(number)]);
        conditions.and(&format!("({columns}, k.number) < ({marks}, ?)"), with(before));
        conditions.and(&format!("({columns}, k.number) > ({marks}, ?)"), with(-1));
        Way { conditions, order: Some(order), is_place: false }
    };
    if let Some(lineage) = query.lineage {
        let id = Value::Id(Uuid::from_u128(lineage.bits()));
        ways.push(placed("k.lineage", "k.lineage DESC, k.number DESC", &[id]));
    }
    if let Some(user) = &query.user {
        let mut way = placed("k.user_id", "k.user_id DESC, k.number DESC", &[text(user.as_str())]);
        // Its index has the keys of users alone, and no range tells the server that these are.
        way.conditions.and("k.user_id IS NOT NULL", []);
        ways.push(way);
    }
    let numbered = |condition: &str| {
        let mut conditions = Conditions::default();
        conditions.and(condition, []);
        conditions.and("k.number < ?", [Value::Number(before)]);
        Way { conditions, order: Some("k.number DESC"), is_place: false }
    };
    // No bound of numbers: an index by dates would be walked to its end for those few that are within it.
    let dated = |condition: &str, values: Vec<Value>| {
        let mut conditions = Conditions::default();
        conditions.and(condition, values);
        Way { conditions, order: None, is_place: false }
    };
    match query.status {
        Some(Status::Revoked) => ways.push(numbered("k.revoked")),
        Some(Status::Disabled) => ways.push(numbered("k.disabled")),
        Some(Status::UserDisabled) => {
            ways.push(dated("k.user_id IN (SELECT id FROM keyward.users WHERE NOT active OR deleted)", vec![]));
        }
        Some(Status::Expired) => ways.push(dated("k.expires_at <= ?", vec![time(now)])),
        Some(Status::Grace) => ways.push(dated("k.grace_expires_at > ?", vec![time(now)])),
        Some(Status::Listed | Status::Superseded | Status::Active) | None => {}
    }
    if let Some(count) = query.expires_within_days {
        let ends = vec![time(now), time(now.plus(days(count)))];
        ways.push(dated("k.expires_at > ? AND k.expires_at <= ?", ends));
    }
    let of_place = match (&query.project, &query.environment) {
        (Some(project), Some(environment)) => Some(placed(
            "k.project, k.environment",
            "k.project DESC, k.environment DESC, k.number DESC",
            &[text(project.as_str()), text(environment.as_str())],
        )),
        (Some(project), None) => Some(placed("k.project", "k.project DESC, k.number DESC", &[text(project.as_str())])),
        (None, Some(environment)) => {
            Some(placed("k.environment", "k.environment DESC, k.number DESC", &[text(environment.as_str())]))
        }
        (None, None) => None,
    };
    ways.extend(of_place.map(|way| Way { is_place: true, ..way }));
    if query.status == Some(Status::Active) {
        ways.push(numbered("NOT k.revoked AND NOT k.disabled AND NOT k.superseded"));
    }
    ways
}

/// No filter but where the page begins.
fn all(before: i64) -> Way {
    let mut conditions = Conditions::default();
    conditions.and("k.number < ?", [Value::Number(before)]);
    Way { conditions, order: Some("k.number DESC"), is_place: false }
}

/// Where the keys of `query` belong, whatever else is asked of them.
fn place(query: &KeyQuery) -> Conditions {
    let mut conditions = Conditions::default();
    conditions.and(REAL, []);
    if let Some(project) = &query.project {
        conditions.and("k.project = ?", [text(project.as_str())]);
    }
    if let Some(environment) = &query.environment {
        conditions.and("k.environment = ?", [text(environment.as_str())]);
    }
    conditions
}

/// All that `query` asks for, as conditions on a key `k`, its user `u` and its usage `w`.
fn filters(query: &KeyQuery, now: Timestamp) -> Conditions {
    let mut conditions = place(query);
    if let Some(user) = &query.user {
        conditions.and("k.user_id = ?", [text(user.as_str())]);
    }
    if let Some(wanted) = &query.text {
        let lower = wanted.to_ascii_lowercase();
        // Letters of ASCII alone fold, whatever the database's own rules are.
        conditions.and(
            "(position(? IN lower(k.name COLLATE \"C\")) > 0 \
             OR starts_with('key_' || replace(k.id::text, '-', ''), ?) OR starts_with(k.shown_prefix, ?))",
            [text(&lower), text(&lower), text(wanted)],
        );
    }
    if let Some(count) = query.expires_within_days {
        conditions.and("k.expires_at > ? AND k.expires_at <= ?", [time(now), time(now.plus(days(count)))]);
    }
    if let Some(count) = query.unused_for_days {
        let since = now.minus(days(count));
        // Nobody uses a key before it is made: the first is cheap, and most often enough.
        conditions.and("k.created_at <= ? AND coalesce(w.last_used_at, k.created_at) <= ?", [time(since), time(since)]);
    }
    if let Some(lineage) = query.lineage {
        conditions.and("k.lineage = ?", [Value::Id(Uuid::from_u128(lineage.bits()))]);
    }
    if query.unrevoked {
        conditions.and("NOT k.revoked", []);
    }
    if let Some(status) = query.status {
        of_status(status, now, &mut conditions);
    }
    conditions
}

/// What a key's status says of its row. Held against the rule itself once the row is read.
fn of_status(status: Status, now: Timestamp, conditions: &mut Conditions) {
    const OFF: &str = "(k.user_id IS NOT NULL AND NOT coalesce(u.active AND NOT u.deleted, false))";
    const ON: &str = "(k.user_id IS NULL OR coalesce(u.active AND NOT u.deleted, false))";
    let mut and = |condition: &str| conditions.and(condition, []);
    match status {
        Status::Listed => return and("false"),
        Status::Revoked => return and("k.revoked"),
        Status::Disabled => return and("NOT k.revoked AND k.disabled"),
        Status::UserDisabled => {
            and("NOT k.revoked AND NOT k.disabled");
            return and(OFF);
        }
        Status::Expired | Status::Superseded | Status::Grace | Status::Active => {
            and("NOT k.revoked AND NOT k.disabled");
            and(ON);
        }
    }
    match status {
        Status::Expired => return conditions.and("k.expires_at <= ?", [time(now)]),
        _ => conditions.and("(k.expires_at IS NULL OR k.expires_at > ?)", [time(now)]),
    }
    match status {
        Status::Superseded => conditions.and("(k.superseded OR k.grace_expires_at <= ?)", [time(now)]),
        Status::Grace => conditions.and("NOT k.superseded AND k.grace_expires_at > ?", [time(now)]),
        _ => conditions.and("NOT k.superseded AND k.grace_expires_at IS NULL", []),
    }
}

/// Which rows one page looks at.
enum Window {
    /// Those of these numbers, and after the key, where it is named, there may be more.
    Numbers(Vec<i64>, Option<KeyId>),
    /// All before this number.
    Before(i64),
}

/// Keys with user and usage, newest first.
pub(super) async fn list_keys(transaction: &Transaction, query: &KeyQuery) -> Result<KeyPage, Fault> {
    if query.status == Some(Status::Listed) {
        // Only a gateway knows its deny list.
        return Ok(KeyPage::default());
    }
    let now = transaction.now();
    let Some(before) = number_before(transaction, query.before).await? else { return Ok(KeyPage::default()) };
    let mut wanted = filters(query, now);
    let last = match window(transaction, query, before, now).await? {
        Window::Numbers(numbers, next) => {
            wanted.and("k.number = ANY(?)", [Value::Numbers(numbers)]);
            next
        }
        Window::Before(number) => {
            wanted.and("k.number < ?", [Value::Number(number)]);
            None
        }
    };
    let (sql, most, mut params) = (rows_of(&wanted), limit(query.limit), wanted.params());
    params.push((&most, Type::INT8));
    let mut rows = transaction.stream(&sql, &params).await?;
    let (mut decoder, mut page) = (Decoder::default(), KeyPage::default());
    let (mut seen, mut last_seen) = (0, None);
    while let Some(row) = rows.next().await? {
        seen += 1;
        last_seen = id_at(&row, 0);
        let read = decoder.key(&row, 0).and_then(|key| Ok((key, decoder.user_or_none(&row, KEY_WIDTH)?)));
        let (key, user) = match read {
            Ok(found) => found,
            Err(Fault::Stored(cause)) => {
                page.damaged.push((damaged_key(last_seen, hash_at(&row, 0)), cause));
                continue;
            }
            Err(fault) => return Err(fault),
        };
        // The status is the key's own rule, and the one in SQL only helps to find it.
        if query.status.is_some_and(|status| key.status(user.as_ref(), now) != status) {
            continue;
        }
        let usage = Columns { row: &row, next: KEY_WIDTH + USER_WIDTH }.usage(key.id)?;
        page.keys.push((key, user, usage));
    }
    page.next = if query.limit > 0 && seen == query.limit { last_seen } else { last };
    Ok(page)
}

/// The statement that reads the rows that are `wanted`, its last value being how many.
fn rows_of(wanted: &Conditions) -> String {
    format!(
        "SELECT {KEY_COLUMNS}, {USER_COLUMNS}, w.last_used_at, w.uses \
         FROM keyward.keys k LEFT JOIN keyward.users u ON u.id = k.user_id \
         LEFT JOIN LATERAL (SELECT max(o.last_used_at) AS last_used_at, sum(o.count)::bigint AS uses \
         FROM keyward.key_usage o WHERE o.key_id = k.id) w ON true{} ORDER BY k.number DESC LIMIT ${}",
        wanted.sql,
        wanted.values.len() + 1
    )
}

/// The number of the key before which to list: past all of them where none is named, none where it
/// is not stored.
async fn number_before(transaction: &Transaction, before: Option<KeyId>) -> Result<Option<i64>, Fault> {
    let Some(id) = before else { return Ok(Some(i64::MAX)) };
    let sql = "SELECT number FROM keyward.keys WHERE id = $1";
    let row = transaction.first(sql, &[(&id_of(id), Type::UUID)]).await?;
    row.map(|row| Columns::of(&row).integer()).transpose()
}

/// The rows to look at for one page of `query`, which begins before the number `before`.
async fn window(transaction: &Transaction, query: &KeyQuery, before: i64, now: Timestamp) -> Result<Window, Fault> {
    if query.limit == 0 {
        return Ok(Window::Before(before));
    }
    for way in &ways(query, before, now) {
        let mut numbers = numbers(transaction, way, FEW).await?;
        if to_len(&numbers) < FEW {
            numbers.retain(|number| *number < before);
            return Ok(Window::Numbers(numbers, None));
        }
    }
    let (mut top, mut windows) = (before, 0);
    loop {
        let mut ways = self::ways(query, top, now);
        // A filter that gives row after row of other places is left for the place's own.
        if windows >= WINDOWS_MAX && ways.iter().any(|way| way.is_place) {
            ways.retain(|way| way.is_place);
        }
        let way = ways.into_iter().find(|way| way.order.is_some()).unwrap_or_else(|| all(top));
        let mut numbers = numbers(transaction, &way, LOOKED_AT_MAX).await?;
        let oldest = numbers.iter().min().copied();
        let Some(oldest) = oldest.filter(|_| to_len(&numbers) == LOOKED_AT_MAX) else {
            return Ok(Window::Numbers(numbers, None));
        };
        // What a page says to go on from is a key of its place, so that it tells of no other place.
        if let Some((number, next)) = first_of_place(transaction, query, &numbers).await? {
            numbers.retain(|looked_at| *looked_at >= number);
            return Ok(Window::Numbers(numbers, Some(next)));
        }
        (top, windows) = (oldest, windows + 1);
    }
}

/// The key of the query's place that was stored first among `numbers`.
async fn first_of_place(
    transaction: &Transaction,
    query: &KeyQuery,
    numbers: &[i64],
) -> Result<Option<(i64, KeyId)>, Fault> {
    let mut place = place(query);
    place.and("k.number = ANY(?)", [Value::Numbers(numbers.to_vec())]);
    let Some(row) = transaction.first(&first_of(&place), &place.params()).await? else { return Ok(None) };
    let mut columns = Columns::of(&row);
    Ok(Some((columns.integer()?, KeyId::from_bits(columns.bits()?))))
}

/// The statement that finds the first row of a place.
fn first_of(place: &Conditions) -> String {
    format!("SELECT k.number, k.id FROM keyward.keys k{} ORDER BY k.number LIMIT 1", place.sql)
}

fn to_len(numbers: &[i64]) -> i64 {
    super::rows::to_count(numbers.len())
}

/// The numbers of the rows of `way`, the newest first where it gives them in order, and no more than `most`.
async fn numbers(transaction: &Transaction, way: &Way, most: i64) -> Result<Vec<i64>, Fault> {
    let mut params = way.conditions.params();
    params.push((&most, Type::INT8));
    let rows = transaction.query(&numbers_of(way), &params).await?;
    rows.iter().map(|row| Columns::of(row).integer()).collect()
}

/// The statement that picks the rows of a way, its last value being how many.
fn numbers_of(way: &Way) -> String {
    let order = way.order.map(|order| format!(" ORDER BY {order}")).unwrap_or_default();
    let most = way.conditions.values.len() + 1;
    format!("SELECT k.number FROM keyward.keys k{}{order} LIMIT ${most}", way.conditions.sql)
}

/// How the server goes about a statement.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Explained {
    pub(super) sql: String,
    /// An index has its rows in order, so that nothing is left to be sorted.
    pub(super) is_in_order: bool,
    pub(super) plan: String,
}

/// How the server goes about every statement that may be used for a page of `query` that begins before `before`, where
/// it looks at these rows. Statements that are `known` are left out.
#[cfg(test)]
pub(super) async fn explained(
    transaction: &Transaction,
    query: &KeyQuery,
    before: i64,
    (looked_at, known): (&[i64], &mut std::collections::HashSet<String>),
) -> Result<Vec<Explained>, Fault> {
    let now = transaction.now();
    let (ways, all) = (ways(query, before, now), all(before));
    let mut statements = Vec::new();
    for way in ways.iter().chain([&all]) {
        // Where no index has the rows in order, all of them are looked at or none.
        for most in if way.order.is_some() { vec![FEW, LOOKED_AT_MAX] } else { vec![FEW] } {
            statements.push((numbers_of(way), way.conditions.clone(), Some(most), way.order.is_some()));
        }
    }
    for (mut conditions, most) in [(place(query), None), (filters(query, now), limit(query.limit))] {
        conditions.and("k.number = ANY(?)", [Value::Numbers(looked_at.to_vec())]);
        let sql = if most.is_some() { rows_of(&conditions) } else { first_of(&conditions) };
        statements.push((sql, conditions, most, false));
    }
    let mut found = Vec::new();
    for (sql, conditions, most, is_in_order) in statements {
        if !known.insert(format!("{sql} {:?} {most:?}", conditions.values)) {
            continue;
        }
        let mut params = conditions.params();
        if most.is_some() {
            params.push((&most, Type::INT8));
        }
        let rows = transaction.query(&format!("EXPLAIN {sql}"), &params).await?;
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        found.push(Explained { sql, is_in_order, plan: lines.join("\n") });
    }
    Ok(found)
}
