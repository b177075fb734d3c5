//! Following, remembering and finding, against a store whose failures are chosen.

mod embedded;
mod following;
mod missing;
mod remembering;
mod restoring;
mod walking;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use crate::clock::{Clock, ManualClock, Timestamp};
use crate::key::Status;
use crate::sync::fake::{FakeStore, hash};
use crate::sync::loan::Ask;
use crate::sync::metrics::SyncMetrics;
use crate::sync::reconcile::Went;
use crate::sync::{MacKey, Parts, Settings, StateError, Sync};
use crate::table::{Freshness, MissAnswer, Table};

/// A folder, a store and a clock, over which gateways are started one after the other.
struct House {
    folder: TempDir,
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    settings: Settings,
}

/// One run of a gateway.
struct Run {
    sync: Sync,
    table: Arc<Table>,
    metrics: Arc<SyncMetrics>,
    clock: Arc<ManualClock>,
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

const fn begin() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let clock = Arc::new(ManualClock::at(begin()));
        let settings = Settings::new(folder.path().join("state"));
        Self { folder, store: Arc::new(FakeStore::new(Arc::clone(&clock))), clock, settings }
    }

    fn start(&self) -> Result<Run, StateError> {
        self.start_with(None)
    }

    fn start_with(&self, lent_lock: Option<std::fs::File>) -> Result<Run, StateError> {
        let (table, metrics) = (Arc::new(Table::new()), Arc::new(SyncMetrics::new()));
        let sync = Sync::start(Parts {
            settings: self.settings.clone(),
            store: Arc::clone(&self.store) as Arc<dyn crate::store::Store>,
            table: Arc::clone(&table),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            mac_key: MacKey::new(&[7; 32]),
            metrics: Arc::clone(&metrics),
            reassert: None,
            stale_policy: Arc::new(self.settings.on_stale),
            lent_lock,
        })?;
        Ok(Run { sync, table, metrics, clock: Arc::clone(&self.clock) })
    }

    fn run(&self) -> Run {
        self.start().expect("the state folder is free")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn file(&self, prefix: &str) -> PathBuf {
        let newest = std::fs::read_dir(self.state())
            .expect("the state folder")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_prefix(prefix)?.parse::<u64>().ok())
            .max();
        self.state().join(format!("{prefix}{}", newest.expect("a file of that name")))
    }
}

impl Run {
    async fn turn(&mut self) {
        self.sync.runner.follower.turn().await;
    }

    fn status(&self, number: u32) -> Option<Status> {
        self.table.lookup(&hash(number)).map(|record| record.standing.status(false, self.clock.now()))
    }

    fn freshness(&self) -> Freshness {
        self.table.freshness(self.clock.now())
    }

    async fn resolve(&self, number: u32) -> MissAnswer {
        self.sync.misses.resolve(hash(number), HERE, self.clock.now()).answer().await
    }

    /// Lends the state folder.
    async fn lend(&mut self) -> std::fs::File {
        let (reply, replied) = tokio::sync::oneshot::channel();
        self.sync.runner.follower.answer(Ask::Lend(reply)).await;
        replied.await.expect("an answer").expect("everything is written down")
    }

    async fn take_back(&mut self) {
        self.sync.runner.follower.answer(Ask::TakeBack).await;
    }

    /// Ends as a drained gateway does.
    async fn drain(mut self) {
        self.sync.runner.follower.finish().await;
    }
}

impl Run {
    /// Holds everything that is stored against the table, and puts right what is found.
    async fn walk(&mut self) -> Went {
        loop {
            let went = self.sync.runner.reconciler.step().await;
            self.sync.runner.follower.repair_all();
            if went != Went::On {
                return went;
            }
        }
    }

    fn differences(&self) -> [u64; 5] {
        ["missing", "other", "extra", "taken_back", "damaged"].map(|kind| self.metrics.differences_of(kind))
    }
}
