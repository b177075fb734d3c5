//! Keeps the table like the store: loads it, follows the feed, notices when the store's history is
//! no longer the one that was followed, and remembers for the next start.
//!
//! What a row says is enforced as soon as it is read. It is reported as applied once it would also
//! survive a restart of this gateway without the store.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::Settings;
use super::clocks::Clocks;
use super::loan::Ask;
use super::metrics::{Alarm, SyncMetrics, shown};
use super::read::{self, Read, ReadFault};
use super::reconcile::{Place, Repair};
use super::remember::{Anew, Memory, Standing, aside};
use super::report::Reporter;
use super::retell::Retelling;
use super::state::Restored;
use crate::clock::{Clock, Timestamp};
use crate::key::{Stamp, Subject};
use crate::store::{Acceptance, Answer, Cursor, Damaged, Poll, SharedStore, StoreError, StoreId};
use crate::table::{Applied, Conflict, Merged, Row, Table};

/// Follows the store; see the module.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) store: SharedStore,
    pub(super) table: Arc<Table>,
    pub(super) clock: Arc<dyn Clock>,
    clocks: Clocks,
    pub(super) settings: Settings,
    pub(super) metrics: Arc<SyncMetrics>,
    memory: Memory,
    pub(super) wake: Arc<Notify>,
    retelling: Retelling,
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
    failures: u32,
    /// The monotonic instant of the last contact.
    contact: Option<std::time::Instant>,
    /// When a reload was refused, and what the store held then.
    refused: Option<(std::time::Instant, Cursor)>,
    /// When it is this gateway's turn to load everything anew.
    reload_at: Option<std::time::Instant>,
    asked: mpsc::UnboundedReceiver<Ask>,
    /// Where this stands, for whoever holds the table against the store.
    place: Place,
    repairs: mpsc::UnboundedReceiver<Repair>,
    /// Too much differs, or what is known is not of one history: everything is to be read anew.
    reload_wanted: bool,
    /// What was found in the state folder goes up to here, and must be of the store's history.
    reached: Option<Cursor>,
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
    #[error("the store {store} is another one than was followed: restart if that is meant")]
    OtherStore { store: String },
    #[error(
        "the store {store} was replaced by one with too few keys ({lost}): nothing was taken over; start with another \
         [sync] state_dir if that is meant"
    )]
    TooManyLost { store: String, lost: String },
}

/// How long a short question may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the first poll may take where there is a snapshot to serve from meanwhile.
const PATIENCE_AT_START: Duration = Duration::from_millis(350);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// After a reload was refused, the next is not tried before.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Over how long a fleet spreads its reloads: a second for so many keys, and no longer than this.
const KEYS_A_SECOND: u64 = 100_000;
const SPREAD_MAX: Duration = Duration::from_secs(30);
impl Follower {
    #[expect(clippy::too_many_arguments, reason = "the parts of one thing, each of another type")]
    pub(super) fn new(
        store: SharedStore,
        table: Arc<Table>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        metrics: Arc<SyncMetrics>,
        memory: Memory,
        wake: Arc<Notify>,
        retelling: Retelling,
        reporter: Arc<Reporter>,
        asked: mpsc::UnboundedReceiver<Ask>,
        (place, repairs): (Place, mpsc::UnboundedReceiver<Repair>),
    ) -> Self {
        Self {
            store,
            table,
            clock,
            clocks: Clocks::default(),
            settings,
            metrics,
            memory,
            wake,
            retelling,
            has_learnt: false,
            reporter,
            entered: false,
            ends: false,
            at: Cursor::default(),
            following: None,
            restored: false,
            failures: 0,
            contact: None,
            refused: None,
            reload_at: None,
            asked,
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
        self.reload_wanted = !restored.is_one_history;
        self.reached = Some(restored.reached).filter(|reached| *reached != restored.cursor);
        // Nothing is known yet that could be lost.
        let _merged = self.table.swap(restored.load, 100);
        self.table.set_reached(restored.cursor.revision);
        self.table.contact_made(restored.contact_at);
        self.report();
        self.memory.found(self.restored && self.reached.is_none());
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
                // A history that was another for a while only is read anew when it is so again.
                self.reload_at = None;
                self.memory.confirmed();
                self.contact = Some(self.clock.monotonic());
                if self.table.contact_lost_at().is_some() {
                    tracing::info!(store = self.store.name(), "in contact with the store");
                }
                self.table.contact_made(now);
                self.table.set_ready();
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
        if self.settle().await && is_like_the_store {
            self.table.end_turn(turn);
        }
        self.show();
        // Telling may take a while. What was read is in force, remembered and reported by now.
        if is_like_the_store && self.retelling.tell(self.at, self.clocks.both_reached(now)).await {
            // More is to be told, and what was told comes back by the feed.
            self.wake.notify_one();
        }
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
            return Err(self.is_another_store());
        }
        if self.following.is_none() {
            return self.reload().await;
        }
        if !poll.leads_on_from(self.at) {
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
            if !poll.leads_on_from(reached) {
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
        let (mut staged, end) = self.outcome(read::changes(&*self.store, self.at).await)?;
        if end.store != poll.store || !end.leads_on_from(self.at) {
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
        let acceptances = self.acceptances().await?;
        self.memory.learn(acceptances.iter().filter(|acceptance| acceptance.revision <= self.at.revision));
        self.has_learnt = true;
        Ok(())
    }

    async fn poll(&mut self) -> Result<Poll, Stuck> {
        self.poll_at(self.at).await
    }

    async fn poll_at(&mut self, cursor: Cursor) -> Result<Poll, Stuck> {
        let asked = self.clock.now();
        let patience = if self.restored && !self.table.is_ready() { PATIENCE_AT_START } else { PATIENCE };
        let poll = self.in_time("poll", patience, self.store.poll(cursor)).await?;
        self.clocks.heard((asked, self.clock.now()), poll.now, &self.metrics);
        Ok(poll)
    }

    /// What the store answers within that time.
    async fn in_time<T>(&self, operation: &'static str, patience: Duration, answer: Answer<'_, T>) -> Result<T, Stuck> {
        let stuck = match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.into(),
            Err(_elapsed) => Stuck::Slow { store: self.store_name() },
        };
        self.metrics.store_error(operation);
        Err(stuck)
    }

    /// What was read of the store, or why that was not all.
    fn outcome(&self, read: Result<(Read, Poll), ReadFault>) -> Result<(Read, Poll), Stuck> {
        read.map_err(|fault| {
            let stuck = match fault {
                ReadFault::Store(error) => error.into(),
                ReadFault::Slow => Stuck::Slow { store: self.store_name() },
                ReadFault::Early => return Stuck::Early { store: self.store_name() },
            };
            self.metrics.store_error("changes");
            stuck
        })
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
        self.memory.owe(applied.changed);
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
        (self.memory.gateway(), self.at.commit).hash(&mut hasher);
        let part = u32::try_from(hasher.finish() % 1_000).unwrap_or(0) + 1;
        spread.saturating_mul(part) / 1_000
    }

    /// Every restored store that somebody has accepted.
    async fn acceptances(&self) -> Result<Vec<Acceptance>, Stuck> {
        match self.store.history() {
            Some(history) => self.in_time("history", PATIENCE, history.acceptances()).await,
            None => Ok(Vec::new()),
        }
    }

    fn is_another_store(&mut self) -> Stuck {
        self.alarm(
            Alarm::OtherStore,
            "the store is another one than was followed: put that back, or restart to follow this one, without the keys of that",
        );
        Stuck::OtherStore { store: self.store_name() }
    }

    /// Builds the whole key set beside the one in use and swaps it in.
    async fn reload(&mut self) -> Result<(), Stuck> {
        let mut acceptances = self.acceptances().await?;
        let (load, staged, end) = loop {
            let load = self.table.load();
            let (staged, end) = self.outcome(read::everything(&*self.store, &load).await)?;
            let after = self.acceptances().await?;
            if after == acceptances {
                break (load, staged, end);
            }
            // Somebody accepted a restored store meanwhile, and of what was read nobody knows whether it was
            // before or after.
            acceptances = after;
        };
        let is_meant = self.following.is_some() && self.memory.lacks_newest(&acceptances);
        if self.following.is_some_and(|following| following != end.store) {
            return Err(self.is_another_store());
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
        let swapped = aside(self.memory.pace(), swap).await;
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
        self.at = end.newest;
        self.reporter.begin_anew();
        self.ends = true;
        let kept = std::mem::take(&mut merged.rows);
        self.memory.begin_anew(Anew { store: end.store, kept, ended: staged.rows, is_meant });
        self.metrics.reloads.inc();
        tracing::info!(keys, revision = end.newest.revision, "loaded the key set from the store");
        if is_meant {
            tracing::warn!(
                "the restored store was accepted by an operator: what it does not know as ended works again"
            );
        }
        self.memory.learn(&acceptances);
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
        self.retelling.owe(merged);
        Ok(())
    }

    /// Has remembered what is owed, and reports as applied what then is. Whether that is all that was followed.
    async fn settle(&mut self) -> bool {
        let in_contact = self.following.is_some() && self.failures == 0;
        let is_all = self.memory.settle(Standing { at: self.at, in_contact }).await;
        if is_all {
            self.report();
        }
        is_all
    }

    /// Everything up to where this stands is applied, and remembered.
    fn report(&mut self) {
        self.table.report(self.at.revision);
        self.reporter.applied(self.at, self.table.version(), std::mem::take(&mut self.ends));
    }

    /// Puts right what differed from the store, unless everything was read anew since.
    pub(super) fn repair(&mut self, repair: Repair) {
        if repair.generation != self.table.generation() {
            return;
        }
        let applied = self.table.apply(repair.rows);
        self.note(applied);
        for (subject, ends) in repair.taken_back {
            // What the store is to be told already was an alarm when that was found.
            if self.retelling.owe_too(subject.clone(), ends, repair.found_at) {
                self.metrics.difference("taken_back");
                self.metrics.alarm(Alarm::Reconcile, 1);
                tell_taken_back(&subject, ends);
            }
        }
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
                self.end_snapshot().await;
                self.settle().await;
                if reply.send(self.memory.lend()).is_err() {
                    self.take_back();
                }
            }
            Ask::TakeBack => self.take_back(),
            Ask::Give => self.memory.give(),
        }
    }

    fn take_back(&mut self) {
        let written = self.memory.take_back();
        if !written.is_empty() {
            let applied = self.table.apply(written);
            self.note(applied);
        }
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
                () = self.memory.step() => self.turn_snapshot().await,
                () = news => return,
            }
        }
    }

    /// Begins a snapshot that is due, or ends one that was written.
    pub(super) async fn turn_snapshot(&mut self) {
        if self.memory.is_writing_snapshot() {
            self.end_snapshot().await;
        } else {
            self.begin_snapshot();
        }
    }

    async fn end_snapshot(&mut self) {
        if self.memory.end_snapshot().await {
            self.settle().await;
        }
    }

    pub(super) fn begin_snapshot(&mut self) {
        self.memory.begin_snapshot(self.at);
    }

    /// The last snapshot of a process that ends.
    pub(super) async fn finish(&mut self) {
        self.end_snapshot().await;
        if self.following.is_some() && self.memory.lacks() {
            self.begin_snapshot();
            self.end_snapshot().await;
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
        self.memory.is_writing_snapshot()
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

fn tell_taken_back(subject: &Subject, ends: Option<Timestamp>) {
    match (subject, ends) {
        (Subject::Key(key), None) => {
            tracing::error!(%key, "this key has ended here, and the store says that it has not: it stays refused");
        }
        (Subject::Key(key), Some(ends)) => {
            tracing::error!(%key, %ends, "the store does not have this key as replaced: it still ends with its grace here");
        }
        (Subject::User(user), _) => {
            tracing::error!(%user, "this user is deleted here, and the store says that it is not: it stays deleted");
        }
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
