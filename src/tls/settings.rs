//! What a TLS listener is told.

use std::path::PathBuf;

/// A certificate chain and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How a listener speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// At least one pair; chosen by server name, the first where none matches.
    pub certificates: Vec<CertificateFiles>,
    /// Whether TLS 1.2 is spoken beside 1.3.
    pub tls12: bool,
    /// PEM file of the authorities whose client certificates are required, or none to ask for none.
    pub client_ca: Option<PathBuf>,
}
