//! Whole rows in SQLite, for a copy from or into another store.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};

use super::fault::Fault;
use super::read;
use super::rows::{Columns, REAL, to_sql, unsigned};
use super::{OfStore, SqliteStore};
use crate::clock::Timestamp;
use crate::key::Stamp;
use crate::store::{
    Answer, CommitId, CopyPlace, CopyRow, CopyStore, CopyTable, Cursor, Head, StoreError, StoreId, Value,
};

impl CopyStore for SqliteStore {
    fn head(&self) -> Answer<'_, Head> {
        // An unfinished copy gets its source's id only at its end; until then it is known by its own.
        self.read_with(OfStore::Any, |connection, _shared| head(connection))
    }

    fn count(&self, table: CopyTable) -> Answer<'_, u64> {
        self.read_with(OfStore::This, move |connection, _shared| {
            let arms = arms(table);
            let counts: Vec<_> =
                arms.iter().map(|arm| format!("(SELECT count(*) FROM {} WHERE {})", arm.from, arm.real)).collect();
            let sql = format!("SELECT {}", counts.join(" + "));
            let count: i64 = connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
            unsigned(count)
        })
    }

    fn rows(&self, table: CopyTable, after: Option<CopyPlace>, limit: usize) -> Answer<'_, Vec<CopyRow>> {
        self.read_with(OfStore::This, move |connection, _shared| {
            let order: Vec<String> = (1..=table.key_width()).map(|column| column.to_string()).collect();
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let relation = after.as_ref().map(|_| ">");
            let sql = format!("{} ORDER BY {} LIMIT {limit}", select(table, relation), order.join(", "));
            let mut statement = connection.prepare_cached(&sql)?;
            let mut found = statement.query(params_from_iter(after.into_iter().flatten()))?;
            let mut rows = Vec::new();
            while let Some(row) = found.next()? {
                rows.push(read_row(table, row)?);
            }
            Ok(rows)
        })
    }

    fn rows_at(&self, table: CopyTable, places: Vec<CopyPlace>) -> Answer<'_, Vec<CopyRow>> {
        self.read_with(OfStore::This, move |connection, _shared| {
            let mut statement = connection.prepare_cached(&select(table, Some("=")))?;
            let mut rows = Vec::new();
            for place in places {
                let mut found = statement.query(params_from_iter(place))?;
                if let Some(row) = found.next()? {
                    rows.push(read_row(table, row)?);
                }
            }
            Ok(rows)
        })
    }

    fn begin_copy(&self, of: StoreId) -> Answer<'_, ()> {
        self.write_with(move |connection, _now| {
            connection.execute("INSERT INTO copying (one, source) VALUES (1, ?1)", params![of.0.to_be_bytes()])?;
            Ok(())
        })
    }

    fn write_rows(&self, table: CopyTable, rows: Vec<CopyRow>) -> Answer<'_, ()> {
        let name = self.shared.name.clone();
        self.write_with(move |connection, _now| {
            is_copy(connection, &name)?;
            let columns = table.columns();
            let others = columns.iter().skip(table.key_width());
            let set: Vec<String> = others.map(|column| format!("{0} = excluded.{0}", column.name)).collect();
            let sql = format!(
                "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}",
                table.name(),
                names(table),
                marks(columns.len()),
                key(table),
                set.join(", ")
            );
            let mut statement = connection.prepare_cached(&sql)?;
            for row in rows {
                statement.execute(params_from_iter(row))?;
            }
            Ok(())
        })
    }

    fn remove_rows(&self, table: CopyTable, places: Vec<CopyPlace>) -> Answer<'_, ()> {
        let name = self.shared.name.clone();
        self.write_with(move |connection, _now| {
            is_copy(connection, &name)?;
            let sql = format!("DELETE FROM {} WHERE ({}) = ({})", table.name(), key(table), marks(table.key_width()));
            let mut statement = connection.prepare_cached(&sql)?;
            for place in places {
                statement.execute(params_from_iter(place))?;
            }
            Ok(())
        })
    }

    fn finish_copy(&self, head: Head) -> Answer<'_, ()> {
        let name = self.shared.name.clone();
        self.write_with(move |connection, _now| {
            is_copy(connection, &name)?;
            connection.execute("DELETE FROM secrets", [])?;
            for (number, fingerprint) in &head.secrets {
                connection.execute(
                    "INSERT INTO secrets (number, fingerprint) VALUES (?1, ?2)",
                    params![number, fingerprint],
                )?;
            }
            connection.execute(
                "UPDATE webhook_cursor SET revision = ?1, ordinal = ?2",
                params![to_sql(head.announced.revision), head.announced.ordinal],
            )?;
            connection.execute(
                "UPDATE counter SET revision = ?1, commit_id = ?2",
                params![to_sql(head.newest.revision), head.newest.commit.0.to_be_bytes()],
            )?;
            connection.execute(
                "UPDATE meta SET store_id = ?1, created_at = ?2",
                params![head.store.0.to_be_bytes(), head.created_at.nanos()],
            )?;
            connection.execute("DELETE FROM copying", [])?;
            Ok(())
        })
    }
}

/// What is written goes into an unfinished copy, or nowhere.
fn is_copy(connection: &Connection, name: &str) -> Result<(), Fault> {
    match copying(connection)? {
        Some(_) => Ok(()),
        None => Err(StoreError::OtherStore { store: name.to_owned() }.into()),
    }
}

/// The store of which this is an unfinished copy, if it is one.
pub(super) fn copying(connection: &Connection) -> Result<Option<StoreId>, Fault> {
    let source: Option<[u8; 16]> =
        connection.prepare_cached("SELECT source FROM copying")?.query_row([], |row| row.get(0)).optional()?;
    Ok(source.map(u128::from_be_bytes).map(StoreId))
}

pub(super) fn head(connection: &Connection) -> Result<Head, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT m.store_id, m.created_at, c.revision, c.commit_id, w.revision, w.ordinal \
         FROM meta m, counter c, webhook_cursor w",
    )?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else {
        return Err(Fault::Stored("it has no id, counter or place in its announcements".to_owned()));
    };
    let mut columns = Columns { row, next: 0 };
    let (store, created_at) = (StoreId(columns.bits()?), Timestamp::from_nanos(columns.integer()?));
    let newest = Cursor { revision: unsigned(columns.integer()?)?, commit: CommitId(columns.bits()?) };
    let announced = Stamp { revision: unsigned(columns.integer()?)?, ordinal: unsigned(columns.integer()?)? };
    Ok(Head {
        store,
        created_at,
        newest,
        announced,
        secrets: read::secrets(connection)?,
        copying: copying(connection)?,
    })
}

/// Where rows of a table are found. Those of an import are known by the number of its stage, and told with the
/// revision that took it in; what is merely staged is not there.
struct Arm {
    columns: String,
    from: &'static str,
    key: String,
    real: &'static str,
}

fn arms(table: CopyTable) -> Vec<Arm> {
    let prefixed = |prefix: &str, instead: &[(&str, &str)]| {
        let column = |name: &str| {
            let other = instead.iter().find(|(column, _)| *column == name);
            other.map_or_else(|| format!("{prefix}.{name}"), |(_, other)| (*other).to_owned())
        };
        let columns: Vec<String> = table.columns().iter().map(|it| column(it.name)).collect();
        let key: Vec<String> = columns.iter().take(table.key_width()).cloned().collect();
        (columns.join(", "), key.join(", "))
    };
    let arm = |from, real, (columns, key)| Arm { columns, from, key, real };
    match table {
        CopyTable::Keys => {
            let instead =
                [("revision", "coalesce(s.revision, k.revision)"), ("updated_at", "coalesce(s.at, k.updated_at)")];
            vec![arm("keys k LEFT JOIN stages s ON s.number = k.revision", REAL, prefixed("k", &instead))]
        }
        CopyTable::Events => vec![
            arm("events e", "e.revision > 0", prefixed("e", &[])),
            arm(
                "stages s JOIN events e ON e.revision = s.number",
                "s.revision IS NOT NULL",
                prefixed("e", &[("revision", "s.revision"), ("at", "s.at")]),
            ),
        ],
        CopyTable::Users => vec![arm("users t", "1", prefixed("t", &[]))],
        CopyTable::Revisions => vec![arm("revisions t", "1", prefixed("t", &[]))],
        CopyTable::Usage => vec![arm("key_usage t", "1", prefixed("t", &[]))],
        CopyTable::Refusals => vec![arm("audit_refusals t", "1", prefixed("t", &[]))],
        CopyTable::Once => vec![arm("once t", "1", prefixed("t", &[]))],
        CopyTable::Notices => vec![arm("webhook_notices t", "1", prefixed("t", &[]))],
        CopyTable::Deliveries => vec![arm("webhook_deliveries t", "1", prefixed("t", &[]))],
        CopyTable::Acceptances => vec![arm("acceptances t", "1", prefixed("t", &[]))],
    }
}

/// Reads whole rows; where there is a relation, those whose key is so to the numbered parameters.
fn select(table: CopyTable, relation: Option<&str>) -> String {
    let parameters: Vec<String> = (1..=table.key_width()).map(|number| format!("?{number}")).collect();
    let related = |arm: &Arm| match relation {
        Some(relation) => format!(" AND ({}) {relation} ({})", arm.key, parameters.join(", ")),
        None => String::new(),
    };
    let arms = arms(table);
    let arms: Vec<String> = arms
        .iter()
        .map(|arm| format!("SELECT {} FROM {} WHERE {}{}", arm.columns, arm.from, arm.real, related(arm)))
        .collect();
    arms.join(" UNION ALL ")
}

fn names(table: CopyTable) -> String {
    table.columns().iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

fn key(table: CopyTable) -> String {
    table.columns().iter().take(table.key_width()).map(|column| column.name).collect::<Vec<_>>().join(", ")
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

fn read_row(table: CopyTable, row: &Row<'_>) -> Result<CopyRow, Fault> {
    let read = |at: usize| -> Result<Value, Fault> {
        Ok(match row.get_ref(at)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Number(number),
            ValueRef::Text(text) => Value::Text(
                String::from_utf8(text.to_vec())
                    .map_err(|_not| Fault::Stored(format!("column {at} of a row of {} is no text", table.name())))?,
            ),
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
            ValueRef::Real(_) => {
                return Err(Fault::Stored(format!("column {at} of a row of {} is a fraction", table.name())));
            }
        })
    };
    (0..table.columns().len()).map(read).collect()
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
