//! A store that makes its rows up as they are read: for key sets that no test machine has the disk or
//! the time to write into a database first. It costs next to nothing, so that what is measured is what
//! the gateway itself costs.

use std::sync::Arc;
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use keyward::key::{Event, KeyCore, Subject, TokenHash, User};
use keyward::store::{
    Answer, Batch, BoxFuture, CommitId, Cursor, EventQuery, KeyPage, KeyQuery, LoadLane, Loaded, NumberedSecret,
    Outcome, OwnedKey, Plan, Poll, ReadRequest, Reading, RefusalQuery, RefusalTally, StageId, Staging, Store,
    StoreError, StoreId, UsageUpdate, UserQuery,
};

/// The store: keys by number.
#[derive(Debug)]
pub(crate) struct Generated {
    size: u32,
    make: fn(u32) -> KeyCore,
}

impl Generated {
    pub(crate) fn new(size: u32, make: fn(u32) -> KeyCore) -> Arc<Self> {
        Arc::new(Self { size, make })
    }

    fn newest() -> Poll {
        let newest = Cursor { revision: 1, commit: CommitId(1) };
        let now = SystemClock::default().now();
        Poll { store: StoreId(1), newest, at_cursor: Some(newest.commit), now }
    }
}

fn no<T: Send>() -> Answer<'static, T> {
    let cause = "its rows are made up".to_owned();
    Box::pin(async { Err(StoreError::Unavailable { store: "generated".to_owned(), cause }) })
}

impl Store for Generated {
    fn name(&self) -> &str {
        "generated"
    }

    fn id(&self) -> StoreId {
        StoreId(1)
    }

    fn poll(&self, _cursor: Cursor) -> Answer<'_, Poll> {
        Box::pin(async { Ok(Self::newest()) })
    }

    fn wait_for_news(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(at_most))
    }

    fn changes_after(&self, _cursor: Cursor, _sink: Box<dyn FnMut(Batch) + Send>) -> Answer<'_, ()> {
        no()
    }

    fn load(&self, lanes: Vec<LoadLane>) -> Answer<'_, Poll> {
        let (size, make) = (self.size, self.make);
        Box::pin(async move {
            let each = size.div_ceil(u32::try_from(lanes.len()).unwrap_or(1));
            let mut making = tokio::task::JoinSet::new();
            for (at, mut lane) in (0..).zip(lanes) {
                let numbers = at * each..size.min((at + 1) * each);
                making.spawn_blocking(move || numbers.for_each(|number| lane(Loaded::Key(make(number)))));
            }
            while let Some(made) = making.join_next().await {
                made.map_err(|error| StoreError::Unavailable {
                    store: "generated".to_owned(),
                    cause: error.to_string(),
                })?;
            }
            Ok(Self::newest())
        })
    }

    fn walk(
        &self,
        _cursor: Cursor,
        _after: Option<Subject>,
        _limit: u32,
        _sink: Box<dyn FnMut(Batch) + Send>,
    ) -> Answer<'_, ()> {
        no()
    }

    fn mutate(&self, _read: ReadRequest, _plan: Plan) -> Answer<'_, Outcome> {
        no()
    }

    fn read(&self, _read: ReadRequest) -> Answer<'_, Reading> {
        no()
    }

    fn find(&self, _hash: TokenHash) -> Answer<'_, (Option<OwnedKey>, Cursor)> {
        no()
    }

    fn list_keys(&self, _query: KeyQuery) -> Answer<'_, KeyPage> {
        no()
    }

    fn list_users(&self, _query: UserQuery) -> Answer<'_, Vec<User>> {
        no()
    }

    fn stage(&self, _staging: Staging) -> Answer<'_, Duration> {
        no()
    }

    fn unstage(&self, _stage: StageId) -> Answer<'_, ()> {
        no()
    }

    fn list_events(&self, _query: EventQuery) -> Answer<'_, Vec<Event>> {
        no()
    }

    fn record_usage(&self, _gateway: String, _updates: Vec<UsageUpdate>) -> Answer<'_, ()> {
        no()
    }

    fn record_refusals(&self, _tallies: Vec<RefusalTally>) -> Answer<'_, ()> {
        no()
    }

    fn list_refusals(&self, _query: RefusalQuery) -> Answer<'_, Vec<RefusalTally>> {
        no()
    }

    fn tidy(&self) -> Answer<'_, ()> {
        no()
    }

    fn check_secret(&self, _number: u32, _fingerprint: [u8; 32]) -> Answer<'_, ()> {
        no()
    }

    fn secrets(&self) -> Answer<'_, Vec<NumberedSecret>> {
        no()
    }

    fn add_secret(&self, _number: u32, _fingerprint: [u8; 32]) -> Answer<'_, ()> {
        no()
    }

    fn forget_secret(&self, _number: u32) -> Answer<'_, ()> {
        no()
    }
}
