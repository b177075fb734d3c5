//! The client's side of TLS: whom an upstream's certificate must come from, what is shown to it, and
//! which protocols are offered.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use sha2::{Digest, Sha512};

use super::files::{CertificateFault, CertificateProblem, load_authorities, load_pair};
use super::server::provider;
use super::settings::{CertificateFiles, ClientSettings};

/// How many sessions are kept for resumption, per service.
const SESSIONS: usize = 256;

/// TLS towards one service. Its files are read by [`Client::load`], once; a reload makes a new one.
pub struct Client {
    settings: ClientSettings,
    loaded: OnceLock<Loaded>,
}

struct Loaded {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    /// Of the bytes of every file.
    digest: Vec<u8>,
}

impl Client {
    /// Not loaded yet.
    #[must_use]
    pub const fn new(settings: ClientSettings) -> Self {
        Self { settings, loaded: OnceLock::new() }
    }

    /// Reads every file that the settings name.
    ///
    /// # Errors
    /// Every fault of every file.
    pub fn load(&self) -> Result<(), Vec<CertificateFault>> {
        if self.loaded.get().is_some() {
            return Ok(());
        }
        let loaded = Loaded::read(&self.settings)?;
        // Whoever was first has read the same.
        let _first = self.loaded.set(loaded);
        Ok(())
    }

    /// What to shake hands with; none before the files were read. `http1` offers nothing but HTTP/1.1.
    #[must_use]
    pub fn config(&self, http1: bool) -> Option<Arc<ClientConfig>> {
        let loaded = self.loaded.get()?;
        Some(Arc::clone(if http1 { &loaded.http1 } else { &loaded.any }))
    }

    /// The name that the service's certificate must be for, where it is not the target's own.
    #[must_use]
    pub const fn server_name(&self) -> Option<&ServerName<'static>> {
        self.settings.server_name.as_ref()
    }

    /// The files that were named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.settings.files()
    }

    /// Whether both say the same and have read the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let digest = |client: &Self| client.loaded.get().map(|loaded| loaded.digest.clone());
        self.settings == other.settings && digest(self) == digest(other)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Client {}

impl Loaded {
    fn read(settings: &ClientSettings) -> Result<Self, Vec<CertificateFault>> {
        let provider = provider();
        let mut faults = Vec::new();
        let mut keep = |of_file| faults.push(of_file);
        let roots = match &settings.ca {
            Some(file) => load_authorities(file),
            None => system_roots(),
        };
        let roots = roots.map_err(&mut keep).ok();
        let pair = settings.certificate.as_ref().map(|files| load_pair(files, &provider)).transpose();
        let pair = match pair {
            Ok(pair) => pair,
            Err(of_pair) => {
                faults.extend(of_pair);
                None
            }
        };
        let (Some(roots), true) = (roots, faults.is_empty()) else { return Err(faults) };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("aws-lc-rs speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let mut http1 = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&pair.certified)))),
        };
        http1.resumption = Resumption::in_memory_sessions(SESSIONS);
        let mut any = http1.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        any.alpn_protocols =
            if settings.http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
        let mut digest = Sha512::new();
        for file in settings.files() {
            digest.update(std::fs::read(file).unwrap_or_default());
            digest.update([0]);
        }
        Ok(Self { any: Arc::new(any), http1: Arc::new(http1), digest: digest.finalize().to_vec() })
    }
}

/// The authorities that this machine trusts.
fn system_roots() -> Result<RootCertStore, CertificateFault> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is one fewer to trust.
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(CertificateFault { file: PathBuf::from("ca"), problem: CertificateProblem::NoSystemRoots });
    }
    Ok(roots)
}

impl ClientSettings {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let pair = self.certificate.iter().flat_map(|CertificateFiles { chain, key }| [chain, key]);
        self.ca.iter().chain(pair).map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ClientSettings {
        ClientSettings { ca: None, certificate: None, server_name: None, http2: true }
    }

    #[test]
    fn every_file_at_fault_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let [ca, chain, key] = ["ca.pem", "c.pem", "c.key"].map(|name| folder.path().join(name));
        let certificate = Some(CertificateFiles { chain: chain.clone(), key: key.clone() });
        let client = Client::new(ClientSettings { ca: Some(ca.clone()), certificate, ..settings() });
        let faults = client.load().expect_err("no files");
        let named: Vec<_> = faults.into_iter().map(|fault| fault.file).collect();
        assert_eq!(named, [ca, chain, key]);
        assert!(client.config(false).is_none());
    }

    #[test]
    fn http2_is_offered_unless_turned_off_or_of_no_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        let made = crate::tls::generate(crate::clock::Timestamp::from_seconds(1_700_000_000)).expect("a certificate");
        std::fs::write(&ca, made.chain).expect("a file");
        let offered = |http2, http1_only| {
            let client = Client::new(ClientSettings { ca: Some(ca.clone()), http2, ..settings() });
            client.load().expect("a good file");
            client.config(http1_only).expect("loaded").alpn_protocols.clone()
        };
        assert_eq!(offered(true, false), [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(offered(false, false), [b"http/1.1".to_vec()]);
        assert_eq!(offered(true, true), [b"http/1.1".to_vec()]);
    }

    #[test]
    fn another_certificate_under_the_same_name_is_not_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        let fresh = || {
            let made =
                crate::tls::generate(crate::clock::Timestamp::from_seconds(1_700_000_000)).expect("a certificate");
            std::fs::write(&ca, made.chain).expect("a file");
        };
        let loaded = || {
            let client = Client::new(ClientSettings { ca: Some(ca.clone()), ..settings() });
            client.load().expect("a good file");
            client
        };
        fresh();
        let (first, second) = (loaded(), loaded());
        assert!(first.is_same(&second));
        fresh();
        assert!(!first.is_same(&loaded()));
    }
}
