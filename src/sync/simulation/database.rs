//! A database that many gateways follow, with all that ever was committed to it: what a gateway must
//! know at a place of its history can be asked afterwards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::clock::SimClock;
use crate::clock::{Clock, Timestamp};
use crate::key::{Event, Grants, Key, KeyId, Stamp, Subject, TokenHash, User, UserId};
use crate::store::{
    Answer, Batch, BoxFuture, CommitId, Cursor, EventQuery, KeyPage, KeyQuery, NumberedSecret, Outcome, OwnedKey, Plan,
    Poll, ReadRequest, Reading, RefusalQuery, RefusalTally, Row, StageId, Staging, Store, StoreError, StoreId,
    UsageUpdate, UserQuery,
};
use crate::sync::fake;
use crate::sync::{Reassert, Reasserted};

/// How revisions are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Numbering {
    /// By a counter row whose lock is held until the commit: revisions are in commit order.
    #[default]
    Counter,
    /// By a sequence, when the transaction begins: a fault that is planted.
    Sequence,
}

/// What may happen to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Create(u8),
    Revoke(u8),
    Supersede(u8),
    /// Replaces a key, with so many minutes of grace.
    Rotate(u8, u8),
    Disable(u8),
    Enable(u8),
    UserMay(bool),
    UserActive(bool),
    DeleteUser,
    /// Begins a transaction that revokes a key.
    Begin(u8),
    /// Commits a transaction that was begun.
    Commit(u8),
    Backup,
    Restore,
    /// A standby takes over that lacks the last commits.
    Failover(u8),
}

/// How many keys there are. The last ones are a user's, and the very last inherits.
pub(super) const KEYS: u8 = 6;
const OWNED: u8 = 4;

pub(super) fn of_user(key: u8) -> bool {
    key >= OWNED
}

/// The keys as they are made. What is asked for at every step of every history is made once.
static NEW: LazyLock<Vec<Key>> = LazyLock::new(|| (0..KEYS).map(make).collect());
static ANN: LazyLock<UserId> = LazyLock::new(|| "ann".parse().expect("a user id"));

pub(super) fn ann() -> &'static UserId {
    &ANN
}

/// The key of this number as it is made.
pub(super) fn new_key(number: u8) -> &'static Key {
    &NEW[usize::from(number)]
}

pub(super) fn id_of(key: u8) -> KeyId {
    new_key(key).id
}

fn make(number: u8) -> Key {
    let mut key = fake::key(u32::from(number));
    if of_user(number) {
        key.user = Some(ann().clone());
        if number == KEYS - 1 {
            key.grants = Grants::Inherit;
        }
    }
    key
}

/// What the database holds at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    newest: Cursor,
    commits: BTreeMap<u64, CommitId>,
    pub(super) keys: BTreeMap<KeyId, Key>,
    pub(super) users: BTreeMap<UserId, User>,
    sequence: u64,
    history: usize,
}

impl Held {
    fn take(&mut self, row: Row) {
        match row {
            Row::Key(key) => {
                self.keys.insert(key.id, *key);
            }
            Row::User(user) => {
                self.users.insert(user.id.clone(), user);
            }
        }
    }
}

/// A history that another one left at a revision.
#[derive(Debug, Clone, Copy)]
struct History {
    parent: usize,
    left_at: u64,
}

#[derive(Debug)]
struct Version {
    history: usize,
    row: Row,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    numbering: Numbering,
    pub(super) held: Arc<Held>,
    /// What it held after each commit of this history.
    past: Vec<Arc<Held>>,
    backup: Option<Arc<Held>>,
    begun: Vec<(Option<u64>, u8)>,
    histories: Vec<History>,
    history_of: HashMap<CommitId, usize>,
    versions: Vec<Version>,
    next_commit: u128,
    /// What was held at places that were asked for. Nothing before them changes any more.
    known: HashMap<(u64, CommitId), Arc<Held>>,
    /// Keys that were revoked or superseded, in whatever history.
    ended: BTreeSet<KeyId>,
    /// The earliest end of a grace that was promised for a key, in whatever history.
    promised: BTreeMap<KeyId, Timestamp>,
    /// A key that a gateway ended for good before its time.
    pub(super) ended_early: Option<String>,
}

/// The database, and its server's clock, which nobody sets.
#[derive(Debug)]
pub(super) struct Database(pub(super) Mutex<Inner>, pub(super) SimClock);

impl Database {
    pub(super) fn new(numbering: Numbering) -> Self {
        let mut inner = Inner { numbering, next_commit: 1, ..Inner::default() };
        inner.histories.push(History { parent: 0, left_at: 0 });
        Arc::make_mut(&mut inner.held).commits.insert(0, CommitId::default());
        inner.past.push(Arc::clone(&inner.held));
        Self(Mutex::new(inner), SimClock::at(BEGIN))
    }

    pub(super) fn does(&self, deed: Deed) {
        self.0.lock().does(deed, self.1.now());
    }
}

impl Inner {
    fn does(&mut self, deed: Deed, now: Timestamp) {
        let key = |inner: &Self, number: u8| inner.held.keys.get(&id_of(number % KEYS)).cloned();
        let user = self.held.users.get(ann()).filter(|user| !user.deleted).cloned();
        match deed {
            Deed::Create(number) => self.create(number % KEYS),
            Deed::Revoke(number) => self.change(key(self, number), |key| key.states.revoked = true),
            Deed::Supersede(number) => self.change(key(self, number), |key| key.states.superseded = true),
            Deed::Rotate(number, minutes) => self.change(key(self, number), |key| {
                let grace = Duration::from_secs(u64::from(minutes) * 60);
                if !key.states.is_terminal() {
                    key.grace_expires_at.get_or_insert(now.plus(grace));
                }
            }),
            Deed::Disable(number) => self.change(key(self, number), |key| key.states.disabled = true),
            Deed::Enable(number) => self.change(key(self, number), |key| key.states.disabled = false),
            Deed::UserMay(may) => self.change_user(user, |user| user.flags = fake::user("ann", flags(may)).flags),
            Deed::UserActive(active) => self.change_user(user, |user| user.active = active),
            Deed::DeleteUser => self.delete_user(),
            Deed::Begin(number) => {
                let number = number % KEYS;
                let taken = (self.numbering == Numbering::Sequence).then(|| self.next_number());
                if self.begun.len() < 3 {
                    self.begun.push((taken, number));
                }
            }
            Deed::Commit(which) => {
                if !self.begun.is_empty() {
                    let (taken, number) = self.begun.remove(usize::from(which) % self.begun.len());
                    if let Some(mut key) = key(self, number) {
                        key.states.revoked = true;
                        self.commit(vec![Row::Key(Box::new(key))], taken);
                    }
                }
            }
            Deed::Backup => self.backup = Some(Arc::clone(&self.held)),
            Deed::Restore => {
                if let Some(backup) = self.backup.clone() {
                    self.becomes(backup);
                }
            }
            Deed::Failover(lost) => {
                let at = self.past.len().saturating_sub(usize::from(lost % 4) + 1);
                let standby = Arc::clone(&self.past[at]);
                self.becomes(standby);
            }
        }
    }

    fn next_number(&mut self) -> u64 {
        let held = Arc::make_mut(&mut self.held);
        held.sequence = held.sequence.max(held.newest.revision) + 1;
        held.sequence
    }

    fn create(&mut self, number: u8) {
        let key = new_key(number).clone();
        if self.held.keys.contains_key(&key.id) {
            return;
        }
        let mut rows = Vec::new();
        if of_user(number) && !self.held.users.contains_key(ann()) {
            rows.push(Row::User(fake::user("ann", flags(true))));
        }
        rows.push(Row::Key(Box::new(key)));
        self.commit(rows, None);
    }

    fn change(&mut self, key: Option<Key>, change: impl FnOnce(&mut Key)) {
        if let Some(mut key) = key {
            let before = (key.states, key.grace_expires_at);
            change(&mut key);
            if (key.states, key.grace_expires_at) != before {
                self.commit(vec![Row::Key(Box::new(key))], None);
            }
        }
    }

    fn change_user(&mut self, user: Option<User>, change: impl FnOnce(&mut User)) {
        if let Some(mut user) = user {
            change(&mut user);
            self.commit(vec![Row::User(user)], None);
        }
    }

    fn delete_user(&mut self) {
        let Some(mut user) = self.held.users.get(ann()).filter(|user| !user.deleted).cloned() else { return };
        user.deleted = true;
        let mut rows = vec![Row::User(user)];
        for mut key in self.held.keys.values().filter(|key| key.user.is_some()).cloned() {
            key.states.revoked = true;
            rows.push(Row::Key(Box::new(key)));
        }
        self.commit(rows, None);
    }

    fn commit(&mut self, rows: Vec<Row>, taken: Option<u64>) {
        let revision = match self.numbering {
            Numbering::Counter => self.held.newest.revision + 1,
            Numbering::Sequence => taken.unwrap_or_else(|| self.next_number()),
        };
        let commit = CommitId(self.next_commit);
        self.next_commit += 1;
        let held = Arc::make_mut(&mut self.held);
        if revision > held.newest.revision {
            held.newest = Cursor { revision, commit };
        }
        held.commits.insert(revision, commit);
        self.history_of.insert(commit, held.history);
        for (ordinal, mut row) in (0..).zip(rows) {
            let stamp = Stamp { revision, ordinal };
            match &mut row {
                Row::Key(key) => {
                    key.stamp = stamp;
                    if key.states.is_terminal() {
                        self.ended.insert(key.id);
                    }
                    if let Some(end) = key.grace_expires_at {
                        let promised = self.promised.entry(key.id).or_insert(end);
                        *promised = end.min(*promised);
                    }
                }
                Row::User(user) => user.stamp = stamp,
            }
            self.versions.push(Version { history: held.history, row: row.clone() });
            held.take(row);
        }
        self.past.push(Arc::clone(&self.held));
    }

    /// Takes note of a key that a gateway is about to end, and that nobody did and whose grace runs.
    fn ends(&mut self, key: KeyId, now: Timestamp) {
        let has_ended = self.ended.contains(&key) || self.promised.get(&key).is_some_and(|end| *end <= now);
        if !has_ended {
            self.ended_early.get_or_insert_with(|| format!("a gateway ends a key for good before its time; {key}"));
        }
    }

    /// Goes on from what was held before, in a history of its own.
    fn becomes(&mut self, before: Arc<Held>) {
        self.begun.clear();
        self.histories.push(History { parent: before.history, left_at: before.newest.revision });
        let before = Arc::unwrap_or_clone(before);
        self.held = Arc::new(Held { history: self.histories.len() - 1, sequence: 0, ..before });
        self.past = vec![Arc::clone(&self.held)];
    }

    /// Which of its histories the database is in.
    pub(super) fn history(&self) -> usize {
        self.held.history
    }

    /// Whether `revision` of `history` lies before `cursor`, or is it.
    pub(super) fn is_before(&self, (history, revision): (usize, u64), cursor: Cursor) -> bool {
        let mut at = (self.history_of.get(&cursor.commit).copied().unwrap_or(0), cursor.revision);
        loop {
            if at.0 == history {
                return revision <= at.1;
            }
            if at.0 == 0 {
                return false;
            }
            let left = self.histories[at.0];
            at = (left.parent, at.1.min(left.left_at));
        }
    }

    /// Whether `earlier` lies before `later` in the history of `later`.
    pub(super) fn is_earlier(&self, earlier: Cursor, later: Cursor) -> bool {
        let history = self.history_of.get(&earlier.commit).copied().unwrap_or(0);
        earlier.revision < later.revision && self.is_before((history, earlier.revision), later)
    }

    /// What whoever stands at `cursor` must know.
    pub(super) fn at(&mut self, cursor: Cursor) -> Arc<Held> {
        let place = (cursor.revision, cursor.commit);
        if let Some(known) = self.known.get(&place)
            && self.numbering == Numbering::Counter
        {
            return Arc::clone(known);
        }
        let mut held = Held::default();
        for version in &self.versions {
            let stamp = match &version.row {
                Row::Key(key) => key.stamp,
                Row::User(user) => user.stamp,
            };
            if !self.is_before((version.history, stamp.revision), cursor) {
                continue;
            }
            let newer = match &version.row {
                Row::Key(key) => held.keys.get(&key.id).is_none_or(|known| known.stamp <= stamp),
                Row::User(user) => held.users.get(&user.id).is_none_or(|known| known.stamp <= stamp),
            };
            if newer {
                held.take(version.row.clone());
            }
        }
        let held = Arc::new(held);
        self.known.insert(place, Arc::clone(&held));
        held
    }
}

const fn flags(may: bool) -> &'static [&'static str] {
    if may { &["jobs:read"] } else { &["jobs:write"] }
}

/// How one gateway reaches the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    Gone,
    /// Reads of rows break off after so many.
    BreaksOff(u8),
}

/// One gateway's way to the database.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) database: Arc<Database>,
    pub(super) clock: Arc<SimClock>,
    pub(super) mood: Mutex<Mood>,
    /// Happens to the database between a poll and the read of rows that follows it.
    pub(super) between: Mutex<Option<Deed>>,
    /// Says of every revision that it is of the reader's history: a fault that is planted.
    pub(super) ignores_commits: bool,
    /// Says that the server's clock reads what the gateway's does: a fault that is planted.
    pub(super) knows_one_clock: bool,
}

impl Link {
    fn well(&self) -> Result<Arc<Held>, StoreError> {
        if *self.mood.lock() == Mood::Gone {
            return Err(gone());
        }
        Ok(Arc::clone(&self.database.0.lock().held))
    }

    fn poll_of(&self, held: &Held, cursor: Cursor) -> Poll {
        let honest = held.commits.get(&cursor.revision).copied();
        let at_cursor = if self.ignores_commits { Some(cursor.commit) } else { honest };
        let at_cursor = if cursor.revision == 0 { Some(CommitId::default()) } else { at_cursor };
        let now = if self.knows_one_clock { self.clock.now() } else { self.database.1.now() };
        Poll { store: StoreId(7), newest: held.newest, at_cursor, now }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable { store: "simulated".to_owned(), cause: "gone".to_owned() }
}

fn no<T: Send>() -> Answer<'static, T> {
    Box::pin(async { Err(gone()) })
}

impl Store for Link {
    fn name(&self) -> &str {
        "simulated"
    }

    fn id(&self) -> StoreId {
        StoreId(7)
    }

    fn find(&self, hash: TokenHash) -> Answer<'_, (Option<OwnedKey>, Cursor)> {
        Box::pin(async move {
            let held = self.well()?;
            let key = held.keys.values().find(|key| key.hash == hash).cloned();
            let found = key.map(|key| {
                let user = key.user.as_ref().and_then(|user| held.users.get(user)).cloned();
                (key, user)
            });
            Ok((found, held.newest))
        })
    }

    fn poll(&self, cursor: Cursor) -> Answer<'_, Poll> {
        Box::pin(async move {
            let held = self.well()?;
            Ok(self.poll_of(&held, cursor))
        })
    }

    fn wait_for_news(&self, _at_most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn changes_after(&self, cursor: Cursor, mut sink: Box<dyn FnMut(Batch) + Send>) -> Answer<'_, ()> {
        Box::pin(async move {
            if let Some(deed) = self.between.lock().take() {
                self.database.does(deed);
            }
            let held = self.well()?;
            let mut rows: Vec<(Stamp, Row)> = Vec::new();
            rows.extend(held.users.values().map(|user| (user.stamp, Row::User(user.clone()))));
            rows.extend(held.keys.values().map(|key| (key.stamp, Row::Key(Box::new(key.clone())))));
            if cursor.revision > 0 {
                rows.retain(|(stamp, _)| stamp.revision > cursor.revision);
                rows.sort_by_key(|(stamp, _)| *stamp);
            }
            let whole = match *self.mood.lock() {
                Mood::BreaksOff(after) => usize::from(after),
                Mood::Well | Mood::Gone => usize::MAX,
            };
            for (stamp, row) in rows.into_iter().take(whole) {
                sink(Batch::Row(stamp, row));
            }
            if whole == usize::MAX {
                sink(Batch::End(self.poll_of(&held, cursor)));
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
    ) -> Answer<'_, ()> {
        Box::pin(async move {
            let held = self.well()?;
            for (stamp, row) in fake::page(&held.keys, &held.users, after.as_ref(), limit) {
                sink(Batch::Row(stamp, row));
            }
            sink(Batch::End(self.poll_of(&held, cursor)));
            Ok(())
        })
    }

    fn mutate(&self, _read: ReadRequest, _plan: Plan) -> Answer<'_, Outcome> {
        no()
    }

    fn read(&self, request: ReadRequest) -> Answer<'_, Reading> {
        Box::pin(async move {
            let held = self.well()?;
            let keys = request.keys.iter().filter_map(|id| held.keys.get(id)).cloned().collect();
            Ok(Reading { keys, newest: held.newest, next: held.newest, ..Reading::default() })
        })
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

/// Ends again in the database what a gateway knows as ended.
#[derive(Debug)]
pub(super) struct Retells(pub(super) Arc<Link>);

impl Reassert for Retells {
    fn end<'a>(&'a self, subject: &'a Subject, at: Cursor) -> crate::table::BoxFuture<'a, Reasserted> {
        Box::pin(async move {
            if *self.0.mood.lock() == Mood::Gone {
                return Reasserted::Failed("gone".to_owned());
            }
            let mut inner = self.0.database.0.lock();
            if !self.0.poll_of(&inner.held, at).leads_on_from(at) {
                return Reasserted::OtherHistory;
            }
            match subject {
                Subject::Key(id) => {
                    let Some(key) = inner.held.keys.get(id).cloned() else { return Reasserted::Absent };
                    inner.ends(*id, self.0.database.1.now());
                    inner.change(Some(key), |key| key.states.revoked = true);
                }
                Subject::User(id) => {
                    if !inner.held.users.contains_key(id) {
                        return Reasserted::Absent;
                    }
                    inner.delete_user();
                }
            }
            Reasserted::Told(inner.held.newest.revision)
        })
    }
}

/// The instant at which everything begins.
pub(super) const BEGIN: Timestamp = Timestamp::from_seconds(1_800_000_000);
