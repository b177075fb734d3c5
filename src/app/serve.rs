//! `serve`: from a checked configuration to a running gateway, and to its end.
//!
//! The order matters. Everything that can be wrong is looked at before the first socket is opened;
//! sockets are bound before keys are loaded, so that a port in use is told at once; and nothing is
//! accepted as ready before the table answers.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::echo::Echo;
use super::error::AppError;
use super::examine::examine;
use super::management::{Followed, InSettings, InTable, Management, ManagementMetrics, Upkeep};
use super::opening::open_followed;
use super::process;
use super::reassert::Reasserting;
use super::reload::{Overrides, Reloader, read_deny};
use super::rotation::{self, Rotating};
use super::running::{Crew, Following, Running};
use super::secrets::Held;
use super::sockets::{CLEARTEXT, Sockets};
use super::supervisor::Supervisor;
use super::upgrade::{Predecessor, Program};
use super::workers::{Times, runtime};
use crate::admin;
use crate::background;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment};
use crate::key::{MintJwt, Signers};
use crate::listen::{Connections, ListenMetrics, Listening};
use crate::ops::Ops;
use crate::proxy::{Gateway, Metrics as ProxyMetrics, Shared};
use crate::ready::Readiness;
use crate::report::Chain;
use crate::rotation::RotationMetrics;
use crate::store;
use crate::sync::{self, Sync, SyncMetrics};
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
    /// Those of them without TLS beside those with it.
    pub cleartext: Vec<SocketAddr>,
    /// Metrics and health.
    pub ops: Option<SocketAddr>,
    /// The management API.
    pub admin: Option<SocketAddr>,
    /// Where keys are used for themselves.
    pub own_keys: Option<SocketAddr>,
}

/// Everything that counts something.
#[derive(Debug)]
struct Metrics {
    registry: Registry,
    process: ProcessMetrics,
    certificates: CertificateMetrics,
    gateway: ListenMetrics,
    ops: ListenMetrics,
    management: ManagementMetrics,
    proxy: ProxyMetrics,
    sync: Arc<SyncMetrics>,
    rotation: RotationMetrics,
}

impl Metrics {
    fn new(dropped: Option<DroppedLines>) -> Result<Self, AppError> {
        let metrics = Self {
            registry: Registry::new(),
            process: ProcessMetrics::new(dropped)?,
            certificates: CertificateMetrics::new()?,
            gateway: ListenMetrics::new("gateway")?,
            ops: ListenMetrics::new("ops")?,
            management: ManagementMetrics::new()?,
            proxy: ProxyMetrics::new()?,
            sync: Arc::new(SyncMetrics::new()),
            rotation: RotationMetrics::new(),
        };
        let registry = &metrics.registry;
        metrics.process.register(registry)?;
        metrics.certificates.register(registry)?;
        metrics.gateway.register(registry)?;
        metrics.ops.register(registry)?;
        metrics.management.register(registry)?;
        metrics.proxy.register(registry)?;
        metrics.sync.register(registry)?;
        metrics.rotation.register(registry)?;
        Ok(metrics)
    }
}

/// Runs the gateway until it is told to stop by SIGTERM or SIGINT and has drained. A second such signal
/// ends it at once.
///
/// # Errors
/// When it cannot start, or a thread of it ends before it should.
pub fn serve(config: Config, options: ServeOptions) -> Result<(), AppError> {
    let program = Program::of_process().map_err(AppError::runtime("cannot tell which program this is"))?;
    let log = start_log(&config.log)?;
    process::prepare();
    let workers = worker_count(&config);
    let clock = Arc::new(SystemClock::default());
    let metrics = Metrics::new(Some(log.dropped()))?;
    let runtime = runtime()?;
    let (predecessor, inherited) = match Predecessor::of_process()? {
        Some((predecessor, sockets)) => (Some(Arc::new(predecessor)), Sockets::of(sockets)),
        None => (None, Sockets::of_service_manager()?),
    };
    let origin = Origin { program, predecessor: predecessor.clone(), sockets: inherited };
    let running =
        Running::start(config, &options, workers, &clock, metrics, &runtime, origin).inspect_err(|error| {
            if let Some(predecessor) = &predecessor {
                predecessor.failed(Chain(error).to_string());
            }
        })?;
    drop(predecessor);
    let outcome = LocalSet::new().block_on(&runtime, running.until_told_to_stop(options.on_ready));
    // A thread that drains may be left behind: waiting for it would take as long as the drain.
    runtime.shutdown_background();
    outcome
}

/// Where this process comes from.
struct Origin {
    program: Program,
    predecessor: Option<Arc<Predecessor>>,
    sockets: Sockets,
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
        origin: Origin,
    ) -> Result<Self, AppError> {
        let Origin { program, predecessor, mut sockets } = origin;
        let overrides = Overrides { accept_old_snapshot: options.accept_old_snapshot, listen: options.listen };
        overrides.apply(&mut config);
        let shared_clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
        let certificates = config.gateway.tls.clone().map(Certificates::load).transpose();
        let certificates = certificates.map_err(AppError::certificates(&config, "gateway.tls"))?.map(Arc::new);
        config.proxy.load_certificates().map_err(AppError::certificates(&config, "upstreams"))?;
        let management = Management::load(&config)?;
        let deny = Arc::new(ArcSwap::from_pointee(read_deny(config.gateway.deny_file.as_deref())?));
        let settings = Arc::new(ArcSwap::new(Arc::clone(&config.proxy)));
        let listen_settings = Arc::new(ArcSwap::from_pointee(config.gateway.listen_settings()));
        let connections = Connections::new(config.gateway.limits.connections);

        let mut listen = |name: &str, addresses: &[SocketAddr]| {
            let each = addresses.iter().map(|&address| sockets.listen(name, address, worker_count));
            each.collect::<Result<Vec<_>, _>>()
        };
        let addresses = listen("gateway", &config.gateway.listen)?;
        let cleartext = listen(CLEARTEXT, &config.gateway.listen_cleartext)?;
        let managing = Management::bind(&config, &mut sockets)?;
        let ops = config.ops.map(|address| sockets.listen("ops", address, 1)).transpose()?;
        let echo = options.echo.map(|address| sockets.listen("echo", address, 1)).transpose()?;
        sockets.close_unused();

        let followed = runtime.block_on(open_followed(&config, Arc::clone(&shared_clock)))?;
        let held = Held {
            store: Arc::clone(&followed.store),
            secrets: followed.secrets,
            issuer: config.gateway.issuer.clone(),
            mac_key: followed.derived.mac_key.clone(),
            signers: Arc::new(ArcSwap::new(followed.derived.signers)),
            webhooks: followed.derived.webhooks,
        };
        let jwt: Arc<dyn MintJwt> = Arc::<ArcSwap<Signers>>::clone(&held.signers);
        let table = Arc::new(Table::new());
        let manager = rotation::manager_with(&config, &followed.store, held.webhooks.clone())
            .with_keys_per_user_max(config.management.keys_per_user_max)
            .with_jwt(jwt);
        let manager = match &config.store {
            store::Settings::Sqlite { .. } => manager.with_live_usage(Arc::new(InTable(Arc::clone(&table)))),
            // Others use it too, and what they have counted is not known here.
            store::Settings::Postgres(_) => manager,
        };
        let sync = Sync::start(sync::Parts {
            settings: config.sync.clone(),
            store: Arc::clone(&followed.store),
            table: Arc::clone(&table),
            clock: Arc::clone(&shared_clock),
            mac_key: followed.derived.mac_key,
            metrics: Arc::clone(&metrics.sync),
            reassert: Some(Arc::new(Reasserting::by(manager.clone()))),
            stale_policy: Arc::new(InSettings(Arc::clone(&settings))),
            // Last, so that as little as possible can go wrong while two processes share the folder.
            lent_lock: predecessor.as_ref().and_then(|predecessor| predecessor.state()),
        })?;
        if let Some(floor) = sync.clock_floor {
            clock.raise_to(floor);
        }

        let address_of = |surface| {
            let bound = managing.iter().find(|bound| bound.surface == surface)?;
            first_address(&bound.sockets)
        };
        let bound = Bound {
            gateway: addresses_of(&addresses),
            cleartext: addresses_of(&cleartext),
            ops: ops.as_deref().and_then(first_address),
            admin: address_of(admin::Surface::Whole),
            own_keys: address_of(admin::Surface::OwnKeys),
        };
        let readiness = Arc::new(Readiness::default());
        // Who comes after another process leaves connections to that one until it can decide them. Where
        // the service manager listens, they wait in its sockets.
        let (open, opened) = watch::channel(predecessor.is_none() && !sockets.are_inherited());
        let (_for_good, at_once) = watch::channel(true);
        let telling = if predecessor.is_some() { opened.clone() } else { at_once };
        let (mut workers, stopped) = Crew::new();
        let (mut tellers, silenced) = Crew::new();
        let mut pulses = Vec::new();
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
            signers: Arc::clone(&held.signers),
        };
        let in_clear = Listening { tls: None, ..listening.clone() };
        let of_each = by_worker(addresses, worker_count).into_iter().zip(by_worker(cleartext, worker_count));
        for (number, (listeners, cleartext)) in of_each.enumerate() {
            let listeners = listeners.into_iter().map(|listener| (listener, listening.clone()));
            let cleartext = cleartext.into_iter().map(|listener| (listener, in_clear.clone()));
            let listeners = listeners.chain(cleartext).collect();
            let shared = shared.clone();
            let times = Times::new(&opened, &stopped);
            pulses.push(times.pulse.clone());
            workers.workers.start(format!("worker-{number}"), listeners, times, move || Gateway::new(shared))?;
        }
        let parts = admin::Parts {
            manager: manager.clone(),
            prefix: config.proxy.token_prefix.clone(),
            guard: Arc::new(admin::Guard::new(config.sync.failure_limit)),
            deny: Arc::clone(&deny),
            signers: Arc::clone(&held.signers),
            routes: Arc::new(InSettings(Arc::clone(&settings))),
            applied: Arc::new(Followed(sync.handle.clone())),
            settings: Arc::clone(&management.settings),
            clock: Arc::clone(&shared_clock),
            metrics: metrics.management.api.clone(),
        };
        let managed = || Times::new(&telling, &stopped);
        management.start(managing, &parts, &metrics.management, &mut workers.workers, managed)?;
        let upkeep = Upkeep::start(manager)?;
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
                on_stale: Arc::new(InSettings(Arc::clone(&settings))),
                clock: Arc::clone(&shared_clock),
            };
            let listeners = listeners.into_iter().map(|listener| (listener, own.clone())).collect();
            tellers.workers.start("ops".to_owned(), listeners, Times::new(&telling, &silenced), move || {
                background::give_way();
                Ok(answering)
            })?;
        }
        if let Some(listeners) = echo {
            let own = Listening {
                tls: None,
                settings: Arc::default(),
                connections: Connections::new(OPS_CONNECTIONS_MAX),
                clock: Arc::clone(&shared_clock),
                metrics: ListenMetrics::new("echo")?,
            };
            let listeners = listeners.into_iter().map(|listener| (listener, own.clone())).collect();
            tellers.workers.start("echo".to_owned(), listeners, Times::new(&telling, &silenced), || Ok(Echo))?;
        }
        let webhooks = held.webhooks.clone();
        let rotating =
            Rotating::start(&config, &followed.store, webhooks, Arc::clone(&shared_clock), metrics.rotation)?;
        let following = Following::start(sync.runner, sync.loan)?;
        examine(config.store.clone(), Arc::clone(&metrics.sync))?;
        let reloader = Reloader {
            config,
            environment: Environment::of_process(),
            overrides,
            settings,
            listen_settings,
            connections,
            certificates,
            management,
            deny,
            held,
            process_metrics: metrics.process,
            certificate_metrics: metrics.certificates,
            clock: shared_clock,
        };
        Ok(Self {
            reloader,
            readiness,
            table,
            bound,
            sockets,
            workers,
            tellers,
            following,
            upkeep,
            rotating,
            open,
            program,
            predecessor,
            supervisor: Supervisor::new(pulses),
        })
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
        // There may be more sockets than workers, and a connection may wait in each of them.
        for (number, listener) in listeners.into_iter().enumerate() {
            if let Some(worker) = of_each.get_mut(number % workers) {
                worker.push(listener);
            }
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
