//! What the certificates in use tell of themselves.

use prometheus::{GaugeVec, Opts, Registry};

use super::files::CertificateInfo;

/// Gauges of the certificates in use.
#[derive(Debug, Clone)]
pub struct CertificateMetrics {
    /// When each certificate in use expires, in seconds since 1970.
    pub expiry: GaugeVec,
}

impl CertificateMetrics {
    /// Gauges that are not registered anywhere yet.
    ///
    /// # Errors
    /// Never with these names.
    pub fn new() -> Result<Self, prometheus::Error> {
        let help = "When each certificate in use expires, in seconds since 1970.";
        let opts = Opts::new("keyward_certificate_expiry_timestamp_seconds", help);
        Ok(Self { expiry: GaugeVec::new(opts, &["chain"])? })
    }

    /// Makes them known to `registry`.
    ///
    /// # Errors
    /// When their names are taken.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.expiry.clone()))
    }

    /// Shows `certificates`, and no others that were shown before.
    #[expect(clippy::cast_precision_loss, reason = "whole seconds stay exact in a f64 for 285 million years")]
    pub fn show(&self, certificates: &[CertificateInfo]) {
        self.expiry.reset();
        for certificate in certificates {
            let chain = certificate.chain.display().to_string();
            self.expiry.with_label_values(&[&chain]).set(certificate.expires_at.seconds() as f64);
        }
    }
}
