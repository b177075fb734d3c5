//! Following, remembering and finding, against a store whose failures are chosen.

mod embedded;
mod following;
mod missing;
mod remembering;
mod restoring;
mod walking;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::clock::{Clock, ManualClock, Timestamp};
use crate::key::Status;
use crate::sync::fake::{FakeStore, Mood, Retells, hash, key, keys};
use crate::sync::loan::Ask;
use crate::sync::metrics::SyncMetrics;
use crate::sync::reconcile::Went;
use crate::sync::state::{Disk, DiskFile, Folder, StateDir};
use crate::sync::{MacKey, Parts, Reassert, Settings, StateError, Sync};
use crate::table::{Freshness, MissAnswer, Table};

/// A folder, a store and a clock, over which gateways are started one after the other.
struct House {
    folder: TempDir,
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    settings: Settings,
    reassert: Option<Arc<dyn Reassert>>,
    /// In the place of the machine's own.
    disk: Option<Arc<MoodyDisk>>,
}

/// The machine's disk, as it pleases.
#[derive(Debug)]
struct MoodyDisk {
    folder: Folder,
    mood: Mutex<DiskMood>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskMood {
    Well,
    Full,
    /// Whoever writes next panics.
    Panics,
}

impl MoodyDisk {
    fn set(&self, mood: DiskMood) {
        *self.mood.lock() = mood;
    }

    fn write(&self) -> io::Result<()> {
        let mut mood = self.mood.lock();
        match *mood {
            DiskMood::Well => Ok(()),
            DiskMood::Full => Err(io::ErrorKind::StorageFull.into()),
            DiskMood::Panics => {
                *mood = DiskMood::Well;
                drop(mood);
                panic!("a disk that was told to");
            }
        }
    }
}

impl Disk for MoodyDisk {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.folder.read(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.folder.names()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.write()?;
        self.folder.create(name)
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.write()?;
        self.folder.append(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.write()?;
        self.folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.folder.sync_names()
    }
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
        let store = Arc::new(FakeStore::new(Arc::clone(&clock)));
        Self { folder, store, clock, settings, reassert: None, disk: None }
    }

    /// One whose store has so many keys, numbered from 0.
    fn with(count: u32) -> Self {
        let house = Self::new();
        house.store.commit(keys((0..count).map(key)));
        house
    }

    /// From here on gateways tell the store again what it forgot.
    fn retells(&mut self) -> Arc<Retells> {
        let retells = Retells::to(&self.store);
        self.reassert = Some(Arc::<Retells>::clone(&retells));
        retells
    }

    /// From here on gateways have a disk of moods.
    fn disk(&mut self) -> Arc<MoodyDisk> {
        std::fs::create_dir_all(self.state()).expect("a folder");
        let disk = Arc::new(MoodyDisk { folder: Folder(self.state()), mood: Mutex::new(DiskMood::Well) });
        self.disk = Some(Arc::clone(&disk));
        disk
    }

    fn start(&self) -> Result<Run, StateError> {
        self.start_with(None)
    }

    fn start_with(&self, lent_lock: Option<std::fs::File>) -> Result<Run, StateError> {
        let (table, metrics) = (Arc::new(Table::new()), Arc::new(SyncMetrics::new()));
        let parts = Parts {
            settings: self.settings.clone(),
            store: Arc::clone(&self.store) as Arc<dyn crate::store::Store>,
            table: Arc::clone(&table),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            mac_key: MacKey::new(&[7; 32]),
            metrics: Arc::clone(&metrics),
            reassert: self.reassert.clone(),
            stale_policy: Arc::new(self.settings.on_stale),
            lent_lock,
        };
        let sync = match &self.disk {
            None => Sync::start(parts)?,
            Some(disk) => {
                let (folder, gateway) = (self.state(), "gw_00000000000000000000000000000001".parse());
                let mine = (gateway.expect("a gateway's id"), None);
                let state = StateDir::on(&folder, Arc::<MoodyDisk>::clone(disk), parts.mac_key.clone(), mine);
                Sync::from(parts, state.map_err(|cause| StateError::Unusable { folder, cause })?)?
            }
        };
        Ok(Run { sync, table, metrics, clock: Arc::clone(&self.clock) })
    }

    fn run(&self) -> Run {
        self.start().expect("the state folder is free")
    }

    /// A gateway that has read the store.
    async fn follower(&self) -> Run {
        let mut run = self.run();
        run.turn().await;
        run
    }

    /// A gateway that starts while the store is gone.
    async fn without_store(&self) -> Run {
        self.store.set(Mood::Gone);
        self.follower().await
    }

    /// A gateway that has followed for a while, so that there is a snapshot.
    async fn settled(&self) -> Run {
        self.follower().await.drain().await;
        self.follower().await
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

    /// As the proxy asks: only for what the table does not know.
    async fn resolve(&self, number: u32) -> MissAnswer {
        if let Some(record) = self.table.lookup(&hash(number)) {
            return MissAnswer::Found(record);
        }
        self.sync.misses.resolve(hash(number), HERE, self.clock.now()).answer().await
    }

    /// Lends the state folder.
    async fn lend(&mut self) -> std::fs::File {
        let (reply, replied) = tokio::sync::oneshot::channel();
        self.sync.runner.follower.answer(Ask::Lend(reply)).await;
        replied.await.expect("an answer").expect("everything is written down")
    }

    /// Writes a snapshot.
    async fn snapshot(&mut self) {
        self.sync.runner.follower.begin_snapshot();
        self.sync.runner.follower.turn_snapshot().await;
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
