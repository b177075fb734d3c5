//! The bounded miss path: what is done about a token that the table does not know.
//!
//! The failure limiter of the client, then the cache of tokens that were looked for in vain, then one
//! read of the store for all who ask for the same token, within a budget for all misses together. A flood of junk costs one read a token, 500 a second, and cannot stand
//! before a known key, for which nothing here is asked.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Notify, OnceCell};

use super::budget::Budget;
use super::metrics::SyncMetrics;
use crate::clock::Timestamp;
use crate::key::{Record, TokenHash};
use crate::store::{SharedStore, StoreError};
use crate::table::{Head, KeyRow, MissAnswer, MissResolver, Resolving, Table, UserRow};
use crate::wire::{FailureLimit, Failures};

/// The miss path over a store.
#[derive(Debug)]
pub(super) struct Misses {
    table: Arc<Table>,
    store: SharedStore,
    metrics: Arc<SyncMetrics>,
    failures: Failures,
    budget: Budget,
    unknown_grace: Duration,
    in_vain: moka::sync::Cache<Head, InVain>,
    flights: DashMap<Head, Arc<OnceCell<MissAnswer>>>,
    /// Wakes the follower, so that a store found away is asked for again at once.
    wake: Arc<Notify>,
}

/// A token that the store did not know.
#[derive(Debug, Clone, Copy)]
struct InVain {
    /// It is not looked for again before this instant,
    until: Timestamp,
    /// unless the table has changed since.
    version: u64,
}

const IN_VAIN_MAX: u64 = 100_000;
const IN_VAIN_FOR: Duration = Duration::from_secs(2);
/// How long a request waits for the store. Beyond it the store counts as away.
const PATIENCE: Duration = Duration::from_secs(1);

impl Misses {
    pub(super) fn new(
        table: Arc<Table>,
        store: SharedStore,
        metrics: Arc<SyncMetrics>,
        limits: (FailureLimit, u32, Duration),
        wake: Arc<Notify>,
    ) -> Self {
        let (failure_limit, misses_per_second, unknown_grace) = limits;
        Self {
            table,
            store,
            metrics,
            failures: Failures::new(failure_limit),
            budget: Budget::new(misses_per_second),
            unknown_grace,
            in_vain: moka::sync::Cache::new(IN_VAIN_MAX),
            flights: DashMap::new(),
            wake,
        }
    }

    /// What can be said without asking the store.
    fn at_once(&self, hash: &TokenHash, client: IpAddr, now: Timestamp) -> Option<MissAnswer> {
        if let Err(retry_after) = self.failures.take(client, now) {
            return Some(MissAnswer::TooManyFailures { retry_after });
        }
        let known_in_vain = self.in_vain.get(&Head::from(hash));
        if known_in_vain.is_some_and(|known| now < known.until && known.version == self.table.version()) {
            return Some(MissAnswer::Unknown);
        }
        self.without_store(now)
    }

    async fn ask_store(&self, hash: &TokenHash, client: IpAddr, now: Timestamp) -> MissAnswer {
        let flight = Flight::join(&self.flights, Head::from(hash));
        let answer = flight.answer(self.find(hash, now)).await;
        if let MissAnswer::Found(_) = answer {
            self.failures.give_back(client, now);
        }
        answer
    }

    /// The answer while the store cannot be asked; none while it can.
    fn without_store(&self, now: Timestamp) -> Option<MissAnswer> {
        if !self.table.is_ready() {
            return Some(MissAnswer::UnknownYet);
        }
        let lost_at = self.table.contact_lost_at()?;
        Some(if now.since(lost_at) < self.unknown_grace { MissAnswer::UnknownYet } else { MissAnswer::Unknown })
    }

    async fn find(&self, hash: &TokenHash, now: Timestamp) -> MissAnswer {
        if !self.budget.take(now) {
            return MissAnswer::Overloaded;
        }
        let (generation, version) = (self.table.generation(), self.table.version());
        match tokio::time::timeout(PATIENCE, self.store.find(*hash)).await {
            Ok(Ok((Some((key, user)), at))) => {
                let found = Record::of(&key, user.as_ref());
                let (key, user) = (KeyRow::from(key), user.map(UserRow::from));
                let found = self.table.insert_found(generation, at.revision, &key, user.as_ref(), found);
                MissAnswer::Found(self.followed(hash, at.revision, found).await)
            }
            Ok(Ok((None, _))) => {
                self.in_vain.insert(Head::from(hash), InVain { until: now.plus(IN_VAIN_FOR), version });
                MissAnswer::Unknown
            }
            Ok(Err(error @ StoreError::Damaged { .. })) => {
                // One row that makes no sense does not mean that the store is away.
                self.metrics.store_error("find");
                tracing::error!(%error, "a key cannot be read");
                MissAnswer::UnknownYet
            }
            Ok(Err(error)) => self.lost(&error.to_string(), now),
            Err(_elapsed) => self.lost("no answer in time", now),
        }
    }

    /// What was found, once the table knows it. Some of it the feed alone may bring, and until then whatever lasts
    /// would be decided again as of an unknown key, and cut.
    async fn followed(&self, hash: &TokenHash, revision: u64, found: Record) -> Record {
        if self.table.lookup(hash).is_some() {
            return found;
        }
        self.wake.notify_one();
        let _late = tokio::time::timeout(PATIENCE, self.table.wait_applied(revision)).await;
        self.table.lookup(hash).filter(|_| self.table.applied() >= revision).unwrap_or(found)
    }

    fn lost(&self, cause: &str, now: Timestamp) -> MissAnswer {
        self.metrics.store_error("find");
        if self.table.contact_lost(now) {
            tracing::warn!(store = self.store.name(), cause, "the store cannot be asked for an unknown token");
        }
        self.wake.notify_one();
        self.without_store(now).unwrap_or(MissAnswer::UnknownYet)
    }
}

impl MissResolver for Misses {
    fn resolve(&self, hash: TokenHash, client: IpAddr, now: Timestamp) -> Resolving<'_> {
        if let Some(answer) = self.at_once(&hash, client, now) {
            self.metrics.miss(&answer);
            return Resolving::Now(answer);
        }
        Resolving::Later(Box::pin(async move {
            let answer = self.ask_store(&hash, client, now).await;
            self.metrics.miss(&answer);
            answer
        }))
    }
}

/// One read of the store that several requests may wait for. Dropped by the last of them, it is
/// forgotten; dropped by the one that reads, another goes on.
struct Flight<'a> {
    flights: &'a DashMap<Head, Arc<OnceCell<MissAnswer>>>,
    head: Head,
    /// None only while it is dropped.
    cell: Option<Arc<OnceCell<MissAnswer>>>,
}

impl<'a> Flight<'a> {
    fn join(flights: &'a DashMap<Head, Arc<OnceCell<MissAnswer>>>, head: Head) -> Self {
        let cell = Arc::clone(&flights.entry(head).or_default());
        Self { flights, head, cell: Some(cell) }
    }

    /// What `find` gives, once for all who wait for it.
    async fn answer(&self, find: impl Future<Output = MissAnswer>) -> MissAnswer {
        match &self.cell {
            Some(cell) => cell.get_or_init(|| find).await.clone(),
            None => find.await,
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // Answered: the next to ask begins anew. Not answered: whoever still waits holds the cell
        // beside the map. Let go of under the map's lock, so that of two who leave at once one is the last.
        let mut own = self.cell.take();
        self.flights.remove_if(&self.head, |_, cell| {
            let is_own = own.take().is_some_and(|own| Arc::ptr_eq(cell, &own));
            is_own && (cell.initialized() || Arc::strong_count(cell) == 1)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn of_all_who_leave_a_read_at_once_one_forgets_it() {
        let flights = DashMap::new();
        let head = Head::from(&TokenHash::of(b"t"));
        let (turn, kept) = (Barrier::new(2), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _thread in 0..2 {
                scope.spawn(|| {
                    for _round in 0..3000 {
                        let flight = Flight::join(&flights, head);
                        turn.wait();
                        drop(flight);
                        turn.wait();
                        kept.fetch_add(flights.len(), Ordering::Relaxed);
                        turn.wait();
                    }
                });
            }
        });
        assert_eq!(kept.into_inner(), 0, "a read that nobody waits for is kept");
    }
}
