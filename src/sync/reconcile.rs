//! Walks over everything that is stored, page by page, and holds it against the table: what the feed
//! should have brought and did not, and what was changed in the store by hand, is found within minutes.
//!
//! The feed makes the table like the store, and this finds out where it failed. So any difference is an
//! alarm, whatever is then repaired. A page is compared with the table at the revision at which both
//! were read; what is newer is left to the feed, and where the store's history is another, everything
//! is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::metrics::{Alarm, SyncMetrics};
use crate::clock::Timestamp;
use crate::key::{KeyId, Stamp, Subject};
use crate::store::{Batch, Cursor, Poll, ReadRequest, Row as StoredRow, SharedStore, StoreError};
use crate::table::{Difference, KeyRow, Row, Table, UserRow, repair_stamp};

/// Where the follower stands, and which key set it stands there with; none while it is not in contact.
pub(super) type Place = Arc<Mutex<Option<(Cursor, u64)>>>;

/// What is to be put right.
#[derive(Debug)]
pub(super) struct Repair {
    /// The key set in which it was found.
    pub(super) generation: u64,
    /// The revision at which the read began that found it.
    pub(super) found_at: u64,
    /// The rows as they shall be.
    pub(super) rows: Vec<Row>,
    /// What has ended here and goes on in the store, with when it ends where it has not yet.
    pub(super) taken_back: Vec<(Subject, Option<Timestamp>)>,
    /// There is too much of it: everything is to be read anew, with the brakes that a reload has.
    pub(super) everything: bool,
}

/// Walks over the store; see the module.
#[derive(Debug)]
pub(super) struct Reconciler {
    store: SharedStore,
    table: Arc<Table>,
    metrics: Arc<SyncMetrics>,
    place: Place,
    repairs: mpsc::UnboundedSender<Repair>,
    /// How long a walk over everything shall take.
    every: Duration,
    drop_max_percent: u8,
    walk: Option<Walk>,
}

/// One walk over everything.
#[derive(Debug)]
struct Walk {
    /// Where the follower stood when it began.
    from: Cursor,
    generation: u64,
    after: Option<Subject>,
    /// Slots whose keys are stored.
    seen: Slots,
    /// Keys that are stored, and cannot be read.
    damaged: HashSet<KeyId>,
    differences: usize,
}

/// What came of holding rows against the table.
#[derive(Debug, Default)]
struct Found {
    /// Rows that put right what differs.
    rows: Vec<Row>,
    /// What no row puts right, for it has ended here, with when it ends where it has not yet.
    taken_back: Vec<(Subject, Option<Timestamp>)>,
}

/// A set of slot numbers.
#[derive(Debug, Default)]
struct Slots(Vec<u64>);

impl Slots {
    fn add(&mut self, slot: u32) {
        let Ok(at) = usize::try_from(slot / 64) else { return };
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        if let Some(bits) = self.0.get_mut(at) {
            *bits |= 1 << (slot % 64);
        }
    }

    fn has(&self, slot: u32) -> bool {
        usize::try_from(slot / 64).is_ok_and(|at| self.0.get(at).is_some_and(|bits| bits & (1 << (slot % 64)) != 0))
    }
}

/// How a step of the walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    /// There is more.
    On,
    /// Everything was compared.
    Through,
    /// It cannot be compared now; the next walk begins at the beginning.
    Off,
}

/// Rows of one page.
const PAGE: u32 = 500;
/// No more rows are asked for in a second, however long a walk then takes.
const ROWS_A_SECOND: u64 = 5_000;
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);
/// More differences than this are not put right one by one.
const FEW: usize = 1_000;

impl Reconciler {
    pub(super) const fn new(
        store: SharedStore,
        table: Arc<Table>,
        metrics: Arc<SyncMetrics>,
        place: Place,
        repairs: mpsc::UnboundedSender<Repair>,
        (every, drop_max_percent): (Duration, u8),
    ) -> Self {
        Self { store, table, metrics, place, repairs, every, drop_max_percent, walk: None }
    }

    /// Walks until `stop` turns true.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = self.pause();
            if tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok() {
                return;
            }
            // A page that is being read when the process ends is not waited for.
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                _went = self.step() => {}
            }
        }
    }

    /// So long between two pages that a walk takes as long as it shall, and the store is not burdened.
    fn pause(&self) -> Duration {
        let keys = u64::try_from(self.table.keys()).unwrap_or(u64::MAX);
        let pages = u32::try_from(keys / u64::from(PAGE) + 1).unwrap_or(u32::MAX);
        let least = Duration::from_millis(u64::from(PAGE) * 1_000 / ROWS_A_SECOND).max(PAUSE_MIN);
        // What is compared in one page needs no more than to be looked at as often as was asked for.
        if pages == 1 { self.every } else { (self.every / pages).max(least) }
    }

    /// Compares one page.
    pub(super) async fn step(&mut self) -> Went {
        let place = *self.place.lock();
        let Some((at, generation)) = place else { return self.give_up() };
        let begun = self.walk.take().filter(|walk| walk.generation == generation);
        let mut walk = begun.unwrap_or_else(|| Walk {
            from: at,
            generation,
            after: None,
            seen: Slots::default(),
            damaged: HashSet::new(),
            differences: 0,
        });
        let page = match self.read(at, walk.after.clone()).await {
            Ok(page) => page,
            Err(_error) => {
                self.metrics.store_error("walk");
                return self.give_up();
            }
        };
        if !page.end.is_some_and(|end| end.leads_on_from(at)) || self.table.generation() != generation {
            // The follower finds out what that means.
            return self.give_up();
        }
        let through = page.handed < PAGE || page.last.is_none() || page.last == walk.after;
        walk.after = page.last.clone();
        let found = self.compare(&page, at, &mut walk);
        self.send(&mut walk, at, found);
        if !through {
            self.walk = Some(walk);
            return Went::On;
        }
        match self.compare_the_rest(at, &mut walk).await {
            Ok(rows) => self.send(&mut walk, at, Found { rows, ..Found::default() }),
            Err(_error) => {
                self.metrics.store_error("walk");
                return self.give_up();
            }
        }
        self.metrics.reconciled_at.set(self.table.last_contact().map_or(0, Timestamp::seconds));
        Went::Through
    }

    fn give_up(&mut self) -> Went {
        self.walk = None;
        Went::Off
    }

    async fn read(&self, at: Cursor, after: Option<Subject>) -> Result<Page, StoreError> {
        let page = Arc::new(Mutex::new(Page::default()));
        let sink = {
            let page = Arc::clone(&page);
            Box::new(move |batch| page.lock().take(batch))
        };
        let walking = self.store.walk(at, after, PAGE, sink);
        let slow = || StoreError::Unavailable { store: self.store.name().to_owned(), cause: "slow".to_owned() };
        tokio::time::timeout(PATIENCE, walking).await.map_err(|_elapsed| slow())??;
        let page = std::mem::take(&mut *page.lock());
        Ok(page)
    }

    fn compare(&self, page: &Page, at: Cursor, walk: &mut Walk) -> Found {
        self.metrics.rows_compared.inc_by(u64::from(page.handed));
        let mut found = Found::default();
        for (id, cause) in &page.damaged {
            walk.differences += 1;
            walk.damaged.extend(*id);
            self.metrics.difference("damaged");
            self.metrics.alarm(Alarm::Reconcile, 1);
            tracing::error!(key = ?id, cause, "a row of the store cannot be read: what is known of it goes on");
        }
        for user in &page.users {
            let difference = (user.stamp.revision <= at.revision).then(|| self.table.compare_user(user, at.revision));
            let Some(difference) = difference.flatten() else { continue };
            let subject = Subject::User(user.id.clone());
            if let Some(stamp) = self.repaired(difference, subject, (user.stamp, at), &mut found) {
                found.rows.push(Row::User(UserRow { stamp, ..user.clone() }));
            }
        }
        for key in &page.keys {
            let (slot, difference) = self.table.compare_key(key, at.revision);
            if let Some(slot) = slot {
                walk.seen.add(slot);
            }
            // What was committed after both were read is on its way.
            let Some(difference) = difference.filter(|_| key.stamp.revision <= at.revision) else { continue };
            if let Some(stamp) = self.repaired(difference, Subject::Key(key.id), (key.stamp, at), &mut found) {
                found.rows.push(Row::Key(Box::new(KeyRow { stamp, ..key.clone() })));
            }
        }
        walk.differences += found.rows.len();
        found
    }

    /// The stamp under which the row that was read, with `stamp`, puts right what is known of `subject`; none where
    /// no row does, for it has ended here.
    fn repaired(
        &self,
        difference: Difference,
        subject: Subject,
        (stamp, at): (Stamp, Cursor),
        found: &mut Found,
    ) -> Option<Stamp> {
        let (kind, what, stamp) = match difference {
            Difference::TakenBack { ends } => {
                // Whoever knows what the store is told already tells of it.
                found.taken_back.push((subject, ends));
                return None;
            }
            Difference::Missing => ("missing", "is stored, and was not known here: it is now", stamp),
            Difference::Other { known } => (
                "other",
                "was known here otherwise than it is stored: it no longer is",
                repair_stamp(known, at.revision),
            ),
        };
        self.metrics.difference(kind);
        self.metrics.alarm(Alarm::Reconcile, 1);
        match subject {
            Subject::Key(key) => tracing::error!(subject = %key, "{what}"),
            Subject::User(user) => tracing::error!(subject = %user, "{what}"),
        }
        Some(stamp)
    }

    /// Keys that are known, live, and not stored: the rows that refuse them.
    async fn compare_the_rest(&self, at: Cursor, walk: &mut Walk) -> Result<Vec<Row>, StoreError> {
        let (mut live, mut unseen) = (0_usize, Vec::new());
        self.table.for_each_slot(|slot, key| {
            if key.states.is_terminal() || key.states.disabled {
                return;
            }
            live += 1;
            let is_seen = walk.seen.has(slot) || walk.damaged.contains(&key.id);
            if !is_seen && key.stamp.revision <= walk.from.revision && unseen.len() <= FEW {
                unseen.push(key.to_row());
            }
        });
        let mut absent = Vec::new();
        for some in unseen.chunks(usize::try_from(PAGE).unwrap_or(usize::MAX)) {
            let keys: Vec<KeyId> = some.iter().map(|key| key.id).collect();
            let reading = self.store.read(ReadRequest { keys, ..ReadRequest::default() }).await?;
            absent.extend(some.iter().filter(|key| reading.key(key.id).is_none()).cloned());
        }
        let poll = self.store.poll(at).await?;
        if absent.is_empty() || !poll.leads_on_from(at) || self.table.generation() != walk.generation {
            return Ok(Vec::new());
        }
        for key in &absent {
            tracing::error!(key = %key.id, "a key that is known here is not stored any more");
            self.metrics.difference("extra");
        }
        self.metrics.alarm(Alarm::Reconcile, absent.len());
        walk.differences += absent.len();
        if absent.len() * 100 > live * usize::from(self.drop_max_percent) {
            self.metrics.alarm(Alarm::TooManyLost, 1);
            tracing::error!(
                absent = absent.len(),
                live,
                "the store lacks too many of the keys that work here: they go on working"
            );
            return Ok(Vec::new());
        }
        let refused = |mut key: KeyRow| {
            key.states.disabled = true;
            key.stamp = repair_stamp(key.stamp, at.revision);
            Row::Key(Box::new(key))
        };
        Ok(absent.into_iter().map(refused).collect())
    }

    fn send(&self, walk: &mut Walk, at: Cursor, Found { rows, taken_back }: Found) {
        let everything = walk.differences > FEW;
        if everything {
            walk.differences = 0;
        }
        if everything || !rows.is_empty() || !taken_back.is_empty() {
            // Nobody is there to put it right once the follower has ended.
            let (generation, found_at) = (walk.generation, at.revision);
            self.repairs.send(Repair { generation, found_at, rows, taken_back, everything }).ok();
        }
    }
}

/// One page as it was read.
#[derive(Debug, Default)]
struct Page {
    keys: Vec<KeyRow>,
    users: Vec<UserRow>,
    damaged: Vec<(Option<KeyId>, String)>,
    handed: u32,
    last: Option<Subject>,
    end: Option<Poll>,
}

impl Page {
    fn take(&mut self, batch: Batch) {
        match batch {
            Batch::Row(_, StoredRow::Key(key)) => {
                self.last = Some(Subject::Key(key.id));
                self.keys.push(KeyRow::from(*key));
                self.handed += 1;
            }
            Batch::Row(_, StoredRow::User(user)) => {
                self.last = Some(Subject::User(user.id.clone()));
                self.users.push(UserRow::from(user));
                self.handed += 1;
            }
            Batch::Damaged(_, what, cause) => {
                let id = match what {
                    crate::store::Damaged::Key { id, .. } => {
                        self.last = Some(Subject::Key(id));
                        Some(id)
                    }
                    crate::store::Damaged::User(id) => {
                        self.last = Some(Subject::User(id));
                        None
                    }
                    crate::store::Damaged::Unnamed => None,
                };
                self.damaged.push((id, cause));
                self.handed += 1;
            }
            Batch::End(poll) => self.end = Some(poll),
        }
    }
}
