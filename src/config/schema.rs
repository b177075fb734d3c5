//! Every key of the configuration, once: its name, kind, range, default and meaning. The reader
//! takes known names, kinds and ranges from here; docs/CONFIG.md is rendered from here.
//!
//! `NAME` stands for a name that the user chooses, `[]` for an element of a list.

use std::time::Duration;

use crate::store::TlsMode;

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The dotted path, for instance `gateway.timeouts.head`.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What holds where it is left out.
    pub default: LeftOut,
    /// What it does, in one line.
    pub meaning: &'static str,
}

/// What holds where a key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// Its table is not complete without it.
    Required,
    /// This value, as TOML.
    Is(&'static str),
    /// What these words say; there is no such value to write.
    Says(&'static str),
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Count {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A duration with its unit.
    Duration {
        /// The least.
        min: Duration,
        /// The most.
        max: Duration,
    },
    /// A number of bytes, or a size with its unit.
    Size {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Text of the given sort.
    Text(&'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The status that answers lacking flags.
    Status,
    /// An instant.
    Time,
    /// A file or folder, relative to the configuration file.
    Path,
    /// An address and a port.
    Address,
    /// A list of these.
    List(&'static str),
    /// A table of field names, each with its value.
    Fields,
}

impl Kind {
    /// The kind in words, with its unit and range.
    #[must_use]
    pub fn words(self) -> String {
        use super::units::{format_duration, format_size};
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Count { min, max } => format!("whole number, {min} to {max}"),
            Self::Duration { min, max } => format!("duration, {} to {}", format_duration(min), format_duration(max)),
            Self::Size { min, max } => format!("size, {} to {}", format_size(min), format_size(max)),
            Self::Text(of) => of.to_owned(),
            Self::Choice(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Self::Status => "401 or 403".to_owned(),
            Self::Time => "RFC 3339 time".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Address => "address:port".to_owned(),
            Self::List(of) => format!("list of {of}"),
            Self::Fields => "table of field names and values".to_owned(),
        }
    }
}

/// The tables of the configuration, in the order of the documentation, each with what it is for.
pub const SECTIONS: &[(&str, &str)] = &[
    ("gateway", "`[gateway]`: the listener that callers reach"),
    ("gateway.failure_limit", "`[gateway.failure_limit]`: unknown tokens, for each prefix of client addresses"),
    ("gateway.tls", "`[gateway.tls]`: certificates; without this table the gateway speaks clear text"),
    ("gateway.tls.certificates[]", "each of `[gateway.tls] certificates`"),
    ("gateway.timeouts", "`[gateway.timeouts]`: how patient the gateway is"),
    ("gateway.limits", "`[gateway.limits]`: how large a request may be"),
    ("upstreams.NAME", "`[upstreams.NAME]`: a service behind the gateway"),
    ("upstreams.NAME.tls", "`[upstreams.NAME.tls]`: how `https://` targets are spoken to"),
    ("upstreams.NAME.health", "`[upstreams.NAME.health]`: checks of its targets; without this table there are none"),
    ("upstreams.NAME.ejection", "`[upstreams.NAME.ejection]`: targets that fail are passed over"),
    ("upstreams.NAME.retries", "`[upstreams.NAME.retries]`: how many requests may be sent again"),
    ("routes[]", "`[[routes]]`: who may do what"),
    (
        "routes[].request_headers",
        "`[routes.request_headers]`: fields that the service gets otherwise than the caller sent them",
    ),
    (
        "routes[].response_headers",
        "`[routes.response_headers]`: fields that the caller gets otherwise than the service sent them",
    ),
    ("routes[].upstream_credential", "`[routes.upstream_credential]`: how the gateway shows the service who it is"),
    (
        "routes[].cors",
        "`[routes.cors]`: what scripts of other origins may do; the gateway answers their preflights, without a key",
    ),
    ("admin", "`[admin]`: the management API"),
    ("admin.tls", "`[admin.tls]`: certificates; without this table the listener must be on loopback"),
    ("admin.tls.certificates[]", "each of `[admin.tls] certificates`"),
    (
        "self",
        "`[self]`: where keys rotate themselves and users manage their own, for callers outside the management network",
    ),
    ("self.tls", "`[self.tls]`: certificates; without this table the listener must be on loopback"),
    ("self.tls.certificates[]", "each of `[self.tls] certificates`"),
    ("ops", "`[ops]`: metrics and health"),
    ("secrets", "`[secrets]`: where the master secret lies"),
    ("store.sqlite", "`[store.sqlite]`: where keys are kept, on this machine"),
    (
        "store.postgres",
        "`[store.postgres]`: where keys are kept that many gateways share; it takes the place of `[store.sqlite]`",
    ),
    ("sync", "`[sync]`: how the gateway follows the store"),
    ("rotation", "`[rotation]`: how keys that are due, that expire and that have ended are announced"),
    ("log", "`[log]`: what is written to standard error"),
];

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
const DAY: u64 = 86_400;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIMEOUT: Kind = Kind::Duration { min: Duration::from_millis(1), max: seconds(DAY) };
const REJECT: Kind = Kind::Choice(&["reject", "forward"]);
const EMPTY: Kind = Kind::Choice(&["reject", "merge"]);
const CERTIFICATES: Kind = Kind::List("tables with chain and key");
const VERSIONS: Kind = Kind::Choice(&["1.2", "1.3"]);
const CREDENTIALS: Kind = Kind::List("\"bearer\" or { header = \"NAME\" }");

const fn key(path: &'static str, kind: Kind, default: LeftOut, meaning: &'static str) -> Key {
    Key { path, kind, default, meaning }
}

/// Every key, in the order of [`SECTIONS`].
pub const KEYS: &[Key] = &[
    key(
        "gateway.listen",
        Kind::List("addresses with ports"),
        LeftOut::Required,
        "Where callers connect. Changing it needs a restart.",
    ),
    key(
        "gateway.listen_cleartext",
        Kind::List("addresses with ports"),
        LeftOut::Is("[]"),
        "Further addresses, without TLS beside `[gateway.tls]`: for callers on this machine. Changing it needs a restart.",
    ),
    key(
        "gateway.workers",
        Kind::Count { min: 0, max: 1024 },
        LeftOut::Is("0"),
        "Worker threads; 0 is one per core. Changing it needs a restart.",
    ),
    key(
        "gateway.cleartext",
        Kind::Switch,
        LeftOut::Is("false"),
        "Allows clear text on an address that is not loopback.",
    ),
    key("gateway.access_log", Kind::Switch, LeftOut::Is("true"), "Writes one line a request."),
    key("gateway.denied_status", Kind::Status, LeftOut::Is("403"), "The status where flags are lacking."),
    key(
        "gateway.reveal_reason",
        Kind::Switch,
        LeftOut::Is("false"),
        "Tells the holder of a refused key whether it is revoked, disabled, expired or superseded.",
    ),
    key(
        "gateway.trusted_proxies",
        Kind::List("networks such as \"10.0.0.0/8\""),
        LeftOut::Is("[]"),
        "Peers whose Forwarded, X-Forwarded-* and X-Real-IP are believed.",
    ),
    key(
        "gateway.proxy_protocol",
        Kind::Switch,
        LeftOut::Is("false"),
        "Connections of trusted_proxies begin with a PROXY header (version 1 or 2), whose client is the peer; without one they are closed.",
    ),
    key("gateway.realm", Kind::Text("text"), LeftOut::Is("\"keyward\""), "The realm of challenges."),
    key(
        "gateway.token_prefix",
        Kind::Text("1 to 16 of a-z 0-9"),
        LeftOut::Is("\"kw\""),
        "What this installation's tokens begin with. Changing it needs a restart.",
    ),
    key(
        "gateway.issuer",
        Kind::Text("text"),
        LeftOut::Is("\"keyward\""),
        "The `iss` of keys in JWT form and of assertions.",
    ),
    key(
        "gateway.jwks",
        Kind::Switch,
        LeftOut::Is("false"),
        "Serves /.well-known/jwks.json, by which upstreams verify assertions, in the place of any route.",
    ),
    key(
        "gateway.credential",
        CREDENTIALS,
        LeftOut::Is("[\"bearer\"]"),
        "Where a credential may be; only there it is read, and stripped.",
    ),
    key(
        "gateway.expiry_notice",
        Kind::Duration { min: Duration::ZERO, max: seconds(3650 * DAY) },
        LeftOut::Is("\"14d\""),
        "How long before its end a key's responses say when that is.",
    ),
    key(
        "gateway.deny_file",
        Kind::Path,
        LeftOut::Says("none"),
        "Key ids, lineage ids or hashes to refuse, one a line; read again on SIGHUP and when it changes.",
    ),
    key(
        "gateway.requests_max",
        Kind::Count { min: 1, max: 10_000_000 },
        LeftOut::Is("10000"),
        "Requests in flight at a time, over all workers.",
    ),
    key(
        "gateway.connections_max",
        Kind::Count { min: 0, max: 10_000_000 },
        LeftOut::Is("0"),
        "Connections at a time, over all workers; 0 is half the limit of open files, for each request needs another one to its service.",
    ),
    key(
        "gateway.connections_per_client",
        Kind::Count { min: 0, max: 10_000_000 },
        LeftOut::Is("0"),
        "Of these, how many one client may have, by the prefix of failure_limit; 0 is as many as there may be. \
         trusted_proxies are not counted, but the clients that their PROXY headers tell are.",
    ),
    key("gateway.encoded_slashes", REJECT, LeftOut::Is("\"reject\""), "What to do with %2F in a path."),
    key("gateway.path_parameters", REJECT, LeftOut::Is("\"reject\""), "What to do with ; and %3B in a path."),
    key("gateway.encoded_percent", REJECT, LeftOut::Is("\"reject\""), "What to do with %25, %23 and %3F in a path."),
    key("gateway.non_ascii", REJECT, LeftOut::Is("\"reject\""), "What to do with bytes from 0x80 on in a path."),
    key("gateway.empty_segments", EMPTY, LeftOut::Is("\"reject\""), "What to do with // in a path."),
    key(
        "gateway.failure_limit.per_second",
        Kind::Count { min: 0, max: 1_000_000 },
        LeftOut::Is("50"),
        "Unknown tokens a second; 0 is no limit.",
    ),
    key(
        "gateway.failure_limit.burst",
        Kind::Count { min: 1, max: 10_000_000 },
        LeftOut::Is("500"),
        "Unknown tokens at once.",
    ),
    key(
        "gateway.failure_limit.prefix_v4",
        Kind::Count { min: 1, max: 32 },
        LeftOut::Is("32"),
        "Leading bits of an IPv4 address that make one client.",
    ),
    key(
        "gateway.failure_limit.prefix_v6",
        Kind::Count { min: 1, max: 128 },
        LeftOut::Is("56"),
        "Leading bits of an IPv6 address that make one client.",
    ),
    key(
        "gateway.tls.certificates",
        CERTIFICATES,
        LeftOut::Required,
        "Chosen by server name; the first where none matches.",
    ),
    key("gateway.tls.min_version", VERSIONS, LeftOut::Is("\"1.2\""), "The oldest TLS that is spoken."),
    key(
        "gateway.tls.client_ca",
        Kind::Path,
        LeftOut::Says("none"),
        "PEM file of the authorities whose client certificates are required.",
    ),
    key("gateway.tls.certificates[].chain", Kind::Path, LeftOut::Required, "PEM file of the chain, leaf first."),
    key("gateway.tls.certificates[].key", Kind::Path, LeftOut::Required, "PEM file of the private key."),
    key("gateway.timeouts.first_byte", TIMEOUT, LeftOut::Is("\"10s\""), "Until the first byte of a fresh connection."),
    key("gateway.timeouts.handshake", TIMEOUT, LeftOut::Is("\"10s\""), "For the TLS handshake."),
    key("gateway.timeouts.head", TIMEOUT, LeftOut::Is("\"15s\""), "For the head of a request, from its first byte on."),
    key("gateway.timeouts.body_idle", TIMEOUT, LeftOut::Is("\"30s\""), "Between two reads of a request's body."),
    key("gateway.timeouts.idle", TIMEOUT, LeftOut::Is("\"75s\""), "Between two requests on one connection."),
    key(
        "gateway.timeouts.connection_age",
        Kind::Duration { min: seconds(1), max: seconds(30 * DAY) },
        LeftOut::Is("\"1h\""),
        "For a connection as a whole, after which it is closed once idle.",
    ),
    key(
        "gateway.timeouts.drain",
        Kind::Duration { min: Duration::ZERO, max: seconds(DAY) },
        LeftOut::Is("\"30s\""),
        "After a stop was asked for, until open requests are cut. A tenth of it is what idle connections get.",
    ),
    key(
        "gateway.timeouts.drain_delay",
        Kind::Duration { min: Duration::ZERO, max: seconds(3600) },
        LeftOut::Is("\"0s\""),
        "After a stop was asked for, how long `/readyz` says so before the listeners close.",
    ),
    key(
        "gateway.timeouts.upgrade",
        Kind::Duration { min: seconds(1), max: seconds(3600) },
        LeftOut::Is("\"60s\""),
        "How long a new binary may take, after SIGUSR2, until it is ready.",
    ),
    key(
        "gateway.timeouts.upgrade_drain",
        Kind::Duration { min: Duration::ZERO, max: seconds(7 * DAY) },
        LeftOut::Is("\"10m\""),
        "What `drain` is for a process whose place a new binary took.",
    ),
    key(
        "gateway.limits.head",
        Kind::Size { min: KIB, max: MIB },
        LeftOut::Is("\"32KiB\""),
        "The head of a request, target included.",
    ),
    key(
        "gateway.limits.target",
        Kind::Size { min: 256, max: MIB },
        LeftOut::Is("\"8KiB\""),
        "The target of a request.",
    ),
    key("gateway.limits.fields", Kind::Count { min: 8, max: 1000 }, LeftOut::Is("100"), "Fields of a request."),
    key(
        "gateway.limits.rate_min",
        Kind::Count { min: 0, max: 1_000_000 },
        LeftOut::Is("240"),
        "Bytes a second that keep a body or an answer going once body_idle is used up; 0: any byte does.",
    ),
    key(
        "gateway.limits.http2_streams",
        Kind::Count { min: 1, max: 10_000 },
        LeftOut::Is("100"),
        "Streams of one HTTP/2 connection at a time.",
    ),
    key(
        "gateway.limits.body",
        Kind::Size { min: 0, max: 1024 * GIB },
        LeftOut::Is("\"4GiB\""),
        "The body of a request, where the route has no body_max; 0 is no limit.",
    ),
    key(
        "upstreams.NAME.targets",
        Kind::List("\"http://host:port\", https://, h2c:// (HTTP/2 without TLS) and \"unix:/path\""),
        LeftOut::Required,
        "The service's addresses.",
    ),
    key(
        "upstreams.NAME.balance",
        Kind::Choice(&["round_robin", "least_requests"]),
        LeftOut::Is("\"round_robin\""),
        "Which target is next: each in turn, or the one where a worker has the fewest requests.",
    ),
    key("upstreams.NAME.connect_timeout", TIMEOUT, LeftOut::Is("\"5s\""), "For connecting, TLS included."),
    key(
        "upstreams.NAME.head_timeout",
        TIMEOUT,
        LeftOut::Is("\"1m\""),
        "From the end of the request until the head of the response.",
    ),
    key("upstreams.NAME.idle_timeout", TIMEOUT, LeftOut::Is("\"1m\""), "Between two reads of the response's body."),
    key(
        "upstreams.NAME.total_timeout",
        Kind::Duration { min: seconds(0), max: seconds(30 * DAY) },
        LeftOut::Is("\"0s\""),
        "From the head of the request to the end of the response, WebSockets aside; 0s is no limit.",
    ),
    key(
        "upstreams.NAME.pool_idle",
        TIMEOUT,
        LeftOut::Is("\"30s\""),
        "How long an unused connection is kept; keep it below the service's own idle timeout.",
    ),
    key(
        "upstreams.NAME.pool_size",
        Kind::Count { min: 0, max: 100_000 },
        LeftOut::Is("1024"),
        "Unused connections kept, per worker and target.",
    ),
    key(
        "upstreams.NAME.connection_age",
        Kind::Duration { min: seconds(1), max: seconds(30 * DAY) },
        LeftOut::Is("\"5m\""),
        "How long a connection takes requests at all, less up to a tenth, so that address changes take.",
    ),
    key(
        "upstreams.NAME.http2_streams",
        Kind::Count { min: 1, max: 10_000 },
        LeftOut::Is("100"),
        "Requests that share an HTTP/2 connection at a time, where the service allows as many.",
    ),
    key(
        "upstreams.NAME.resolve_every",
        Kind::Duration { min: seconds(1), max: seconds(DAY) },
        LeftOut::Is("\"10s\""),
        "How often the addresses of a name are asked for; the last good ones stay where that fails.",
    ),
    key(
        "upstreams.NAME.slow_start",
        Kind::Duration { min: seconds(0), max: seconds(3600) },
        LeftOut::Is("\"0s\""),
        "How long a target that came back gets less than its share.",
    ),
    key(
        "upstreams.NAME.tls.ca",
        Kind::Path,
        LeftOut::Says("what the machine trusts"),
        "PEM file of the authorities that the service's certificate must come from.",
    ),
    key(
        "upstreams.NAME.tls.certificate",
        Kind::Path,
        LeftOut::Says("none is shown"),
        "PEM file of the chain that is shown to the service.",
    ),
    key("upstreams.NAME.tls.key", Kind::Path, LeftOut::Says("none"), "PEM file of that chain's private key."),
    key(
        "upstreams.NAME.tls.server_name",
        Kind::Text("host name or address"),
        LeftOut::Says("the target's host"),
        "The name that is asked for (SNI) and that the certificate must be for.",
    ),
    key(
        "upstreams.NAME.tls.http2",
        Kind::Switch,
        LeftOut::Is("true"),
        "Offers HTTP/2 beside HTTP/1.1; WebSockets always use HTTP/1.1.",
    ),
    key(
        "upstreams.NAME.health.kind",
        Kind::Choice(&["http", "grpc", "tcp"]),
        LeftOut::Required,
        "What is asked: GET of a path answered with 2xx, `grpc.health.v1`, or a connection (over TLS for https://).",
    ),
    key("upstreams.NAME.health.path", Kind::Text("path"), LeftOut::Is("\"/\""), "What kind http asks for."),
    key(
        "upstreams.NAME.health.service",
        Kind::Text("name of a gRPC service"),
        LeftOut::Is("\"\""),
        "What kind grpc asks about; empty is the server as a whole.",
    ),
    key(
        "upstreams.NAME.health.interval",
        TIMEOUT,
        LeftOut::Is("\"5s\""),
        "How often each target is checked, by one of the workers; looked at four times a second.",
    ),
    key("upstreams.NAME.health.timeout", TIMEOUT, LeftOut::Is("\"2s\""), "For the whole check."),
    key(
        "upstreams.NAME.health.healthy_after",
        Kind::Count { min: 1, max: 100 },
        LeftOut::Is("2"),
        "Good checks in a row that bring a target back.",
    ),
    key(
        "upstreams.NAME.health.unhealthy_after",
        Kind::Count { min: 1, max: 100 },
        LeftOut::Is("3"),
        "Bad checks in a row that take a target out; with all out, requests get 503 `no_target`.",
    ),
    key(
        "upstreams.NAME.ejection.failures",
        Kind::Count { min: 1, max: 10_000 },
        LeftOut::Is("5"),
        "Timeouts and broken connections in a row that eject a target; one that cannot be connected to is ejected at once.",
    ),
    key(
        "upstreams.NAME.ejection.base",
        TIMEOUT,
        LeftOut::Is("\"2s\""),
        "How long it is passed over at first; each time in a row twice as long.",
    ),
    key("upstreams.NAME.ejection.max", TIMEOUT, LeftOut::Is("\"1m\""), "How long at most."),
    key(
        "upstreams.NAME.ejection.share_max",
        Kind::Count { min: 0, max: 100 },
        LeftOut::Is("50"),
        "Of a hundred targets so many at most are ejected at a time; one may be, and never the last.",
    ),
    key(
        "upstreams.NAME.retries.share",
        Kind::Count { min: 0, max: 100 },
        LeftOut::Is("20"),
        "Requests sent again, of a hundred, per worker. Only such as were provably not processed; stale connections do not count.",
    ),
    key(
        "upstreams.NAME.retries.per_second",
        Kind::Count { min: 0, max: 100_000 },
        LeftOut::Is("10"),
        "And so many a second besides, per worker.",
    ),
    key(
        "routes[].name",
        Kind::Text("1 to 64 of A-Z a-z 0-9 _ . -"),
        LeftOut::Required,
        "The route in logs, metrics and faults.",
    ),
    key("routes[].host", Kind::Text("host name, or *.domain"), LeftOut::Says("any host"), "The host it is for."),
    key(
        "routes[].path",
        Kind::Text("path pattern"),
        LeftOut::Required,
        "The path it is for: /keyrings/{ring}, /files/{*rest}.",
    ),
    key(
        "routes[].methods",
        Kind::List("methods"),
        LeftOut::Says("any method"),
        "The methods it is for. HEAD follows GET unless listed.",
    ),
    key(
        "routes[].any_flags",
        Kind::List("flags"),
        LeftOut::Says("none"),
        "The key must have at least one of these. {captures} of the path may be segments.",
    ),
    key("routes[].all_flags", Kind::List("flags"), LeftOut::Says("none"), "The key must have all of these."),
    key("routes[].any_key", Kind::Switch, LeftOut::Is("false"), "Any live key will do."),
    key("routes[].public", Kind::Switch, LeftOut::Is("false"), "No key is asked for."),
    key(
        "routes[].projects",
        Kind::List("projects"),
        LeftOut::Says("any project"),
        "The key must belong to one of these.",
    ),
    key(
        "routes[].environments",
        Kind::List("environments"),
        LeftOut::Says("any environment"),
        "The key must belong to one of these.",
    ),
    key("routes[].credential", CREDENTIALS, LeftOut::Says("the gateway's"), "Where a credential may be."),
    key(
        "routes[].shadow",
        Kind::Switch,
        LeftOut::Is("false"),
        "Logs and counts what would be denied, and lets it pass with its credential.",
    ),
    key("routes[].shadow_until", Kind::Time, LeftOut::Says("no end"), "When shadow ends and the route denies."),
    key("routes[].denied_status", Kind::Status, LeftOut::Says("the gateway's"), "The status where flags are lacking."),
    key("routes[].upstream", Kind::Text("name of an upstream"), LeftOut::Required, "The service that answers."),
    key(
        "routes[].strip_prefix",
        Kind::Text("path"),
        LeftOut::Says("none"),
        "Whole leading segments taken off the path before it is forwarded.",
    ),
    key(
        "routes[].rewrite_prefix",
        Kind::Text("path"),
        LeftOut::Says("none"),
        "Put before what strip_prefix leaves of the path, or before all of it.",
    ),
    key(
        "routes[].host_rewrite",
        Kind::Text("host, or \"target\""),
        LeftOut::Says("the client's"),
        "The Host that is forwarded; \"target\" is the target's own.",
    ),
    key(
        "routes[].forward_credential",
        Kind::Switch,
        LeftOut::Is("false"),
        "Leaves the credential in the forwarded request.",
    ),
    key(
        "routes[].assertion",
        Kind::Switch,
        LeftOut::Is("false"),
        "Sends keyward-assertion: a signed JWT, good for a minute, that tells the service who calls.",
    ),
    key("routes[].upgrades", Kind::List("\"websocket\""), LeftOut::Is("[]"), "The upgrades that are let through."),
    key(
        "routes[].upgrade_idle",
        TIMEOUT,
        LeftOut::Is("\"5m\""),
        "How long a WebSocket may go without a byte either way.",
    ),
    key(
        "routes[].stream_idle",
        TIMEOUT,
        LeftOut::Says("none; 1h for gRPC over HTTP/2"),
        "How long request and answer may go without a byte either way, in place of body_idle, rate_min and the \
         upstream's idle_timeout.",
    ),
    key(
        "routes[].body_max",
        Kind::Size { min: 0, max: 1024 * GIB },
        LeftOut::Says("[gateway.limits] body"),
        "The body of a request; 0 is no limit.",
    ),
    key("routes[].shared_cache", Kind::Switch, LeftOut::Is("false"), "Leaves out Cache-Control: private on responses."),
    key(
        "routes[].on_stale",
        Kind::Choice(&["serve", "deny"]),
        LeftOut::Says("[sync] on_stale"),
        "What to do when the key table is too old.",
    ),
    key(
        "routes[].keep_override_headers",
        Kind::List("field names"),
        LeftOut::Is("[]"),
        "Method and URL override fields that are forwarded, of those that are otherwise stripped.",
    ),
    key("routes[].encoded_slashes", REJECT, LeftOut::Says("the gateway's"), "As in [gateway]."),
    key("routes[].path_parameters", REJECT, LeftOut::Says("the gateway's"), "As in [gateway]."),
    key("routes[].encoded_percent", REJECT, LeftOut::Says("the gateway's"), "As in [gateway]."),
    key("routes[].non_ascii", REJECT, LeftOut::Says("the gateway's"), "As in [gateway]."),
    key("routes[].empty_segments", EMPTY, LeftOut::Says("the gateway's"), "As in [gateway]."),
    key(
        "routes[].request_headers.set",
        Kind::Fields,
        LeftOut::Says("none"),
        "Put in place of any of the name. A value is text, { env = \"NAME\" } or { file = \"PATH\" }.",
    ),
    key("routes[].request_headers.add", Kind::Fields, LeftOut::Says("none"), "Put beside any of the name."),
    key("routes[].request_headers.remove", Kind::List("field names"), LeftOut::Is("[]"), "Taken off."),
    key(
        "routes[].response_headers.set",
        Kind::Fields,
        LeftOut::Says("none"),
        "Put in place of any of the name. Values as above.",
    ),
    key("routes[].response_headers.add", Kind::Fields, LeftOut::Says("none"), "Put beside any of the name."),
    key("routes[].response_headers.remove", Kind::List("field names"), LeftOut::Is("[]"), "Taken off."),
    key(
        "routes[].upstream_credential.header",
        Kind::Text("field name"),
        LeftOut::Is("\"authorization\""),
        "The field, in place of any that the caller sent.",
    ),
    key(
        "routes[].upstream_credential.file",
        Kind::Path,
        LeftOut::Required,
        "The secret, mode 0600; read again by a reload, also when the file changes.",
    ),
    key(
        "routes[].upstream_credential.prefix",
        Kind::Text("text"),
        LeftOut::Is("\"Bearer \""),
        "Put before the secret in the field.",
    ),
    key(
        "routes[].cors.origins",
        Kind::List("origins such as \"https://app.example.com\", or \"*\" alone"),
        LeftOut::Required,
        "Whose scripts may call, and read what they are answered.",
    ),
    key("routes[].cors.methods", Kind::List("methods"), LeftOut::Says("the route's"), "The methods that they may use."),
    key(
        "routes[].cors.headers",
        Kind::List("field names"),
        LeftOut::Says("where a credential may be, and content-type"),
        "The fields that they may send.",
    ),
    key(
        "routes[].cors.expose",
        Kind::List("field names"),
        LeftOut::Is("[]"),
        "The fields of answers that they may read, beyond those that every script may.",
    ),
    key("routes[].cors.credentials", Kind::Switch, LeftOut::Is("false"), "Lets requests carry cookies."),
    key(
        "routes[].cors.max_age",
        Kind::Duration { min: Duration::ZERO, max: seconds(DAY) },
        LeftOut::Is("\"10m\""),
        "How long a browser may remember the answer to a preflight.",
    ),
    key(
        "admin.listen",
        Kind::Address,
        LeftOut::Is("\"127.0.0.1:9443\""),
        "Where operators connect. Changing it needs a restart.",
    ),
    key(
        "admin.public_url",
        Kind::Text("http or https URL"),
        LeftOut::Says("none: links are relative, and there are no webhooks"),
        "Where the API is reached from outside; receivers of webhooks rotate keys there.",
    ),
    key(
        "admin.self_service",
        Kind::Switch,
        LeftOut::Is("false"),
        "Lets a user's key manage that user's keys, here and at [self].",
    ),
    key(
        "admin.keys_per_user_max",
        Kind::Count { min: 1, max: 10_000 },
        LeftOut::Is("50"),
        "How many keys a user may have that makes them itself. Changing it needs a restart.",
    ),
    key("admin.tls.certificates", CERTIFICATES, LeftOut::Required, "As in [gateway.tls]."),
    key("admin.tls.min_version", VERSIONS, LeftOut::Is("\"1.2\""), "As in [gateway.tls]."),
    key("admin.tls.client_ca", Kind::Path, LeftOut::Says("none"), "As in [gateway.tls]."),
    key("admin.tls.certificates[].chain", Kind::Path, LeftOut::Required, "PEM file of the chain, leaf first."),
    key("admin.tls.certificates[].key", Kind::Path, LeftOut::Required, "PEM file of the private key."),
    key(
        "self.listen",
        Kind::Address,
        LeftOut::Is("\"127.0.0.1:9444\""),
        "Where keys rotate themselves. Changing it needs a restart.",
    ),
    key("self.tls.certificates", CERTIFICATES, LeftOut::Required, "As in [gateway.tls]."),
    key("self.tls.min_version", VERSIONS, LeftOut::Is("\"1.2\""), "As in [gateway.tls]."),
    key("self.tls.client_ca", Kind::Path, LeftOut::Says("none"), "As in [gateway.tls]."),
    key("self.tls.certificates[].chain", Kind::Path, LeftOut::Required, "PEM file of the chain, leaf first."),
    key("self.tls.certificates[].key", Kind::Path, LeftOut::Required, "PEM file of the private key."),
    key(
        "ops.listen",
        Kind::Address,
        LeftOut::Is("\"127.0.0.1:9464\""),
        "Where /metrics, /livez and /readyz are. Changing it needs a restart.",
    ),
    key(
        "secrets.master_file",
        Kind::Path,
        LeftOut::Says("master.secret beside the store, or beside the configuration with PostgreSQL"),
        "The master secrets, mode 0600; KEYWARD_MASTER_SECRET takes its place. Another file needs a restart, what it holds does not.",
    ),
    key(
        "store.sqlite.path",
        Kind::Path,
        LeftOut::Is("\"keyward.db\""),
        "The database file. Changing it needs a restart.",
    ),
    key(
        "store.postgres.url",
        Kind::Text("postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
        LeftOut::Says("none"),
        "The database; KEYWARD_POSTGRES_URL takes its place. Several hosts, joined by commas, are tried in turn for the primary. Changing anything of `[store]` needs a restart.",
    ),
    key(
        "store.postgres.url_file",
        Kind::Path,
        LeftOut::Says("none"),
        "A file that holds that URL, mode 0600, in its place.",
    ),
    key(
        "store.postgres.listen_url",
        Kind::Text("postgres://USER@HOST:PORT/DATABASE"),
        LeftOut::Says("as url"),
        "Where to listen for the commits of other gateways, past a pooler such as PgBouncer. A password that it lacks is that of url.",
    ),
    key(
        "store.postgres.sslmode",
        Kind::Choice(&TlsMode::WORDS),
        LeftOut::Says("\"disable\" where every host is this machine and no file is named, else \"verify-full\""),
        "Whether the server is spoken to by TLS and its certificate held against its name, or in clear text. The URL may say it too, and there `require` is `verify-full`.",
    ),
    key(
        "store.postgres.ca",
        Kind::Path,
        LeftOut::Says("the machine's own"),
        "PEM file of the authorities that the server's certificate must come from.",
    ),
    key(
        "store.postgres.certificate",
        Kind::Path,
        LeftOut::Says("none"),
        "PEM file of the certificate that is shown to the server. One that was renewed is taken up with the next connection.",
    ),
    key("store.postgres.key", Kind::Path, LeftOut::Says("none"), "PEM file of its private key."),
    key(
        "store.postgres.pool_max",
        Kind::Count { min: 6, max: 1000 },
        LeftOut::Is("10"),
        "Connections at most, for each gateway; one more listens.",
    ),
    key(
        "store.postgres.connect_timeout",
        Kind::Duration { min: Duration::from_millis(100), max: seconds(60) },
        LeftOut::Is("\"5s\""),
        "How long a connection may take.",
    ),
    key(
        "store.postgres.statement_timeout",
        Kind::Duration { min: Duration::from_millis(100), max: seconds(3600) },
        LeftOut::Is("\"15s\""),
        "How long one statement may take, and one row of a whole load.",
    ),
    key(
        "sync.state_dir",
        Kind::Path,
        LeftOut::Says("STEM.state beside STEM.toml"),
        "Snapshot and journal for a start without the store. Changing it needs a restart.",
    ),
    key(
        "sync.poll",
        Kind::Duration { min: Duration::from_millis(10), max: seconds(3600) },
        LeftOut::Is("\"1s\""),
        "How often the store is asked for its revision, whatever hints say.",
    ),
    key(
        "sync.max_staleness",
        Kind::Duration { min: seconds(1), max: seconds(3650 * DAY) },
        LeftOut::Is("\"1d\""),
        "How long the table may go without the store before on_stale applies.",
    ),
    key(
        "sync.on_stale",
        Kind::Choice(&["serve", "deny"]),
        LeftOut::Is("\"serve\""),
        "Go on with what is known, or answer 503.",
    ),
    key(
        "sync.unknown_grace",
        Kind::Duration { min: Duration::ZERO, max: seconds(DAY) },
        LeftOut::Is("\"1m\""),
        "How long after the store was lost an unknown token is answered 503 and not 401.",
    ),
    key(
        "sync.misses_per_second",
        Kind::Count { min: 1, max: 1_000_000 },
        LeftOut::Is("500"),
        "Unknown tokens a second that are looked for in the store, over all clients.",
    ),
    key(
        "sync.snapshot_max_age",
        Kind::Duration { min: seconds(1), max: seconds(3650 * DAY) },
        LeftOut::Is("\"1d\""),
        "The oldest snapshot that is started from.",
    ),
    key(
        "sync.reload_drop_max",
        Kind::Count { min: 0, max: 100 },
        LeftOut::Is("20"),
        "The loss of live keys, in percent, above which a reload of the table is refused.",
    ),
    key(
        "sync.reconcile_every",
        Kind::Duration { min: seconds(1), max: seconds(30 * DAY) },
        LeftOut::Is("\"5m\""),
        "How long one walk over the whole store takes, which finds what the feed has not brought.",
    ),
    key(
        "sync.usage_flush",
        Kind::Duration { min: Duration::from_millis(10), max: seconds(3600) },
        LeftOut::Is("\"10s\""),
        "How often the last use of keys is written back.",
    ),
    key(
        "rotation.poll",
        Kind::Duration { min: Duration::from_millis(10), max: seconds(3600) },
        LeftOut::Is("\"5s\""),
        "How often is looked for keys that came due and announcements to send.",
    ),
    key(
        "rotation.allow_private_webhooks",
        Kind::Switch,
        LeftOut::Is("false"),
        "Lets webhooks lead to private networks and this machine, and to this machine by http://.",
    ),
    key(
        "rotation.ca",
        Kind::Path,
        LeftOut::Says("those that the machine trusts"),
        "PEM file of the authorities that receivers' certificates must come from.",
    ),
    key(
        "rotation.timeout",
        Kind::Duration { min: Duration::from_millis(10), max: seconds(300) },
        LeftOut::Is("\"15s\""),
        "How long a receiver may take to answer; another gateway takes over after twice that.",
    ),
    key(
        "rotation.expiry_notice",
        Kind::Duration { min: Duration::ZERO, max: seconds(3650 * DAY) },
        LeftOut::Is("\"14d\""),
        "How long before its end a key with a webhook is announced to expire.",
    ),
    key(
        "rotation.retries",
        Kind::List("durations such as \"5m\", at most 32"),
        LeftOut::Is("[\"5s\", \"5m\", \"30m\", \"2h\", \"5h\", \"10h\", \"14h\", \"20h\", \"1d\"]"),
        "How long after each failed attempt the next one follows, a fifth more or less; after the last it is given up.",
    ),
    key(
        "rotation.in_flight",
        Kind::Count { min: 1, max: 1000 },
        LeftOut::Is("16"),
        "Announcements that are sent at a time; at most four of them to one host.",
    ),
    key(
        "log.level",
        Kind::Text("error, warn, info, debug, trace or off; or target=level, …"),
        LeftOut::Is("\"info\""),
        "What is logged; KEYWARD_LOG takes its place.",
    ),
    key("log.format", Kind::Choice(&["json", "text"]), LeftOut::Is("\"json\""), "How it is written."),
];

/// The key at the dotted path `path`.
pub(super) fn key_at(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The names that the table at `section` may hold, each once, in order.
pub(super) fn children(section: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in KEYS {
        let below = match section {
            "" => Some(key.path),
            _ => key.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
        };
        let name = below.and_then(|below| below.split(['.', '[']).next());
        if let Some(name) = name.filter(|name| !names.contains(name)) {
            names.push(name);
        }
    }
    names
}

/// The tables, as the file writes them, that hold a key of this name.
pub(super) fn homes_of(name: &str) -> Vec<String> {
    let tables = KEYS.iter().filter_map(|key| {
        let (table, its_name) = key.path.rsplit_once('.')?;
        (its_name == name && !table.ends_with(".certificates[]")).then_some(table)
    });
    let written = tables.map(|table| match table.strip_suffix("[]") {
        Some(list) => format!("[[{list}]]"),
        None => format!("[{}]", table.replace("[].", ".")),
    });
    written.collect()
}
