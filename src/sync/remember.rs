//! What a gateway remembers for the next start: in the journal, at once, whatever must not be lost; in
//! snapshots, now and then, everything.
//!
//! What is owed is enforced already, and not reported as applied before it is written.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::accept::Accepted;
use super::loan::Holding;
use super::metrics::{Alarm, SyncMetrics, shown};
use super::read::ENDED_MAX;
use super::state::{Pace, Plan, StateDir};
use crate::clock::{Clock, Timestamp};
use crate::store::{Acceptance, Cursor, StoreId};
use crate::table::{Row, Table};

/// Remembers; see the module.
#[derive(Debug)]
pub(super) struct Memory {
    table: Arc<Table>,
    clock: Arc<dyn Clock>,
    metrics: Arc<SyncMetrics>,
    state: Arc<Mutex<StateDir>>,
    pace: Pace,
    accepted: Accepted,
    owed: Owed,
    snapshots: Snapshots,
    marked_at: Option<Instant>,
    holding: Holding,
    /// What was found may not be served, or is of no one place of the history, and nothing else is known yet: written
    /// down anew, it would pass at the next start for good, or without what is newer than its place.
    refused: bool,
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
    writing: Option<Writing>,
    plan: Option<Arc<Plan>>,
    /// Nothing is reported before one is written of what was loaded.
    awaited: bool,
    /// No journal holds all that has ended of what was loaded last.
    alone: bool,
    /// The one that is being written does not hold what is in the table.
    outdated: bool,
}

impl Snapshots {
    /// None that was begun holds what is in the table.
    fn begin_again(&mut self) {
        self.awaited |= self.alone;
        self.lacking_since = Some(Instant::now());
        self.begun_at = None;
        self.outdated = self.writing.is_some();
    }
}

/// A snapshot that is being written.
#[derive(Debug)]
enum Writing {
    Aside(JoinHandle<io::Result<()>>),
    #[cfg(test)]
    Written(io::Result<()>),
    #[cfg(test)]
    Late(Arc<Plan>, Arc<Table>),
}

impl Writing {
    fn begin(pace: Pace, plan: &Arc<Plan>, table: &Arc<Table>) -> Self {
        let (plan, table) = (Arc::clone(plan), Arc::clone(table));
        match pace {
            Pace::Aside => Self::Aside(spawn_blocking(move || plan.write(&table))),
            #[cfg(test)]
            Pace::Simulated if plan.is_late() => Self::Late(plan, table),
            #[cfg(test)]
            Pace::Simulated => Self::Written(plan.write(&table)),
        }
    }

    fn is_finished(&self) -> bool {
        match self {
            Self::Aside(writing) => writing.is_finished(),
            #[cfg(test)]
            Self::Written(_) | Self::Late(..) => true,
        }
    }

    async fn end(self) -> Result<io::Result<()>, JoinError> {
        match self {
            Self::Aside(writing) => writing.await,
            #[cfg(test)]
            Self::Written(written) => Ok(written),
            #[cfg(test)]
            Self::Late(plan, table) => Ok(plan.write(&table)),
        }
    }
}

/// Does what blocks where it keeps nobody waiting.
pub(super) async fn aside<T: Send + 'static>(
    pace: Pace,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match pace {
        Pace::Aside => spawn_blocking(work).await,
        #[cfg(test)]
        Pace::Simulated => Ok(work()),
    }
}

/// Where the one stands who has something remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Up to here everything is in the table.
    pub(super) at: Cursor,
    /// The store was heard of just now.
    pub(super) in_contact: bool,
}

/// What everything being read anew leaves to be remembered.
#[derive(Debug)]
pub(super) struct Anew {
    /// The store that it was read of.
    pub(super) store: StoreId,
    /// What the store has forgotten, and is not forgotten here.
    pub(super) kept: Vec<Row>,
    /// What has ended of what was read; more than [`ENDED_MAX`] are not all.
    pub(super) ended: Vec<Row>,
    /// Somebody has said that the store is to be taken as it is.
    pub(super) is_meant: bool,
}

/// A snapshot is begun so long after the first change, to be written within a second of it.
const SNAPSHOT_AFTER: Duration = Duration::from_millis(300);
const SNAPSHOT_EVERY: Duration = Duration::from_secs(30);
const MARK_EVERY: Duration = Duration::from_secs(60);

impl Memory {
    pub(super) fn new(state: StateDir, table: Arc<Table>, clock: Arc<dyn Clock>, metrics: Arc<SyncMetrics>) -> Self {
        Self {
            table,
            clock,
            metrics,
            pace: state.pace(),
            accepted: Accepted::read(state.disk()),
            state: Arc::new(Mutex::new(state)),
            owed: Owed::default(),
            snapshots: Snapshots::default(),
            marked_at: None,
            holding: Holding::Ours,
            refused: false,
        }
    }

    /// How what blocks is done.
    pub(super) const fn pace(&self) -> Pace {
        self.pace
    }

    /// The digits of this gateway's id.
    pub(super) fn gateway(&self) -> String {
        self.state.lock().gateway().digits().to_owned()
    }

    /// Whether the newest of these acceptances is none that was taken over.
    pub(super) fn lacks_newest(&self, acceptances: &[Acceptance]) -> bool {
        self.accepted.lacks_newest(acceptances)
    }

    /// The store was taken over with all of these.
    pub(super) fn learn<'a>(&mut self, acceptances: impl IntoIterator<Item = &'a Acceptance>) {
        self.accepted.learn(acceptances);
    }

    /// Something was found in the state folder: journal and snapshot become one again, where it may be served and is
    /// of one place of the store's history, or else once the store has confirmed it.
    pub(super) fn found(&mut self, may_be_written: bool) {
        self.snapshots.lacking_since = Some(Instant::now());
        self.refused = !may_be_written;
    }

    /// The store has confirmed what is in the table.
    pub(super) fn confirmed(&mut self) {
        if std::mem::take(&mut self.refused) {
            self.snapshots.lacking_since = Some(Instant::now());
        }
    }

    /// These are in the table.
    pub(super) fn owe(&mut self, rows: Vec<Row>) {
        self.owed.rows.extend(rows);
        self.snapshots.lacking_since.get_or_insert_with(Instant::now);
    }

    /// Everything was read anew.
    pub(super) fn begin_anew(&mut self, anew: Anew) {
        self.state.lock().set_store(anew.store);
        // Nothing that was remembered is all of what lies in the table now. Until a snapshot is written
        // it is all that remembers what the store has forgotten, together with what is owed.
        self.owed.rows.extend(anew.kept);
        self.snapshots.alone = anew.is_meant || anew.ended.len() > ENDED_MAX;
        if anew.is_meant {
            // What ended in the history before shall not be owed, and only a snapshot takes it back.
            self.owed.rows.clear();
        } else if !self.snapshots.alone {
            self.owed.rows.extend(anew.ended);
        }
        self.owed.forget = true;
        self.snapshots.begin_again();
    }

    /// Writes down what is owed. Whether all that is in the table may then be reported as applied.
    pub(super) async fn settle(&mut self, standing: Standing) -> bool {
        match self.holding {
            Holding::Ours => {}
            // It would not survive a crash of both.
            Holding::Lent => return !self.owes() && self.is_whole(),
            Holding::Given => {
                self.owed = Owed::default();
                return self.is_whole();
            }
        }
        let due = self.marked_at.is_none_or(|marked_at| marked_at.elapsed() >= MARK_EVERY);
        let mark = due && standing.in_contact;
        if (self.owes() || mark) && !self.write(mark, standing.at).await {
            return false;
        }
        if !self.snapshots.awaited
            && let Err(error) = self.accepted.write()
        {
            // The first contact after a restart makes up for it.
            tracing::error!(%error, "that a restored store was taken over cannot be remembered: the state folder fails");
        }
        self.is_whole()
    }

    async fn write(&mut self, mark: bool, at: Cursor) -> bool {
        let (contact_at, now) = (self.contact_at(), self.clock.now());
        let (state, mut owed) = (Arc::clone(&self.state), std::mem::take(&mut self.owed));
        let forgets = owed.forget;
        let remembering = aside(self.pace, move || {
            let mut state = state.lock();
            let result = remember(&mut state, &mut owed, (mark, at), (contact_at, now));
            (owed, result, state.journal_bytes())
        });
        match remembering.await {
            Ok((owed, Ok(()), journal_bytes)) => {
                self.owed = owed;
                if forgets && self.snapshots.begun_at.is_some() {
                    // It could not be forgotten before, and a snapshot that was begun since is forgotten with it.
                    self.snapshots.begin_again();
                }
                self.marked_at = Some(Instant::now());
                self.metrics.journal_bytes.set(shown(journal_bytes));
                true
            }
            Ok((owed, Err(error), _)) => {
                self.owed = owed;
                self.metrics.alarm(Alarm::Journal, 1);
                tracing::error!(%error, "changes are enforced but not reported as applied: the state folder fails");
                false
            }
            Err(_panicked) => {
                // What was owed is lost with it, but it is in the table: a snapshot holds it all.
                self.owed.forget = true;
                self.snapshots.alone = true;
                self.snapshots.begin_again();
                false
            }
        }
    }

    /// No snapshot is waited for before anything may be reported.
    pub(super) const fn is_whole(&self) -> bool {
        !self.snapshots.awaited
    }

    /// Whether something is applied and not remembered.
    fn owes(&self) -> bool {
        self.owed.forget || !self.owed.rows.is_empty()
    }

    /// Lends the folder to another process, once everything is written down.
    pub(super) fn lend(&mut self) -> io::Result<File> {
        if self.owes() {
            return Err(io::Error::other("changes cannot be remembered: the state folder fails"));
        }
        let lent = self.state.lock().lend()?;
        self.holding = Holding::Lent;
        self.snapshots.lacking_since = None;
        Ok(lent)
    }

    /// The folder is ours again: what the other process wrote, if it was lent.
    pub(super) fn take_back(&mut self) -> Vec<Row> {
        if self.holding != Holding::Lent {
            return Vec::new();
        }
        self.holding = Holding::Ours;
        let written = self.state.lock().take_back().unwrap_or_else(|fault| {
            self.metrics.alarm(Alarm::State, 1);
            tracing::error!(
                fault,
                "what another process wrote into the state folder cannot be read: it is written anew"
            );
            self.owed.forget = true;
            Vec::new()
        });
        self.snapshots.lacking_since = Some(Instant::now());
        self.snapshots.begun_at = None;
        written
    }

    /// The folder is another process's.
    pub(super) fn give(&mut self) {
        self.holding = Holding::Given;
        self.state.lock().let_go();
    }

    /// Ends when a snapshot is due, or the one being written is written. Cancel-safe.
    pub(super) async fn step(&self) {
        if let Some(writing) = &self.snapshots.writing {
            while !writing.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            return;
        }
        let Some(lacking_since) = self.snapshots.lacking_since else { return std::future::pending().await };
        let soon = lacking_since + SNAPSHOT_AFTER;
        let due = self.snapshots.begun_at.map_or(soon, |begun_at| soon.max(begun_at + SNAPSHOT_EVERY));
        tokio::time::sleep_until(due).await;
    }

    /// Whether a snapshot is being written, or was and is not taken note of.
    pub(super) const fn is_writing_snapshot(&self) -> bool {
        self.snapshots.writing.is_some()
    }

    /// Begins a snapshot of a table that stands at `at`.
    pub(super) fn begin_snapshot(&mut self, at: Cursor) {
        self.snapshots.lacking_since = None;
        if self.holding != Holding::Ours || self.refused {
            return;
        }
        // What is owed is in the table but in no journal; a snapshot taken now would hold it, and
        // is all the more wanted.
        let Some(plan) = self.state.lock().begin_snapshot(at, self.contact_at(), self.clock.now()) else { return };
        let plan = Arc::new(plan);
        self.snapshots.begun_at = Some(Instant::now());
        self.snapshots.outdated = false;
        self.snapshots.writing = Some(Writing::begin(self.pace, &plan, &self.table));
        self.snapshots.plan = Some(plan);
    }

    /// Ends a snapshot that was begun, once it is written. Whether what was loaded may now be reported.
    pub(super) async fn end_snapshot(&mut self) -> bool {
        let Some(writing) = self.snapshots.writing.take() else { return false };
        let written = writing.end().await;
        let Some(plan) = self.snapshots.plan.take() else { return false };
        let (state, contact_at, now) = (Arc::clone(&self.state), self.contact_at(), self.clock.now());
        let finished = match written {
            Ok(Ok(())) => {
                let plan = Arc::clone(&plan);
                aside(self.pace, move || state.lock().finish_snapshot(&plan, contact_at, now)).await
            }
            Ok(Err(error)) => Ok(Err(error)),
            Err(panicked) => Err(panicked),
        };
        match finished {
            Ok(Ok(())) => {
                self.metrics.snapshot_at.set(plan.taken_at().seconds());
                return !std::mem::take(&mut self.snapshots.outdated) && std::mem::take(&mut self.snapshots.awaited);
            }
            Ok(Err(error)) => self.snapshot_failed(&error),
            Err(panicked) => self.snapshot_failed(&panicked),
        }
        false
    }

    /// Whether the newest snapshot lacks something.
    pub(super) const fn lacks(&self) -> bool {
        self.snapshots.lacking_since.is_some()
    }

    fn snapshot_failed(&mut self, error: &dyn fmt::Display) {
        self.metrics.snapshot_failures.inc();
        tracing::error!(%error, "a snapshot could not be written");
        self.snapshots.lacking_since.get_or_insert_with(Instant::now);
    }

    fn contact_at(&self) -> Timestamp {
        self.table.last_contact().unwrap_or_default()
    }
}

/// Writes down what is owed; what was written is no longer owed.
fn remember(
    state: &mut StateDir,
    owed: &mut Owed,
    (mark, at): (bool, Cursor),
    (contact_at, now): (Timestamp, Timestamp),
) -> io::Result<()> {
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
