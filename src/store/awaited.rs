//! A store that cannot be opened yet: known by its id, opened by whoever asks first once it is there.
//!
//! A gateway that starts while its store is away serves from its snapshot and goes on asking here.
//! Until the store can be opened, and is the one that was known, with the secret that was known, every
//! call fails as the opening did.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    Acceptance, Answer, Claim, Claimed, Delivery, HistoryStore, NewDelivery, Retold, RotationCounts, RotationStore,
    Settlement, Unannounced,
};
use super::{
    Batch, BoxFuture, Committed, Cursor, EventQuery, KeyPage, KeyQuery, LoadLane, NumberedSecret, Planned, Poll,
    ReadRequest, Reading, RefusalQuery, RefusalTally, SharedStore, StageId, Staging, Store, StoreError, StoreId,
    UsageUpdate, UserQuery, check_secrets,
};
use super::{Fleet, FleetStore, GatewayId, GatewayReport, Incarnation, Reported};
use crate::clock::Timestamp;
use crate::key::{Actor, Event, Key, LineageId, Stamp, Subject, TokenHash, User};

/// Opens the store. Blocks on it.
pub type Opener = Arc<dyn Fn() -> Result<SharedStore, StoreError> + Send + Sync>;

/// A store that is opened once it can be.
pub struct AwaitedStore {
    name: String,
    id: StoreId,
    /// The number and fingerprint of each of the secrets, of which it must know one.
    secrets: Vec<NumberedSecret>,
    open: Opener,
    opened: OnceCell<SharedStore>,
    /// An attempt that somebody began and did not wait for: the next who asks does.
    opening: Mutex<Option<JoinHandle<Result<SharedStore, StoreError>>>>,
    /// Whether an attempt has failed.
    was_away: AtomicBool,
}

impl AwaitedStore {
    /// The store of this id, which `open` opens and whose secrets these must be.
    #[must_use]
    pub fn new(name: String, id: StoreId, secrets: Vec<NumberedSecret>, open: Opener) -> Self {
        Self {
            name,
            id,
            secrets,
            open,
            opened: OnceCell::new(),
            opening: Mutex::default(),
            was_away: AtomicBool::new(false),
        }
    }

    async fn store(&self) -> Result<&SharedStore, StoreError> {
        self.opened.get_or_try_init(|| self.try_open()).await
    }

    /// Tries to open the store, unless it is open. Cancel-safe: an attempt goes on.
    ///
    /// # Errors
    /// When it cannot be opened, or is not the one that was known, with the secret that was known.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.store().await.map(|_store| ())
    }

    async fn try_open(&self) -> Result<SharedStore, StoreError> {
        let opened = self.open_and_check().await;
        if opened.is_err() {
            self.was_away.store(true, Ordering::Relaxed);
        } else if self.was_away.load(Ordering::Relaxed) {
            tracing::info!(store = %self.name, "the store can be opened again");
        }
        opened
    }

    async fn open_and_check(&self) -> Result<SharedStore, StoreError> {
        let opened = {
            let mut opening = self.opening.lock().await;
            let attempt = opening.get_or_insert_with(|| {
                let open = Arc::clone(&self.open);
                spawn_blocking(move || open())
            });
            let opened = attempt.await;
            *opening = None;
            opened
        };
        let unavailable = |cause: String| StoreError::Unavailable { store: self.name.clone(), cause };
        let store = opened.map_err(|error| unavailable(error.to_string()))??;
        if store.id() != self.id {
            return Err(StoreError::OtherStore { store: self.name.clone() });
        }
        check_secrets(&*store, &self.secrets).await?;
        Ok(store)
    }
}

impl fmt::Debug for AwaitedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitedStore").field("name", &self.name).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Store for AwaitedStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> StoreId {
        self.id
    }

    fn rotation(&self) -> Option<&dyn RotationStore> {
        Some(self)
    }

    fn history(&self) -> Option<&dyn HistoryStore> {
        Some(self)
    }

    fn fleet(&self) -> Option<&dyn FleetStore> {
        Some(self)
    }

    fn mutate(
        &self,
        read: ReadRequest,
        plan: Box<dyn FnMut(&Reading) -> Planned + Send>,
    ) -> BoxFuture<'_, Result<Result<Committed, Box<dyn std::any::Any + Send>>, StoreError>> {
        Box::pin(async move { self.store().await?.mutate(read, plan).await })
    }

    fn stage(&self, staging: Staging) -> Answer<'_, Duration> {
        Box::pin(async move { self.store().await?.stage(staging).await })
    }

    fn unstage(&self, stage: StageId) -> Answer<'_, ()> {
        Box::pin(async move { self.store().await?.unstage(stage).await })
    }

    fn read(&self, read: ReadRequest) -> BoxFuture<'_, Result<Reading, StoreError>> {
        Box::pin(async move { self.store().await?.read(read).await })
    }

    fn find(&self, hash: TokenHash) -> BoxFuture<'_, Result<(Option<(Key, Option<User>)>, Cursor), StoreError>> {
        Box::pin(async move { self.store().await?.find(hash).await })
    }

    fn list_keys(&self, query: KeyQuery) -> BoxFuture<'_, Result<KeyPage, StoreError>> {
        Box::pin(async move { self.store().await?.list_keys(query).await })
    }

    fn list_users(&self, query: UserQuery) -> BoxFuture<'_, Result<Vec<User>, StoreError>> {
        Box::pin(async move { self.store().await?.list_users(query).await })
    }

    fn list_events(&self, query: EventQuery) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        Box::pin(async move { self.store().await?.list_events(query).await })
    }

    fn poll(&self, cursor: Cursor) -> BoxFuture<'_, Result<Poll, StoreError>> {
        Box::pin(async move { self.store().await?.poll(cursor).await })
    }

    fn wait_for_news(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match self.opened.get() {
                Some(store) => store.wait_for_news(at_most).await,
                None => tokio::time::sleep(at_most).await,
            }
        })
    }

    fn changes_after(
        &self,
        cursor: Cursor,
        sink: Box<dyn FnMut(Batch) + Send>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.store().await?.changes_after(cursor, sink).await })
    }

    fn load(&self, lanes: Vec<LoadLane>) -> Answer<'_, Poll> {
        Box::pin(async move { self.store().await?.load(lanes).await })
    }

    fn walk(
        &self,
        cursor: Cursor,
        after: Option<Subject>,
        limit: u32,
        sink: Box<dyn FnMut(Batch) + Send>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.store().await?.walk(cursor, after, limit, sink).await })
    }

    fn record_usage(&self, gateway: String, updates: Vec<UsageUpdate>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.store().await?.record_usage(gateway, updates).await })
    }

    fn record_refusals(&self, tallies: Vec<RefusalTally>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.store().await?.record_refusals(tallies).await })
    }

    fn list_refusals(&self, query: RefusalQuery) -> BoxFuture<'_, Result<Vec<RefusalTally>, StoreError>> {
        Box::pin(async move { self.store().await?.list_refusals(query).await })
    }

    fn tidy(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.store().await?.tidy().await })
    }

    fn check_secret(&self, number: u32, fingerprint: [u8; 32]) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.store().await?.check_secret(number, fingerprint).await })
    }

    fn secrets(&self) -> BoxFuture<'_, Result<Vec<(u32, [u8; 32])>, StoreError>> {
        Box::pin(async move { self.store().await?.secrets().await })
    }

    fn add_secret(&self, number: u32, fingerprint: [u8; 32]) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.store().await?.add_secret(number, fingerprint).await })
    }

    fn forget_secret(&self, number: u32) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.store().await?.forget_secret(number).await })
    }
}

/// The part of `store` that announcements are kept in.
fn rotation_of(store: &SharedStore) -> Result<&dyn RotationStore, StoreError> {
    let none =
        || StoreError::Unavailable { store: store.name().to_owned(), cause: "it keeps no announcements".to_owned() };
    store.rotation().ok_or_else(none)
}

/// The part of an opened store that knows of restored backups.
fn history_of(store: &SharedStore) -> Result<&dyn HistoryStore, StoreError> {
    store.history().ok_or_else(|| StoreError::Unavailable {
        store: store.name().to_owned(),
        cause: "it knows nothing of restored backups".to_owned(),
    })
}

impl HistoryStore for AwaitedStore {
    fn acceptances(&self) -> Answer<'_, Vec<Acceptance>> {
        Box::pin(async move {
            match self.store().await?.history() {
                Some(history) => history.acceptances().await,
                None => Ok(Vec::new()),
            }
        })
    }

    fn retold(&self, after: u64) -> Answer<'_, Vec<Retold>> {
        Box::pin(async move { history_of(self.store().await?)?.retold(after).await })
    }

    fn accept(&self, actor: Actor, after: u64) -> Answer<'_, (Acceptance, Vec<Retold>)> {
        Box::pin(async move { history_of(self.store().await?)?.accept(actor, after).await })
    }
}

impl RotationStore for AwaitedStore {
    fn unannounced(&self, expiring: Duration, limit: usize) -> Answer<'_, Unannounced> {
        Box::pin(async move { rotation_of(self.store().await?)?.unannounced(expiring, limit).await })
    }

    fn announce(&self, deliveries: Vec<NewDelivery>, read: (Stamp, Stamp)) -> Answer<'_, usize> {
        Box::pin(async move { rotation_of(self.store().await?)?.announce(deliveries, read).await })
    }

    fn claim(&self, claim: Claim) -> Answer<'_, Vec<Claimed>> {
        Box::pin(async move { rotation_of(self.store().await?)?.claim(claim).await })
    }

    fn settle(&self, settlement: Settlement) -> Answer<'_, ()> {
        Box::pin(async move { rotation_of(self.store().await?)?.settle(settlement).await })
    }

    fn rotation_counts(&self) -> Answer<'_, RotationCounts> {
        Box::pin(async move { rotation_of(self.store().await?)?.rotation_counts().await })
    }

    fn deliveries(&self, lineage: LineageId, limit: usize) -> Answer<'_, Vec<Delivery>> {
        Box::pin(async move { rotation_of(self.store().await?)?.deliveries(lineage, limit).await })
    }

    fn forget_deliveries(&self, before: Timestamp) -> Answer<'_, usize> {
        Box::pin(async move { rotation_of(self.store().await?)?.forget_deliveries(before).await })
    }
}

/// The part of `store` that knows its gateways.
fn fleet_of(store: &SharedStore) -> Result<&dyn FleetStore, StoreError> {
    let none = || StoreError::Unavailable { store: store.name().to_owned(), cause: "it knows no gateways".to_owned() };
    store.fleet().ok_or_else(none)
}

impl FleetStore for AwaitedStore {
    fn register(&self, report: GatewayReport, beside: Vec<Incarnation>) -> Answer<'_, ()> {
        Box::pin(async move { fleet_of(self.store().await?)?.register(report, beside).await })
    }

    fn report(&self, report: GatewayReport) -> Answer<'_, Reported> {
        Box::pin(async move { fleet_of(self.store().await?)?.report(report).await })
    }

    fn leave(&self, ended: Vec<Incarnation>) -> Answer<'_, ()> {
        Box::pin(async move { fleet_of(self.store().await?)?.leave(ended).await })
    }

    fn forget(&self, gateway: GatewayId) -> Answer<'_, usize> {
        Box::pin(async move { fleet_of(self.store().await?)?.forget(gateway).await })
    }

    fn gateways(&self) -> Answer<'_, Fleet> {
        Box::pin(async move { fleet_of(self.store().await?)?.gateways().await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::store::SqliteStore;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SECRET: (u32, [u8; 32]) = (1, [7; 32]);

    fn awaited(path: &Path, id: StoreId, secret: (u32, [u8; 32])) -> AwaitedStore {
        let path = path.to_owned();
        let name = path.display().to_string();
        let open = move || -> Result<SharedStore, StoreError> { Ok(Arc::new(SqliteStore::open(&path, clock())?)) };
        AwaitedStore::new(name, id, vec![secret], Arc::new(open))
    }

    fn clock() -> Arc<dyn Clock> {
        Arc::new(ManualClock::at(Timestamp::from_seconds(1_800_000_000)))
    }

    #[tokio::test]
    async fn an_attempt_that_takes_longer_than_anyone_waits_still_opens_the_store() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.db");
        let store = SqliteStore::create(&path, clock()).expect("a store");
        store.check_secret(SECRET.0, SECRET.1).await.expect("a secret");
        let (attempts, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Barrier::new(2)));
        let opener: Opener = {
            let (attempts, gate) = (Arc::clone(&attempts), Arc::clone(&gate));
            Arc::new(move || {
                attempts.fetch_add(1, Ordering::SeqCst);
                gate.wait();
                Ok(Arc::new(SqliteStore::open(&path, clock())?))
            })
        };
        let awaited = AwaitedStore::new("keys".to_owned(), store.id(), vec![SECRET], opener);
        for _ in 0..3 {
            let gone = tokio::time::timeout(Duration::from_millis(5), awaited.ready()).await;
            assert!(gone.is_err(), "nobody waits that long");
        }
        gate.wait();
        assert!(awaited.ready().await.is_ok());
        assert_eq!(attempts.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_store_that_comes_back_is_used_and_another_is_not() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let (path, away) = (folder.path().join("keys.db"), folder.path().join("away.db"));
        let id = {
            let store = SqliteStore::create(&path, clock())?;
            store.check_secret(SECRET.0, SECRET.1).await?;
            store.id()
        };
        std::fs::rename(&path, &away)?;
        let store = awaited(&path, id, SECRET);
        assert!(matches!(store.poll(Cursor::default()).await, Err(StoreError::Missing { .. })));
        assert!(matches!(
            awaited(&away, StoreId(1), SECRET).poll(Cursor::default()).await,
            Err(StoreError::OtherStore { .. })
        ));
        let wrong = awaited(&away, id, (1, [8; 32]));
        assert!(matches!(wrong.poll(Cursor::default()).await, Err(StoreError::WrongSecret { .. })));
        std::fs::rename(&away, &path)?;
        assert_eq!(store.poll(Cursor::default()).await?.store, id);
        Ok(())
    }
}
