//! The embedded store: one SQLite file with a write-ahead log.
//!
//! One thread writes; a few connections read; one connection only watches for other processes'
//! commits. Before anything is acknowledged the file at the path is held against the one that was
//! opened, so that a file put in its place by a restore is never written behind the gateway's back.

mod backup;
mod copy;
mod examine;
mod fault;
mod file;
mod fleet;
mod history;
mod list;
mod news;
mod read;
mod rotation;
mod rows;
mod stage;
#[cfg(test)]
pub(super) mod tests;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{Notify, Semaphore, oneshot};

pub use self::backup::{Backup, back_up, restore};
pub use self::examine::examine;
use self::fault::Fault;
use self::file::{Empty, Identity, Log, Opened, Role};
use self::write::{Member, Request};
use super::{
    Answer, Batch, BoxFuture, CopyStore, Cursor, EventQuery, FleetStore, HistoryStore, KeyPage, KeyQuery, LoadLane,
    NumberedSecret, Outcome, OwnedKey, Plan, Poll, ReadRequest, Reading, RefusalQuery, RefusalTally, RotationStore,
    StageId, Staging, Store, StoreError, StoreId, UsageUpdate, UserQuery,
};
use crate::background;
use crate::clock::{Clock, Timestamp};
use crate::key::{Event, Subject, TokenHash, User};

/// How many reads run at once.
const READERS_MAX: usize = 8;
/// How many reads of the feed run at once beside them: news of a revocation waits behind no list.
const FEED_READERS_MAX: usize = 2;

/// A store in one SQLite file.
pub struct SqliteStore {
    shared: Arc<Shared>,
    readers: Arc<Semaphore>,
    feed_readers: Arc<Semaphore>,
    requests: Option<Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    watch: OnceLock<news::Watch>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    name: String,
    id: StoreId,
    clock: Arc<dyn Clock>,
    open: RwLock<Open>,
    /// Wakes whoever waits for news when this process commits.
    news: Notify,
}

/// The connections to one file. Held for reading while one of them is used, and for writing to
/// close all of them before a file that replaced this one is opened.
#[derive(Debug)]
struct Open {
    identity: Identity,
    store: StoreId,
    log: Log,
    /// Moves with every file that is opened.
    generation: u64,
    writer: Mutex<Option<Connection>>,
    watcher: Mutex<Option<Connection>>,
    idle: Mutex<Vec<Connection>>,
}

impl Open {
    fn new(opened: Opened, generation: u64) -> Self {
        let Opened { writer, identity, store, log } = opened;
        Self {
            identity,
            store,
            log,
            generation,
            writer: Mutex::new(Some(writer)),
            watcher: Mutex::default(),
            idle: Mutex::default(),
        }
    }
}

/// How a write transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Commit,
    /// Nothing was changed, and so nothing is worth a flush of the disk.
    RollBack,
}

/// Whether a read makes sense when another store's file has taken this one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfStore {
    This,
    Any,
}

impl SqliteStore {
    /// Opens the store in the file at `path`, which must be there. Blocks on the disk.
    ///
    /// # Errors
    /// When it is missing, damaged, of a newer schema, or cannot be used.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::start(path, Empty::Refuse, clock)
    }

    /// Opens the store in the file at `path`, and makes file, folders and store where they are
    /// missing. For `init` and `quickstart` alone. Blocks on the disk.
    ///
    /// # Errors
    /// When it is damaged, of a newer schema, or cannot be made or used.
    pub fn create(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        file::make(path).map_err(|fault| fault.told(&name))?;
        let store = Self::start(path, Empty::Fill, clock)?;
        file::sync_folder(path).map_err(|fault| fault.told(&name))?;
        Ok(store)
    }

    fn start(path: &Path, empty: Empty, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let opened = file::open(path, &name, empty, clock.now()).map_err(|fault| fault.told(&name))?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            id: opened.store,
            clock,
            open: RwLock::new(Open::new(opened, 0)),
            news: Notify::new(),
            name,
        });
        let (requests, received) = channel();
        let served = Arc::clone(&shared);
        let writer = background::spawn("keyward-store", move || {
            write::serve(&served, &received);
        });
        let writer = writer.map_err(|error| Fault::Around(error.to_string()).told(&shared.name))?;
        Ok(Self {
            shared,
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            feed_readers: Arc::new(Semaphore::new(FEED_READERS_MAX)),
            requests: Some(requests),
            writer: Some(writer),
            watch: OnceLock::new(),
        })
    }

    fn read_with<T: Send + 'static>(
        &self,
        of: OfStore,
        work: impl FnOnce(&Connection, &Shared) -> Result<T, Fault> + Send + 'static,
    ) -> Answer<'_, T> {
        let readers = match of {
            OfStore::Any => &self.feed_readers,
            OfStore::This => &self.readers,
        };
        let (shared, readers) = (Arc::clone(&self.shared), Arc::clone(readers));
        Box::pin(async move {
            let name = shared.name.clone();
            let permit = readers.acquire_owned().await;
            let read = tokio::task::spawn_blocking(move || {
                let _held = permit;
                shared.read(of, work)
            });
            read.await.unwrap_or_else(|error| Err(Fault::Around(error.to_string()).told(&name)))
        })
    }

    /// Runs `work` in a write transaction that uses no revision, between mutations.
    fn write_with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, Timestamp) -> Result<T, Fault> + Send + 'static,
    ) -> Answer<'_, T> {
        let (reply, answer) = oneshot::channel();
        let run = move |shared: &Shared| {
            if reply.is_closed() {
                return;
            }
            let now = shared.clock.now();
            // Whoever no longer waits for the answer needs none.
            let _gone = reply.send(shared.write(|connection| work(connection, now)));
        };
        Box::pin(self.ask(Request::Run(Box::new(run)), answer))
    }

    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let ended = || Fault::Around("its writing thread has ended".to_owned()).told(&self.shared.name);
        let sent = self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok());
        if !sent {
            return Err(ended());
        }
        answer.await.unwrap_or_else(|_dropped| Err(ended()))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The writer ends once nobody can ask it, and with it the last connection is closed.
        drop(self.requests.take());
        drop(self.watch.take());
        if let Some(writer) = self.writer.take() {
            let _panicked = writer.join();
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.shared.path)
            .field("id", &self.shared.id)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The connections to the file that lies at the path now, opened if it is another than before.
    fn current(&self) -> Result<RwLockReadGuard<'_, Open>, Fault> {
        loop {
            let open = self.open.read();
            if Identity::of(&self.path)? == Some(open.identity) {
                return Ok(open);
            }
            drop(open);
            self.reopen()?;
        }
    }

    fn reopen(&self) -> Result<(), Fault> {
        let mut open = self.open.write();
        match Identity::of(&self.path)? {
            None => return Err(StoreError::Missing { store: self.name.clone() }.into()),
            Some(identity) if identity == open.identity => return Ok(()),
            Some(_) => {}
        }
        *open.writer.get_mut() = None;
        *open.watcher.get_mut() = None;
        open.idle.get_mut().clear();
        file::remove_stale_log(&open.log)?;
        let opened = file::open(&self.path, &self.name, Empty::Refuse, self.clock.now())?;
        tracing::warn!(store = %self.name, "the store file was replaced; the new one is used from here on");
        *open = Open::new(opened, open.generation + 1);
        Ok(())
    }

    fn is_this_store(&self, open: &Open) -> Result<(), Fault> {
        if open.store == self.id {
            return Ok(());
        }
        Err(StoreError::OtherStore { store: self.name.clone() }.into())
    }

    /// Runs `work` in one read transaction.
    fn read<T>(&self, of: OfStore, work: impl FnOnce(&Connection, &Self) -> Result<T, Fault>) -> Result<T, StoreError> {
        let read = || {
            let open = self.current()?;
            if of == OfStore::This {
                self.is_this_store(&open)?;
            }
            let idle = open.idle.lock().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => {
                    let connection = file::connect(&self.path, Role::Reader)?;
                    self.is_unmoved(&open)?;
                    connection
                }
            };
            let transaction = connection.transaction()?;
            let read = work(&transaction, self)?;
            drop(transaction);
            open.idle.lock().push(connection);
            Ok(read)
        };
        read().map_err(|fault: Fault| fault.told(&self.name))
    }

    /// Runs `work` in one write transaction and commits it, unless the file was replaced.
    fn write<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, StoreError> {
        self.write_if(|connection| work(connection).map(|written| (written, Ending::Commit)))
    }

    /// Runs `work` in one write transaction, and ends it as `work` says.
    fn write_if<T>(&self, work: impl FnOnce(&Connection) -> Result<(T, Ending), Fault>) -> Result<T, StoreError> {
        let write = || {
            let open = self.current()?;
            self.is_this_store(&open)?;
            let mut writer = open.writer.lock();
            if writer.is_none() {
                *writer = Some(file::connect(&self.path, Role::Writer)?);
                self.is_unmoved(&open)?;
            }
            let connection = writer.as_mut().expect("it was opened just now");
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let (written, ending) = work(&transaction)?;
            if ending == Ending::RollBack {
                return Ok(written);
            }
            self.is_unmoved(&open)?;
            transaction.commit()?;
            // Again: what was committed to a file that is no longer there is not acknowledged.
            self.is_unmoved(&open)?;
            Ok(written)
        };
        write().map_err(|fault: Fault| fault.told(&self.name))
    }

    fn is_unmoved(&self, open: &Open) -> Result<(), Fault> {
        if Identity::of(&self.path)? == Some(open.identity) {
            return Ok(());
        }
        Err(StoreError::Replaced { store: self.name.clone() }.into())
    }
}

impl Store for SqliteStore {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn id(&self) -> StoreId {
        self.shared.id
    }

    fn rotation(&self) -> Option<&dyn RotationStore> {
        Some(self)
    }

    fn copies(&self) -> Option<&dyn CopyStore> {
        Some(self)
    }

    fn history(&self) -> Option<&dyn HistoryStore> {
        Some(self)
    }

    fn fleet(&self) -> Option<&dyn FleetStore> {
        Some(self)
    }

    fn mutate(&self, read: ReadRequest, plan: Plan) -> Answer<'_, Outcome> {
        let (reply, answer) = oneshot::channel();
        Box::pin(self.ask(Request::Mutate(Box::new(Member { read, plan, reply })), answer))
    }

    fn stage(&self, staging: Staging) -> Answer<'_, Duration> {
        let (reply, answer) = oneshot::channel();
        Box::pin(self.ask(Request::Stage { staging, reply }, answer))
    }

    fn unstage(&self, stage: StageId) -> Answer<'_, ()> {
        self.write_with(move |connection, _now| stage::give_up(connection, stage))
    }

    fn read(&self, read: ReadRequest) -> Answer<'_, Reading> {
        self.read_with(OfStore::This, move |connection, shared| read::reading(connection, &read, shared.clock.now()))
    }

    fn find(&self, hash: TokenHash) -> Answer<'_, (Option<OwnedKey>, Cursor)> {
        self.read_with(OfStore::This, move |connection, _shared| read::find(connection, &hash))
    }

    fn list_keys(&self, query: KeyQuery) -> Answer<'_, KeyPage> {
        self.read_with(OfStore::This, move |connection, shared| list::list_keys(connection, &query, shared.clock.now()))
    }

    fn list_users(&self, query: UserQuery) -> Answer<'_, Vec<User>> {
        self.read_with(OfStore::This, move |connection, _shared| read::list_users(connection, &query))
    }

    fn list_events(&self, query: EventQuery) -> Answer<'_, Vec<Event>> {
        self.read_with(OfStore::This, move |connection, _shared| read::list_events(connection, &query))
    }

    fn poll(&self, cursor: Cursor) -> Answer<'_, Poll> {
        self.read_with(OfStore::Any, move |connection, shared| read::poll(connection, cursor, shared.clock.now()))
    }

    fn wait_for_news(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        self.watch.get_or_init(|| news::Watch::start(&self.shared));
        Box::pin(async move {
            let _either = tokio::time::timeout(at_most, self.shared.news.notified()).await;
        })
    }

    fn changes_after(&self, cursor: Cursor, mut sink: Box<dyn FnMut(Batch) + Send>) -> Answer<'_, ()> {
        self.read_with(OfStore::Any, move |connection, shared| {
            read::changes_after(connection, cursor, shared.clock.now(), &mut *sink)
        })
    }

    fn load(&self, lanes: Vec<LoadLane>) -> Answer<'_, Poll> {
        self.read_with(OfStore::Any, move |connection, shared| {
            // One lane: a second connection would not see the same moment for sure.
            let mut lane = lanes.into_iter().next();
            let mut sink = |loaded| {
                if let Some(lane) = &mut lane {
                    lane(loaded);
                }
            };
            read::load(connection, shared.clock.now(), &mut sink)
        })
    }

    fn walk(
        &self,
        cursor: Cursor,
        after: Option<Subject>,
        limit: u32,
        mut sink: Box<dyn FnMut(Batch) + Send>,
    ) -> Answer<'_, ()> {
        self.read_with(OfStore::This, move |connection, shared| {
            read::walk(connection, (cursor, after.as_ref(), limit), shared.clock.now(), &mut *sink)
        })
    }

    fn record_usage(&self, gateway: String, updates: Vec<UsageUpdate>) -> Answer<'_, ()> {
        let (reply, answer) = oneshot::channel();
        Box::pin(self.ask(Request::Usage { gateway, updates, reply }, answer))
    }

    fn record_refusals(&self, tallies: Vec<RefusalTally>) -> Answer<'_, ()> {
        let (reply, answer) = oneshot::channel();
        Box::pin(self.ask(Request::Refusals { tallies, reply }, answer))
    }

    fn list_refusals(&self, query: RefusalQuery) -> Answer<'_, Vec<RefusalTally>> {
        self.read_with(OfStore::This, move |connection, _shared| read::list_refusals(connection, &query))
    }

    fn tidy(&self) -> Answer<'_, ()> {
        let (reply, answer) = oneshot::channel();
        Box::pin(self.ask(Request::Tidy { reply }, answer))
    }

    fn check_secret(&self, number: u32, fingerprint: [u8; 32]) -> Answer<'_, ()> {
        Box::pin(async move {
            // Almost always it is known, and looking needs no write lock, which a long import holds.
            if self.secrets().await?.contains(&(number, fingerprint)) {
                return Ok(());
            }
            let (reply, answer) = oneshot::channel();
            self.ask(Request::Secret { number, fingerprint, reply }, answer).await
        })
    }

    fn secrets(&self) -> Answer<'_, Vec<NumberedSecret>> {
        self.read_with(OfStore::This, move |connection, _shared| read::secrets(connection))
    }

    fn add_secret(&self, number: u32, fingerprint: [u8; 32]) -> Answer<'_, ()> {
        let (reply, answer) = oneshot::channel();
        Box::pin(self.ask(Request::AddSecret { number, fingerprint, reply }, answer))
    }

    fn forget_secret(&self, number: u32) -> Answer<'_, ()> {
        let (reply, answer) = oneshot::channel();
        Box::pin(self.ask(Request::ForgetSecret { number, reply }, answer))
    }
}
