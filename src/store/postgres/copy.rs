//! Whole rows in PostgreSQL, for a copy from or into another store. Read and written in bulk, one array a
//! column.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::PostgresStore;
use super::fault::Fault;
use super::read::{Stretch, stretches};
use super::rows::{Columns, REAL, to_count, to_sql, unsigned};
use super::session::{Kind as For, Param, Transaction, unexpected};
use crate::clock::Timestamp;
use crate::key::Stamp;
use crate::store::{
    Answer, CommitId, CopyPlace, CopyRow, CopyStore, CopyTable, Cursor, Head, Kind, StoreError, StoreId, Value,
};

impl CopyStore for PostgresStore {
    fn head(&self) -> Answer<'_, Head> {
        self.read_with(For::ReadAny, |transaction| Box::pin(head(transaction)))
    }

    fn count(&self, table: CopyTable) -> Answer<'_, u64> {
        self.read_with(For::ReadLong, move |transaction| {
            Box::pin(async move {
                let counted = |arm: &Arm| format!("(SELECT count(*) FROM {} WHERE {})", arm.from, arm.real);
                let counts: Vec<String> = arms(table).iter().map(counted).collect();
                let sql = format!("SELECT {}", counts.join(" + "));
                let row = transaction.first(&sql, &[]).await?.ok_or_else(unexpected)?;
                unsigned(Columns::of(&row).integer()?)
            })
        })
    }

    fn rows(&self, table: CopyTable, after: Option<CopyPlace>, limit: usize) -> Answer<'_, Vec<CopyRow>> {
        self.read_with(For::Read, move |transaction| {
            Box::pin(async move {
                if table == CopyTable::Events {
                    return events(transaction, after.as_ref(), limit).await;
                }
                let marks: Vec<String> = (1..=table.key_width()).map(|number| format!("${number}")).collect();
                let related = |arm: &Arm| match &after {
                    Some(_) => format!("WHERE {} AND ({}) > ({})", arm.real, arm.key, marks.join(", ")),
                    None => format!("WHERE {}", arm.real),
                };
                let order: Vec<String> = (1..=table.key_width()).map(|column| column.to_string()).collect();
                let sql = format!("{} ORDER BY {} LIMIT {}", select(table, related), order.join(", "), to_count(limit));
                let values = after.as_ref().map_or_else(|| Ok(Vec::new()), |after| sent_one(table, after))?;
                let rows = transaction.query(&sql, &params(&values)).await?;
                rows.iter().map(|row| read_row(table, row)).collect()
            })
        })
    }

    fn rows_at(&self, table: CopyTable, places: Vec<CopyPlace>) -> Answer<'_, Vec<CopyRow>> {
        self.read_with(For::Read, move |transaction| {
            Box::pin(async move {
                let width = table.key_width();
                let at: Vec<String> = (1..=width).map(|number| format!("p.c{number}")).collect();
                let named: Vec<String> = (1..=width).map(|number| format!("c{number}")).collect();
                let places_at = format!("{} AS p ({})", unnested(width), named.join(", "));
                let related =
                    |arm: &Arm| format!("JOIN {places_at} ON ({}) = ({}) WHERE {}", arm.key, at.join(", "), arm.real);
                let rows = transaction.query(&select(table, related), &params(&sent(table, width, &places)?)).await?;
                rows.iter().map(|row| read_row(table, row)).collect()
            })
        })
    }

    fn begin_copy(&self, of: StoreId) -> Answer<'_, ()> {
        self.write_with(move |transaction| {
            Box::pin(async move {
                let source = Uuid::from_u128(of.0);
                let sql = "INSERT INTO keyward.copying (source) VALUES ($1)";
                transaction.execute(sql, &[(&source, Type::UUID)]).await?;
                Ok(())
            })
        })
    }

    fn write_rows(&self, table: CopyTable, rows: Vec<CopyRow>) -> Answer<'_, ()> {
        let name = self.shared.name.clone();
        self.write_with(move |transaction| {
            let (rows, name) = (rows.clone(), name.clone());
            Box::pin(async move {
                is_copy(transaction, &name).await?;
                let width = table.columns().len();
                let others = table.columns().iter().skip(table.key_width());
                let set: Vec<String> = others.map(|column| format!("{0} = excluded.{0}", column.name)).collect();
                let sql = format!(
                    "INSERT INTO keyward.{} ({}) OVERRIDING SYSTEM VALUE SELECT * FROM {} \
                     ON CONFLICT ({}) DO UPDATE SET {}",
                    table.name(),
                    names(table),
                    unnested(width),
                    key(table),
                    set.join(", ")
                );
                transaction.execute(&sql, &params(&sent(table, width, &rows)?)).await?;
                Ok(())
            })
        })
    }

    fn remove_rows(&self, table: CopyTable, places: Vec<CopyPlace>) -> Answer<'_, ()> {
        let name = self.shared.name.clone();
        self.write_with(move |transaction| {
            let (places, name) = (places.clone(), name.clone());
            Box::pin(async move {
                is_copy(transaction, &name).await?;
                let sql = format!(
                    "DELETE FROM keyward.{} WHERE ({}) IN (SELECT * FROM {})",
                    table.name(),
                    key(table),
                    unnested(table.key_width())
                );
                transaction.execute(&sql, &params(&sent(table, table.key_width(), &places)?)).await?;
                Ok(())
            })
        })
    }

    fn finish_copy(&self, head: Head) -> Answer<'_, ()> {
        let name = self.shared.name.clone();
        self.write_with(move |transaction| {
            let (head, name) = (head.clone(), name.clone());
            Box::pin(async move { finish(transaction, &head, &name).await })
        })
    }
}

/// Up to `limit` events after `after`. Those of an import lie under its stage's number: a stretch of the history
/// is read after the other, each from where it begins, so that a page costs no more than its rows.
async fn events(transaction: &Transaction, after: Option<&CopyPlace>, limit: usize) -> Result<Vec<CopyRow>, Fault> {
    let after = match after.map(Vec::as_slice) {
        None => Stamp::default(),
        Some([Value::Number(revision), Value::Number(ordinal)]) => {
            Stamp { revision: unsigned(*revision)?, ordinal: unsigned(*ordinal)? }
        }
        Some(_) => return Err(of_another_kind()),
    };
    let sql = events_sql();
    let mut events = Vec::new();
    for stretch in stretches(transaction, after).await? {
        let left = to_count(limit.saturating_sub(events.len()));
        let [first, after, last] = stretch.values();
        let params = [(&first, Type::INT8), (&after, Type::INT8), (&last, Type::INT8), (&left, Type::INT8)];
        let params = params.map(|(value, of)| (value as &(dyn ToSql + Sync), of));
        for row in transaction.query(&sql, &params).await? {
            events.push(read_row(CopyTable::Events, &row)?);
        }
        if events.len() >= limit {
            break;
        }
    }
    Ok(events)
}

pub(super) fn events_sql() -> String {
    let of_stage = |name: &str| format!("(SELECT s.{name} FROM keyward.stages s WHERE s.number = e.revision)");
    let column = |name: &str| match name {
        "revision" | "at" => format!("CASE WHEN e.revision > 0 THEN e.{name} ELSE {} END", of_stage(name)),
        other => format!("e.{other}"),
    };
    let columns: Vec<String> = CopyTable::Events.columns().iter().map(|it| column(it.name)).collect();
    format!(
        "SELECT {} FROM keyward.events e WHERE {} ORDER BY e.revision, e.ordinal LIMIT $4",
        columns.join(", "),
        Stretch::CONDITION
    )
}

async fn finish(transaction: &Transaction, head: &Head, name: &str) -> Result<(), Fault> {
    is_copy(transaction, name).await?;
    transaction.execute("DELETE FROM keyward.secrets", &[]).await?;
    for (number, fingerprint) in &head.secrets {
        let (number, fingerprint) = (i64::from(*number), fingerprint.to_vec());
        let sql = "INSERT INTO keyward.secrets (number, fingerprint) VALUES ($1, $2)";
        transaction.execute(sql, &[(&number, Type::INT8), (&fingerprint, Type::BYTEA)]).await?;
    }
    let (revision, ordinal) = (to_sql(head.announced.revision), i64::from(head.announced.ordinal));
    let sql = "UPDATE keyward.webhook_cursor SET revision = $1, ordinal = $2";
    transaction.execute(sql, &[(&revision, Type::INT8), (&ordinal, Type::INT8)]).await?;
    // A new key's number comes after those that there are.
    let sql =
        "SELECT setval(pg_get_serial_sequence('keyward.keys', 'number'), greatest(max(number), 1)) FROM keyward.keys";
    transaction.first(sql, &[]).await?;
    let (revision, commit) = (to_sql(head.newest.revision), Uuid::from_u128(head.newest.commit.0));
    let sql = "UPDATE keyward.counter SET revision = $1, commit_id = $2, previous_id = $2";
    transaction.execute(sql, &[(&revision, Type::INT8), (&commit, Type::UUID)]).await?;
    let (store, created_at) = (Uuid::from_u128(head.store.0), head.created_at.nanos());
    let sql = "UPDATE keyward.meta SET store_id = $1, created_at = $2";
    transaction.execute(sql, &[(&store, Type::UUID), (&created_at, Type::INT8)]).await?;
    transaction.execute("DELETE FROM keyward.copying", &[]).await?;
    Ok(())
}

/// What is written goes into an unfinished copy, or nowhere.
async fn is_copy(transaction: &Transaction, name: &str) -> Result<(), Fault> {
    match copying(transaction).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::OtherStore { store: name.to_owned() }.into()),
    }
}

async fn copying(transaction: &Transaction) -> Result<Option<StoreId>, Fault> {
    let row = transaction.first("SELECT source FROM keyward.copying", &[]).await?;
    row.map(|row| Columns::of(&row).bits().map(StoreId)).transpose()
}

async fn head(transaction: &Transaction) -> Result<Head, Fault> {
    let sql = "SELECT m.store_id, m.created_at, c.revision, c.commit_id, w.revision, w.ordinal \
               FROM keyward.meta m, keyward.counter c, keyward.webhook_cursor w";
    let row = transaction.first(sql, &[]).await?.ok_or_else(unexpected)?;
    let mut columns = Columns::of(&row);
    let (store, created_at) = (StoreId(columns.bits()?), Timestamp::from_nanos(columns.integer()?));
    let newest = Cursor { revision: unsigned(columns.integer()?)?, commit: CommitId(columns.bits()?) };
    let announced = Stamp { revision: unsigned(columns.integer()?)?, ordinal: unsigned(columns.integer()?)? };
    let rows = transaction.query("SELECT number, fingerprint FROM keyward.secrets ORDER BY number", &[]).await?;
    let secret = |row: &Row| {
        let mut columns = Columns::of(row);
        Ok((unsigned(columns.integer()?)?, columns.bytes()?))
    };
    let secrets = rows.iter().map(secret).collect::<Result<Vec<_>, Fault>>()?;
    Ok(Head { store, created_at, newest, announced, secrets, copying: copying(transaction).await? })
}

/// Where rows of a table are found. Those of an import are known by the number of its stage, and told with the
/// revision that took it in; what is merely staged is not there.
struct Arm {
    columns: String,
    from: String,
    key: String,
    real: &'static str,
}

fn arms(table: CopyTable) -> Vec<Arm> {
    let arm = |prefix: &str, from: &str, real, instead: &[(&str, &str)]| {
        let column = |name: &str| {
            let other = instead.iter().find(|(column, _)| *column == name);
            other.map_or_else(|| format!("{prefix}.{name}"), |(_, other)| (*other).to_owned())
        };
        let columns: Vec<String> = table.columns().iter().map(|it| column(it.name)).collect();
        let key: Vec<String> = columns.iter().take(table.key_width()).cloned().collect();
        Arm { columns: columns.join(", "), from: from.to_owned(), key: key.join(", "), real }
    };
    match table {
        CopyTable::Keys => {
            let instead =
                [("revision", "coalesce(s.revision, k.revision)"), ("updated_at", "coalesce(s.at, k.updated_at)")];
            vec![arm("k", "keyward.keys k LEFT JOIN keyward.stages s ON s.number = k.revision", REAL, &instead)]
        }
        CopyTable::Events => vec![
            arm("e", "keyward.events e", "e.revision > 0", &[]),
            arm(
                "e",
                "keyward.stages s JOIN keyward.events e ON e.revision = s.number",
                "s.revision IS NOT NULL",
                &[("revision", "s.revision"), ("at", "s.at")],
            ),
        ],
        CopyTable::Users
        | CopyTable::Revisions
        | CopyTable::Usage
        | CopyTable::Refusals
        | CopyTable::Once
        | CopyTable::Notices
        | CopyTable::Deliveries
        | CopyTable::Acceptances => vec![arm("t", &format!("keyward.{} t", table.name()), "true", &[])],
    }
}

/// Reads whole rows, those that `related` says of each place where they are found.
fn select(table: CopyTable, related: impl Fn(&Arm) -> String) -> String {
    let one = |arm: &Arm| format!("SELECT {} FROM {} {}", arm.columns, arm.from, related(arm));
    arms(table).iter().map(one).collect::<Vec<_>>().join(" UNION ALL ")
}

fn names(table: CopyTable) -> String {
    table.columns().iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

fn key(table: CopyTable) -> String {
    table.columns().iter().take(table.key_width()).map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// So many arrays as rows.
fn unnested(width: usize) -> String {
    let arrays: Vec<String> = (1..=width).map(|number| format!("${number}")).collect();
    format!("unnest({})", arrays.join(", "))
}

/// A value, or an array of them, and how it is sent.
type Sent = (Box<dyn ToSql + Sync + Send>, Type);

fn params(sent: &[Sent]) -> Vec<Param<'_>> {
    sent.iter().map(|(value, of)| (&**value as &(dyn ToSql + Sync), of.clone())).collect()
}

fn of_another_kind() -> Fault {
    Fault::Stored("a value of another kind than its column".to_owned())
}

fn number(value: &Value) -> Result<Option<i64>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(Some(*number)),
        Value::Text(_) | Value::Bytes(_) => Err(of_another_kind()),
    }
}

fn text(value: &Value) -> Result<Option<String>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::Text(text) => Ok(Some(text.clone())),
        Value::Number(_) | Value::Bytes(_) => Err(of_another_kind()),
    }
}

fn bytes(value: &Value) -> Result<Option<Vec<u8>>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::Bytes(bytes) => Ok(Some(bytes.clone())),
        Value::Number(_) | Value::Text(_) => Err(of_another_kind()),
    }
}

fn id(value: &Value) -> Result<Option<Uuid>, Fault> {
    let bytes = bytes(value)?;
    bytes.map(|bytes| Uuid::from_slice(&bytes).map_err(|_not_16| of_another_kind())).transpose()
}

/// The first `width` columns of `rows`, an array each.
fn sent(table: CopyTable, width: usize, rows: &[Vec<Value>]) -> Result<Vec<Sent>, Fault> {
    let mut arrays: Vec<Sent> = Vec::with_capacity(width);
    for (at, column) in table.columns().iter().take(width).enumerate() {
        let values = || rows.iter().map(move |row| row.get(at).unwrap_or(&Value::Null));
        arrays.push(match column.kind {
            Kind::Number => (Box::new(values().map(number).collect::<Result<Vec<_>, _>>()?), Type::INT8_ARRAY),
            Kind::Yes => {
                let yes = |value| Ok(number(value)?.map(|number| number != 0));
                (Box::new(values().map(yes).collect::<Result<Vec<_>, Fault>>()?), Type::BOOL_ARRAY)
            }
            Kind::Text => (Box::new(values().map(text).collect::<Result<Vec<_>, _>>()?), Type::TEXT_ARRAY),
            Kind::Id => (Box::new(values().map(id).collect::<Result<Vec<_>, _>>()?), Type::UUID_ARRAY),
            Kind::Bytes => (Box::new(values().map(bytes).collect::<Result<Vec<_>, _>>()?), Type::BYTEA_ARRAY),
        });
    }
    Ok(arrays)
}

/// A place's values, one each.
fn sent_one(table: CopyTable, place: &CopyPlace) -> Result<Vec<Sent>, Fault> {
    let mut values: Vec<Sent> = Vec::with_capacity(place.len());
    for (column, value) in table.columns().iter().zip(place) {
        values.push(match column.kind {
            Kind::Number => (Box::new(number(value)?), Type::INT8),
            Kind::Yes => (Box::new(number(value)?.map(|number| number != 0)), Type::BOOL),
            Kind::Text => (Box::new(text(value)?), Type::TEXT),
            Kind::Id => (Box::new(id(value)?), Type::UUID),
            Kind::Bytes => (Box::new(bytes(value)?), Type::BYTEA),
        });
    }
    Ok(values)
}

fn read_row(table: CopyTable, row: &Row) -> Result<CopyRow, Fault> {
    let columns = table.columns().iter().enumerate();
    columns
        .map(|(at, column)| {
            Ok(match column.kind {
                Kind::Number => row.try_get::<_, Option<i64>>(at)?.map_or(Value::Null, Value::Number),
                Kind::Yes => row.try_get::<_, Option<bool>>(at)?.map_or(Value::Null, |yes| Value::Number(yes.into())),
                Kind::Text => row.try_get::<_, Option<String>>(at)?.map_or(Value::Null, Value::Text),
                Kind::Id => {
                    let id = row.try_get::<_, Option<Uuid>>(at)?;
                    id.map_or(Value::Null, |id| Value::Bytes(id.as_bytes().to_vec()))
                }
                Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(at)?.map_or(Value::Null, Value::Bytes),
            })
        })
        .collect()
}
