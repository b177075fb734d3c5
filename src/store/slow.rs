//! A store that takes its time over some reads, as one with very many rows would.

use std::time::Duration;

use super::{
    Answer, Batch, BoxFuture, Cursor, EventQuery, FleetStore, HistoryStore, KeyPage, KeyQuery, NumberedSecret, Outcome,
    OwnedKey, Plan, Poll, ReadRequest, Reading, RefusalQuery, RefusalTally, RotationStore, SharedStore, StageId,
    Staging, Store, StoreId, UsageUpdate, UserQuery,
};
use crate::key::{Event, TokenHash, User};

/// Whatever reads all that a key minted, or all keys of a user, takes this long.
pub(crate) const SLOW: Duration = Duration::from_secs(10);

/// A store of which some reads are [`SLOW`].
#[derive(Debug)]
pub(crate) struct SlowStore(pub(crate) SharedStore);

async fn pause(read: &ReadRequest) {
    if read.descendants_of.is_some() || read.keys_of_user.is_some() {
        tokio::time::sleep(SLOW).await;
    }
}

impl Store for SlowStore {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn id(&self) -> StoreId {
        self.0.id()
    }

    fn rotation(&self) -> Option<&dyn RotationStore> {
        self.0.rotation()
    }

    fn history(&self) -> Option<&dyn HistoryStore> {
        self.0.history()
    }

    fn fleet(&self) -> Option<&dyn FleetStore> {
        self.0.fleet()
    }

    fn mutate(&self, read: ReadRequest, plan: Plan) -> Answer<'_, Outcome> {
        Box::pin(async move {
            pause(&read).await;
            self.0.mutate(read, plan).await
        })
    }

    fn stage(&self, staging: Staging) -> Answer<'_, Duration> {
        self.0.stage(staging)
    }

    fn unstage(&self, stage: StageId) -> Answer<'_, ()> {
        self.0.unstage(stage)
    }

    fn read(&self, read: ReadRequest) -> Answer<'_, Reading> {
        Box::pin(async move {
            pause(&read).await;
            self.0.read(read).await
        })
    }

    fn find(&self, hash: TokenHash) -> Answer<'_, (Option<OwnedKey>, Cursor)> {
        self.0.find(hash)
    }

    fn list_keys(&self, query: KeyQuery) -> Answer<'_, KeyPage> {
        self.0.list_keys(query)
    }

    fn list_users(&self, query: UserQuery) -> Answer<'_, Vec<User>> {
        self.0.list_users(query)
    }

    fn list_events(&self, query: EventQuery) -> Answer<'_, Vec<Event>> {
        self.0.list_events(query)
    }

    fn poll(&self, cursor: Cursor) -> Answer<'_, Poll> {
        self.0.poll(cursor)
    }

    fn wait_for_news(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        self.0.wait_for_news(at_most)
    }

    fn changes_after(&self, cursor: Cursor, sink: Box<dyn FnMut(Batch) + Send>) -> Answer<'_, ()> {
        self.0.changes_after(cursor, sink)
    }

    fn record_usage(&self, gateway: String, updates: Vec<UsageUpdate>) -> Answer<'_, ()> {
        self.0.record_usage(gateway, updates)
    }

    fn record_refusals(&self, tallies: Vec<RefusalTally>) -> Answer<'_, ()> {
        self.0.record_refusals(tallies)
    }

    fn list_refusals(&self, query: RefusalQuery) -> Answer<'_, Vec<RefusalTally>> {
        self.0.list_refusals(query)
    }

    fn tidy(&self) -> Answer<'_, ()> {
        self.0.tidy()
    }

    fn check_secret(&self, number: u32, fingerprint: [u8; 32]) -> Answer<'_, ()> {
        self.0.check_secret(number, fingerprint)
    }

    fn secrets(&self) -> Answer<'_, Vec<NumberedSecret>> {
        self.0.secrets()
    }

    fn add_secret(&self, number: u32, fingerprint: [u8; 32]) -> Answer<'_, ()> {
        self.0.add_secret(number, fingerprint)
    }

    fn forget_secret(&self, number: u32) -> Answer<'_, ()> {
        self.0.forget_secret(number)
    }
}
