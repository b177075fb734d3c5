//! Taking over a changed configuration, changed certificates and a changed deny list while serving.
//!
//! A configuration and its certificates are read and checked whole, then swapped at once; whatever is
//! wrong with them leaves the old ones in force and is told in the log. The deny list is apart: it is
//! what kills a leaked key when all else fails, so no fault elsewhere keeps it from being read.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::error::AppError;
use super::management::Management;
use super::secrets::Held;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Environment};
use crate::listen::{self, Connections};
use crate::policy::DenyList;
use crate::proxy;
use crate::telemetry::ProcessMetrics;
use crate::tls::{CertificateInfo, CertificateMetrics, Certificates};

/// What the command line says over the file, at every reload again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overrides {
    pub(super) accept_old_snapshot: bool,
    pub(super) listen: Option<SocketAddr>,
}

impl Overrides {
    /// Puts them into a configuration that was just read.
    pub(super) fn apply(self, config: &mut Config) {
        config.sync.accept_old_snapshot |= self.accept_old_snapshot;
        let Some(listen) = self.listen else { return };
        config.gateway.listen = vec![listen];
        // Where any port will do for the gateway, any will do for the other listeners.
        if listen.port() == 0 {
            config.gateway.listen_cleartext.iter_mut().for_each(|address| address.set_port(0));
            config.ops = config.ops.map(|ops| SocketAddr::new(ops.ip(), 0));
            for listener in [&mut config.admin, &mut config.own_keys].into_iter().flatten() {
                listener.listen.set_port(0);
            }
        }
    }
}

/// What is in force, and what a reload changes of it.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) config: Config,
    pub(super) environment: Environment,
    pub(super) overrides: Overrides,
    pub(super) settings: Arc<ArcSwap<proxy::Settings>>,
    pub(super) listen_settings: Arc<ArcSwap<listen::Settings>>,
    pub(super) connections: Arc<Connections>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) management: Management,
    pub(super) deny: Arc<ArcSwap<DenyList>>,
    pub(super) held: Held,
    pub(super) process_metrics: ProcessMetrics,
    pub(super) certificate_metrics: CertificateMetrics,
    pub(super) clock: Arc<dyn Clock>,
}

impl Reloader {
    /// Reads configuration and certificates again. Every fault is told; none of them changes anything.
    pub(super) fn reload(&mut self) {
        match self.try_reload() {
            Ok(()) => {
                self.process_metrics.reloaded(self.clock.now().seconds());
                self.show_certificates();
                tracing::info!(file = %self.config.path.display(), "configuration reloaded");
            }
            Err(error) => {
                self.process_metrics.reload_refused();
                for fault in error.to_string().lines() {
                    tracing::error!(fault, "configuration not reloaded, the old one stays in force");
                }
            }
        }
    }

    fn try_reload(&mut self) -> Result<(), AppError> {
        let mut new = Config::load(&self.config.path, &self.environment).map_err(AppError::Config)?;
        self.overrides.apply(&mut new);
        let fixed = self.config.restart_needed(&new);
        if !fixed.is_empty() {
            return Err(AppError::RestartNeeded { changed: fixed.join(", ") });
        }
        for waits in self.config.waits_for_restart(&new) {
            tracing::warn!(changed = waits, "this change takes effect when the gateway starts again");
        }
        new.proxy.load_certificates().map_err(AppError::certificates(&new, "upstreams"))?;
        let certificates = self.certificates.as_ref().zip(new.gateway.tls.clone());
        let prepared = certificates
            .map(|(certificates, settings)| Ok((certificates, certificates.prepare(settings)?)))
            .transpose()
            .map_err(AppError::certificates(&new, "gateway.tls"))?;
        let managed = self.management.prepare(&new)?;
        if let Some((certificates, prepared)) = prepared {
            certificates.commit(prepared);
        }
        self.management.commit(managed, &new);
        self.settings.store(Arc::clone(&new.proxy));
        self.listen_settings.store(Arc::new(new.gateway.listen_settings()));
        self.connections.set_max(new.gateway.limits.connections);
        self.config = new;
        Ok(())
    }

    /// Reads the deny list again: its good lines hold, its bad ones are told.
    pub(super) fn reload_deny(&self) {
        match read_deny(self.config.gateway.deny_file.as_deref()) {
            Ok(list) => self.deny.store(Arc::new(list)),
            Err(error) => tracing::error!(%error, "deny list not reloaded, the old one stays in force"),
        }
    }

    /// Takes over the master secrets that the configuration in force names by now.
    pub(super) async fn reload_secrets(&mut self) {
        self.held.reload(&self.config).await;
    }

    /// Tells when the certificates in use end, and warns of what is wrong with them.
    pub(super) fn show_certificates(&self) {
        let own = self.certificates.iter().flat_map(|certificates| certificates.shown().to_vec());
        let shown: Vec<CertificateInfo> = own.chain(self.management.shown()).collect();
        self.certificate_metrics.show(&shown);
        warn_of_certificates(&shown, self.clock.now());
    }

    /// Every file that a reload reads: a change of one of them asks for it.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.config.path.clone()];
        files.extend(self.config.gateway.deny_file.clone());
        files.extend(self.config.secret_files.iter().cloned());
        files.extend((!self.config.has_master_secret_in_environment()).then(|| self.config.master_file.clone()));
        files.extend(self.certificates.iter().flat_map(|certificates| certificates.files()));
        files.extend(self.management.files());
        files.extend(self.config.proxy.certificate_files().map(Path::to_path_buf));
        files
    }
}

fn warn_of_certificates(shown: &[CertificateInfo], now: Timestamp) {
    for certificate in shown {
        for warning in certificate.warnings(now) {
            tracing::warn!(chain = %certificate.chain.display(), "certificate: {warning}");
        }
    }
}

/// Reads the deny list at `path`; none where none is configured. Bad lines are told in the log.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn read_deny(path: Option<&Path>) -> Result<DenyList, AppError> {
    let Some(path) = path else { return Ok(DenyList::default()) };
    let text = std::fs::read_to_string(path).map_err(|cause| AppError::DenyFile { path: path.to_owned(), cause })?;
    let (list, faults) = DenyList::parse(&text);
    for fault in faults {
        tracing::error!(file = %path.display(), "deny list: {fault}");
    }
    tracing::info!(file = %path.display(), entries = list.len(), "deny list read");
    Ok(list)
}
