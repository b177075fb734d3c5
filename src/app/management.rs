//! The management API's listeners: one thread for both, apart from those that answer callers.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::error::AppError;
use super::sockets::Sockets;
use super::workers::{Times, Workers, runtime};
use crate::admin::{Admin, AdminMetrics, Applied, Applying, Parts, Routes, Settings, Surface};
use crate::background;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::key::Key;
use crate::listen::{Connections, ListenMetrics, Listening};
use crate::manage::{LiveUsage, Manager};
use crate::policy::RouteTable;
use crate::proxy;
use crate::report::Chain;
use crate::sync::{self, StalePolicy};
use crate::table::Table;
use crate::tls::{CertificateInfo, Certificates, PreparedCertificates, ServerSettings};

/// Connections of one listener.
const CONNECTIONS_MAX: usize = 512;

/// What the management API counts, its listeners included.
#[derive(Debug)]
pub(super) struct ManagementMetrics {
    pub(super) api: AdminMetrics,
    listeners: [(Surface, ListenMetrics); 2],
}

impl ManagementMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let of = |surface: Surface| Ok::<_, prometheus::Error>((surface, ListenMetrics::new(surface.listener())?));
        Ok(Self { api: AdminMetrics::new()?, listeners: [of(Surface::Whole)?, of(Surface::OwnKeys)?] })
    }

    pub(super) fn register(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
        self.api.register(registry)?;
        self.listeners.iter().try_for_each(|(_, metrics)| metrics.register(registry))
    }

    fn of(&self, surface: Surface) -> Option<ListenMetrics> {
        self.listeners.iter().find(|(of, _)| *of == surface).map(|(_, metrics)| metrics.clone())
    }
}

/// The configuration's table for a listener's certificates.
const fn table(surface: Surface) -> &'static str {
    match surface {
        Surface::Whole => "admin.tls",
        Surface::OwnKeys => "self.tls",
    }
}

/// One bound listener.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) surface: Surface,
    pub(super) sockets: Vec<TcpListener>,
}

/// The listeners' settings and certificates, as a reload changes them.
#[derive(Debug)]
pub(super) struct Management {
    pub(super) settings: Arc<ArcSwap<Settings>>,
    certificates: Vec<(Surface, Arc<Certificates>)>,
}

/// What a reload read for the listeners, and has not put in use yet.
#[derive(Debug)]
pub(super) struct Prepared(Vec<(Arc<Certificates>, PreparedCertificates)>);

impl Management {
    /// Reads the certificates that `config` names.
    ///
    /// # Errors
    /// Every fault of every file.
    pub(super) fn load(config: &Config) -> Result<Self, AppError> {
        let mut certificates = Vec::new();
        for (surface, listener) in listeners(config) {
            if let Some(tls) = listener.tls.clone() {
                let loaded = Certificates::load(tls).map_err(AppError::certificates(config, table(surface)))?;
                certificates.push((surface, Arc::new(loaded)));
            }
        }
        Ok(Self { settings: Arc::new(ArcSwap::from_pointee(config.management.clone())), certificates })
    }

    /// Binds the listeners that `config` names.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub(super) fn bind(config: &Config, sockets: &mut Sockets) -> Result<Vec<Bound>, AppError> {
        let bind = |(surface, listener): (Surface, &config::Admin)| {
            Ok(Bound { surface, sockets: sockets.listen(surface.listener(), listener.listen, 1)? })
        };
        listeners(config).map(bind).collect()
    }

    /// Starts a thread for each listener, which works with `parts`.
    ///
    /// # Errors
    /// When the operating system has no thread or runtime to give.
    pub(super) fn start(
        &self,
        bound: Vec<Bound>,
        parts: &Parts,
        metrics: &ManagementMetrics,
        workers: &mut Workers,
        times: impl Fn() -> Times,
    ) -> Result<(), AppError> {
        for Bound { surface, sockets } in bound {
            let Some(metrics) = metrics.of(surface) else { continue };
            let listening = Listening {
                tls: self.of(surface).map(|certificates| certificates.config()),
                settings: Arc::default(),
                connections: Connections::new(CONNECTIONS_MAX),
                clock: Arc::clone(&parts.clock) as Arc<dyn Clock>,
                metrics,
            };
            let listeners = sockets.into_iter().map(|socket| (socket, listening.clone())).collect();
            let parts = parts.clone();
            workers.start(surface.listener().to_owned(), listeners, times(), move || {
                background::give_way();
                Admin::new(parts, surface)
            })?;
        }
        Ok(())
    }

    fn of(&self, surface: Surface) -> Option<&Arc<Certificates>> {
        self.certificates.iter().find(|(of, _)| *of == surface).map(|(_, certificates)| certificates)
    }

    /// Reads the certificates that `new` names, and changes nothing yet.
    ///
    /// # Errors
    /// Every fault of every file.
    pub(super) fn prepare(&self, new: &Config) -> Result<Prepared, AppError> {
        let mut prepared = Vec::new();
        for (surface, listener) in listeners(new) {
            let tls: Option<ServerSettings> = listener.tls.clone();
            if let Some((certificates, tls)) = self.of(surface).zip(tls) {
                let read = certificates.prepare(tls).map_err(AppError::certificates(new, table(surface)))?;
                prepared.push((Arc::clone(certificates), read));
            }
        }
        Ok(Prepared(prepared))
    }

    /// Puts what was read in use.
    pub(super) fn commit(&self, Prepared(prepared): Prepared, new: &Config) {
        for (certificates, read) in prepared {
            certificates.commit(read);
        }
        self.settings.store(Arc::new(new.management.clone()));
    }

    /// Every certificate in use.
    pub(super) fn shown(&self) -> Vec<CertificateInfo> {
        self.certificates.iter().flat_map(|(_, certificates)| certificates.shown().to_vec()).collect()
    }

    /// Every file that was read.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.certificates.iter().flat_map(|(_, certificates)| certificates.files())
    }
}

fn listeners(config: &Config) -> impl Iterator<Item = (Surface, &config::Admin)> {
    let admin = config.admin.as_ref().map(|admin| (Surface::Whole, admin));
    admin.into_iter().chain(config.own_keys.as_ref().map(|own| (Surface::OwnKeys, own)))
}

/// A change is in force once the table was seen to follow the store past it.
#[derive(Debug)]
pub(super) struct Followed(pub(super) sync::Handle);

impl Applied for Followed {
    fn wait(&self, revision: u64, at_most: Duration) -> Applying<'_> {
        Box::pin(self.0.wait_applied(revision, at_most))
    }
}

/// What the table counted.
#[derive(Debug)]
pub(super) struct InTable(pub(super) Arc<Table>);

/// A store in a file has this one gateway, so what its table counted is all there is to know.
impl LiveUsage for InTable {
    fn is_used(&self, key: &Key) -> bool {
        self.0.was_used(&key.hash)
    }
}

/// The routes are those of the settings in force.
#[derive(Debug)]
pub(super) struct InSettings(pub(super) Arc<ArcSwap<proxy::Settings>>);

impl Routes for InSettings {
    fn look(&self, see: &mut dyn FnMut(&RouteTable)) {
        see(&self.0.load().routes);
    }
}

/// What happens once the table is too old is what those routes say.
impl StalePolicy for InSettings {
    fn denies_all(&self) -> bool {
        self.0.load().denies_when_stale()
    }
}

/// The thread that writes down what the manager has counted, and forgets what is past its time. Ends,
/// with a last writing, when this is dropped.
#[derive(Debug)]
pub(super) struct Upkeep {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system has no thread or runtime to give.
    pub(super) fn start(manager: Manager) -> Result<Self, AppError> {
        let (stop, mut stopped) = watch::channel(false);
        let runtime = runtime()?;
        let work = async move {
            let mut over = false;
            while !over {
                // A sender that is gone can never say stop: take it for one.
                over = tokio::time::timeout(UPKEEP_EVERY, stopped.wait_for(|stop| *stop)).await.is_ok();
                let written = tokio::time::timeout(UPKEEP_PATIENCE, manager.write_back()).await;
                if let Ok(Err(error)) = written {
                    tracing::debug!(error = %Chain(&error), "what the management API counted is written down later");
                }
            }
        };
        let thread = background::spawn("upkeep", move || runtime.block_on(work));
        Ok(Self { stop, thread: Some(thread.map_err(AppError::runtime("cannot start a thread"))?) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the upkeep of the management API ended by a panic");
        }
    }
}

const UPKEEP_EVERY: Duration = Duration::from_secs(5);
const UPKEEP_PATIENCE: Duration = Duration::from_secs(2);
