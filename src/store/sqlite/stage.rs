//! Keys that are put aside in batches, to be taken in at once by writing one row.
//!
//! A staged key lies among the others, in every index, with its stage's number for a revision, which is
//! below zero; so does its event. What reads keys passes over those whose stage has no revision, and
//! tells the others with the stage's. So a million keys come true in the time of one, and no mutation
//! waits for more than one batch.

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use super::rows::{Place, to_sql, write_event, write_key};
use super::write::{SWEPT_MAX, Swept};
use crate::clock::Timestamp;
use crate::key::{Event, KeyId, Stamp, Subject, TokenHash};
use crate::store::{Committed, STAGE_KEPT, StageId, Staged, Staging, StoreError};

/// Puts keys aside.
pub(super) fn add(connection: &Connection, staging: &Staging, now: Timestamp, store: &str) -> Result<(), Fault> {
    let (number, held) = begun(connection, staging.stage, now, store)?;
    for ((row, staged), ordinal) in staging.keys.iter().enumerate().zip(held..) {
        for hash in [Some(staged.key.hash), staged.other_hash].into_iter().flatten() {
            if let Some(existing) = holder(connection, &hash, Some(number))? {
                return Err(Fault::Duplicate { row, existing });
            }
        }
        let place = Place { revision: number, ordinal };
        write_key(connection, &staged.key, now, place)?;
        let event = Event {
            stamp: Stamp::default(),
            at: now,
            kind: staged.event.kind,
            actor: staging.actor.clone(),
            from: staging.from,
            subject: Subject::Key(staged.key.id),
            changes: staged.event.changes.clone(),
        };
        write_event(connection, &event, place)?;
    }
    let added = i64::try_from(staging.keys.len()).unwrap_or(i64::MAX);
    connection
        .prepare_cached("UPDATE stages SET keys = keys + ?2, touched_at = ?3 WHERE number = ?1")?
        .execute(params![number, added, now.nanos()])?;
    Ok(())
}

/// The number of a stage and how many keys it holds. It is there from now on.
fn begun(connection: &Connection, stage: StageId, now: Timestamp, store: &str) -> Result<(i64, u32), Fault> {
    let known: Option<(i64, u32, bool)> = connection
        .prepare_cached("SELECT number, keys, lost OR revision IS NOT NULL FROM stages WHERE id = ?1")?
        .query_row(params![stage.0.to_be_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    match known {
        Some((number, keys, false)) => Ok((number, keys)),
        Some((_, _, true)) => Err(StoreError::StageLost { store: store.to_owned() }.into()),
        None => {
            let number = connection
                .prepare_cached(
                    "INSERT INTO stages (number, id, keys, touched_at, lost) \
                     SELECT coalesce(min(number), 0) - 1, ?1, 0, ?2, 0 FROM stages RETURNING number",
                )?
                .query_row(params![stage.0.to_be_bytes(), now.nanos()], |row| row.get(0))?;
            Ok((number, 0))
        }
    }
}

/// The key that has `hash`, if one does that is real or of the stage `own`. One of another stage makes
/// way: it is forgotten, and its stage is lost.
pub(super) fn holder(connection: &Connection, hash: &TokenHash, own: Option<i64>) -> Result<Option<KeyId>, Fault> {
    let found: Option<([u8; 16], i64, bool)> = connection
        .prepare_cached(
            "SELECT k.id, k.revision, k.revision > 0 OR k.revision IN \
             (SELECT number FROM stages WHERE revision IS NOT NULL) FROM keys k WHERE k.hash = ?1",
        )?
        .query_row(params![hash.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((id, stage, is_real)) = found else { return Ok(None) };
    if is_real || own == Some(stage) {
        return Ok(Some(KeyId::from_bits(u128::from_be_bytes(id))));
    }
    connection.prepare_cached("UPDATE stages SET lost = 1 WHERE number = ?1")?.execute(params![stage])?;
    connection.prepare_cached("DELETE FROM events WHERE key_id = ?1")?.execute(params![id])?;
    connection.prepare_cached("DELETE FROM keys WHERE id = ?1")?.execute(params![id])?;
    Ok(None)
}

/// Takes in a whole stage: its keys are real with this commit.
pub(super) fn take_in(connection: &Connection, staged: Staged, committed: Committed, store: &str) -> Result<(), Fault> {
    let taken = connection
        .prepare_cached(
            "UPDATE stages SET revision = ?3, at = ?4 WHERE id = ?1 AND keys = ?2 AND lost = 0 AND revision IS NULL",
        )?
        .execute(params![
            staged.stage.0.to_be_bytes(),
            staged.keys,
            to_sql(committed.revision),
            committed.at.nanos()
        ])?;
    if taken == 1 { Ok(()) } else { Err(StoreError::StageLost { store: store.to_owned() }.into()) }
}

/// Gives up a stage.
pub(super) fn give_up(connection: &Connection, stage: StageId) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE stages SET lost = 1 WHERE id = ?1 AND revision IS NULL")?
        .execute(params![stage.0.to_be_bytes()])?;
    Ok(())
}

/// Forgets some of what was staged and given up or left alone.
pub(super) fn forget(connection: &Connection, now: Timestamp) -> Result<Swept, Fault> {
    let left: Option<i64> = connection
        .prepare_cached("SELECT number FROM stages WHERE revision IS NULL AND (lost OR touched_at <= ?1) LIMIT 1")?
        .query_row(params![now.minus(STAGE_KEPT).nanos()], |row| row.get(0))
        .optional()?;
    let Some(number) = left else { return Ok(Swept::All) };
    // Whoever comes back for it finds that it is no longer whole.
    connection.prepare_cached("UPDATE stages SET lost = 1 WHERE number = ?1")?.execute(params![number])?;
    let most = i64::try_from(SWEPT_MAX).unwrap_or(i64::MAX);
    let first = "SELECT ordinal FROM events WHERE revision = ?1 ORDER BY ordinal LIMIT ?2";
    connection
        .prepare_cached(&format!(
            "DELETE FROM keys WHERE id IN (SELECT key_id FROM events WHERE revision = ?1 AND ordinal IN ({first}))"
        ))?
        .execute(params![number, most])?;
    let forgotten = connection
        .prepare_cached(&format!("DELETE FROM events WHERE revision = ?1 AND ordinal IN ({first})"))?
        .execute(params![number, most])?;
    if forgotten < SWEPT_MAX {
        connection.prepare_cached("DELETE FROM stages WHERE number = ?1")?.execute(params![number])?;
    }
    // There may be another.
    Ok(Swept::Part)
}
