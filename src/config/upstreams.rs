//! `[upstreams.NAME]`: the services behind the gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::fault::{nearest, shown};
use super::reader::{Item, Section, set};
use crate::proxy::{Target, Upstream};

/// The services by name. One with a fault is known by name, so that its routes are not at fault too.
#[derive(Debug)]
pub(super) struct Upstreams(BTreeMap<String, Option<Upstream>>);

impl Upstreams {
    /// What a route that names `name` gets wrong, if anything.
    pub(super) fn name_fault(&self, name: &str) -> Option<String> {
        if self.0.contains_key(name) {
            return None;
        }
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        let remedy = match nearest(name, names.iter().copied()) {
            _ if names.is_empty() => "none is defined: add [upstreams.NAME] with targets".to_owned(),
            _ => format!("defined: {}", names.join(", ")),
        };
        Some(format!("no upstream {}; {remedy}", shown(name)))
    }

    /// Those without a fault.
    pub(super) fn into_usable(self) -> BTreeMap<String, Upstream> {
        self.0.into_iter().filter_map(|(name, upstream)| Some((name, upstream?))).collect()
    }
}

/// Reads every `[upstreams.NAME]`.
pub(super) fn read(root: &Section<'_>) -> Upstreams {
    let sections = root.named_sections("upstreams");
    let read = sections.iter().map(|(name, section)| {
        if !is_name(name) {
            section.fault("is no name, expected 1 to 64 of A-Z a-z 0-9 _ . -");
        }
        ((*name).to_owned(), read_upstream(section))
    });
    Upstreams(read.collect())
}

/// Whether `name` can name a route or an upstream: it becomes a label of metrics.
pub(super) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn read_upstream(section: &Section<'_>) -> Option<Upstream> {
    let targets = read_targets(section);
    let mut upstream = Upstream::new(targets);
    set(&mut upstream.connect_timeout, section.duration("connect_timeout"));
    set(&mut upstream.head_timeout, section.duration("head_timeout"));
    set(&mut upstream.idle_timeout, section.duration("idle_timeout"));
    set(&mut upstream.pool_idle, section.duration("pool_idle"));
    set(&mut upstream.pool_size, section.count("pool_size"));
    set(&mut upstream.connection_age, section.duration("connection_age"));
    (!upstream.targets.is_empty()).then_some(upstream)
}

fn read_targets(section: &Section<'_>) -> Vec<Target> {
    let Some(items) = section.list("targets") else {
        if !section.has("targets") {
            section.missing("targets", "add targets = [\"http://127.0.0.1:9000\"]");
        }
        return Vec::new();
    };
    if items.is_empty() {
        section.fault_of("targets", "is empty, expected at least one such as \"http://127.0.0.1:9000\"");
    }
    let mut targets = Vec::new();
    for item in &items {
        let Some(target) = read_target(item) else { continue };
        if targets.contains(&target) {
            item.fault(format!("{} is there twice: keep one", target.authority));
        } else {
            targets.push(target);
        }
    }
    targets
}

fn read_target(item: &Item<'_>) -> Option<Target> {
    let text = item.text()?;
    target(text).map_err(|what| item.fault(what)).ok()
}

/// Reads `http://host:port`. Text that may hold a password is not shown.
fn target(text: &str) -> Result<Target, String> {
    const EXPECTED: &str = "expected \"http://host:port\"";
    if text.contains('@') {
        return Err(format!("holds a user or password, {EXPECTED}"));
    }
    let fault = || format!("found {}, {EXPECTED}", shown(text));
    let Some((scheme, rest)) =
        text.split_once("://").or_else(|| text.split_once("unix:").map(|(_, path)| ("unix", path)))
    else {
        return Err(fault());
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        "https" | "h2c" | "unix" => {
            return Err(format!("{scheme} targets are not supported by this version, {EXPECTED}"));
        }
        _ => return Err(fault()),
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(format!("found {}, {EXPECTED} without a path: use rewrite_prefix on the route", shown(text)));
    }
    let (host, port) = split_port(authority).ok_or_else(fault)?;
    let (host, address) = if let Some(bracketed) = host.strip_prefix('[') {
        let inner = bracketed.strip_suffix(']').ok_or_else(fault)?;
        let address: Ipv6Addr = inner.parse().map_err(|_no_address| fault())?;
        (address.to_string(), Some(IpAddr::V6(address)))
    } else {
        (host.to_ascii_lowercase(), host.parse().ok().map(IpAddr::V4))
    };
    if address.is_none() && !is_host_name(&host) {
        return Err(fault());
    }
    let address = address.map(|address| SocketAddr::new(address, port));
    let authority = address.map_or_else(|| format!("{host}:{port}"), |address| address.to_string());
    Ok(Target { authority, host, port, address })
}

/// Host and port of an authority; port 80 where it has none.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    let end_of_address = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority.get(end_of_address..)?.find(':').map(|at| at + end_of_address) else {
        return Some((authority, 80));
    };
    let (host, port) = authority.split_at_checked(colon)?;
    let port = port.strip_prefix(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| is_number && *port != 0)?;
    Some((host, port))
}

/// Whether `host` can be looked up: labels of letters, digits, `-` and `_`.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A name of digits only would be an IPv4 address that was misspelt.
    let has_letter = host.bytes().any(|byte| byte.is_ascii_alphabetic());
    has_letter && host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_target_is_a_name_or_an_address_with_a_port() -> Result<(), String> {
        let named = target("http://Rings.internal:9000/")?;
        assert_eq!(
            (named.authority.as_str(), named.host.as_str(), named.port),
            ("rings.internal:9000", "rings.internal", 9000)
        );
        assert_eq!(named.address, None);
        let v4 = target("http://127.0.0.1")?;
        assert_eq!((v4.authority.as_str(), v4.port), ("127.0.0.1:80", 80));
        assert_eq!(v4.address, Some(SocketAddr::from(([127, 0, 0, 1], 80))));
        let v6 = target("HTTP://[::1]:8080")?;
        assert_eq!((v6.authority.as_str(), v6.host.as_str()), ("[::1]:8080", "::1"));
        Ok(())
    }

    #[test]
    fn anything_else_is_no_target() {
        for text in [
            "",
            "127.0.0.1:80",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:65536",
            "http://a:+1",
            "http://a:",
            "http://a b",
            "http://1.2.3",
            "http://[::1",
            "http://::1:80",
            "http://a..b",
            "ftp://a",
            "http://a?x",
            "http://a/x",
            "http://a:80:80",
        ] {
            assert!(target(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_password_in_a_target_is_not_shown() {
        let fault = target("http://me:hunter2@host").expect_err("a password");
        assert_eq!(fault, "holds a user or password, expected \"http://host:port\"");
    }

    #[test]
    fn targets_of_later_versions_say_so() {
        for text in ["https://a:443", "h2c://a:80", "unix:/run/a.sock", "unix:///run/a.sock"] {
            assert!(target(text).expect_err(text).contains("not supported by this version"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(http://)?\\PC*") {
            if let Ok(target) = target(&text) {
                prop_assert!(target.authority.ends_with(&target.port.to_string()));
            }
        }
    }
}
