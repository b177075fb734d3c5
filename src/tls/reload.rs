//! The certificates in use, and their replacement under way: validated whole, swapped at once. A bad file
//! leaves the old ones in use. Open connections keep what they began with.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

use super::files::{CertificateFault, CertificateInfo, CertificateProblem};
use super::server::{Built, build};
use super::settings::ServerSettings;

/// What one TLS listener shows.
#[derive(Debug)]
pub struct Certificates {
    config: Arc<ArcSwap<ServerConfig>>,
    shown: ArcSwap<Vec<CertificateInfo>>,
    settings: Mutex<ServerSettings>,
    tickets: Mutex<Tickets>,
}

/// Certificates that were read and matched but are not in use yet.
pub struct PreparedCertificates {
    built: Built,
    settings: ServerSettings,
    tickets: Tickets,
}

impl std::fmt::Debug for PreparedCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedCertificates").field("certificates", &self.built.certificates).finish_non_exhaustive()
    }
}

/// The tickets of resumed sessions, and the authorities under which they were given out.
#[derive(Debug, Clone)]
struct Tickets {
    producer: Arc<dyn ProducesTickets>,
    /// The text of the client authorities' file. A ticket stands for a verified client certificate, so it
    /// must not outlive the authority that verified it.
    authorities: Option<Vec<u8>>,
}

impl Certificates {
    /// Reads every file that `settings` names.
    ///
    /// # Errors
    /// Every fault of every file.
    pub fn load(settings: ServerSettings) -> Result<Self, Vec<CertificateFault>> {
        let prepared = prepare(settings, None)?;
        Ok(Self {
            config: Arc::new(ArcSwap::new(prepared.built.config)),
            shown: ArcSwap::from_pointee(prepared.built.certificates),
            settings: Mutex::new(prepared.settings),
            tickets: Mutex::new(prepared.tickets),
        })
    }

    /// What listeners read on every handshake.
    #[must_use]
    pub fn config(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.config)
    }

    /// The certificates in use, in the configured order.
    #[must_use]
    pub fn shown(&self) -> Arc<Vec<CertificateInfo>> {
        self.shown.load_full()
    }

    /// Every file that was read, to watch for changes.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let settings = self.settings.lock();
        let pairs = settings.certificates.iter().flat_map(|pair| [pair.chain.clone(), pair.key.clone()]);
        pairs.chain(settings.client_ca.clone()).collect()
    }

    /// Reads the same files again and swaps them in.
    ///
    /// # Errors
    /// Every fault of every file; then the old ones stay in use.
    pub fn reload(&self) -> Result<(), Vec<CertificateFault>> {
        let settings = self.settings.lock().clone();
        self.commit(self.prepare(settings)?);
        Ok(())
    }

    /// Reads every file that `settings` names, and changes nothing yet.
    ///
    /// # Errors
    /// Every fault of every file.
    pub fn prepare(&self, settings: ServerSettings) -> Result<PreparedCertificates, Vec<CertificateFault>> {
        let tickets = self.tickets.lock().clone();
        prepare(settings, Some(tickets))
    }

    /// Puts what was prepared in use, for handshakes from now on.
    pub fn commit(&self, prepared: PreparedCertificates) {
        self.config.store(prepared.built.config);
        self.shown.store(Arc::new(prepared.built.certificates));
        *self.settings.lock() = prepared.settings;
        *self.tickets.lock() = prepared.tickets;
    }
}

fn prepare(settings: ServerSettings, old: Option<Tickets>) -> Result<PreparedCertificates, Vec<CertificateFault>> {
    // A file that cannot be read is reported by `build`.
    let authorities = settings.client_ca.as_ref().and_then(|file| std::fs::read(file).ok());
    let tickets = match old {
        Some(old) if old.authorities == authorities => old,
        Some(_) | None => {
            let producer = Ticketer::new().map_err(|error| {
                let problem = CertificateProblem::Refused(error.to_string());
                vec![CertificateFault { file: "session tickets".into(), problem }]
            })?;
            Tickets { producer, authorities }
        }
    };
    let built = build(&settings, Arc::clone(&tickets.producer))?;
    Ok(PreparedCertificates { built, settings, tickets })
}
