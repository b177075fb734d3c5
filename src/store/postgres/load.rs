//! The whole content at once, for a gateway that starts or begins anew: as much of each key as decides on
//! requests, and by two connections where there is much of it, both of one moment.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::Shared;
use super::fault::Fault;
use super::read::poll;
use super::rows::{Columns, Decoder, LOADED_COLUMNS, REAL, USER_COLUMNS};
use super::session::{Kind, READING, Transaction, unexpected};
use crate::store::{Cursor, LoadLane, Poll};

/// A table of fewer pages than this (some 8 MB) is read by one connection.
const SHARED_PAGES_MIN: i64 = 1_000;

/// Hands over everything. `spare` lends a second connection, if it has one.
pub(super) async fn load(
    shared: &Shared,
    permit: Option<OwnedSemaphorePermit>,
    spare: Arc<Semaphore>,
    lanes: Vec<LoadLane>,
) -> Result<Poll, Fault> {
    let transaction = shared.begin(Kind::ReadAllAny, permit).await?;
    let poll = poll(&transaction, Cursor::default()).await?;
    let mut lanes = lanes.into_iter();
    let Some(mut first) = lanes.next() else { return Ok(poll) };
    users(&transaction, &mut first).await?;
    let second = match lanes.next() {
        Some(lane) => beside(shared, &transaction, spare).await?.map(|(other, middle)| (other, middle, lane)),
        None => None,
    };
    let Some((other, middle, second)) = second else {
        keys(transaction, "true", first).await?;
        return Ok(poll);
    };
    // On a thread each. Whoever stops waiting ends both.
    let mut halves = JoinSet::new();
    halves.spawn(keys_of_half(transaction, Half::Before(middle), first));
    halves.spawn(keys_of_half(other, Half::From(middle), second));
    while let Some(ended) = halves.join_next().await {
        ended.unwrap_or_else(|error| Err(Fault::Around(error.to_string())))?;
    }
    Ok(poll)
}

/// A second transaction that sees what `first` sees, and the page of the table at which it shall begin. None
/// where one connection is enough, or is all that there is: none is free, or a pooler leads elsewhere.
async fn beside(
    shared: &Shared,
    first: &Transaction,
    spare: Arc<Semaphore>,
) -> Result<Option<(Transaction, i64)>, Fault> {
    let pages = "SELECT pg_relation_size('keyward.keys') / current_setting('block_size')::bigint";
    let row = first.first(pages, &[]).await?.ok_or_else(unexpected)?;
    let pages = Columns::of(&row).integer()?;
    let Some(permit) = spare.try_acquire_owned().ok().filter(|_| pages >= SHARED_PAGES_MIN) else { return Ok(None) };
    let row = first.first("SELECT pg_export_snapshot()", &[]).await?.ok_or_else(unexpected)?;
    let snapshot = Columns::of(&row).text()?;
    if !snapshot.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return Err(unexpected());
    }
    let begin = shared.opening(READING, std::time::Duration::ZERO);
    let begun = shared.begin_by(&format!("{begin}; SET TRANSACTION SNAPSHOT '{snapshot}'"), Some(permit)).await;
    Ok(begun.ok().map(|(other, _rows)| (other, pages / 2)))
}

/// A part of the table, by the pages in which rows lie: each server process reads only its own. Before version
/// 14 it reads all of them, and leaves out the others'.
#[derive(Debug, Clone, Copy)]
enum Half {
    Before(i64),
    From(i64),
}

async fn keys_of_half(transaction: Transaction, half: Half, lane: LoadLane) -> Result<(), Fault> {
    let condition = match half {
        Half::Before(page) => format!("k.ctid < '({page},0)'::tid"),
        Half::From(page) => format!("k.ctid >= '({page},0)'::tid"),
    };
    keys(transaction, &condition, lane).await
}

/// Hands over keys in whatever order they lie: sorting ten million by number would take longer than reading them.
async fn keys(transaction: Transaction, condition: &str, mut lane: LoadLane) -> Result<(), Fault> {
    let mut decoder = Decoder::default();
    let sql = format!("SELECT {LOADED_COLUMNS} FROM keyward.keys k WHERE {condition} AND {REAL}");
    let mut rows = transaction.stream(&sql, &[]).await?;
    while let Some(row) = rows.next().await? {
        lane(decoder.loaded(&row)?);
    }
    drop(rows);
    // At once: a server ends transactions that nobody goes on with.
    transaction.leave();
    Ok(())
}

async fn users(transaction: &Transaction, lane: &mut LoadLane) -> Result<(), Fault> {
    let mut decoder = Decoder::default();
    let mut rows = transaction.stream(&format!("SELECT {USER_COLUMNS} FROM keyward.users u"), &[]).await?;
    while let Some(row) = rows.next().await? {
        lane(decoder.user_loaded(&row)?);
    }
    Ok(())
}
