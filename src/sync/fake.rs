//! A store in memory whose failures a test chooses.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::clock::{Clock, ManualClock, Timestamp};
use crate::key::{Actor, Event, Key, KeyId, Stamp, Subject, TokenHash, User, UserId};
use crate::store::{
    Acceptance, AcceptanceId, Batch, BoxFuture, CommitId, Committed, Cursor, EventQuery, HistoryStore, KeyPage,
    KeyQuery, Planned, Poll, ReadRequest, Reading, RefusalQuery, RefusalTally, Retold, Row, StageId, Staging, Store,
    StoreError, StoreId, UsageUpdate, UserQuery,
};
use crate::sync::{Reassert, Reasserted};

/// How the store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Every call fails.
    Gone,
    /// Reads of rows break off before their end.
    BreaksOff,
    /// Usage is not taken.
    TakesNoUsage,
    /// What was accepted is asked for in vain.
    KeepsItsHistory,
}

#[derive(Debug)]
pub(super) struct FakeStore {
    inner: Mutex<Inner>,
    news: Notify,
    clock: Arc<ManualClock>,
    /// By how much its own clock is behind.
    pub(super) behind: Mutex<Duration>,
    pub(super) finds: AtomicUsize,
    /// Somebody accepts this store as soon as somebody else has asked what was accepted.
    pub(super) accepts_once_asked: AtomicBool,
    /// Each `find` takes a permit; a test that holds them back holds the finds.
    pub(super) gate: Semaphore,
}

#[derive(Debug, Clone)]
pub(super) struct Inner {
    pub(super) id: StoreId,
    pub(super) newest: Cursor,
    pub(super) commits: HashMap<u64, CommitId>,
    pub(super) keys: BTreeMap<KeyId, Key>,
    pub(super) users: BTreeMap<UserId, User>,
    pub(super) usage: Vec<UsageUpdate>,
    pub(super) mood: Mood,
    acceptances: Vec<Acceptance>,
    next_commit: u128,
}

impl FakeStore {
    pub(super) fn new(clock: Arc<ManualClock>) -> Self {
        let inner = Inner {
            id: StoreId(7),
            newest: Cursor::default(),
            commits: HashMap::from([(0, CommitId::default())]),
            keys: BTreeMap::new(),
            users: BTreeMap::new(),
            usage: Vec::new(),
            mood: Mood::Well,
            acceptances: Vec::new(),
            next_commit: 1,
        };
        let gate = Semaphore::new(1_000_000);
        let (finds, accepts_once_asked) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (inner, behind) = (Mutex::new(inner), Mutex::default());
        Self { inner, news: Notify::new(), clock, behind, finds, accepts_once_asked, gate }
    }

    /// Commits rows as one revision.
    pub(super) fn commit(&self, rows: Vec<Row>) -> u64 {
        let mut inner = self.inner.lock();
        let revision = inner.newest.revision + 1;
        let commit = CommitId(inner.next_commit);
        inner.next_commit += 1;
        inner.newest = Cursor { revision, commit };
        inner.commits.insert(revision, commit);
        for (ordinal, row) in (0..).zip(rows) {
            let stamp = Stamp { revision, ordinal };
            match row {
                Row::Key(mut key) => {
                    key.stamp = stamp;
                    inner.keys.insert(key.id, *key);
                }
                Row::User(mut user) => {
                    user.stamp = stamp;
                    inner.users.insert(user.id.clone(), user);
                }
            }
        }
        drop(inner);
        self.news.notify_waiters();
        revision
    }

    pub(super) fn set(&self, mood: Mood) {
        self.inner.lock().mood = mood;
    }

    /// What a backup would hold now.
    pub(super) fn backup(&self) -> Inner {
        self.inner.lock().clone()
    }

    /// Puts a backup in place; commits from here on have ids of their own.
    pub(super) fn restore(&self, backup: Inner) {
        let mut inner = self.inner.lock();
        let next_commit = inner.next_commit;
        *inner = Inner { next_commit, ..backup };
    }

    /// An operator takes this history for the right one: no gateway knows it.
    pub(super) fn accept(&self) {
        let revision = self.commit(Vec::new());
        let mut inner = self.inner.lock();
        let id = AcceptanceId(inner.next_commit);
        inner.acceptances.push(Acceptance { id, revision, at: self.clock.now(), actor: Actor::System });
        let first = inner.next_commit;
        inner.commits = (1..=revision).map(|at| (at, CommitId(first + u128::from(at)))).collect();
        inner.commits.insert(0, CommitId::default());
        inner.newest.commit = CommitId(first + u128::from(revision));
        inner.next_commit = first + u128::from(revision) + 1;
    }

    /// Changes what is stored as no mutation does: no revision tells of it.
    pub(super) fn tamper(&self, change: impl FnOnce(&mut BTreeMap<KeyId, Key>, &mut BTreeMap<UserId, User>)) {
        let inner = &mut *self.inner.lock();
        change(&mut inner.keys, &mut inner.users);
    }

    fn well(&self) -> Result<Inner, StoreError> {
        let inner = self.inner.lock();
        if inner.mood == Mood::Gone {
            return Err(gone());
        }
        Ok(inner.clone())
    }

    fn poll_now(&self, cursor: Cursor) -> Result<Poll, StoreError> {
        let inner = self.well()?;
        let at_cursor = inner.commits.get(&cursor.revision).copied();
        let now = self.clock.now().minus(*self.behind.lock());
        Ok(Poll { store: inner.id, newest: inner.newest, at_cursor, now })
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable { store: "fake".to_owned(), cause: "gone".to_owned() }
}

impl HistoryStore for FakeStore {
    fn acceptances(&self) -> BoxFuture<'_, Result<Vec<Acceptance>, StoreError>> {
        Box::pin(async {
            let inner = self.well()?;
            if inner.mood == Mood::KeepsItsHistory {
                return std::future::pending().await;
            }
            if self.accepts_once_asked.swap(false, Ordering::SeqCst) {
                self.accept();
            }
            Ok(inner.acceptances)
        })
    }

    fn retold(&self, _after: u64) -> BoxFuture<'_, Result<Vec<Retold>, StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn accept(&self, _actor: Actor, _after: u64) -> BoxFuture<'_, Result<(Acceptance, Vec<Retold>), StoreError>> {
        Box::pin(async { Err(gone()) })
    }
}

impl Store for FakeStore {
    fn name(&self) -> &str {
        "fake"
    }

    fn history(&self) -> Option<&dyn HistoryStore> {
        Some(self)
    }

    fn id(&self) -> StoreId {
        self.inner.lock().id
    }

    fn mutate(
        &self,
        _read: ReadRequest,
        _plan: Box<dyn FnMut(&Reading) -> Planned + Send>,
    ) -> BoxFuture<'_, Result<Result<Committed, Box<dyn Any + Send>>, StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn stage(&self, _staging: Staging) -> BoxFuture<'_, Result<Duration, StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn unstage(&self, _stage: StageId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn read(&self, read: ReadRequest) -> BoxFuture<'_, Result<Reading, StoreError>> {
        Box::pin(async move {
            let inner = self.well()?;
            let keys = read.keys.iter().filter_map(|id| inner.keys.get(id)).cloned().collect();
            Ok(Reading { keys, newest: inner.newest, next: inner.newest, ..Reading::default() })
        })
    }

    fn find(&self, hash: TokenHash) -> BoxFuture<'_, Result<(Option<(Key, Option<User>)>, Cursor), StoreError>> {
        Box::pin(async move {
            self.finds.fetch_add(1, Ordering::SeqCst);
            let _permit = self.gate.acquire().await;
            let inner = self.well()?;
            let key = inner.keys.values().find(|key| key.hash == hash).cloned();
            let found = key.map(|key| {
                let user = key.user.as_ref().and_then(|user| inner.users.get(user)).cloned();
                (key, user)
            });
            Ok((found, inner.newest))
        })
    }

    fn list_keys(&self, _query: KeyQuery) -> BoxFuture<'_, Result<KeyPage, StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn record_refusals(&self, _tallies: Vec<RefusalTally>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn list_refusals(&self, _query: RefusalQuery) -> BoxFuture<'_, Result<Vec<RefusalTally>, StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn tidy(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn list_users(&self, _query: UserQuery) -> BoxFuture<'_, Result<Vec<User>, StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn list_events(&self, _query: EventQuery) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        Box::pin(async { Err(gone()) })
    }

    fn poll(&self, cursor: Cursor) -> BoxFuture<'_, Result<Poll, StoreError>> {
        Box::pin(async move { self.poll_now(cursor) })
    }

    fn wait_for_news(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _hint = tokio::time::timeout(at_most, self.news.notified()).await;
        })
    }

    fn changes_after(
        &self,
        cursor: Cursor,
        mut sink: Box<dyn FnMut(Batch) + Send>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let inner = self.well()?;
            let mut rows: Vec<(Stamp, Row)> = Vec::new();
            rows.extend(inner.users.values().map(|user| (user.stamp, Row::User(user.clone()))));
            rows.extend(inner.keys.values().map(|key| (key.stamp, Row::Key(Box::new(key.clone())))));
            rows.retain(|(stamp, _)| stamp.revision > cursor.revision);
            for (stamp, row) in rows {
                sink(Batch::Row(stamp, row));
            }
            if inner.mood != Mood::BreaksOff {
                sink(Batch::End(self.poll_now(cursor)?));
            }
            Ok(())
        })
    }

    fn walk(
        &self,
        cursor: Cursor,
        after: Option<Subject>,
        limit: u32,
        mut sink: Box<dyn FnMut(Batch) + Send>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let inner = self.well()?;
            for (stamp, row) in page(&inner.keys, &inner.users, after.as_ref(), limit) {
                sink(Batch::Row(stamp, row));
            }
            sink(Batch::End(self.poll_now(cursor)?));
            Ok(())
        })
    }

    fn record_usage(&self, _gateway: String, updates: Vec<UsageUpdate>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut inner = self.inner.lock();
            if inner.mood != Mood::Well {
                return Err(gone());
            }
            inner.usage.extend(updates);
            Ok(())
        })
    }

    fn check_secret(&self, _number: u32, _fingerprint: [u8; 32]) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn secrets(&self) -> BoxFuture<'_, Result<Vec<(u32, [u8; 32])>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn add_secret(&self, _number: u32, _fingerprint: [u8; 32]) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn forget_secret(&self, _number: u32) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Ends again in the store what a gateway knows as ended, and notes what that was.
pub(super) struct Retells {
    store: Arc<FakeStore>,
    pub(super) told: Mutex<Vec<Subject>>,
    /// What happens just before the store is told anything.
    before: Mutex<Option<Before>>,
}

type Before = Box<dyn FnOnce(&FakeStore) + Send>;

impl fmt::Debug for Retells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retells").field("told", &self.told).finish_non_exhaustive()
    }
}

impl Retells {
    pub(super) fn to(store: &Arc<FakeStore>) -> Arc<Self> {
        Arc::new(Self { store: Arc::clone(store), told: Mutex::default(), before: Mutex::default() })
    }

    /// From here on this happens once, just before the store is told anything.
    pub(super) fn after(&self, before: impl FnOnce(&FakeStore) + Send + 'static) {
        *self.before.lock() = Some(Box::new(before));
    }
}

impl Reassert for Retells {
    fn end<'a>(&'a self, subject: &'a Subject, at: Cursor) -> crate::table::BoxFuture<'a, Reasserted> {
        Box::pin(async move {
            let before = self.before.lock().take();
            if let Some(before) = before {
                before(&self.store);
            }
            match self.store.poll_now(at) {
                Ok(poll) if poll.leads_on_from(at) => {}
                Ok(_) => return Reasserted::OtherHistory,
                Err(error) => return Reasserted::Failed(error.to_string()),
            }
            self.told.lock().push(subject.clone());
            let held = self.store.backup();
            let row = match subject {
                Subject::Key(id) => held.keys.get(id).cloned().map(|mut key| {
                    key.states.revoked = true;
                    Row::Key(Box::new(key))
                }),
                Subject::User(id) => held.users.get(id).cloned().map(|mut user| {
                    user.deleted = true;
                    Row::User(user)
                }),
            };
            let Some(row) = row else { return Reasserted::Absent };
            Reasserted::Told(self.store.commit(vec![row]))
        })
    }
}

/// One page of users and keys, as a walk hands it over.
pub(super) fn page(
    keys: &BTreeMap<KeyId, Key>,
    users: &BTreeMap<UserId, User>,
    after: Option<&Subject>,
    limit: u32,
) -> Vec<(Stamp, Row)> {
    let users = users.values().filter(|user| match after {
        None => true,
        Some(Subject::User(id)) => user.id > *id,
        Some(Subject::Key(_)) => false,
    });
    let keys = keys.values().filter(|key| match after {
        None | Some(Subject::User(_)) => true,
        Some(Subject::Key(id)) => key.id > *id,
    });
    let users = users.map(|user| (user.stamp, Row::User(user.clone())));
    let keys = keys.map(|key| (key.stamp, Row::Key(Box::new(key.clone()))));
    users.chain(keys).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect()
}

/// A key of a test, whose token is `token <number>`.
pub(super) fn key(number: u32) -> Key {
    let id = KeyId::from_bits(u128::from(number) + 1);
    Key {
        id,
        lineage: id.lineage(),
        hash: hash(number),
        format: crate::key::Format::Opaque,
        shown_prefix: None,
        last_four: None,
        name: "test".to_owned(),
        project: Some("acme".parse().expect("a project")),
        environment: crate::key::EnvironmentId::live(),
        user: None,
        grants: crate::key::Grants::Only(crate::key::FlagSet::parse(["jobs:read"]).expect("flags")),
        props: BTreeMap::new(),
        may_grant: crate::key::FlagSet::default(),
        operates_on: None,
        self_rotate: false,
        minted_by: None,
        states: crate::key::States::default(),
        revoked_at: None,
        replaced_by: None,
        expires_at: None,
        grace_expires_at: None,
        rotation: crate::key::Rotation::default(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        stamp: Stamp::default(),
    }
}

pub(super) fn hash(number: u32) -> TokenHash {
    TokenHash::of(format!("token {number}").as_bytes())
}

pub(super) fn revoked(number: u32) -> Key {
    let mut key = key(number);
    key.states.revoked = true;
    key
}

pub(super) fn user(id: &str, flags: &[&str]) -> User {
    User {
        id: id.parse().expect("a user id"),
        project: None,
        flags: crate::key::FlagSet::parse(flags).expect("flags"),
        active: true,
        deleted: false,
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        stamp: Stamp::default(),
    }
}

pub(super) fn keys(keys: impl IntoIterator<Item = Key>) -> Vec<Row> {
    keys.into_iter().map(|key| Row::Key(Box::new(key))).collect()
}
