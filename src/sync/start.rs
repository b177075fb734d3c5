//! Puts the parts together: state folder, table, follower, miss path, usage.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::Settings;
use super::follow::Follower;
use super::loan::StateLoan;
use super::metrics::{Alarm, SyncMetrics};
use super::misses::Misses;
use super::reconcile::{Place, Reconciler};
use super::remember::Memory;
use super::report::{Reporter, ReporterParts, StalePolicy};
use super::retell::{Reassert, Retelling};
use super::state::{Limits, MacKey, StateDir, StateError};
use super::usage::Flusher;
use crate::clock::{Clock, Timestamp};
use crate::secret;
use crate::store::{Incarnation, SharedStore};
use crate::table::{MissResolver, Table};

/// What following needs.
#[derive(Debug)]
pub struct Parts {
    /// How to follow.
    pub settings: Settings,
    /// What to follow.
    pub store: SharedStore,
    /// What shall be like it.
    pub table: Arc<Table>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The key of the state folder's authentication codes.
    pub mac_key: MacKey,
    /// What is counted.
    pub metrics: Arc<SyncMetrics>,
    /// Who tells the store again what it forgot, if anyone does.
    pub reassert: Option<Arc<dyn Reassert>>,
    /// What this gateway does once it is stale.
    pub stale_policy: Arc<dyn StalePolicy>,
    /// The lock of the state folder, where another process lends it.
    pub lent_lock: Option<File>,
}

/// What was put together. Nothing is followed until [`Runner::run`] is.
#[derive(Debug)]
pub struct Sync {
    /// The miss path, for the proxy.
    pub misses: Arc<dyn MissResolver>,
    /// For those who commit changes and want them applied here.
    pub handle: Handle,
    /// For the process that is to take this one's place.
    pub loan: StateLoan,
    /// What follows.
    pub runner: Runner,
    /// The clock must be raised to this before anything is decided: a machine whose clock was set
    /// back must not find a key unexpired that it knew to be expired.
    pub clock_floor: Option<Timestamp>,
}

impl Sync {
    /// Takes the state folder and starts from what it holds. Reads files and so may block; does
    /// not ask the store.
    ///
    /// # Errors
    /// When the state folder is in use by another process or cannot be used. What it holds being
    /// unusable is no error: it is logged, and the table stays empty until the store is read.
    pub fn start(mut parts: Parts) -> Result<Self, StateError> {
        let lent_lock = parts.lent_lock.take();
        let state = StateDir::open(&parts.settings.state_dir, parts.mac_key.clone(), lent_lock)?;
        Self::from(parts, state)
    }

    /// Starts from what `state` holds.
    pub(super) fn from(parts: Parts, mut state: StateDir) -> Result<Self, StateError> {
        let Parts { settings, store, table, clock, metrics, reassert, stale_policy, .. } = parts;
        table.set_max_staleness(settings.max_staleness);
        let limits = Limits { snapshot_max_age: settings.snapshot_max_age, accept_old: settings.accept_old_snapshot };
        let restored = state.restore(&table, limits, clock.now()).unwrap_or_else(|fault| {
            metrics.alarm(Alarm::State, 1);
            tracing::error!(
                folder = %settings.state_dir.display(), fault,
                "the state folder cannot be started from: nothing is served before the store was read"
            );
            None
        });
        let gateway = state.gateway().clone();
        let incarnation = Incarnation(u128::from_be_bytes(secret::random()?));
        let reporter = Arc::new(Reporter::new(ReporterParts {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            stale_policy,
            max_staleness: settings.max_staleness,
            presence: state.tell_presence(incarnation)?,
            gateway: gateway.clone(),
            incarnation,
            reviewed: table.reviewed(),
        }));
        let wake = Arc::new(Notify::new());
        let limits = (settings.failure_limit, settings.misses_per_second, settings.unknown_grace);
        let misses =
            Misses::new(Arc::clone(&table), Arc::clone(&store), Arc::clone(&metrics), limits, Arc::clone(&wake));
        let flusher = Flusher {
            table: Arc::clone(&table),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            gateway: gateway.digits().to_owned(),
        };
        let every = settings.usage_flush;
        let (loan, asked) = StateLoan::new();
        let (repairs, repaired) = mpsc::unbounded_channel();
        let place = Place::default();
        let reconciler = Reconciler::new(
            Arc::clone(&store),
            Arc::clone(&table),
            Arc::clone(&metrics),
            Arc::clone(&place),
            repairs,
            (settings.reconcile_every, settings.reload_drop_max_percent),
        );
        let memory = Memory::new(state, Arc::clone(&table), Arc::clone(&clock), Arc::clone(&metrics));
        let mut follower = Follower::new(
            store,
            Arc::clone(&table),
            clock,
            settings,
            Arc::clone(&metrics),
            memory,
            Arc::clone(&wake),
            Retelling::by(reassert),
            Arc::clone(&reporter),
            asked,
            (Arc::clone(&place), repaired),
        );
        let mut clock_floor = None;
        if let Some(restored) = restored {
            clock_floor = Some(restored.clock_floor);
            match &restored.refusal {
                None => tracing::info!(
                    keys = restored.keys, revision = restored.cursor.revision, last_contact = %restored.contact_at,
                    "found a snapshot to start from"
                ),
                Some(refusal) => {
                    metrics.alarm(Alarm::State, 1);
                    tracing::error!(%refusal, "the snapshot is not served without the store");
                }
            }
            follower.start_from(restored);
        }
        let handle = Handle { table, wake, gateway: gateway.digits().into() };
        let runner = Runner { follower, flusher, reporter, reconciler, every };
        Ok(Self { misses: Arc::new(misses), handle, loan, runner, clock_floor })
    }
}

/// For those who commit changes in this process.
#[derive(Debug, Clone)]
pub struct Handle {
    table: Arc<Table>,
    wake: Arc<Notify>,
    gateway: Arc<str>,
}

impl Handle {
    /// Something was committed by this process: the follower reads it at once.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether this gateway has applied `revision`, which was committed just now, waiting for it no longer
    /// than `at_most`. Wakes the follower. Cancel-safe.
    pub async fn wait_applied(&self, revision: u64, at_most: Duration) -> bool {
        // Before it is woken: the turn that it then takes is one that counts.
        let begun = self.table.turns_begun();
        self.wake();
        tokio::time::timeout(at_most, self.table.wait_applied_after(begun, revision)).await.is_ok()
    }

    /// The name of this gateway towards the store.
    #[must_use]
    pub fn gateway(&self) -> &str {
        &self.gateway
    }
}

/// What follows the store, tells it how far it has come, holds the table against it, and writes usage back.
#[derive(Debug)]
pub struct Runner {
    pub(super) follower: Follower,
    pub(super) flusher: Flusher,
    pub(super) reconciler: Reconciler,
    pub(super) reporter: Arc<Reporter>,
    every: Duration,
}

impl Runner {
    /// Runs until `stop` turns true or its sender is gone, then writes back usage and a last
    /// snapshot, has the store forget this process, and lets go of the state folder.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let Self { follower, flusher, reporter, reconciler, every } = self;
        let (mut stopping, reporting) = (stop.clone(), reporter.run(stop.clone()));
        let reconciling = reconciler.run(stop.clone());
        let flushing = async {
            while tokio::time::timeout(every, stopping.wait_for(|stop| *stop)).await.is_err() {
                if flusher.table.contact_lost_at().is_none() {
                    flusher.flush().await;
                }
            }
            flusher.flush().await;
        };
        tokio::join!(follower.run(stop), flushing, reporting, reconciling);
    }
}
