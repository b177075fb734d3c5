//! `serve`: from a checked configuration to a running gateway, and to its end.
//!
//! The order matters. Everything that can be wrong is looked at before the first socket is opened;
//! sockets are bound before keys are loaded, so that a port in use is told at once; and nothing is
//! accepted as ready before the table answers.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use arc_swap::ArcSwap;
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::echo::Echo;
use super::error::AppError;
use super::opening::open_followed;
use super::process;
use super::reload::{Overrides, Reloader, read_deny};
use super::watch::FileWatch;
use super::workers::{Workers, runtime};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment};
use crate::listen::{Connections, ListenMetrics, Listening, bind};
use crate::ops::Ops;
use crate::proxy::{Gateway, Metrics as ProxyMetrics, Shared};
use crate::ready::Readiness;
use crate::sync::{self, Runner, Sync, SyncMetrics};
use crate::table::Table;
use crate::telemetry::{DroppedLines, ProcessMetrics, start_log};
use crate::tls::{CertificateMetrics, Certificates};

/// Connections of listeners that are not the gateway's.
const OPS_CONNECTIONS_MAX: usize = 128;

/// Is told where the gateway listens, once it answers.
pub type OnReady = Box<dyn FnOnce(&Bound)>;

/// What the command line adds to the configuration.
#[derive(Default)]
pub struct ServeOptions {
    /// Start from a snapshot that is older than one this gateway has known.
    pub accept_old_snapshot: bool,
    /// Where to listen, in place of the configured addresses.
    pub listen: Option<SocketAddr>,
    /// Where to start an upstream that echoes.
    pub echo: Option<SocketAddr>,
    /// Called once the gateway answers.
    pub on_ready: Option<OnReady>,
}

impl std::fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServeOptions")
            .field("accept_old_snapshot", &self.accept_old_snapshot)
            .field("listen", &self.listen)
            .field("echo", &self.echo)
            .finish_non_exhaustive()
    }
}

/// Where a running gateway listens.
#[derive(Debug, Clone)]
pub struct Bound {
    /// The addresses that callers reach.
    pub gateway: Vec<SocketAddr>,
    /// Metrics and health.
    pub ops: Option<SocketAddr>,
}

/// Everything that counts something.
#[derive(Debug)]
struct Metrics {
    registry: Registry,
    process: ProcessMetrics,
    certificates: CertificateMetrics,
    gateway: ListenMetrics,
    ops: ListenMetrics,
    proxy: ProxyMetrics,
    sync: Arc<SyncMetrics>,
}

impl Metrics {
    fn new(dropped: Option<DroppedLines>) -> Result<Self, AppError> {
        let metrics = Self {
            registry: Registry::new(),
            process: ProcessMetrics::new(dropped)?,
            certificates: CertificateMetrics::new()?,
            gateway: ListenMetrics::new("gateway")?,
            ops: ListenMetrics::new("ops")?,
            proxy: ProxyMetrics::new()?,
            sync: Arc::new(SyncMetrics::new()),
        };
        let registry = &metrics.registry;
        metrics.process.register(registry)?;
        metrics.certificates.register(registry)?;
        metrics.gateway.register(registry)?;
        metrics.ops.register(registry)?;
        metrics.proxy.register(registry)?;
        metrics.sync.register(registry)?;
        Ok(metrics)
    }
}

/// The name of every metric that a gateway can show, sorted: what its documentation must list.
///
/// # Errors
/// When two metrics have one name.
pub fn metric_names() -> Result<Vec<String>, AppError> {
    let metrics = Metrics::new(None)?;
    let mut names: Vec<String> = metrics.registry.gather().iter().map(|family| family.name().to_owned()).collect();
    names.sort();
    Ok(names)
}

/// Runs the gateway until it is told to stop by SIGTERM or SIGINT and has drained. A second such signal
/// ends it at once.
///
/// # Errors
/// When it cannot start, or a thread of it ends before it should.
pub fn serve(config: Config, options: ServeOptions) -> Result<(), AppError> {
    let log = start_log(&config.log)?;
    process::prepare();
    let workers = worker_count(&config);
    let clock = Arc::new(SystemClock::default());
    let metrics = Metrics::new(Some(log.dropped()))?;
    let runtime = runtime()?;
    let running = Running::start(config, &options, workers, &clock, metrics, &runtime)?;
    LocalSet::new().block_on(&runtime, running.until_told_to_stop(options.on_ready))
}

/// A gateway whose threads run.
struct Running {
    reloader: Reloader,
    readiness: Arc<Readiness>,
    table: Arc<Table>,
    bound: Bound,
    workers: Workers,
    stop: watch::Sender<bool>,
    /// The thread that follows the store outlives the workers: what they count is written back last.
    following: Following,
}

struct Following {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Reads everything there is to read, then binds, then starts the threads.
    fn start(
        mut config: Config,
        options: &ServeOptions,
        worker_count: usize,
        clock: &Arc<SystemClock>,
        metrics: Metrics,
        runtime: &Runtime,
    ) -> Result<Self, AppError> {
        let overrides = Overrides { accept_old_snapshot: options.accept_old_snapshot, listen: options.listen };
        overrides.apply(&mut config);
        let shared_clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
        let certificates = config.gateway.tls.clone().map(Certificates::load).transpose();
        let certificates = certificates.map_err(AppError::Certificates)?.map(Arc::new);
        config.proxy.load_certificates().map_err(AppError::Certificates)?;
        let deny = Arc::new(ArcSwap::from_pointee(read_deny(config.gateway.deny_file.as_deref())?));
        let settings = Arc::new(ArcSwap::new(Arc::clone(&config.proxy)));
        let listen_settings = Arc::new(ArcSwap::from_pointee(config.gateway.listen_settings()));
        let connections = Connections::new(config.gateway.limits.connections);

        let mut addresses = Vec::with_capacity(config.gateway.listen.len());
        for &address in &config.gateway.listen {
            addresses.push(bind(address, worker_count)?);
        }
        let ops = config.ops.map(|address| bind(address, 1)).transpose()?;

        let followed = runtime.block_on(open_followed(&config, Arc::clone(&shared_clock)))?;
        let table = Arc::new(Table::new());
        let sync = Sync::start(sync::Parts {
            settings: config.sync.clone(),
            store: followed.store,
            table: Arc::clone(&table),
            clock: Arc::clone(&shared_clock),
            mac_key: followed.mac_key,
            metrics: Arc::clone(&metrics.sync),
            reassert: None,
        })?;
        if let Some(floor) = sync.clock_floor {
            clock.raise_to(floor);
        }

        let bound = Bound { gateway: addresses_of(&addresses), ops: ops.as_deref().and_then(first_address) };
        let readiness = Arc::new(Readiness::default());
        let (stop, stopped) = watch::channel(false);
        let mut workers = Workers::new();
        let listening = Listening {
            tls: certificates.as_ref().map(|certificates| certificates.config()),
            settings: Arc::clone(&listen_settings),
            connections: Arc::clone(&connections),
            clock: Arc::clone(&shared_clock),
            metrics: metrics.gateway.clone(),
        };
        let shared = Shared {
            settings: Arc::clone(&settings),
            table: Arc::clone(&table),
            misses: sync.misses,
            deny: Arc::clone(&deny),
            clock: Arc::clone(&shared_clock),
            metrics: metrics.proxy.clone(),
            in_flight: Arc::default(),
        };
        for (number, listeners) in by_worker(addresses, worker_count).into_iter().enumerate() {
            let listeners = listeners.into_iter().map(|listener| (listener, listening.clone())).collect();
            let shared = shared.clone();
            workers.start(format!("worker-{number}"), listeners, &stopped, move || Gateway::new(shared))?;
        }
        if let Some(listeners) = ops {
            let own = Listening {
                tls: None,
                settings: Arc::default(),
                connections: Connections::new(OPS_CONNECTIONS_MAX),
                clock: Arc::clone(&shared_clock),
                metrics: metrics.ops.clone(),
            };
            let answering = Ops {
                registry: metrics.registry.clone(),
                readiness: Arc::clone(&readiness),
                table: Arc::clone(&table),
                on_stale: config.sync.on_stale,
                clock: Arc::clone(&shared_clock),
            };
            let listeners = listeners.into_iter().map(|listener| (listener, own.clone())).collect();
            workers.start("ops".to_owned(), listeners, &stopped, move || Ok(answering))?;
        }
        if let Some(address) = options.echo {
            let own = Listening {
                tls: None,
                settings: Arc::default(),
                connections: Connections::new(OPS_CONNECTIONS_MAX),
                clock: Arc::clone(&shared_clock),
                metrics: ListenMetrics::new("echo")?,
            };
            let listeners = bind(address, 1)?.into_iter().map(|listener| (listener, own.clone())).collect();
            workers.start("echo".to_owned(), listeners, &stopped, || Ok(Echo))?;
        }
        let following = Following::start(sync.runner)?;
        let reloader = Reloader {
            config,
            environment: Environment::of_process(),
            overrides,
            settings,
            listen_settings,
            connections,
            certificates,
            deny,
            process_metrics: metrics.process,
            certificate_metrics: metrics.certificates,
            clock: shared_clock,
        };
        Ok(Self { reloader, readiness, table, bound, workers, stop, following })
    }

    /// Serves until a signal says stop, then drains.
    async fn until_told_to_stop(mut self, on_ready: Option<OnReady>) -> Result<(), AppError> {
        let mut signals = Signals::listen().map_err(AppError::runtime("cannot listen for signals"))?;
        self.reloader.process_metrics.reloaded(self.reloader.clock.now().seconds());
        self.reloader.show_certificates();
        for address in &self.bound.gateway {
            tracing::info!(listener = "gateway", %address, "listening");
        }
        if let Some(address) = self.bound.ops {
            tracing::info!(listener = "ops", %address, "listening");
        }
        self.readiness.bound();
        let mut watch = FileWatch::new().map_err(|error| {
            AppError::runtime("cannot watch the configuration's files")(std::io::Error::other(error))
        })?;
        watch.follow(self.reloader.files().iter().map(PathBuf::as_path));
        let mut on_ready = Some(on_ready);
        let outcome = loop {
            tokio::select! {
                () = self.table.wait_ready(), if on_ready.is_some() => {
                    tracing::info!(keys = self.table.keys(), "ready");
                    if let Some(Some(tell)) = on_ready.take() {
                        tell(&self.bound);
                    }
                }
                told = signals.next() => match told {
                    Told::Stop => break Ok(()),
                    Told::Reload => {
                        self.reloader.reload_deny();
                        self.reloader.reload();
                        watch.follow(self.reloader.files().iter().map(PathBuf::as_path));
                    }
                },
                () = watch.changed() => {
                    self.reloader.reload();
                    watch.follow(self.reloader.files().iter().map(PathBuf::as_path));
                }
                name = self.workers.one_ended() => break Err(AppError::Runtime {
                    what: "a thread ended before it should",
                    cause: std::io::Error::other(name),
                }),
            }
        };
        tracing::info!("stopping");
        self.readiness.draining();
        self.stop.send_replace(true);
        let Self { workers, following, .. } = self;
        let drained = tokio::task::spawn_blocking(move || {
            workers.join();
            following.end();
        });
        tokio::select! {
            ended = drained => drop(ended),
            () = signals.second_stop() => tracing::warn!("told to stop again: ending at once"),
        }
        tracing::info!("stopped");
        outcome
    }
}

impl Following {
    fn start(runner: Runner) -> Result<Self, AppError> {
        let (stop, stopped) = watch::channel(false);
        let runtime = runtime()?;
        let work = move || runtime.block_on(runner.run(stopped));
        let thread = thread::Builder::new().name("sync".to_owned()).spawn(work);
        Ok(Self { stop, thread: thread.map_err(AppError::runtime("cannot start a thread"))? })
    }

    fn end(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the thread that follows the store ended by a panic");
        }
    }
}

/// What a signal asks for.
enum Told {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next thing asked for. Cancel-safe.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }

    /// Returns once a stop is asked for.
    async fn second_stop(&mut self) {
        while let Told::Reload = self.next().await {}
    }
}

fn addresses_of(addresses: &[Vec<TcpListener>]) -> Vec<SocketAddr> {
    addresses.iter().filter_map(|listeners| first_address(listeners)).collect()
}

fn first_address(listeners: &[TcpListener]) -> Option<SocketAddr> {
    listeners.first()?.local_addr().ok()
}

/// The listeners of each worker, given those of each address.
fn by_worker(addresses: Vec<Vec<TcpListener>>, workers: usize) -> Vec<Vec<TcpListener>> {
    let mut of_each: Vec<Vec<TcpListener>> = (0..workers).map(|_number| Vec::new()).collect();
    for listeners in addresses {
        for (worker, listener) in of_each.iter_mut().zip(listeners) {
            worker.push(listener);
        }
    }
    of_each
}

fn worker_count(config: &Config) -> usize {
    match config.gateway.workers {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
    }
}
