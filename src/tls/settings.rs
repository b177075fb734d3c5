//! What a TLS listener is told, and what is known of a service that speaks TLS.

use std::path::PathBuf;

use rustls_pki_types::ServerName;

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

/// How TLS is spoken to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// PEM file of the authorities that the service's certificate must come from, in place of those
    /// that the machine trusts.
    pub ca: Option<PathBuf>,
    /// What is shown to a service that asks for a certificate.
    pub certificate: Option<CertificateFiles>,
    /// The name that is asked for and that the certificate must be for, in place of the target's.
    pub server_name: Option<ServerName<'static>>,
    /// Whether HTTP/2 is offered beside HTTP/1.1.
    pub http2: bool,
}
