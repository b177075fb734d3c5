//! `[store.sqlite]` and `[store.postgres]`: where keys are kept. One of them, and SQLite where neither is there.

use std::path::Path;

use super::fields::Secrets;
use super::reader::{Section, set};
use crate::secret::Secret;
use crate::store::{Address, PostgresSettings, Settings, TlsMode};
use crate::tls::{CertificateFiles, ClientSettings};

/// The environment variable that takes the place of `store.postgres.url` and `url_file`.
pub const POSTGRES_URL_VARIABLE: &str = "KEYWARD_POSTGRES_URL";

/// Reads `[store]`; none where what it says cannot be used, of which there is a fault.
pub(super) fn read(store: &Section<'_>, base: &Path, secrets: &Secrets<'_>) -> Option<Settings> {
    let (sqlite, postgres) = (store.section("sqlite"), store.section("postgres"));
    let path = sqlite.file("path", base).unwrap_or_else(|| base.join("keyward.db"));
    if !postgres.is_there() {
        return Some(Settings::Sqlite { path });
    }
    if sqlite.is_there() {
        sqlite.fault("keys are in one store: keep [store.sqlite] or [store.postgres]");
    }
    read_postgres(&postgres, base, secrets).map(|settings| Settings::Postgres(Box::new(settings)))
}

fn read_postgres(section: &Section<'_>, base: &Path, secrets: &Secrets<'_>) -> Option<PostgresSettings> {
    let address = read_url(section, base, secrets);
    let listen = match section.item("listen_url").and_then(|item| item.text()) {
        None => None,
        Some(text) => match Address::parse(text) {
            Ok(address) => Some(address),
            Err(fault) => {
                section.fault_of("listen_url", fault.to_string());
                None
            }
        },
    };
    let mode = section.choice("sslmode", &[TlsMode::Disable, TlsMode::VerifyFull]);
    let ca = section.file("ca", base);
    let certificate = read_certificate(section, base);
    let pool_max = section.count("pool_max");
    let connect_timeout = section.duration("connect_timeout");
    let statement_timeout = section.duration("statement_timeout");
    // All else is read by now, with whatever is wrong with it.
    let address = address?;
    if let (Some(mode), Some(own)) = (mode, address.tls())
        && mode != own
    {
        section.fault_of("sslmode", "is another than the one in the URL: keep one of them");
    }
    let has_files = ca.is_some() || certificate.is_some();
    let is_local = address.is_local() && listen.as_ref().is_none_or(Address::is_local);
    let unsaid = if is_local && !has_files { TlsMode::Disable } else { TlsMode::VerifyFull };
    let mode = mode.or(address.tls()).unwrap_or(unsaid);
    if listen.as_ref().and_then(Address::tls).is_some_and(|other| other != mode) {
        section.fault_of("listen_url", "has another sslmode than url: one is for both");
    }
    if mode == TlsMode::Disable && has_files {
        let named = if ca.is_some() { "ca" } else { "certificate" };
        section.fault_of(named, "is of no use with sslmode = \"disable\"");
    }
    let tls =
        (mode == TlsMode::VerifyFull).then_some(ClientSettings { ca, certificate, server_name: None, http2: false });
    let mut settings = PostgresSettings { listen, tls, ..PostgresSettings::new(address) };
    set(&mut settings.pool_max, pool_max);
    set(&mut settings.connect_timeout, connect_timeout);
    set(&mut settings.statement_timeout, statement_timeout);
    Some(settings)
}

/// Where the URL is: in the environment, else in the file, else here.
fn read_url(section: &Section<'_>, base: &Path, secrets: &Secrets<'_>) -> Option<Address> {
    let here = section.item("url").and_then(|item| item.text());
    let file = section.file("url_file", base);
    if section.has("url") && section.has("url_file") {
        section.fault_of("url_file", "url is there too: keep one of them");
    }
    let variable = secrets.variable_if_set(POSTGRES_URL_VARIABLE);
    let (key, url): (&str, Secret) = match (variable, here, file) {
        (Some(url), ..) => ("url", url),
        (None, Some(url), _) => ("url", Secret::new(url)),
        (None, None, Some(file)) => match secrets.file(file) {
            Ok(url) => ("url_file", url),
            Err(what) => {
                section.fault_of("url_file", what);
                return None;
            }
        },
        (None, None, None) => {
            if !section.has("url") && !section.has("url_file") {
                let remedy = format!(
                    "add url = \"postgres://…\", or url_file = \"…\" with the file that holds it, or set {POSTGRES_URL_VARIABLE}"
                );
                section.missing("url", &remedy);
            }
            return None;
        }
    };
    let is_variable = secrets.variable_if_set(POSTGRES_URL_VARIABLE).is_some();
    let read = std::str::from_utf8(url.expose()).map_err(|_no_text| crate::store::AddressFault::Unreadable);
    match read.and_then(|text| Address::parse(text.trim())) {
        Ok(address) => Some(address),
        // Nothing of it is quoted: it holds a password.
        Err(fault) if is_variable => {
            section.fault_of(key, format!("{POSTGRES_URL_VARIABLE} {fault}"));
            None
        }
        Err(fault) => {
            section.fault_of(key, fault.to_string());
            None
        }
    }
}

fn read_certificate(section: &Section<'_>, base: &Path) -> Option<CertificateFiles> {
    match (section.file("certificate", base), section.file("key", base)) {
        (Some(chain), Some(key)) => Some(CertificateFiles { chain, key }),
        (None, None) => None,
        (Some(_), None) => {
            section.missing("key", "add key = \"…\", the private key of certificate");
            None
        }
        (None, Some(_)) => {
            section.missing("certificate", "add certificate = \"…\", the chain that key belongs to");
            None
        }
    }
}
