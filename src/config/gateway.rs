//! The listeners: `[gateway]` with its tables, and `[ops]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use http::HeaderName;
use toml::de::DeValue;

use super::fault::{Faults, shown};
use super::reader::{Item, Section, set};
use super::{Gateway, Leaving};
use crate::key::TokenPrefix;
use crate::policy::{CredentialSource, DeniedStatus, EmptySegments, Pass, PathOptions};
use crate::wire::{ClientPrefix, FailureLimit, Network};
use crate::{listen, tls};

/// What `[gateway]` says, sorted by who is told.
#[derive(Debug)]
pub(super) struct Read<'a> {
    pub(super) gateway: Gateway,
    pub(super) proxy: ProxySettings,
    pub(super) routes: RouteDefaults,
    pub(super) failure_limit: FailureLimit,
    pub(super) listeners: Vec<Listener<'a>>,
}

/// The part of the data plane's settings that `[gateway]` holds.
#[derive(Debug)]
pub(super) struct ProxySettings {
    pub(super) token_prefix: TokenPrefix,
    pub(super) realm: String,
    pub(super) reveal_reason: bool,
    pub(super) expiry_notice: Duration,
    pub(super) trusted_proxies: Vec<Network>,
    pub(super) requests_max: usize,
    pub(super) access_log: bool,
    pub(super) jwks: bool,
}

/// What holds for a route that says nothing of its own.
#[derive(Debug, Clone)]
pub(super) struct RouteDefaults {
    pub(super) credential: Vec<CredentialSource>,
    pub(super) denied_status: DeniedStatus,
    pub(super) path_options: PathOptions,
    pub(super) body_max: u64,
}

/// An address and where it is written.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) address: SocketAddr,
    pub(super) item: Option<Item<'a>>,
    pub(super) path: String,
}

/// Reads `[gateway]`. Where a value cannot be read its default stands in, beside the fault.
pub(super) fn read<'a>(section: &Section<'a>, base: &Path) -> Read<'a> {
    let tls = read_tls(&section.section("tls"), base);
    let mut listeners = read_listen(section, tls.is_some());
    let in_tls = listeners.len();
    listeners.extend(read_listen_cleartext(section));
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
    let (listen, listen_cleartext) = addresses.split_at(in_tls);
    let limits_section = section.section("limits");
    let mut limits = listen::Limits::default();
    set(&mut limits.connections, section.count("connections_max"));
    set(&mut limits.http2_streams, limits_section.count("http2_streams"));
    set(&mut limits.head_bytes, limits_section.size("head"));
    set(&mut limits.target_bytes, limits_section.size("target"));
    set(&mut limits.fields, limits_section.count("fields"));
    if limits.target_bytes > limits.head_bytes {
        limits_section.fault_of("target", "is larger than head, which holds it");
    }
    let mut routes = RouteDefaults {
        credential: vec![CredentialSource::Bearer],
        denied_status: DeniedStatus::Forbidden403,
        path_options: PathOptions::default(),
        body_max: 4 << 30,
    };
    set(&mut routes.credential, read_credential(section));
    set(&mut routes.denied_status, read_denied_status(section));
    set(&mut routes.body_max, limits_section.size("body"));
    set(&mut limits.rate_min, limits_section.count("rate_min"));
    read_path_options(section, &mut routes.path_options);
    let proxy = read_proxy(section);
    let introduced = section.switch("proxy_protocol").unwrap_or(false);
    if introduced && !section.has("trusted_proxies") {
        section.fault_of(
            "proxy_protocol",
            "is true, and nobody is believed: add trusted_proxies, the balancers' networks",
        );
    }
    let failure_limit = read_failure_limit(&section.section("failure_limit"));
    let clients = listen::Clients {
        connections_max: section.count("connections_per_client").unwrap_or(0),
        prefix: ClientPrefix { v4: failure_limit.prefix_v4, v6: failure_limit.prefix_v6 },
        trusted: proxy.trusted_proxies.clone(),
    };
    Read {
        gateway: Gateway {
            listen: listen.to_vec(),
            listen_cleartext: listen_cleartext.to_vec(),
            workers: section.count("workers").unwrap_or(0),
            tls,
            limits,
            timeouts: read_timeouts(&section.section("timeouts")),
            proxy_protocol: if introduced { proxy.trusted_proxies.clone() } else { Vec::new() },
            clients,
            leaving: read_leaving(&section.section("timeouts")),
            deny_file: section.file("deny_file", base),
            issuer: read_issuer(section),
        },
        proxy,
        routes,
        failure_limit,
        listeners,
    }
}

/// Reads `[ops]`, where it is there.
pub(super) fn read_ops<'a>(section: &Section<'a>, listeners: &mut Vec<Listener<'a>>) -> Option<SocketAddr> {
    if !section.is_there() {
        return None;
    }
    let listen = section.address("listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9464)));
    listeners.push(Listener { address: listen, item: section.item("listen"), path: "ops.listen".to_owned() });
    Some(listen)
}

/// Two listeners cannot share an address. Port 0 is another port each time.
pub(super) fn refuse_shared_addresses(listeners: &[Listener<'_>], faults: &Faults) {
    let mut taken: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for listener in listeners.iter().filter(|listener| listener.address.port() != 0) {
        if let Some(first) = taken.get(&listener.address) {
            let at = listener.item.as_ref().map_or(0, Item::at);
            faults.add(at, &listener.path, format!("{} is taken by {first}: choose another port", listener.address));
        } else {
            taken.insert(listener.address, &listener.path);
        }
    }
}

fn read_listen<'a>(section: &Section<'a>, has_tls: bool) -> Vec<Listener<'a>> {
    let cleartext = section.switch("cleartext").unwrap_or(false);
    if cleartext && section.has("tls") && !section.has("listen_cleartext") {
        section.fault_of("cleartext", "is true beside [gateway.tls]: remove one of them");
    }
    let Some(items) = section.list("listen") else {
        if !section.has("listen") {
            section.missing("listen", "add listen = [\"127.0.0.1:8443\"]");
        }
        return Vec::new();
    };
    if items.is_empty() {
        section.fault_of("listen", "is empty, expected at least one address such as \"127.0.0.1:8443\"");
    }
    let mut listeners = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let Some(address) = item.address() else { continue };
        if !has_tls && !section.has("tls") && !cleartext && !address.ip().is_loopback() {
            item.fault(format!(
                "{address} is not loopback and has no TLS: add [gateway.tls], or cleartext = true if something in \
                 front speaks TLS"
            ));
        }
        listeners.push(Listener { address, item: Some(item), path: format!("gateway.listen[{index}]") });
    }
    listeners
}

/// The addresses without TLS beside those that speak it.
fn read_listen_cleartext<'a>(section: &Section<'a>) -> Vec<Listener<'a>> {
    let Some(items) = section.list("listen_cleartext") else { return Vec::new() };
    if !items.is_empty() && !section.has("tls") {
        section.fault_of("listen_cleartext", "stands beside no [gateway.tls]: move the addresses to listen");
    }
    let cleartext = section.switch("cleartext").unwrap_or(false);
    let mut listeners = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let Some(address) = item.address() else { continue };
        if !cleartext && !address.ip().is_loopback() {
            item.fault(format!(
                "{address} is not loopback: add cleartext = true if something else protects the way, or move it to \
                 listen"
            ));
        }
        listeners.push(Listener { address, item: Some(item), path: format!("gateway.listen_cleartext[{index}]") });
    }
    listeners
}

pub(super) fn read_tls(section: &Section<'_>, base: &Path) -> Option<tls::ServerSettings> {
    if !section.is_there() {
        return None;
    }
    let min_version = section.choice("min_version", &[true, false]);
    let client_ca = section.file("client_ca", base);
    let Some(pairs) = section.sections("certificates") else {
        if !section.has("certificates") {
            section.missing("certificates", "add certificates = [{ chain = \"tls/api.pem\", key = \"tls/api.key\" }]");
        }
        return None;
    };
    if section.list("certificates").is_some_and(|items| items.is_empty()) {
        section.fault_of("certificates", "is empty, expected at least one { chain = \"…\", key = \"…\" }");
    }
    let mut certificates = Vec::new();
    for pair in pairs {
        for name in ["chain", "key"] {
            if !pair.has(name) {
                pair.missing(name, "a certificate is a pair of files, chain and key");
            }
        }
        if let (Some(chain), Some(key)) = (pair.file("chain", base), pair.file("key", base)) {
            certificates.push(tls::CertificateFiles { chain, key });
        }
    }
    Some(tls::ServerSettings { certificates, tls12: min_version.unwrap_or(true), client_ca })
}

fn read_timeouts(section: &Section<'_>) -> listen::Timeouts {
    let mut timeouts = listen::Timeouts::default();
    set(&mut timeouts.first_byte, section.duration("first_byte"));
    set(&mut timeouts.handshake, section.duration("handshake"));
    set(&mut timeouts.head, section.duration("head"));
    set(&mut timeouts.body_idle, section.duration("body_idle"));
    set(&mut timeouts.idle, section.duration("idle"));
    set(&mut timeouts.connection_age, section.duration("connection_age"));
    set(&mut timeouts.drain, section.duration("drain"));
    timeouts
}

fn read_leaving(section: &Section<'_>) -> Leaving {
    let mut leaving = Leaving::default();
    set(&mut leaving.drain_delay, section.duration("drain_delay"));
    set(&mut leaving.upgrade, section.duration("upgrade"));
    set(&mut leaving.upgrade_drain, section.duration("upgrade_drain"));
    leaving
}

fn read_failure_limit(section: &Section<'_>) -> FailureLimit {
    let mut limit = FailureLimit::default();
    set(&mut limit.per_second, section.count("per_second"));
    set(&mut limit.burst, section.count("burst"));
    set(&mut limit.prefix_v4, section.count("prefix_v4"));
    set(&mut limit.prefix_v6, section.count("prefix_v6"));
    limit
}

fn read_proxy(section: &Section<'_>) -> ProxySettings {
    let mut settings = ProxySettings {
        token_prefix: TokenPrefix::default(),
        realm: "keyward".to_owned(),
        reveal_reason: section.switch("reveal_reason").unwrap_or(false),
        expiry_notice: section.duration("expiry_notice").unwrap_or(Duration::from_secs(14 * 86_400)),
        trusted_proxies: Vec::new(),
        requests_max: section.count("requests_max").unwrap_or(10_000),
        access_log: section.switch("access_log").unwrap_or(true),
        jwks: section.switch("jwks").unwrap_or(false),
    };
    set(&mut settings.token_prefix, section.parsed("token_prefix"));
    if let Some(realm) = section.text("realm") {
        // It stands in a quoted string of WWW-Authenticate as it is.
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if realm.bytes().all(is_plain) && realm.len() <= 128 {
            realm.clone_into(&mut settings.realm);
        } else {
            section.fault_of("realm", format!("found {}, expected printable ASCII without \" and \\", shown(realm)));
        }
    }
    for item in section.list("trusted_proxies").unwrap_or_default() {
        let Some(text) = item.text() else { continue };
        match network(text) {
            Ok(network) => settings.trusted_proxies.push(network),
            Err(what) => item.fault(what),
        }
    }
    settings
}

fn read_issuer(section: &Section<'_>) -> String {
    const BYTES_MAX: usize = 256;
    let default = || "keyward".to_owned();
    let Some(issuer) = section.text("issuer") else { return default() };
    if (1..=BYTES_MAX).contains(&issuer.len()) && issuer.bytes().all(|byte| byte.is_ascii_graphic()) {
        return issuer.to_owned();
    }
    section.fault_of("issuer", format!("found {}, expected 1 to 256 characters of ! to ~", shown(issuer)));
    default()
}

/// Reads `10.0.0.0/8` or one address.
fn network(text: &str) -> Result<Network, String> {
    let fault = || format!("found {}, expected a network such as \"10.0.0.0/8\" or one address", shown(text));
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_no_address| fault())?;
    if let IpAddr::V6(mapped) = address
        && let Some(mapped) = mapped.to_ipv4_mapped()
    {
        return Err(format!("{text} is an IPv4 address in disguise: write \"{mapped}\" with its own prefix"));
    }
    let most: u8 = if address.is_ipv4() { 32 } else { 128 };
    let is_number = |bits: &str| bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits = match bits {
        None => most,
        Some(bits) => {
            bits.parse().ok().filter(|bits_count| is_number(bits) && *bits_count <= most).ok_or_else(fault)?
        }
    };
    let host_bits = u32::from(most - bits);
    let base = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::from(std::net::Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::from(std::net::Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    };
    if base != address {
        return Err(format!("{text} names an address inside a network: write \"{base}/{bits}\""));
    }
    Ok(Network { address, bits })
}

/// The status that answers lacking flags, of a route or the gateway.
pub(super) fn read_denied_status(section: &Section<'_>) -> Option<DeniedStatus> {
    let item = section.item("denied_status")?;
    let status = match item.value() {
        DeValue::Integer(number) => number.as_str(),
        _ => "",
    };
    match status {
        "403" => Some(DeniedStatus::Forbidden403),
        "401" => Some(DeniedStatus::Unauthorized401),
        _ => {
            item.expected("401 or 403");
            None
        }
    }
}

/// Where a credential may be, of a route or the gateway.
pub(super) fn read_credential(section: &Section<'_>) -> Option<Vec<CredentialSource>> {
    const EXPECTED: &str = "\"bearer\" or { header = \"x-api-key\" }";
    let items = section.list("credential")?;
    if items.is_empty() {
        section.fault_of("credential", format!("is empty, expected {EXPECTED}"));
    }
    let mut sources = Vec::new();
    for item in &items {
        let header = match item.value() {
            DeValue::String(text) if text == "bearer" => {
                add_source(&mut sources, CredentialSource::Bearer, item);
                continue;
            }
            DeValue::Table(table) if table.len() == 1 => table.get("header").map(|value| value.get_ref()),
            _ => None,
        };
        let Some(DeValue::String(name)) = header else {
            item.expected(EXPECTED);
            continue;
        };
        match credential_header(name) {
            Ok(name) => add_source(&mut sources, CredentialSource::Header(name), item),
            Err(what) => item.fault(what),
        }
    }
    (!sources.is_empty()).then_some(sources)
}

fn add_source(sources: &mut Vec<CredentialSource>, source: CredentialSource, item: &Item<'_>) {
    if sources.contains(&source) {
        item.fault("is there twice: keep one");
    } else {
        sources.push(source);
    }
}

/// A field that can hold a credential: one that no part of HTTP uses for itself.
fn credential_header(name: &str) -> Result<HeaderName, String> {
    const USED: [&str; 12] = [
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    let parsed: HeaderName =
        name.parse().map_err(|_no_name| format!("found {}, expected a field name", shown(name)))?;
    match parsed.as_str() {
        "authorization" => Err("found the field authorization: write \"bearer\"".to_owned()),
        used if USED.contains(&used) || used.starts_with("keyward-") || used.starts_with("x-keyward-") => {
            Err(format!("the field {used} has another use: choose one such as x-api-key"))
        }
        _ => Ok(parsed),
    }
}

/// How a path is read, of a route or the gateway: what is said replaces what `options` holds.
pub(super) fn read_path_options(section: &Section<'_>, options: &mut PathOptions) {
    const CHOICES: [Pass; 2] = [Pass::Reject, Pass::Forward];
    set(&mut options.encoded_slashes, section.choice("encoded_slashes", &CHOICES));
    set(&mut options.path_parameters, section.choice("path_parameters", &CHOICES));
    set(&mut options.encoded_percent, section.choice("encoded_percent", &CHOICES));
    set(&mut options.non_ascii, section.choice("non_ascii", &CHOICES));
    set(&mut options.empty_segments, section.choice("empty_segments", &[EmptySegments::Reject, EmptySegments::Merge]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_or_its_fault_says_how_to_write_it() {
        assert_eq!(network("10.0.0.0/8"), Ok(Network { address: IpAddr::from([10, 0, 0, 0]), bits: 8 }));
        assert_eq!(network("127.0.0.1"), Ok(Network { address: IpAddr::from([127, 0, 0, 1]), bits: 32 }));
        assert!(network("::/0").is_ok());
        assert!(network("0.0.0.0/0").is_ok());
        assert_eq!(
            network("10.1.2.3/8"),
            Err("10.1.2.3/8 names an address inside a network: write \"10.0.0.0/8\"".to_owned())
        );
        for wrong in
            ["::ffff:10.0.0.0/104", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "ten", "", "::/129", "10.0.0.0/8/8"]
        {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }
}
