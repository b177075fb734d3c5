//! Certificates: what a TLS listener shows, reloaded as pairs, and whom it asks for one.

mod settings;

pub use settings::{CertificateFiles, ServerSettings};
