//! The management API: `[admin]` and `[self]`.

use std::net::SocketAddr;
use std::path::Path;

use super::Admin;
use super::fault::shown;
use super::gateway::{Listener, read_tls};
use super::reader::{Section, set};
use crate::admin;

/// A table that is a listener of the management API: its name, and where it listens by default.
pub(super) type Place = (&'static str, u16);

pub(super) const ADMIN: Place = ("admin", 9443);
pub(super) const OWN_KEYS: Place = ("self", 9444);

/// Reads the listener of `section`, where it is there.
pub(super) fn read_listener<'a>(
    section: &Section<'a>,
    base: &Path,
    (name, port): Place,
    listeners: &mut Vec<Listener<'a>>,
) -> Option<Admin> {
    if !section.is_there() {
        return None;
    }
    let tls = read_tls(&section.section("tls"), base);
    let listen = section.address("listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
    if tls.is_none() && !listen.ip().is_loopback() && !section.has("tls") {
        section.fault_of("listen", format!("{listen} is not loopback and has no TLS: add [{name}.tls]"));
    }
    listeners.push(Listener { address: listen, item: section.item("listen"), path: format!("{name}.listen") });
    Some(Admin { listen, tls })
}

/// Reads what `[admin]` says beside its listener.
pub(super) fn read(section: &Section<'_>) -> admin::Settings {
    let mut settings = admin::Settings::default();
    if let Some(text) = section.text("public_url") {
        match public_url(text) {
            Some(url) => settings.public_url = Some(url),
            None => section.fault_of(
                "public_url",
                format!("found {}, expected an address such as \"https://keys.example.com\"", shown(text)),
            ),
        }
    }
    set(&mut settings.self_service, section.switch("self_service"));
    set(&mut settings.keys_per_user_max, section.count("keys_per_user_max"));
    settings
}

/// An http or https URL with neither query nor fragment, without a slash at its end.
fn public_url(text: &str) -> Option<String> {
    let url: http::Uri = text.parse().ok()?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    let plain = !text.contains(['?', '#', '@', '<', '>', '"']) && url.authority().is_some();
    (is_web && plain).then(|| text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_an_address_that_paths_are_put_after() {
        assert_eq!(public_url("https://keys.example.com/").as_deref(), Some("https://keys.example.com"));
        assert_eq!(public_url("http://[::1]:9443/keys").as_deref(), Some("http://[::1]:9443/keys"));
        for wrong in ["", "keys.example.com", "/keys", "ftp://a/", "https://a/?b", "https://a/#b", "https://u@a/"] {
            assert_eq!(public_url(wrong), None, "{wrong}");
        }
    }
}
