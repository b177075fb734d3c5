//! The shared store: a PostgreSQL database, versions 13 to 17, that any number of gateways use.
//!
//! The store has a small runtime of its own, so that its connections outlive whoever asks, from
//! whatever runtime that is. Every call is one transaction that sets what it needs for itself alone
//! and prepares nothing, so a pooler such as `PgBouncer` may lie in between; only listening goes past it.

mod address;
mod connect;
mod copy;
mod fault;
mod fleet;
mod history;
mod list;
mod load;
mod news;
mod read;
mod rotation;
mod rows;
mod schema;
mod session;
mod stage;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore, oneshot};

pub use self::address::{Address, AddressFault, TlsMode};
use self::connect::Connector;
use self::fault::Fault;
use self::news::Ear;
use self::schema::Empty;
use self::session::{Kind, Transaction};
use self::write::{Member, SecretChange, Swept};
use super::{
    Answer, Batch, BoxFuture, CopyStore, Cursor, EventQuery, FleetStore, HistoryStore, KeyPage, KeyQuery, LoadLane,
    NumberedSecret, Outcome, OwnedKey, Plan, Poll, ReadRequest, Reading, RefusalQuery, RefusalTally, RotationStore,
    StageId, Staging, Store, StoreError, StoreId, UsageUpdate, UserQuery,
};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::key::{Event, Subject, TokenHash, User};
use crate::secret;
use crate::tls::ClientSettings;

/// Where commits are told of.
const CHANNEL: &str = "keyward";
/// Threads of the store's own.
const THREADS: usize = 2;
/// How many connections reads of the feed may have at once: news of a revocation waits behind no list.
const FEEDS_MAX: usize = 2;
/// How many connections what is written beside mutations may have at once.
const WRITERS_MAX: usize = 2;
/// How many sweeps follow one another at most for whoever asked for them once.
const SWEEPS_MAX: u32 = 50;
/// The longest pause before another attempt.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The fewest connections that leave one for each purpose.
pub const POSTGRES_POOL_MIN: usize = FEEDS_MAX + WRITERS_MAX + 2;

/// How a PostgreSQL store is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// Where it is.
    pub address: Address,
    /// Where to listen for commits, if elsewhere: past a pooler.
    pub listen: Option<Address>,
    /// TLS to it, or clear text.
    pub tls: Option<ClientSettings>,
    /// How many connections are kept at most, the listening one aside.
    pub pool_max: usize,
    /// How long it may take to connect.
    pub connect_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
}

impl PostgresSettings {
    /// The settings of a store at `address`, in clear text, as they are where nothing else is said.
    #[must_use]
    pub const fn new(address: Address) -> Self {
        Self {
            address,
            listen: None,
            tls: None,
            pool_max: 10,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
        }
    }

    /// The settings of the store at `url`, as they are where nothing else is said: by TLS, unless the URL says
    /// otherwise or the server is this machine.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn of_url(url: &str) -> Result<Self, AddressFault> {
        let address = Address::parse(url)?;
        let unsaid = if address.is_local() { TlsMode::Disable } else { TlsMode::VerifyFull };
        let is_tls = address.tls().unwrap_or(unsaid) == TlsMode::VerifyFull;
        let tls = is_tls.then_some(ClientSettings { ca: None, certificate: None, server_name: None, http2: false });
        Ok(Self { tls, ..Self::new(address) })
    }
}

/// A store in a PostgreSQL database.
pub struct PostgresStore {
    shared: Arc<Shared>,
    /// Taken when the store is dropped.
    runtime: Option<Runtime>,
    requests: UnboundedSender<Member>,
    readers: Arc<Semaphore>,
    feeds: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    /// Until somebody waits for news.
    ear: Mutex<Option<Ear>>,
}

/// What the store's tasks share.
struct Shared {
    name: String,
    id: StoreId,
    pool: Pool,
    connect_timeout: Duration,
    statement_timeout: Duration,
    /// Wakes whoever waits for news.
    news: Notify,
    /// Stands for the server's clock.
    #[cfg(test)]
    clock: Option<Arc<dyn crate::clock::Clock>>,
}

impl Shared {
    /// Wakes whoever waits for news, and else the next who does.
    fn tell(&self) {
        self.news.notify_waiters();
        self.news.notify_one();
    }

    /// What the server's clock says, as text of nanoseconds.
    fn time(&self, text: Option<&str>) -> Result<Timestamp, Fault> {
        #[cfg(test)]
        if let Some(clock) = &self.clock {
            return Ok(clock.now());
        }
        let nanos = text.and_then(|text| text.parse().ok()).ok_or_else(session::unexpected)?;
        Ok(Timestamp::from_nanos(nanos))
    }

    /// About as long as `span`: a quarter less to a quarter more.
    #[expect(clippy::unused_self, reason = "reads as what it belongs to")]
    fn about(&self, span: Duration) -> Duration {
        let [random] = secret::random::<1>().unwrap_or([128]);
        span.mul_f64(0.75 + f64::from(random) / 512.0)
    }

    /// How long to wait before attempt `tried`: longer each time, but never long.
    fn pause(&self, tried: usize) -> Duration {
        let doubled = u32::try_from(tried.min(8)).unwrap_or(8);
        self.about((Duration::from_millis(20) * 2u32.pow(doubled)).min(PAUSE_MAX)).min(PAUSE_MAX)
    }
}

/// What is done in a transaction.
type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

impl PostgresStore {
    /// Opens the store, and brings its tables up to date. Blocks on the network.
    ///
    /// # Errors
    /// When there is none in that database, it is damaged or of a newer schema, or the server cannot be
    /// used.
    pub fn open(settings: &PostgresSettings) -> Result<Self, StoreError> {
        Self::start(settings, Empty::Refuse, &Clocks::default()).map(|(store, _made)| store)
    }

    /// Opens the store, and makes it where there is none; the second answer is whether it was made. For
    /// `init` alone. Blocks on the network.
    ///
    /// # Errors
    /// When it is damaged, of a newer schema, or cannot be made or used.
    pub fn create(settings: &PostgresSettings) -> Result<(Self, bool), StoreError> {
        Self::start(settings, Empty::Fill, &Clocks::default())
    }

    fn start(settings: &PostgresSettings, empty: Empty, clocks: &Clocks) -> Result<(Self, bool), StoreError> {
        let name = settings.address.name().to_owned();
        let started = Self::try_start(settings, empty, clocks);
        started.map_err(|fault| fault.told(&name))
    }

    fn try_start(settings: &PostgresSettings, empty: Empty, clocks: &Clocks) -> Result<(Self, bool), Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("keyward-store")
            .enable_all()
            .build()
            .map_err(|error| Fault::Around(error.to_string()))?;
        let connector = Connector::new(settings.tls.as_ref())?;
        let ear = Ear::new(settings, connector.clone());
        let shared = Shared {
            name: settings.address.name().to_owned(),
            id: StoreId(0),
            pool: connect::pool(settings, connector)?,
            connect_timeout: settings.connect_timeout,
            statement_timeout: settings.statement_timeout,
            news: Notify::new(),
            #[cfg(test)]
            clock: clocks.clock.clone(),
        };
        #[cfg(not(test))]
        let Clocks {} = clocks;
        // On the store's own threads, for the caller may be on another runtime, where nobody may wait for
        // a future.
        let (tell, told) = std::sync::mpsc::channel();
        runtime.handle().spawn(async move {
            let mut shared = shared;
            let found = schema::bring_up_to_date(&shared, empty).await;
            let started = found.map(|found| {
                shared.id = found.store;
                (Arc::new(shared), found.made)
            });
            // Nobody waits for it any more if the caller's thread is gone.
            let _gone = tell.send(started);
        });
        let started = told.recv().map_err(|_panicked| Fault::Around("opening it panicked".to_owned()));
        let (shared, made) = match started.and_then(|started| started) {
            Ok(started) => started,
            Err(fault) => {
                runtime.shutdown_background();
                return Err(fault);
            }
        };
        let (requests, received) = unbounded_channel();
        runtime.handle().spawn(write::serve(Arc::clone(&shared), received));
        let readers = settings.pool_max.saturating_sub(FEEDS_MAX + WRITERS_MAX + 1).max(1);
        let store = Self {
            shared,
            runtime: Some(runtime),
            requests,
            readers: Arc::new(Semaphore::new(readers)),
            feeds: Arc::new(Semaphore::new(FEEDS_MAX)),
            writers: Arc::new(Semaphore::new(WRITERS_MAX)),
            ear: Mutex::new(Some(ear)),
        };
        Ok((store, made))
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is there until the store is dropped")
    }

    /// Runs `work` on the store's threads. Whoever stops waiting ends it.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T, Fault>> + Send + 'static) -> Answer<'_, T> {
        Box::pin(async move {
            let mut task = Task(self.runtime().handle().spawn(work));
            let done = (&mut task.0).await;
            let done = done.unwrap_or_else(|error| Err(Fault::Around(error.to_string())));
            done.map_err(|fault| fault.told(&self.shared.name))
        })
    }

    /// Runs `work` in one transaction that reads.
    fn read_with<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl for<'a> FnOnce(&'a Transaction) -> Work<'a, T> + Send + 'static,
    ) -> Answer<'_, T> {
        let lane = Arc::clone(if kind == Kind::ReadAny { &self.feeds } else { &self.readers });
        let shared = Arc::clone(&self.shared);
        self.run(async move {
            let permit = lane.acquire_owned().await.ok();
            let transaction = shared.begin(kind, permit).await?;
            let read = work(&transaction).await?;
            transaction.leave();
            Ok(read)
        })
    }

    /// Runs `work` in one transaction that writes and uses no revision. It may run again.
    fn write_with<T: Send + 'static>(
        &self,
        work: impl for<'a> Fn(&'a Transaction) -> Work<'a, T> + Send + Sync + 'static,
    ) -> Answer<'_, T> {
        let (lane, shared) = (Arc::clone(&self.writers), Arc::clone(&self.shared));
        self.run(async move {
            let _permit = lane.acquire_owned().await.ok();
            let mut tried = 0;
            loop {
                tried += 1;
                let transaction = shared.begin(Kind::Write, None).await?;
                match work(&transaction).await {
                    Ok(written) => {
                        transaction.commit().await?;
                        return Ok(written);
                    }
                    Err(fault) if tried < 5 && (fault.is_lost_connection() || fault.is_passing()) => {
                        drop(transaction);
                        tokio::time::sleep(shared.pause(tried)).await;
                    }
                    Err(fault) => return Err(fault),
                }
            }
        })
    }

    fn change_secrets(&self, change: SecretChange) -> Answer<'_, ()> {
        let name = self.shared.name.clone();
        self.write_with(move |transaction| {
            let name = name.clone();
            Box::pin(async move { write::change_secrets(transaction, change, &name).await })
        })
    }
}

/// A task that ends with whoever waits for it.
struct Task<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The clocks that a store goes by, where not by the server's.
#[derive(Default)]
struct Clocks {
    #[cfg(test)]
    clock: Option<Arc<dyn crate::clock::Clock>>,
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waited for: this may be the thread of another runtime. Nobody waits for an answer either,
            // for whoever does holds the store.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("name", &self.shared.name)
            .field("id", &self.shared.id)
            .finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
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
        Box::pin(async move {
            let ended = || Fault::Around("its writing task has ended".to_owned()).told(&self.shared.name);
            self.requests.send(Member { read, plan, reply }).map_err(|_gone| ended())?;
            answer.await.unwrap_or_else(|_dropped| Err(ended()))
        })
    }

    fn stage(&self, staging: Staging) -> Answer<'_, Duration> {
        let (name, staging) = (self.shared.name.clone(), Arc::new(staging));
        self.write_with(move |transaction| {
            let (name, staging) = (name.clone(), Arc::clone(&staging));
            Box::pin(async move {
                transaction.simple("SELECT 1 FROM keyward.counter FOR UPDATE").await?;
                let clock = SystemClock::default();
                let begun = clock.monotonic();
                stage::add(transaction, &staging, &name).await?;
                Ok(clock.monotonic().saturating_duration_since(begun))
            })
        })
    }

    fn unstage(&self, stage: StageId) -> Answer<'_, ()> {
        self.write_with(move |transaction| Box::pin(stage::give_up(transaction, stage)))
    }

    fn read(&self, read: ReadRequest) -> Answer<'_, Reading> {
        self.read_with(Kind::Read, move |transaction| Box::pin(async move { read::reading(transaction, &read).await }))
    }

    fn find(&self, hash: TokenHash) -> Answer<'_, (Option<OwnedKey>, Cursor)> {
        self.read_with(Kind::Read, move |transaction| Box::pin(async move { read::find(transaction, &hash).await }))
    }

    fn list_keys(&self, query: KeyQuery) -> Answer<'_, KeyPage> {
        let kind = if query.limit == 0 { Kind::ReadLong } else { Kind::Read };
        self.read_with(kind, move |transaction| Box::pin(async move { list::list_keys(transaction, &query).await }))
    }

    fn list_users(&self, query: UserQuery) -> Answer<'_, Vec<User>> {
        let kind = if query.limit == 0 { Kind::ReadLong } else { Kind::Read };
        self.read_with(kind, move |transaction| Box::pin(async move { read::list_users(transaction, &query).await }))
    }

    fn list_events(&self, query: EventQuery) -> Answer<'_, Vec<Event>> {
        let kind = if query.limit == 0 { Kind::ReadLong } else { Kind::Read };
        self.read_with(kind, move |transaction| Box::pin(async move { read::list_events(transaction, &query).await }))
    }

    fn poll(&self, cursor: Cursor) -> Answer<'_, Poll> {
        let (lane, shared) = (Arc::clone(&self.feeds), Arc::clone(&self.shared));
        self.run(async move {
            let permit = lane.acquire_owned().await.ok();
            read::poll_alone(&shared, cursor, permit).await
        })
    }

    fn wait_for_news(&self, at_most: Duration) -> BoxFuture<'_, ()> {
        if let Some(ear) = self.ear.lock().take() {
            self.runtime().handle().spawn(ear.listen(Arc::clone(&self.shared)));
        }
        Box::pin(async move {
            let _either = tokio::time::timeout(at_most, self.shared.news.notified()).await;
        })
    }

    fn changes_after(&self, cursor: Cursor, mut sink: Box<dyn FnMut(Batch) + Send>) -> Answer<'_, ()> {
        let (lane, shared) = (Arc::clone(&self.feeds), Arc::clone(&self.shared));
        self.run(async move {
            let permit = lane.acquire_owned().await.ok();
            let transaction = shared.begin(Kind::ReadAllAny, permit).await?;
            read::changes_after(&transaction, cursor, &mut *sink).await?;
            transaction.leave();
            Ok(())
        })
    }

    fn load(&self, lanes: Vec<LoadLane>) -> Answer<'_, Poll> {
        let (lane, spare, shared) = (Arc::clone(&self.feeds), Arc::clone(&self.readers), Arc::clone(&self.shared));
        self.run(async move {
            let permit = lane.acquire_owned().await.ok();
            load::load(&shared, permit, spare, lanes).await
        })
    }

    fn walk(
        &self,
        cursor: Cursor,
        after: Option<Subject>,
        limit: u32,
        mut sink: Box<dyn FnMut(Batch) + Send>,
    ) -> Answer<'_, ()> {
        // Among the readers: nobody waits for it, and news shall not wait behind it.
        let (lane, shared) = (Arc::clone(&self.readers), Arc::clone(&self.shared));
        self.run(async move {
            let permit = lane.acquire_owned().await.ok();
            let transaction = shared.begin(Kind::ReadLong, permit).await?;
            read::walk(&transaction, (cursor, after.as_ref(), limit), &mut *sink).await?;
            transaction.leave();
            Ok(())
        })
    }

    fn record_usage(&self, gateway: String, updates: Vec<UsageUpdate>) -> Answer<'_, ()> {
        let given = Arc::new((gateway, updates));
        self.write_with(move |transaction| {
            let given = Arc::clone(&given);
            Box::pin(async move { write::record_usage(transaction, &given.0, &given.1).await })
        })
    }

    fn record_refusals(&self, tallies: Vec<RefusalTally>) -> Answer<'_, ()> {
        let tallies = Arc::new(tallies);
        self.write_with(move |transaction| {
            let tallies = Arc::clone(&tallies);
            Box::pin(async move { write::record_refusals(transaction, &tallies).await })
        })
    }

    fn list_refusals(&self, query: RefusalQuery) -> Answer<'_, Vec<RefusalTally>> {
        self.read_with(Kind::Read, move |transaction| {
            Box::pin(async move { read::list_refusals(transaction, &query).await })
        })
    }

    fn tidy(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            for _sweep in 0..SWEEPS_MAX {
                if self.write_with(|transaction| Box::pin(write::tidy(transaction))).await? == Swept::All {
                    break;
                }
            }
            Ok(())
        })
    }

    fn check_secret(&self, number: u32, fingerprint: [u8; 32]) -> Answer<'_, ()> {
        Box::pin(async move {
            // Almost always it is known, and looking needs no lock.
            if self.secrets().await?.contains(&(number, fingerprint)) {
                return Ok(());
            }
            self.change_secrets(SecretChange::First(number, fingerprint)).await
        })
    }

    fn secrets(&self) -> Answer<'_, Vec<NumberedSecret>> {
        self.read_with(Kind::Read, |transaction| Box::pin(read::secrets(transaction)))
    }

    fn add_secret(&self, number: u32, fingerprint: [u8; 32]) -> Answer<'_, ()> {
        self.change_secrets(SecretChange::Add(number, fingerprint))
    }

    fn forget_secret(&self, number: u32) -> Answer<'_, ()> {
        self.change_secrets(SecretChange::Forget(number))
    }
}
