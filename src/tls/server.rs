//! The server's side of TLS: versions, protocols, certificates by server name, client certificates,
//! resumption. No early data: a replayed request would be a second request.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::files::{CertificateFault, CertificateInfo, CertificateProblem, load_authorities, load_pair};
use super::settings::ServerSettings;

/// The cryptography of every TLS connection here.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What the files of one configuration make.
pub(super) struct Built {
    pub(super) config: Arc<ServerConfig>,
    pub(super) certificates: Vec<CertificateInfo>,
}

/// Reads every file that `settings` names and makes a configuration of them.
///
/// # Errors
/// Every fault of every file.
pub(super) fn build(
    settings: &ServerSettings,
    tickets: Arc<dyn ProducesTickets>,
) -> Result<Built, Vec<CertificateFault>> {
    let provider = provider();
    let mut faults = Vec::new();
    let mut shown = ByName::default();
    let mut certificates = Vec::new();
    for files in &settings.certificates {
        match load_pair(files, &provider) {
            Ok(pair) => {
                shown.add(&pair.info.names, &pair.certified);
                certificates.push(pair.info);
            }
            Err(of_pair) => faults.extend(of_pair),
        }
    }
    if settings.certificates.is_empty() {
        faults.push(CertificateFault { file: "certificates".into(), problem: CertificateProblem::NoneGiven });
    }
    let versions = if settings.tls12 { &[&TLS13, &TLS12][..] } else { &[&TLS13][..] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("aws-lc-rs speaks TLS 1.2 and 1.3");
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let verifier = load_authorities(file).and_then(|roots| {
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|error| {
                    let problem = CertificateProblem::Refused(error.to_string());
                    CertificateFault { file: file.clone(), problem }
                })
            });
            match verifier {
                Ok(verifier) => builder.with_client_cert_verifier(verifier),
                Err(fault) => {
                    faults.push(fault);
                    return Err(faults);
                }
            }
        }
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets are kept by the client: no memory here, and every worker can open them.
    config.ticketer = tickets;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    // Of what both know, the order here is by strength. What a client puts first may be its weakest.
    config.ignore_client_order = true;
    Ok(Built { config: Arc::new(config), certificates })
}

/// Certificates by server name: the exact name, else a wildcard of one label, else the first of all.
#[derive(Default)]
struct ByName {
    all: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    fn add(&mut self, names: &[String], certified: &Arc<CertifiedKey>) {
        self.all.push(Arc::clone(certified));
        for name in names {
            let (map, name) = match name.strip_prefix("*.") {
                Some(suffix) => (&mut self.wildcard, suffix),
                None => (&mut self.exact, name.as_str()),
            };
            map.entry(name.to_owned()).or_default().push(Arc::clone(certified));
        }
    }

    fn candidates(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name else { return &self.all };
        let name = name.to_ascii_lowercase();
        let wildcard = || name.split_once('.').and_then(|(_label, suffix)| self.wildcard.get(suffix));
        self.exact.get(&name).or_else(wildcard).map_or(&self.all[..], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.candidates(hello.server_name());
        // Two certificates may share a name, one of ECDSA and one of RSA: show one the client can verify.
        let suits = |it: &&Arc<CertifiedKey>| it.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(suits).or_else(|| candidates.first()).map(Arc::clone)
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName").field("certificates", &self.all.len()).finish_non_exhaustive()
    }
}
