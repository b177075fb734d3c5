//! Keys that are put aside in batches, to be taken in at once by writing one row.
//!
//! A staged key lies among the others, in every index, with its stage's number for a revision, which is
//! below zero; so does its event. What reads keys passes over those whose stage has no revision, and
//! tells the others with the stage's. So a million keys come true in the time of one, and no mutation
//! waits for more than one batch. All but the sweep is done with the counter's lock in hand.

use std::collections::HashMap;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::fault::Fault;
use super::rows::{Columns, REAL, id_of, to_count, to_sql, unsigned};
use super::session::{Param, Transaction, unexpected};
use super::write::{Place, SWEPT_MAX, Swept, Told, write_events, write_keys};
use crate::clock::Timestamp;
use crate::key::{Key, KeyId, TokenHash};
use crate::store::{Committed, STAGE_KEPT, StageId, Staged, Staging, StoreError};

/// How many rows are asked for or written at once.
const ROWS_MAX: usize = 1000;

/// Puts keys aside.
pub(super) async fn add(transaction: &Transaction, staging: &Staging, store: &str) -> Result<(), Fault> {
    let now = transaction.now();
    let (number, held) = begun(transaction, staging.stage, now, store).await?;
    let hashes = staging.keys.iter().flat_map(|staged| [Some(staged.key.hash), staged.other_hash]).flatten();
    let mut held_by = holders(transaction, &hashes.collect::<Vec<_>>(), Some(number)).await?;
    for (row, staged) in staging.keys.iter().enumerate() {
        for hash in [Some(staged.key.hash), staged.other_hash].into_iter().flatten() {
            if let Some(existing) = held_by.get(hash.as_bytes()) {
                return Err(Fault::Duplicate { row, existing: *existing });
            }
        }
        held_by.insert(*staged.key.hash.as_bytes(), staged.key.id);
    }
    let mut place = Place { revision: number, ordinal: held, at: now };
    for some in staging.keys.chunks(ROWS_MAX) {
        let keys: Vec<(i64, &Key)> = (place.ordinal..).zip(some.iter().map(|staged| &staged.key)).collect();
        write_keys(transaction, &keys, place).await?;
        let told = some.iter().map(|staged| Told { key: Some(id_of(staged.key.id)), user: None, event: &staged.event });
        write_events(transaction, &staging.actor, staging.from, told.collect(), place).await?;
        place.ordinal += to_count(some.len());
    }
    let sql = "UPDATE keyward.stages SET keys = $2, touched_at = $3 WHERE number = $1";
    let params: [Param<'_>; 3] = [(&number, Type::INT8), (&place.ordinal, Type::INT8), (&now.nanos(), Type::INT8)];
    transaction.execute(sql, &params).await?;
    Ok(())
}

/// The number of a stage and how many keys it holds. It is there from now on.
async fn begun(transaction: &Transaction, stage: StageId, now: Timestamp, store: &str) -> Result<(i64, i64), Fault> {
    let id = Uuid::from_u128(stage.0);
    let sql = "SELECT number, keys, lost OR revision IS NOT NULL FROM keyward.stages WHERE id = $1 FOR UPDATE";
    if let Some(row) = transaction.first(sql, &[(&id, Type::UUID)]).await? {
        let mut columns = Columns::of(&row);
        let (number, keys) = (columns.integer()?, columns.integer()?);
        if columns.yes()? {
            return Err(StoreError::StageLost { store: store.to_owned() }.into());
        }
        return Ok((number, keys));
    }
    let sql = "INSERT INTO keyward.stages (number, id, keys, touched_at, lost) \
         SELECT coalesce(min(number), 0) - 1, $1, 0, $2, false FROM keyward.stages RETURNING number";
    let params: [Param<'_>; 2] = [(&id, Type::UUID), (&now.nanos(), Type::INT8)];
    let row = transaction.first(sql, &params).await?.ok_or_else(unexpected)?;
    Ok((Columns::of(&row).integer()?, 0))
}

/// The keys that have these hashes, of those that are real or of the stage `own`. Those of other stages
/// make way: they are forgotten, and their stages are lost.
pub(super) async fn holders(
    transaction: &Transaction,
    hashes: &[TokenHash],
    own: Option<i64>,
) -> Result<HashMap<[u8; 64], KeyId>, Fault> {
    let sql = format!("SELECT k.hash, k.id, k.revision, {REAL} FROM keyward.keys k WHERE k.hash = ANY($1)");
    let (mut held, mut stages, mut in_the_way) = (HashMap::new(), Vec::new(), Vec::new());
    for some in hashes.chunks(ROWS_MAX) {
        let some: Vec<&[u8]> = some.iter().map(|hash| hash.as_bytes().as_slice()).collect();
        for row in transaction.query(&sql, &[(&some, Type::BYTEA_ARRAY)]).await? {
            let mut columns = Columns::of(&row);
            let (hash, id) = (columns.bytes()?, columns.bits()?);
            let revision = columns.integer()?;
            if columns.yes()? || own == Some(revision) {
                held.insert(hash, KeyId::from_bits(id));
            } else {
                stages.push(revision);
                in_the_way.push(Uuid::from_u128(id));
            }
        }
    }
    if !in_the_way.is_empty() {
        let lost = "UPDATE keyward.stages SET lost = true WHERE number = ANY($1)";
        transaction.execute(lost, &[(&stages, Type::INT8_ARRAY)]).await?;
        for table in ["events WHERE key_id", "keys WHERE id"] {
            let sql = format!("DELETE FROM keyward.{table} = ANY($1)");
            transaction.execute(&sql, &[(&in_the_way, Type::UUID_ARRAY)]).await?;
        }
    }
    Ok(held)
}

/// Takes in a whole stage: its keys are real with this commit.
pub(super) async fn take_in(
    transaction: &Transaction,
    staged: Staged,
    committed: Committed,
    store: &str,
) -> Result<(), Fault> {
    let params: [Param<'_>; 4] = [
        (&Uuid::from_u128(staged.stage.0), Type::UUID),
        (&i64::from(staged.keys), Type::INT8),
        (&to_sql(committed.revision), Type::INT8),
        (&committed.at.nanos(), Type::INT8),
    ];
    let sql = "UPDATE keyward.stages SET revision = $3, at = $4 \
         WHERE id = $1 AND keys = $2 AND NOT lost AND revision IS NULL";
    let taken = transaction.execute(sql, &params).await?;
    if taken == 1 { Ok(()) } else { Err(StoreError::StageLost { store: store.to_owned() }.into()) }
}

/// Gives up a stage.
pub(super) async fn give_up(transaction: &Transaction, stage: StageId) -> Result<(), Fault> {
    let sql = "UPDATE keyward.stages SET lost = true WHERE id = $1 AND revision IS NULL";
    transaction.execute(sql, &[(&Uuid::from_u128(stage.0), Type::UUID)]).await?;
    Ok(())
}

/// Forgets some of what was staged and given up or left alone.
pub(super) async fn forget(transaction: &Transaction, now: Timestamp) -> Result<Swept, Fault> {
    let before = now.minus(STAGE_KEPT).nanos();
    // Whoever comes back for it finds that it is no longer whole.
    let sql = "UPDATE keyward.stages SET lost = true WHERE number = (SELECT number FROM keyward.stages \
         WHERE revision IS NULL AND (lost OR touched_at <= $1) LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING number";
    let Some(row) = transaction.first(sql, &[(&before, Type::INT8)]).await? else { return Ok(Swept::All) };
    let number = Columns::of(&row).integer()?;
    let sql = "WITH told AS (DELETE FROM keyward.events WHERE revision = $1 AND ordinal IN \
         (SELECT ordinal FROM keyward.events WHERE revision = $1 ORDER BY ordinal LIMIT $2) RETURNING key_id), \
         gone AS (DELETE FROM keyward.keys WHERE id IN (SELECT key_id FROM told)) SELECT count(*) FROM told";
    let params: [Param<'_>; 2] = [(&number, Type::INT8), (&to_sql(SWEPT_MAX), Type::INT8)];
    let row = transaction.first(sql, &params).await?.ok_or_else(unexpected)?;
    let forgotten: u64 = unsigned(Columns::of(&row).integer()?)?;
    if forgotten < SWEPT_MAX {
        transaction.execute("DELETE FROM keyward.stages WHERE number = $1", &[(&number, Type::INT8)]).await?;
    }
    // There may be another.
    Ok(Swept::Part)
}
