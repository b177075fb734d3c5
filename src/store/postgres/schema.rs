//! The tables: making them, and bringing them up to date under a lock.

use uuid::Uuid;

use super::fault::Fault;
use super::session::{Kind, NOW};
use super::{Shared, session};
use crate::secret;
use crate::store::{StoreError, StoreId};

/// Migration `n` is the `n`th from 1.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("../migrations/postgres/0001_store.sql"), include_str!("../migrations/postgres/0002_history.sql")];

/// The lock that a migration is made under: `KWrd` and a number, as one of PostgreSQL's own.
const MIGRATION_LOCK: i64 = 0x4B57_7264_0000_0001;

/// Whether a database without tables becomes a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// It does.
    Fill,
    /// It is no store.
    Refuse,
}

/// What was found, and whether it was made just now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) store: StoreId,
    pub(super) made: bool,
}

/// Looks at the tables, and brings them up to date.
pub(super) async fn bring_up_to_date(shared: &Shared, empty: Empty) -> Result<Found, Fault> {
    match look(shared).await {
        Ok((store, applied)) if applied == MIGRATIONS.len() => Ok(Found { store, made: false }),
        Ok(_) => migrate(shared, Empty::Refuse).await,
        Err(Fault::NoStore) if empty == Empty::Fill => migrate(shared, empty).await,
        Err(fault) => Err(fault),
    }
}

/// The store's id and how many migrations were applied.
async fn look(shared: &Shared) -> Result<(StoreId, usize), Fault> {
    let transaction = shared.begin(Kind::ReadAny, None).await?;
    let row = transaction.first("SELECT store_id, migrations::bigint FROM keyward.meta", &[]).await?;
    let found = read(shared, row.as_ref())?;
    transaction.leave();
    Ok(found)
}

fn read(shared: &Shared, row: Option<&tokio_postgres::Row>) -> Result<(StoreId, usize), Fault> {
    let Some(row) = row else { return Err(Fault::Stored("it has no store id".to_owned())) };
    let mut columns = super::rows::Columns::of(row);
    let store = StoreId(columns.bits()?);
    let applied: usize = super::rows::unsigned(columns.integer()?)?;
    if applied > MIGRATIONS.len() {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (found, known) = (number(applied), number(MIGRATIONS.len()));
        return Err(StoreError::TooNew { store: shared.name.clone(), found, known }.into());
    }
    Ok((store, applied))
}

async fn migrate(shared: &Shared, empty: Empty) -> Result<Found, Fault> {
    // Whoever comes second finds the work done. A migration takes as long as it takes.
    let begin = shared.opening(session::WRITING, std::time::Duration::ZERO);
    let sql = format!("{begin}; SELECT pg_advisory_xact_lock({MIGRATION_LOCK}); SELECT {NOW}");
    let (transaction, rows) = shared.begin_by(&sql, None).await?;
    let now = shared.time(rows.last().ok_or_else(session::unexpected)?.get(0))?;
    let there = transaction.first("SELECT to_regclass('keyward.meta') IS NOT NULL", &[]).await?;
    let is_there = super::rows::Columns::of(&there.ok_or_else(session::unexpected)?).yes()?;
    let (known, applied) = if is_there {
        let row = transaction.first("SELECT store_id, migrations::bigint FROM keyward.meta", &[]).await?;
        let (store, applied) = read(shared, row.as_ref())?;
        (Some(store), applied)
    } else if empty == Empty::Fill {
        (None, 0)
    } else {
        return Err(Fault::NoStore);
    };
    for migration in MIGRATIONS.iter().skip(applied) {
        transaction.simple(migration).await?;
    }
    let newest = MIGRATIONS.len();
    let store = match known {
        Some(store) => {
            transaction.simple(&format!("UPDATE keyward.meta SET migrations = {newest}")).await?;
            store
        }
        None => {
            let id = Uuid::from_bytes(secret::random()?);
            let sql = format!(
                "INSERT INTO keyward.meta (store_id, migrations, created_at) VALUES ('{id}', {newest}, {})",
                now.nanos()
            );
            transaction.simple(&sql).await?;
            StoreId(id.as_u128())
        }
    };
    transaction.commit().await?;
    Ok(Found { store, made: known.is_none() })
}
