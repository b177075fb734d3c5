//! `serve`: from a checked configuration to a running gateway, and to its end.
//!
//! The order matters. Everything that can be wrong is looked at before the first socket is opened;
//! sockets are bound before keys are loaded, so that a port in use is told at once; and nothing is
//! accepted as ready before the table answers.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use prometheus::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::echo::Echo;
use super::error::AppError;
use super::process;
use super::reload::{Reloader, read_deny};
use super::watch::FileWatch;
use super::workers::{Workers, runtime};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment, LogFormat};
use crate::listen::{Connections, ListenMetrics, Listening, bind};
use crate::ops::Ops;
use crate::proxy::{Gateway, ProxyMetrics, Shared};
use crate::ready::Readiness;
use crate::telemetry::{self, ProcessMetrics, start_log};
use crate::tls::{CertificateMetrics, Certificates};

/// What the command line adds to the configuration.
#[derive(Default)]
pub struct ServeOptions {
    /// Start from a snapshot that is older than one this gateway has known.
    pub accept_old_snapshot: bool,
    /// Where to start an upstream that echoes.
    pub echo: Option<SocketAddr>,
    /// Called once the gateway answers.
    pub on_ready: Option<Box<dyn FnOnce(&Bound)>>,
}

impl std::fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServeOptions")
            .field("accept_old_snapshot", &self.accept_old_snapshot)
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
    proxy: Arc<ProxyMetrics>,
    sync: SyncMetrics,
}

impl Metrics {
    fn new(workers: usize, dropped: Option<telemetry::DroppedLines>) -> Result<Self, AppError> {
        let metrics = Self {
            registry: Registry::new(),
            process: ProcessMetrics::new(dropped)?,
            certificates: CertificateMetrics::new()?,
            gateway: ListenMetrics::new("gateway")?,
            ops: ListenMetrics::new("ops")?,
            proxy: ProxyMetrics::new(workers),
            sync: SyncMetrics::new()?,
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
    let metrics = Metrics::new(1, None)?;
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
    let log = start_log(&config.log_settings())?;
    process::prepare();
    let clock = Arc::new(SystemClock::default());
    let workers = worker_count(&config);
    let metrics = Metrics::new(workers, Some(log.dropped()))?;

    let certificates = config.gateway.tls.clone().map(Certificates::load).transpose().map_err(AppError::Certificates)?;
    let certificates = certificates.map(Arc::new);
    let deny = Arc::new(ArcSwap::from_pointee(read_deny(config.gateway.deny_file.as_deref())?));
    let settings = Arc::new(ArcSwap::new(Arc::clone(&config.proxy)));
    Ok(())
}

fn worker_count(config: &Config) -> usize {
    match config.gateway.workers {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
    }
}
