//! Keeps the table like the store: loads it, follows the feed, notices when the store's history is
//! no longer the one that was followed, and remembers for the next start.
//!
//! What a row says is enforced as soon as it is read. It is reported as applied once it would also
//! survive a restart of this gateway without the store.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::Settings;
use super::accept::Accepted;
use super::loan::{Ask, Holding};
use super::metrics::{Alarm, SyncMetrics, shown};
use super::reconcile::{Place, Repair};
use super::report::Reporter;
use super::retell::Retelling;
use super::state::{Plan, Restored, StateDir};
use crate::clock::{Clock, Timestamp};
use crate::key::{Stamp, Subject};
use crate::store::{Batch, CommitId, Cursor, Damaged, Poll, Row as StoredRow, SharedStore, StoreError, StoreId};
use crate::table::{Applied, Conflict, KeyRow, Load, Merged, Row, Table, UserRow};

/// Follows the store; see the module.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) store: SharedStore,
    pub(super) table: Arc<Table>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    pub(super) metrics: Arc<SyncMetrics>,
    pub(super) state: Arc<Mutex<StateDir>>,
    pub(super) wake: Arc<Notify>,
    retelling: Retelling,
    accepted: Accepted,
    /// All acceptances up to where this began are known.
    has_learnt: bool,
    reporter: Arc<Reporter>,
    /// The store was asked to know this process, before anything of it was loaded.
    entered: bool,
    /// Something ended since what is applied was last reported.
    ends: bool,
    at: Cursor,
    /// The store that is followed, once one is.
    following: Option<StoreId>,
    /// What was found in the state folder may be served without the store.
    restored: bool,
    /// It may not be, and nothing else is known yet: written down anew, it would pass for good at the next start.
    refused_state: bool,
    owed: Owed,
    failures: u32,
    /// The monotonic instant of the last contact.
    contact: Option<std::time::Instant>,
    /// When a reload was refused, and what the store held then.
    refused: Option<(std::time::Instant, Cursor)>,
    /// When it is this gateway's turn to load everything anew.
    reload_at: Option<std::time::Instant>,
    marked_at: Option<Instant>,
    snapshots: Snapshots,
    asked: mpsc::UnboundedReceiver<Ask>,
    holding: Holding,
    /// Where this stands, for whoever holds the table against the store.
    place: Place,
    repairs: mpsc::UnboundedReceiver<Repair>,
    /// Too much differs, or what is known is not of one history: everything is to be read anew.
    reload_wanted: bool,
    /// What was found in the state folder goes up to here, and must be of the store's history.
    reached: Option<Cursor>,
}

/// What must be remembered before it is reported as applied.
#[derive(Debug, Default)]
struct Owed {
    rows: Vec<Row>,
    /// The table was loaded anew: what was remembered before is no longer all.
    forget: bool,
}

#[derive(Debug, Default)]
struct Snapshots {
    /// Since when the newest snapshot lacks something.
    lacking_since: Option<Instant>,
    begun_at: Option<Instant>,
    writing: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    plan: Option<Arc<Plan>>,
    /// Nothing is reported before one is written of what was loaded.
    awaited: bool,
    /// The one that is being written was begun before everything was loaded anew.
    outdated: bool,
}

/// Why following did not get on.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store {store} gave no answer in time")]
    Slow { store: String },
    #[error("the store {store} ended its answer early")]
    Early { store: String },
    /// Not every gateway reads everything at the same moment.
    #[error("the store's history is another: everything is read anew in {} ms", .left.as_millis())]
    NotYet { left: Duration },
    #[error("the store {store} is another one than was followed: start with another [sync] state_dir if that is meant")]
    OtherStore { store: String },
    #[error(
        "the store {store} was replaced by one with too few keys ({lost}): nothing was taken over; start with another \
         [sync] state_dir if that is meant"
    )]
    TooManyLost { store: String, lost: String },
}

/// How long a poll may take, and how long a read of rows may bring none.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the first poll may take where there is a snapshot to serve from meanwhile.
const PATIENCE_AT_START: Duration = Duration::from_millis(350);
const ROWS_PATIENCE: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// After a reload was refused, the next is not tried before.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Over how long a fleet spreads its reloads: a second for so many keys, and no longer than this.
const KEYS_A_SECOND: u64 = 100_000;
const SPREAD_MAX: Duration = Duration::from_secs(30);
/// A snapshot is begun so long after the first change, to be written within a second of it.
const SNAPSHOT_AFTER: Duration = Duration::from_millis(300);
const SNAPSHOT_EVERY: Duration = Duration::from_secs(30);
const MARK_EVERY: Duration = Duration::from_secs(60);

/// What a read of the feed brought.
#[derive(Debug, Default)]
struct Staged {
    rows: Vec<Row>,
    load: Option<Load>,
    /// Rows that cannot be read, with why.
    damaged: Vec<(Damaged, Stamp, String)>,
    /// What has ended of what went into the load, as far as that is little.
    ended: Vec<Row>,
    handed: u64,
    end: Option<Poll>,
}

/// So much that has ended is written into the journal when everything was read. Where it is more, the
/// snapshot is waited for.
const ENDED_MAX: usize = 20_000;

impl Staged {
    fn take(&mut self, batch: Batch) {
        match batch {
            Batch::Row(_, StoredRow::Key(key)) => self.key(KeyRow::from(*key)),
            Batch::Row(_, StoredRow::User(user)) => self.user(UserRow::from(user)),
            Batch::Damaged(stamp, what, cause) => {
                match &what {
                    Damaged::Key { id, hash: Some(hash) } => self.key(KeyRow::refused(*id, hash, stamp)),
                    Damaged::User(id) => self.user(UserRow::refused(id.clone(), stamp)),
                    Damaged::Key { hash: None, .. } | Damaged::Unnamed => self.handed += 1,
                }
                self.damaged.push((what, stamp, cause));
            }
            Batch::End(poll) => self.end = Some(poll),
        }
    }

    fn key(&mut self, key: KeyRow) {
        self.handed += 1;
        let Some(load) = &self.load else { return self.rows.push(Row::Key(Box::new(key))) };
        load.key(&key.view());
        if key.states.is_terminal() && self.ended.len() <= ENDED_MAX {
            self.ended.push(Row::Key(Box::new(key)));
        }
    }

    fn user(&mut self, user: UserRow) {
        self.handed += 1;
        let Some(load) = &self.load else { return self.rows.push(Row::User(user)) };
        load.user(&user);
        if user.deleted && self.ended.len() <= ENDED_MAX {
            self.ended.push(Row::User(user));
        }
    }
}

impl Follower {
    #[expect(clippy::too_many_arguments, reason = "the parts of one thing, each of another type")]
    pub(super) fn new(
        store: SharedStore,
        table: Arc<Table>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        metrics: Arc<SyncMetrics>,
        state: Arc<Mutex<StateDir>>,
        wake: Arc<Notify>,
        retelling: Retelling,
        reporter: Arc<Reporter>,
        asked: mpsc::UnboundedReceiver<Ask>,
        (place, repairs): (Place, mpsc::UnboundedReceiver<Repair>),
    ) -> Self {
        let accepted = Accepted::read(state.lock().disk());
        Self {
            accepted,
            store,
            table,
            clock,
            settings,
            metrics,
            state,
            wake,
            retelling,
            has_learnt: false,
            reporter,
            entered: false,
            ends: false,
            at: Cursor::default(),
            following: None,
            restored: false,
            refused_state: false,
            owed: Owed::default(),
            failures: 0,
            contact: None,
            refused: None,
            reload_at: None,
            marked_at: None,
            snapshots: Snapshots::default(),
            asked,
            holding: Holding::Ours,
            place,
            repairs,
            reload_wanted: false,
            reached: None,
        }
    }

    /// Starts from what the state folder held. It is served only once the store confirmed it, or
    /// was found away.
    pub(super) fn start_from(&mut self, restored: Restored) {
        self.at = restored.cursor;
        self.following = Some(restored.store);
        self.restored = restored.refusal.is_none();
        self.refused_state = !self.restored;
        self.reload_wanted = !restored.is_one_history;
        self.reached = Some(restored.reached).filter(|reached| *reached != restored.cursor);
        // Nothing is known yet that could be lost.
        let _merged = self.table.swap(restored.load, 100);
        self.table.set_reached(restored.cursor.revision);
        self.table.contact_made(restored.contact_at);
        self.report();
        // Journal and snapshot become one again.
        self.snapshots.lacking_since = Some(Instant::now());
        let silent = self.clock.now().since(restored.contact_at);
        self.contact = self.clock.monotonic().checked_sub(silent);
    }

    /// Follows until `stop` turns true, then writes a last snapshot.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() && stop.has_changed().is_ok() {
            let pause = self.turn().await;
            self.wait(pause, &mut stop).await;
        }
        self.finish().await;
    }

    /// One attempt to be like the store, and all that follows from how it went. How long to wait
    /// before the next, unless something happens.
    pub(super) async fn turn(&mut self) -> Pause {
        let turn = self.table.begin_turn();
        let result = self.catch_up().await;
        let is_like_the_store = result.is_ok();
        *self.place.lock() = result.is_ok().then(|| (self.at, self.table.generation()));
        let now = self.clock.now();
        let pause = match result {
            Ok(()) => {
                self.failures = 0;
                self.reached = None;
                if std::mem::take(&mut self.refused_state) {
                    self.snapshots.lacking_since = Some(Instant::now());
                }
                self.contact = Some(self.clock.monotonic());
                if self.table.contact_lost_at().is_some() {
                    tracing::info!(store = self.store.name(), "in contact with the store");
                }
                self.table.contact_made(now);
                self.table.set_ready();
                if self.retelling.tell().await {
                    // More is to be told, and what was told comes back by the feed.
                    self.wake.notify_one();
                }
                Pause::News(self.settings.poll)
            }
            Err(Stuck::NotYet { left }) if self.table.is_ready() => {
                // The store can be asked, and what is known is served as long as the turn has not come.
                self.contact = Some(self.clock.monotonic());
                Pause::Backoff(left.min(BACKOFF_MAX))
            }
            Err(stuck) => {
                self.failures = self.failures.saturating_add(1);
                if self.table.contact_lost(now) {
                    tracing::warn!(error = %stuck, "not in contact with the store");
                }
                if self.restored && !self.table.is_ready() {
                    tracing::warn!(
                        keys = self.table.keys(),
                        revision = self.at.revision,
                        last_contact = %self.contact_at(),
                        "serving from the snapshot, for the store cannot be asked"
                    );
                    self.table.set_ready();
                }
                Pause::Backoff(BACKOFF_MIN.saturating_mul(1 << (self.failures - 1).min(8)).min(BACKOFF_MAX))
            }
        };
        let silent = self.contact.map(|contact| self.clock.monotonic().saturating_duration_since(contact));
        let silent = silent.is_some_and(|silent| silent > self.settings.max_staleness);
        self.table.set_overdue(silent || self.reporter.is_given_up());
        self.settle().await;
        if is_like_the_store && self.table.applied() == self.at.revision {
            self.table.end_turn(turn);
        }
        self.show();
        pause
    }

    async fn catch_up(&mut self) -> Result<(), Stuck> {
        let finds = self.table.finds();
        let mut poll = self.poll().await?;
        if !self.entered {
            // Whoever commits after what is loaded now was committed finds this process in the store.
            self.entered = true;
            self.reporter.register().await;
            poll = self.poll().await?;
        }
        self.metrics.lag.set(shown(poll.newest.revision.saturating_sub(self.at.revision)));
        if self.following.is_some_and(|following| following != poll.store) {
            self.alarm(Alarm::OtherStore, "the store is another one than was followed");
            return Err(Stuck::OtherStore { store: self.store_name() });
        }
        if self.following.is_none() {
            return self.reload().await;
        }
        if poll.at_cursor != Some(self.commit_at_cursor()) {
            return self.diverged(poll.newest).await;
        }
        if !self.has_learnt {
            self.learn_acceptances().await?;
        }
        if self.reload_wanted {
            self.may_reload(poll.newest)?;
            return self.reload().await;
        }
        if let Some(reached) = self.reached {
            // A history that was left after the snapshot, and before what the journal knows.
            let poll = self.poll_at(reached).await?;
            if poll.at_cursor != Some(reached.commit) {
                return self.diverged(poll.newest).await;
            }
        }
        if poll.newest == self.at {
            return if finds == 0 { Ok(()) } else { self.diverged(poll.newest).await };
        }
        if self.at.revision == 0 {
            // Nothing of it is known yet.
            return self.reload().await;
        }
        let mut staged = self.read(self.at, None).await?;
        let end = staged.end.take().ok_or_else(|| Stuck::Early { store: self.store_name() })?;
        if end.store != poll.store || end.at_cursor != Some(self.commit_at_cursor()) {
            return self.diverged(end.newest).await;
        }
        let lost = staged.damaged.iter().filter_map(|(what, stamp, _)| self.refused_by_id(what, *stamp));
        staged.rows.extend(lost);
        let Ok(applied) = self.table.follow(staged.rows, finds, end.newest.revision) else {
            return self.diverged(end.newest).await;
        };
        self.tell_damaged(&staged.damaged);
        self.note(applied);
        self.at = end.newest;
        Ok(())
    }

    /// What this process started from is of the store's history, so every acceptance in it was taken over,
    /// whatever became of the file that says so.
    async fn learn_acceptances(&mut self) -> Result<(), Stuck> {
        if let Some(history) = self.store.history() {
            let acceptances = history.acceptances().await?;
            self.accepted.learn(acceptances.iter().filter(|acceptance| acceptance.revision <= self.at.revision));
        }
        self.has_learnt = true;
        Ok(())
    }

    /// What the store says of our place if its history is still the one that was followed.
    fn commit_at_cursor(&self) -> CommitId {
        if self.at.revision == 0 { CommitId::default() } else { self.at.commit }
    }

    async fn poll(&self) -> Result<Poll, Stuck> {
        self.poll_at(self.at).await
    }

    async fn poll_at(&self, cursor: Cursor) -> Result<Poll, Stuck> {
        let patience = if self.restored && !self.table.is_ready() { PATIENCE_AT_START } else { PATIENCE };
        match tokio::time::timeout(patience, self.store.poll(cursor)).await {
            Ok(Ok(poll)) => Ok(poll),
            Ok(Err(error)) => {
                self.metrics.store_error("poll");
                Err(error.into())
            }
            Err(_elapsed) => {
                self.metrics.store_error("poll");
                Err(Stuck::Slow { store: self.store_name() })
            }
        }
    }

    /// Reads all that changed after `cursor`, into `load` where there is one. Given up when no row
    /// comes for a while, however long the whole takes.
    async fn read(&self, cursor: Cursor, load: Option<Load>) -> Result<Staged, Stuck> {
        let staged = Arc::new(Mutex::new(Staged { load, ..Staged::default() }));
        let sink = {
            let staged = Arc::clone(&staged);
            Box::new(move |batch| staged.lock().take(batch))
        };
        let mut reading = self.store.changes_after(cursor, sink);
        let mut handed = 0;
        loop {
            match tokio::time::timeout(ROWS_PATIENCE, &mut reading).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    self.metrics.store_error("changes");
                    return Err(error.into());
                }
                Err(_elapsed) => {
                    let now_handed = staged.lock().handed;
                    if now_handed == handed {
                        self.metrics.store_error("changes");
                        return Err(Stuck::Slow { store: self.store_name() });
                    }
                    handed = now_handed;
                }
            }
        }
        let staged = std::mem::take(&mut *staged.lock());
        Ok(staged)
    }

    /// The row that refuses a key whose stored row does not even have its hash any more.
    fn refused_by_id(&self, what: &Damaged, stamp: Stamp) -> Option<Row> {
        let Damaged::Key { id, hash: None } = what else { return None };
        let mut known = None;
        self.table.for_each_key(|key| {
            if key.id == *id {
                known = Some(key.to_row());
            }
        });
        let mut row = known?;
        row.states.disabled = true;
        row.stamp = stamp;
        Some(Row::Key(Box::new(row)))
    }

    fn tell_damaged(&self, damaged: &[(Damaged, Stamp, String)]) {
        self.metrics.alarm(Alarm::Damaged, damaged.len());
        for (what, _, cause) in damaged {
            match what {
                Damaged::Key { id, .. } => tracing::error!(key = %id, cause, "a key cannot be read: it is refused"),
                Damaged::User(id) => tracing::error!(user = %id, cause, "a user cannot be read: its keys are refused"),
                Damaged::Unnamed => tracing::error!(cause, "a row cannot be read, nor of what it is"),
            }
        }
    }

    /// Takes note of what applying rows did: it must be remembered, and some of it is an alarm.
    fn note(&mut self, applied: Applied) {
        for conflict in &applied.conflicts {
            match conflict {
                Conflict::Key(key) => {
                    tracing::error!(%key, "the store takes back a revocation, a supersession or the end of a grace: it stands here");
                }
                Conflict::User(user) => tracing::error!(%user, "the store takes back a deletion: it stands here"),
            }
        }
        self.metrics.alarm(Alarm::TakenBack, applied.conflicts.len());
        if applied.full > 0 {
            self.metrics.alarm(Alarm::Full, applied.full);
            tracing::error!(rows = applied.full, "no room in the table: these keys are refused");
        }
        self.ends |= !applied.changed.is_empty();
        self.owed.rows.extend(applied.changed);
        self.snapshots.lacking_since.get_or_insert_with(Instant::now);
    }

    /// Whether everything may be read anew.
    fn may_reload(&self, newest: Cursor) -> Result<(), Stuck> {
        // What was refused stays refused until the store holds something else; reading it all again
        // would cost memory each time, for it has keys that have no place here yet.
        let too_soon = |at| self.clock.monotonic().saturating_duration_since(at) < REFUSED_FOR;
        if self.refused.is_some_and(|(at, then)| then == newest || too_soon(at)) {
            return Err(Stuck::TooManyLost { store: self.store_name(), lost: "as before".to_owned() });
        }
        Ok(())
    }

    async fn diverged(&mut self, newest: Cursor) -> Result<(), Stuck> {
        self.may_reload(newest)?;
        let now = self.clock.monotonic();
        let Some(reload_at) = self.reload_at else {
            self.alarm(
                Alarm::History,
                "the store's history is another than the one that was followed: it was restored?",
            );
            let share = self.share();
            self.reload_at = now.checked_add(share);
            return if share.is_zero() { self.reload().await } else { Err(Stuck::NotYet { left: share }) };
        };
        let left = reload_at.saturating_duration_since(now);
        if left.is_zero() { self.reload().await } else { Err(Stuck::NotYet { left }) }
    }

    /// How long this gateway waits while others of its fleet read everything: always the same of one
    /// history, and nothing where nothing can be served meanwhile.
    fn share(&self) -> Duration {
        if !self.table.is_ready() {
            return Duration::ZERO;
        }
        let keys = u64::try_from(self.table.keys()).unwrap_or(u64::MAX);
        let spread = Duration::from_millis(keys.saturating_mul(1_000) / KEYS_A_SECOND).min(SPREAD_MAX);
        let mut hasher = std::hash::DefaultHasher::new();
        (self.state.lock().gateway().digits(), self.at.commit).hash(&mut hasher);
        let part = u32::try_from(hasher.finish() % 1_000).unwrap_or(0) + 1;
        spread.saturating_mul(part) / 1_000
    }

    /// Builds the whole key set beside the one in use and swaps it in.
    async fn reload(&mut self) -> Result<(), Stuck> {
        // Asked before the rows are: an acceptance that comes later begins another history.
        let acceptances = match self.store.history() {
            Some(history) => history.acceptances().await?,
            None => Vec::new(),
        };
        let is_meant = self.following.is_some() && self.accepted.lacks_newest(&acceptances);
        let mut staged = self.read(Cursor::default(), Some(self.table.load())).await?;
        let (Some(end), Some(load)) = (staged.end.take(), staged.load.take()) else {
            return Err(Stuck::Early { store: self.store_name() });
        };
        if self.following.is_some_and(|following| following != end.store) {
            self.alarm(Alarm::OtherStore, "the store is another one than was followed");
            return Err(Stuck::OtherStore { store: self.store_name() });
        }
        self.tell_damaged(&staged.damaged);
        let keys = load.keys();
        // Walking both key sets takes a while where they are large.
        let (table, drop_max) = (Arc::clone(&self.table), self.settings.reload_drop_max_percent);
        let swap = move || {
            if is_meant {
                table.replace(load);
                return Ok(Merged::default());
            }
            table.swap(load, drop_max)
        };
        let swapped = tokio::task::spawn_blocking(swap).await;
        let mut merged = match swapped {
            Ok(Ok(merged)) => merged,
            Ok(Err(refused)) => {
                self.refused = Some((self.clock.monotonic(), end.newest));
                self.reload_at = None;
                self.alarm(Alarm::TooManyLost, "a reload would lose too many keys");
                return Err(Stuck::TooManyLost { store: self.store_name(), lost: refused.to_string() });
            }
            Err(_panicked) => return Err(Stuck::Early { store: self.store_name() }),
        };
        self.refused = None;
        self.reload_at = None;
        self.reload_wanted = false;
        self.table.set_reached(end.newest.revision);
        self.following = Some(end.store);
        self.state.lock().set_store(end.store);
        self.at = end.newest;
        self.reporter.begin_anew();
        self.ends = true;
        // Nothing that was remembered is all of what lies in the table now. Until a snapshot is written
        // it is all that remembers what the store has forgotten, together with what is owed.
        self.owed.rows.extend(std::mem::take(&mut merged.rows));
        if is_meant {
            // What ended in the history before shall not be owed, and only a snapshot takes it back.
            self.owed.rows.clear();
            self.snapshots.awaited = true;
        } else if staged.ended.len() > ENDED_MAX {
            self.snapshots.awaited = true;
        } else {
            self.owed.rows.append(&mut staged.ended);
        }
        self.owed.forget = true;
        self.snapshots.lacking_since = Some(Instant::now());
        self.snapshots.begun_at = None;
        self.snapshots.outdated = self.snapshots.writing.is_some();
        self.metrics.reloads.inc();
        tracing::info!(keys, revision = end.newest.revision, "loaded the key set from the store");
        if is_meant {
            tracing::warn!(
                "the restored store was accepted by an operator: what it does not know as ended works again"
            );
        }
        self.accepted.learn(&acceptances);
        for key in &merged.keys {
            tracing::error!(%key, "the store no longer has this key as revoked or superseded: it stays refused here");
        }
        for (key, ends) in &merged.graces {
            tracing::error!(%key, %ends, "the store no longer has this key as replaced: it still ends with its grace here");
        }
        for user in &merged.users {
            tracing::error!(%user, "the store no longer has this user as deleted: it stays deleted here");
        }
        let taken_back = merged.keys.len() + merged.graces.len() + merged.users.len() + merged.revived.count();
        self.metrics.alarm(Alarm::TakenBack, taken_back);
        tell_lost(&merged);
        let now = self.clock.now();
        merged.keys.extend(merged.graces.iter().filter(|(_, ends)| *ends <= now).map(|(key, _)| *key));
        self.retelling.owe(merged);
        Ok(())
    }

    /// Remembers what is owed, and reports as applied what then is.
    async fn settle(&mut self) {
        match self.holding {
            Holding::Ours => {}
            // It would not survive a crash of both.
            Holding::Lent if self.owes() => return,
            Holding::Lent => return self.report(),
            Holding::Given => {
                self.owed = Owed::default();
                return self.report();
            }
        }
        let (contact_at, now, at) = (self.contact_at(), self.clock.now(), self.at);
        let due = self.marked_at.is_none_or(|marked_at| marked_at.elapsed() >= MARK_EVERY);
        let mark = due && self.following.is_some() && self.failures == 0;
        if self.owes() || mark {
            let (state, owed) = (Arc::clone(&self.state), std::mem::take(&mut self.owed));
            let remembering = tokio::task::spawn_blocking(move || {
                let mut state = state.lock();
                let mut owed = owed;
                let result = remember(&mut state, &mut owed, (mark, at), (contact_at, now));
                (owed, result, state.journal_bytes())
            });
            match remembering.await {
                Ok((owed, Ok(()), journal_bytes)) => {
                    self.owed = owed;
                    self.marked_at = Some(Instant::now());
                    self.metrics.journal_bytes.set(shown(journal_bytes));
                }
                Ok((owed, Err(error), _)) => {
                    self.owed = owed;
                    self.alarm(Alarm::Journal, "changes cannot be remembered across a restart");
                    tracing::error!(%error, "changes are enforced but not reported as applied: the state folder fails");
                    return;
                }
                Err(_panicked) => {
                    // Nothing more can be remembered by itself, but a snapshot holds it all.
                    self.owed.forget = true;
                    return;
                }
            }
        }
        if !self.snapshots.awaited
            && let Err(error) = self.accepted.write()
        {
            // The first contact after a restart makes up for it.
            tracing::error!(%error, "that a restored store was taken over cannot be remembered: the state folder fails");
        }
        self.report();
    }

    /// Everything up to where this stands is applied, and remembered.
    fn report(&mut self) {
        if self.snapshots.awaited {
            return;
        }
        self.table.report(self.at.revision);
        self.reporter.applied(self.at, self.table.version(), std::mem::take(&mut self.ends));
    }

    /// Whether something is applied and not remembered.
    fn owes(&self) -> bool {
        self.owed.forget || !self.owed.rows.is_empty()
    }

    /// Puts right what differed from the store, unless everything was read anew since.
    pub(super) fn repair(&mut self, repair: Repair) {
        if repair.generation != self.table.generation() {
            return;
        }
        let applied = self.table.apply(repair.rows);
        self.note(applied);
        if repair.everything {
            tracing::error!("too much differs from the store: everything is read anew");
            self.reload_wanted = true;
        }
    }

    /// What was found and not put right yet.
    #[cfg(test)]
    pub(super) fn repair_all(&mut self) {
        while let Ok(repair) = self.repairs.try_recv() {
            self.repair(repair);
        }
    }

    /// Lends the state folder, takes it back, or gives it away.
    pub(super) async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Lend(reply) => {
                if self.snapshots.writing.is_some() {
                    self.turn_snapshot().await;
                }
                self.settle().await;
                let lent = if self.owes() {
                    Err(std::io::Error::other("changes cannot be remembered: the state folder fails"))
                } else {
                    self.state.lock().lend()
                };
                if lent.is_ok() {
                    self.holding = Holding::Lent;
                    self.snapshots.lacking_since = None;
                }
                if reply.send(lent).is_err() {
                    self.take_back();
                }
            }
            Ask::TakeBack => self.take_back(),
            Ask::Give => {
                self.holding = Holding::Given;
                self.state.lock().let_go();
            }
        }
    }

    fn take_back(&mut self) {
        if self.holding != Holding::Lent {
            return;
        }
        self.holding = Holding::Ours;
        let written = self.state.lock().take_back();
        match written {
            Ok(rows) => {
                let applied = self.table.apply(rows);
                self.note(applied);
            }
            Err(fault) => {
                self.alarm(Alarm::State, "what another process wrote into the state folder cannot be read");
                tracing::error!(fault, "the state folder is written anew");
                self.owed.forget = true;
            }
        }
        self.snapshots.lacking_since = Some(Instant::now());
        self.snapshots.begun_at = None;
    }

    /// Waits for news, for a reason to write a snapshot, or for the pause to pass.
    async fn wait(&mut self, pause: Pause, stop: &mut watch::Receiver<bool>) {
        let until = Instant::now() + pause.length();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let (store, wake) = (Arc::clone(&self.store), Arc::clone(&self.wake));
            let news = async {
                match pause {
                    Pause::News(_) => store.wait_for_news(left).await,
                    Pause::Backoff(_) => tokio::time::sleep(left).await,
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                Some(ask) = self.asked.recv() => return self.answer(ask).await,
                Some(repair) = self.repairs.recv() => return self.repair(repair),
                () = wake.notified() => return,
                () = self.snapshots.step() => self.turn_snapshot().await,
                () = news => return,
            }
        }
    }

    /// Begins a snapshot that is due, or ends one that was written.
    pub(super) async fn turn_snapshot(&mut self) {
        let Some(writing) = &mut self.snapshots.writing else {
            self.begin_snapshot();
            return;
        };
        let written = writing.await;
        self.snapshots.writing = None;
        let Some(plan) = self.snapshots.plan.take() else { return };
        let (state, contact_at, now) = (Arc::clone(&self.state), self.contact_at(), self.clock.now());
        let finished = match written {
            Ok(Ok(())) => {
                let plan = Arc::clone(&plan);
                tokio::task::spawn_blocking(move || state.lock().finish_snapshot(&plan, contact_at, now)).await
            }
            Ok(Err(error)) => Ok(Err(error)),
            Err(panicked) => Err(panicked),
        };
        match finished {
            Ok(Ok(())) => {
                self.metrics.snapshot_at.set(plan.taken_at().seconds());
                if !std::mem::take(&mut self.snapshots.outdated) && std::mem::take(&mut self.snapshots.awaited) {
                    self.settle().await;
                }
            }
            Ok(Err(error)) => self.snapshot_failed(&error),
            Err(panicked) => self.snapshot_failed(&panicked),
        }
    }

    fn snapshot_failed(&mut self, error: &dyn fmt::Display) {
        self.metrics.snapshot_failures.inc();
        tracing::error!(%error, "a snapshot could not be written");
        self.snapshots.lacking_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn begin_snapshot(&mut self) {
        if self.holding != Holding::Ours || self.refused_state {
            self.snapshots.lacking_since = None;
            return;
        }
        // What is owed is in the table but in no journal; a snapshot taken now would hold it, and
        // is all the more wanted.
        let (contact_at, now) = (self.contact_at(), self.clock.now());
        let Some(plan) = self.state.lock().begin_snapshot(self.at, contact_at, now) else {
            self.snapshots.lacking_since = None;
            return;
        };
        let plan = Arc::new(plan);
        let (writer, table) = (Arc::clone(&plan), Arc::clone(&self.table));
        self.snapshots.lacking_since = None;
        self.snapshots.begun_at = Some(Instant::now());
        self.snapshots.writing = Some(tokio::task::spawn_blocking(move || writer.write(&table)));
        self.snapshots.plan = Some(plan);
    }

    /// The last snapshot of a process that ends.
    pub(super) async fn finish(&mut self) {
        if self.snapshots.writing.is_some() {
            self.turn_snapshot().await;
        }
        if self.following.is_some() && self.snapshots.lacking_since.is_some() {
            self.begin_snapshot();
            if self.snapshots.writing.is_some() {
                self.turn_snapshot().await;
            }
        }
    }

    /// Where in the store's history the table stands.
    #[cfg(test)]
    pub(super) const fn at(&self) -> Cursor {
        self.at
    }

    /// Whether a snapshot is being written, or was and is not taken note of.
    #[cfg(test)]
    pub(super) const fn is_writing_snapshot(&self) -> bool {
        self.snapshots.writing.is_some()
    }

    fn contact_at(&self) -> Timestamp {
        self.table.last_contact().unwrap_or_default()
    }

    fn alarm(&self, alarm: Alarm, what: &str) {
        self.metrics.alarm(alarm, 1);
        tracing::error!(store = self.store.name(), "{what}");
    }

    fn store_name(&self) -> String {
        self.store.name().to_owned()
    }

    fn show(&self) {
        self.metrics.keys.set(i64::try_from(self.table.keys()).unwrap_or(i64::MAX));
        self.metrics.applied.set(shown(self.table.applied()));
        if self.failures == 0 {
            self.metrics.lag.set(0);
        }
        self.metrics.contact(self.table.last_contact(), self.failures == 0);
    }
}

/// Says what a store that lost changes takes back, and what no gateway can make good.
fn tell_lost(merged: &Merged) {
    for subject in &merged.revived.named {
        match subject {
            Subject::Key(key) => {
                tracing::error!(%key, "the store has this key as before it was disabled: it works again");
            }
            Subject::User(user) => {
                tracing::error!(%user, "the store has this user as before it was disabled: its keys work again");
            }
        }
    }
    for subject in &merged.gone.named {
        match subject {
            Subject::Key(key) => {
                tracing::error!(%key, "this key worked here and is not in the store any more: it is refused");
            }
            Subject::User(user) => tracing::error!(%user, "this user is not in the store any more"),
        }
    }
    if merged.older > 0 || merged.gone.count() > 0 {
        tracing::error!(
            older = merged.older,
            revived = merged.revived.count(),
            gone = merged.gone.count(),
            "the store has lost changes that were known here: what they changed is as it was before"
        );
    }
}

/// Writes down what is owed; what was written is no longer owed.
fn remember(
    state: &mut StateDir,
    owed: &mut Owed,
    (mark, at): (bool, Cursor),
    (contact_at, now): (Timestamp, Timestamp),
) -> std::io::Result<()> {
    if !owed.rows.is_empty() {
        state.append(&owed.rows, at, (contact_at, now))?;
        owed.rows.clear();
    } else if mark && !owed.forget {
        state.mark(contact_at, now)?;
    }
    if owed.forget {
        state.forget_older(contact_at, now)?;
        owed.forget = false;
    }
    Ok(())
}

/// What to wait for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// News from the store.
    News(Duration),
    /// The store to come back.
    Backoff(Duration),
}

impl Pause {
    const fn length(self) -> Duration {
        match self {
            Self::News(length) | Self::Backoff(length) => length,
        }
    }
}

impl Snapshots {
    /// Ends when a snapshot is due, or the one being written is written. Cancel-safe.
    async fn step(&mut self) {
        if let Some(writing) = &mut self.writing {
            while !writing.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            return;
        }
        let Some(lacking_since) = self.lacking_since else { return std::future::pending().await };
        let soon = lacking_since + SNAPSHOT_AFTER;
        let due = self.begun_at.map_or(soon, |begun_at| soon.max(begun_at + SNAPSHOT_EVERY));
        tokio::time::sleep_until(due).await;
    }
}
