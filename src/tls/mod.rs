//! Certificates: what a TLS listener shows, reloaded as pairs, and whom it asks for one.

mod client;
mod fault;
mod files;
mod generate;
mod metrics;
mod reload;
mod server;
mod settings;

pub use client::Client;
pub use fault::{certificate_fault, is_of_unknown_authority};
pub use files::{CertificateFault, CertificateInfo, CertificateProblem, CertificateWarning, subject};
pub use generate::{CannotGenerate, Generated, generate};
pub use metrics::CertificateMetrics;
pub use reload::{Certificates, PreparedCertificates};
pub use settings::{CertificateFiles, ClientSettings, ServerSettings};
