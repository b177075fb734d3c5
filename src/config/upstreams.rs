//! `[upstreams.NAME]`: the services behind the gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::fault::{nearest, shown};
use super::reader::{Item, Section, set};
use super::units::format_duration;
use crate::proxy::{Balance, Ejection, HealthCheck, Probe, RetryBudget, Speaks, Target, Upstream};
use crate::tls::{self, CertificateFiles, ClientSettings};

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

    /// Why WebSockets cannot lead to `name`, if they cannot.
    pub(super) fn websocket_fault(&self, name: &str) -> Option<String> {
        let targets = &self.0.get(name)?.as_ref()?.targets;
        let target = targets.iter().find(|target| target.speaks == Speaks::H2c)?;
        Some(format!(
            "has \"websocket\", which needs HTTP/1.1, and h2c://{} of upstream {} speaks HTTP/2 alone: use http:// or \
             https:// there, or an upstream of its own for this route",
            target.authority,
            shown(name)
        ))
    }

    /// Those without a fault.
    pub(super) fn into_usable(self) -> BTreeMap<String, Upstream> {
        self.0.into_iter().filter_map(|(name, upstream)| Some((name, upstream?))).collect()
    }
}

/// Reads every `[upstreams.NAME]`.
pub(super) fn read(root: &Section<'_>, base: &Path) -> Upstreams {
    let sections = root.named_sections("upstreams");
    let read = sections.iter().map(|(name, section)| {
        if !is_name(name) {
            section.fault("is no name, expected 1 to 64 of A-Z a-z 0-9 _ . -");
        }
        ((*name).to_owned(), read_upstream(section, base))
    });
    Upstreams(read.collect())
}

/// Whether `name` can name a route or an upstream: it becomes a label of metrics.
pub(super) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn read_upstream(section: &Section<'_>, base: &Path) -> Option<Upstream> {
    let targets = read_targets(section);
    let mut upstream = Upstream::new(targets);
    set(&mut upstream.balance, section.choice("balance", &[Balance::RoundRobin, Balance::LeastRequests]));
    set(&mut upstream.connect_timeout, section.duration("connect_timeout"));
    set(&mut upstream.head_timeout, section.duration("head_timeout"));
    set(&mut upstream.idle_timeout, section.duration("idle_timeout"));
    upstream.total_timeout = section.duration("total_timeout").filter(|total| !total.is_zero());
    set(&mut upstream.pool_idle, section.duration("pool_idle"));
    set(&mut upstream.pool_size, section.count("pool_size"));
    set(&mut upstream.connection_age, section.duration("connection_age"));
    set(&mut upstream.http2_streams, section.count("http2_streams"));
    set(&mut upstream.resolve_every, section.duration("resolve_every"));
    set(&mut upstream.slow_start, section.duration("slow_start"));
    upstream.tls = read_tls(&section.section("tls"), base, &upstream.targets);
    upstream.ejection = read_ejection(&section.section("ejection"));
    upstream.retries = read_retries(&section.section("retries"));
    upstream.health = read_health(&section.section("health"), &upstream.targets);
    (!upstream.targets.is_empty()).then_some(upstream)
}

fn read_ejection(section: &Section<'_>) -> Ejection {
    let mut rules = Ejection::DEFAULT;
    set(&mut rules.failures, section.count("failures"));
    set(&mut rules.base, section.duration("base"));
    set(&mut rules.max, section.duration("max"));
    set(&mut rules.share_max, section.count("share_max"));
    if rules.max < rules.base {
        let (max, base) = (format_duration(rules.max), format_duration(rules.base));
        section.fault_of("max", format!("is {max}, expected at least base, which is {base}"));
    }
    rules
}

fn read_retries(section: &Section<'_>) -> RetryBudget {
    let mut budget = RetryBudget::DEFAULT;
    set(&mut budget.share, section.count("share"));
    set(&mut budget.per_second, section.count("per_second"));
    budget
}

/// How `https://` targets are spoken to, where there is one.
fn read_tls(section: &Section<'_>, base: &Path, targets: &[Target]) -> Option<Arc<tls::Client>> {
    let mut settings =
        ClientSettings { ca: section.file("ca", base), certificate: None, server_name: None, http2: true };
    set(&mut settings.http2, section.switch("http2"));
    settings.certificate = match (section.file("certificate", base), section.file("key", base)) {
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
    };
    if let Some(name) = section.text("server_name") {
        match ServerName::try_from(name) {
            Ok(name) => settings.server_name = Some(name.to_owned()),
            Err(_invalid) => {
                section.fault_of("server_name", format!("found {}, expected a host name or an address", shown(name)));
            }
        }
    }
    let speaks_tls = targets.iter().any(|target| target.speaks == Speaks::Https);
    if section.is_there() && !speaks_tls && !targets.is_empty() {
        section.fault("is of no use: no target begins with https://");
    }
    speaks_tls.then(|| Arc::new(tls::Client::new(settings)))
}

fn read_health(section: &Section<'_>, targets: &[Target]) -> Option<HealthCheck> {
    if !section.is_there() {
        return None;
    }
    if !section.has("kind") {
        section.missing("kind", "add kind = \"http\", \"grpc\" or \"tcp\"");
    }
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Http,
        Grpc,
        Tcp,
    }
    let kind = section.choice("kind", &[Kind::Http, Kind::Grpc, Kind::Tcp]);
    let path = section.text("path").unwrap_or("/");
    if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
        section.fault_of("path", format!("found {}, expected a path such as \"/healthz\"", shown(path)));
    }
    let service = section.text("service").unwrap_or_default();
    if service.len() > 127 {
        section.fault_of("service", "is longer than 127 bytes");
    }
    if section.has("path") && kind.is_some_and(|kind| kind != Kind::Http) {
        section.fault_of("path", "is for kind = \"http\" only; remove it");
    }
    if section.has("service") && kind.is_some_and(|kind| kind != Kind::Grpc) {
        section.fault_of("service", "is for kind = \"grpc\" only; remove it");
    }
    let speaks_http1 = |target: &&Target| matches!(target.speaks, Speaks::Http | Speaks::Unix(_));
    if let (Some(Kind::Grpc), Some(target)) = (kind, targets.iter().find(speaks_http1)) {
        let what = format!("is \"grpc\", which needs HTTP/2: {} is none of h2c:// and https://", target.authority);
        section.fault_of("kind", what);
    }
    let mut check = HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        healthy_after: 2,
        unhealthy_after: 3,
    };
    set(&mut check.interval, section.duration("interval"));
    set(&mut check.timeout, section.duration("timeout"));
    set(&mut check.healthy_after, section.count("healthy_after"));
    set(&mut check.unhealthy_after, section.count("unhealthy_after"));
    check.probe = match kind? {
        Kind::Http => Probe::Http(path.to_owned()),
        Kind::Grpc => Probe::Grpc(service.to_owned()),
        Kind::Tcp => Probe::Tcp,
    };
    Some(check)
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
        if targets.iter().any(|other: &Target| other.authority == target.authority) {
            item.fault(format!("{} is there twice: keep one", target.authority));
        } else if targets.len() == Upstream::TARGETS_MAX {
            let most = Upstream::TARGETS_MAX;
            item.fault(format!("is one of more than {most}: give one name that has all the addresses"));
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

/// Reads `scheme://host:port` or `unix:/path`. Text that may hold a password is not shown.
fn target(text: &str) -> Result<Target, String> {
    const EXPECTED: &str = "expected \"http://host:port\", https://, h2c:// or \"unix:/path\"";
    let fault = || format!("found {}, {EXPECTED}", shown(text));
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        // What the kernel takes (sun_path, with its end).
        if !path.starts_with('/') || path.len() > 107 || path.contains('\0') {
            return Err(format!(
                "found {}, expected \"unix:/path\" of at most 107 bytes, from the root on",
                shown(text)
            ));
        }
        let (authority, speaks) = (format!("unix:{path}"), Speaks::Unix(PathBuf::from(path)));
        return Ok(Target { authority, host: String::new(), port: 0, address: None, speaks });
    }
    if text.contains('@') {
        return Err(format!("holds a user or password, {EXPECTED}"));
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(fault)?;
    let (speaks, port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Speaks::Http, 80),
        "https" => (Speaks::Https, 443),
        "h2c" => (Speaks::H2c, 80),
        _ => return Err(fault()),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(format!("found {}, {EXPECTED} without a path: use rewrite_prefix on the route", shown(text)));
    }
    let (host, port) = split_port(authority, port).ok_or_else(fault)?;
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
    Ok(Target { authority, host, port, address, speaks })
}

/// Host and port of an authority; the scheme's port where it has none.
fn split_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    let end_of_address = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority.get(end_of_address..)?.find(':').map(|at| at + end_of_address) else {
        return Some((authority, default));
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
        assert_eq!(
            fault,
            "holds a user or password, expected \"http://host:port\", https://, h2c:// or \"unix:/path\""
        );
    }

    #[test]
    fn a_scheme_says_what_is_spoken() -> Result<(), String> {
        let tls = target("https://API.example.com")?;
        assert_eq!((tls.authority.as_str(), tls.speaks.clone()), ("api.example.com:443", Speaks::Https));
        assert_eq!(tls.host_field(), "api.example.com");
        let prior = target("h2c://[::1]:50051")?;
        assert_eq!((prior.authority.as_str(), prior.speaks.clone()), ("[::1]:50051", Speaks::H2c));
        for text in ["unix:/run/a.sock", "unix:///run/a.sock"] {
            let unix = target(text)?;
            assert_eq!((unix.authority.as_str(), unix.host_field()), ("unix:/run/a.sock", "localhost"));
            assert_eq!(unix.speaks, Speaks::Unix("/run/a.sock".into()));
        }
        for text in ["unix:", "unix:run/a.sock", "unix://run", "https://", "h2c://a/b"] {
            assert!(target(text).is_err(), "{text}");
        }
        Ok(())
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
