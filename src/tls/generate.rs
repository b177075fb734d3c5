//! A self-signed certificate for trying things out on one machine. Never for anything that others reach.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::clock::Timestamp;
use crate::secret::Secret;

/// A certificate and its key, as PEM.
#[derive(Debug)]
pub struct Generated {
    /// The chain: the certificate alone, which is its own authority.
    pub chain: String,
    /// The private key, ECDSA P-256.
    pub key: Secret,
}

/// The certificate could not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot generate a certificate: {0}")]
pub struct CannotGenerate(String);

/// Makes a self-signed certificate for `localhost`, `127.0.0.1` and `::1`, valid for a year from the day before `now`.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn generate(now: Timestamp) -> Result<Generated, CannotGenerate> {
    let fault = |error: rcgen::Error| CannotGenerate(error.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fault)?;
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).map_err(fault)?;
    params.distinguished_name.push(DnType::CommonName, "keyward quickstart");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (from, until) = (day(now.seconds() - DAY), day(now.seconds() + 365 * DAY));
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    let certificate = params.self_signed(&key).map_err(fault)?;
    Ok(Generated { chain: certificate.pem(), key: Secret::new(key.serialize_pem()) })
}

/// Year, month and day of a time in UTC.
fn day(seconds: i64) -> (i32, u8, u8) {
    let date = jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let month = u8::try_from(date.month()).unwrap_or(1);
    let day = u8::try_from(date.day()).unwrap_or(1);
    (i32::from(date.year()), month, day)
}

const DAY: i64 = 86_400;
