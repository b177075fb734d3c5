//! Tells the store which process of which gateway this is, and how far it has come: whoever changes a key
//! finds out there where the change is in force.
//!
//! What is told is never ahead of what is done. A revision counts once requests are decided by it, it would
//! survive a restart without the store, and every stream that it ends is cut.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::metrics::{SyncMetrics, shown};
use super::state::Presence;
use crate::clock::Clock;
use crate::store::{
    Cursor, FleetStore, GatewayId, GatewayReport, Incarnation, Reported, SharedStore, StoreError, WhenStale,
};
use crate::table::OnStale;

/// What this gateway does once it has gone too long without its store, as it is configured at the moment.
pub trait StalePolicy: Send + Sync + fmt::Debug {
    /// Whether it then refuses everything that wants a key, on every route.
    fn denies_all(&self) -> bool;
}

/// The same on every route.
impl StalePolicy for OnStale {
    fn denies_all(&self) -> bool {
        match self {
            Self::Serve => false,
            Self::Deny => true,
        }
    }
}

/// Tells the store; see the module. Shared by whoever follows the store and whoever tells it.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) store: SharedStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<SyncMetrics>,
    pub(super) stale_policy: Arc<dyn StalePolicy>,
    pub(super) presence: Presence,
    /// What is said of the process, whatever it has applied.
    about: GatewayReport,
    /// Up to which version of the table streams were cut.
    reviewed: watch::Receiver<u64>,
    /// Moves when there is something to tell.
    progressed: watch::Sender<u64>,
    progress: Mutex<Progress>,
    told: Mutex<Told>,
    /// One report is on its way at a time.
    turn: tokio::sync::Mutex<()>,
}

/// How far this process has come.
#[derive(Debug, Default)]
struct Progress {
    applied: Cursor,
    /// The newest revision that ended something, as far as that is known.
    ended: u64,
    cut: u64,
    /// Revisions whose streams may not be cut yet, each with the version of the table that has it.
    uncut: VecDeque<(u64, u64)>,
}

/// What the store was told.
#[derive(Debug, Default)]
struct Told {
    registered: bool,
    sequence: u64,
    confirmed: u64,
    denies: bool,
    failures: u32,
    /// The last report, whether it came through or not.
    tried_at: Option<Instant>,
    /// The last that came through, by when it was sent.
    heard_at: Option<std::time::Instant>,
    looked_at: Option<Instant>,
}

/// How long a report may take: longer than a store itself waits for a lock.
const PATIENCE: Duration = Duration::from_secs(7);
/// How long loading waits for the store to know this process: somebody may keep it locked.
const PATIENCE_AT_START: Duration = Duration::from_millis(350);
/// How long the last word may take.
const PATIENCE_AT_END: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The least time between two reports where something ended, and where nothing did.
const BETWEEN_ENDS: Duration = Duration::from_millis(20);
const BETWEEN_CHANGES: Duration = Duration::from_millis(200);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// More than this are not told apart.
const UNCUT_MAX: usize = 1024;

/// What tells the store is made of.
pub(super) struct ReporterParts {
    pub(super) store: SharedStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<SyncMetrics>,
    pub(super) stale_policy: Arc<dyn StalePolicy>,
    pub(super) max_staleness: Duration,
    pub(super) presence: Presence,
    pub(super) gateway: GatewayId,
    pub(super) incarnation: Incarnation,
    pub(super) reviewed: watch::Receiver<u64>,
}

impl Reporter {
    pub(super) fn new(parts: ReporterParts) -> Self {
        let ReporterParts { store, clock, metrics, stale_policy, max_staleness, presence, .. } = parts;
        let about = GatewayReport {
            gateway: parts.gateway,
            incarnation: parts.incarnation,
            sequence: 0,
            applied: Cursor::default(),
            streams_cut: 0,
            when_stale: WhenStale::Serves,
            max_staleness,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            started_at: clock.now(),
        };
        Self {
            store,
            clock,
            metrics,
            stale_policy,
            presence,
            about,
            reviewed: parts.reviewed,
            progressed: watch::Sender::new(0),
            progress: Mutex::default(),
            told: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// What is applied from here on is of another history, or all of it.
    pub(super) fn begin_anew(&self) {
        *self.progress.lock() = Progress::default();
    }

    /// Everything up to `at` is applied, as of `version` of the table. `ends`: it ended something.
    pub(super) fn applied(&self, at: Cursor, version: u64, ends: bool) {
        let mut progress = self.progress.lock();
        if at == progress.applied {
            return;
        }
        progress.applied = at;
        if ends {
            progress.ended = at.revision;
        }
        if progress.uncut.len() >= UNCUT_MAX {
            progress.uncut.pop_back();
        }
        progress.uncut.push_back((at.revision, version));
        drop(progress);
        self.progressed.send_modify(|times| *times += 1);
    }

    /// Whether nobody waits for this process any more, because it was silent for longer than it said that
    /// it goes on without its store: it must keep to that, also where the store can still be read.
    pub(super) fn is_given_up(&self) -> bool {
        let told = self.told.lock();
        let silent = told.heard_at.map(|heard_at| self.clock.monotonic().saturating_duration_since(heard_at));
        told.denies && silent.is_some_and(|silent| silent > self.about.max_staleness)
    }

    /// Has the store know this process, as well as may be. Whoever changes a key after that waits for it.
    pub(super) async fn register(&self) {
        let Some(fleet) = self.store.fleet() else { return };
        if !self.told.lock().registered && tokio::time::timeout(PATIENCE_AT_START, self.tell(fleet)).await.is_err() {
            tracing::warn!(store = self.store.name(), "the store does not take up this gateway yet");
        }
    }

    /// Tells the store until `stop` turns true, and then that this process has ended.
    pub(super) async fn run(&self, mut stop: watch::Receiver<bool>) {
        let Some(fleet) = self.store.fleet() else { return };
        let (mut progressed, mut reviewed) = (self.progressed.subscribe(), self.reviewed.clone());
        loop {
            tokio::select! {
                biased;
                // A sender that is gone can never say stop: it is taken for one.
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep_until(self.due()) => {}
                _ = progressed.changed() => continue,
                _ = reviewed.changed() => continue,
            }
            // A report on its way is broken off by nothing but the end.
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = self.tell(fleet) => {}
            }
        }
        let known = self.told.lock().registered;
        if known {
            let left = tokio::time::timeout(PATIENCE_AT_END, fleet.leave(vec![self.about.incarnation])).await;
            if !matches!(left, Ok(Ok(()))) {
                tracing::warn!(
                    gateway = %self.about.gateway,
                    "the store could not be told that this process has ended: until it starts again, or \
                     `keyward gateways forget`, changes are not confirmed by it"
                );
            }
        }
    }

    /// When to tell next.
    fn due(&self) -> Instant {
        let (confirmed, ended) = self.standing();
        let told = self.told.lock();
        let Some(tried_at) = told.tried_at else { return Instant::now() };
        let pause = if told.failures > 0 {
            BACKOFF_MIN.saturating_mul(1 << (told.failures - 1).min(8)).min(BACKOFF_MAX)
        } else if !told.registered {
            Duration::ZERO
        } else if confirmed == told.confirmed {
            HEARTBEAT.min(self.about.max_staleness / 3)
        } else if told.confirmed < ended {
            BETWEEN_ENDS
        } else {
            BETWEEN_CHANGES
        };
        tried_at + pause
    }

    /// What this process confirms, and the newest revision that ended something.
    fn standing(&self) -> (u64, u64) {
        let mut progress = self.progress.lock();
        let reviewed = *self.reviewed.borrow();
        while let Some((revision, _)) = progress.uncut.front().copied().filter(|(_, version)| *version <= reviewed) {
            progress.uncut.pop_front();
            progress.cut = revision;
        }
        (progress.applied.revision.min(progress.cut), progress.ended)
    }

    async fn tell(&self, fleet: &dyn FleetStore) {
        let _turn = self.turn.lock().await;
        let (confirmed, _) = self.standing();
        let (applied, streams_cut) = {
            let progress = self.progress.lock();
            (progress.applied, progress.cut)
        };
        let denies = self.stale_policy.denies_all();
        let (sequence, registered) = {
            let mut told = self.told.lock();
            told.sequence += 1;
            told.tried_at = Some(Instant::now());
            (told.sequence, told.registered)
        };
        let when_stale = if denies { WhenStale::Denies } else { WhenStale::Serves };
        let report = GatewayReport { sequence, applied, streams_cut, when_stale, ..self.about.clone() };
        let sent_at = self.clock.monotonic();
        let answer = async {
            if registered {
                self.tell_of_ended(fleet).await?;
                let reported = fleet.report(report).await?;
                if reported == Reported::New {
                    tracing::warn!(
                        gateway = %self.about.gateway,
                        "the store had forgotten this gateway, which runs: it is waited for again"
                    );
                }
                Ok(())
            } else {
                self.enter(fleet, report).await
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let mut told = self.told.lock();
        let cause = match answer {
            Ok(Ok(())) => {
                told.registered = true;
                (told.confirmed, told.denies, told.heard_at) = (confirmed, denies, Some(sent_at));
                told.failures = 0;
                self.metrics.reported.set(shown(confirmed));
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("the store {} gave no answer in time", self.store.name()),
        };
        told.failures = told.failures.saturating_add(1);
        self.metrics.report_failures.inc();
        if told.failures == 1 {
            tracing::warn!(cause, "the store cannot be told how far this gateway is: changes are not confirmed by it");
        }
    }

    /// Takes the place of all processes of this gateway that do not run any more.
    async fn enter(&self, fleet: &dyn FleetStore, report: GatewayReport) -> Result<(), StoreError> {
        match self.presence.others() {
            Ok(others) => {
                fleet.register(report, others.running).await?;
                self.forget_ended(&others.ended);
            }
            Err(error) => {
                tracing::error!(%error, "the state folder does not tell which processes of this gateway run");
                fleet.report(report).await?;
            }
        }
        Ok(())
    }

    /// Tells of processes of this gateway that ended without a word, as one does that was to take over.
    async fn tell_of_ended(&self, fleet: &dyn FleetStore) -> Result<(), StoreError> {
        {
            let mut told = self.told.lock();
            if told.looked_at.is_some_and(|looked_at| looked_at.elapsed() < HEARTBEAT) {
                return Ok(());
            }
            told.looked_at = Some(Instant::now());
        }
        let Ok(others) = self.presence.others() else { return Ok(()) };
        if !others.ended.is_empty() {
            fleet.leave(others.ended.clone()).await?;
            self.forget_ended(&others.ended);
        }
        Ok(())
    }

    fn forget_ended(&self, ended: &[Incarnation]) {
        // What stays is found ended once more.
        self.presence.forget(ended).ok();
    }
}
