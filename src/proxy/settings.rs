//! What the data plane is told: everything that one reload swaps at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::authenticate::denies_stale;
use crate::key::TokenPrefix;
use crate::policy::{Access, RouteTable};
use crate::table::OnStale;
use crate::tls::{self, CertificateFault};
use crate::wire::Network;

/// The data plane's configuration. A request sees one of these from its first byte to its last.
#[derive(Debug)]
pub struct Settings {
    /// The routes, and with each what it forwards and limits.
    pub routes: RouteTable,
    /// The services by name. A route names one of these.
    pub upstreams: BTreeMap<String, Upstream>,
    /// What tokens of this installation begin with.
    pub token_prefix: TokenPrefix,
    /// The `realm` of challenges.
    pub realm: String,
    /// Whether a refused holder is told the true reason.
    pub reveal_reason: bool,
    /// How long before its end a key's responses say when that is.
    pub expiry_notice: Duration,
    /// Addresses whose forwarding fields are believed.
    pub trusted_proxies: Vec<Network>,
    /// What routes that say nothing of their own do once the table is too old.
    pub on_stale: OnStale,
    /// Requests in flight at a time, over all workers.
    pub requests_max: usize,
    /// Whether each request gets its line in the log.
    pub access_log: bool,
    /// Whether the public keys of assertions are served, in the place of whatever a route says.
    pub jwks: bool,
}

impl Settings {
    /// Reads the certificates that upstreams are spoken to with.
    ///
    /// # Errors
    /// Every fault of every file.
    pub fn load_certificates(&self) -> Result<(), Vec<CertificateFault>> {
        let loaded = self.upstreams.values().filter_map(|upstream| upstream.tls.as_ref()?.load().err());
        let faults: Vec<_> = loaded.flatten().collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Whether, once the table is too old, no route lets a key through any more.
    #[must_use]
    pub fn denies_when_stale(&self) -> bool {
        let specs = self.routes.routes().iter().map(|route| route.spec());
        let mut keyed = specs.filter(|spec| spec.access != Access::Public).peekable();
        // Where no route wants a key, none is refused.
        keyed.peek().is_some() && keyed.all(|spec| denies_stale(spec, self.on_stale))
    }

    /// The files of those certificates.
    pub fn certificate_files(&self) -> impl Iterator<Item = &Path> {
        self.upstreams.values().filter_map(|upstream| upstream.tls.as_deref()).flat_map(tls::Client::files)
    }
}

/// One service behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its addresses. At least one, at most [`Upstream::TARGETS_MAX`].
    pub targets: Vec<Target>,
    /// Which target is next.
    pub balance: Balance,
    /// How `https://` targets are spoken to. There where one of the targets is such a one.
    pub tls: Option<Arc<tls::Client>>,
    /// For connecting, TLS included.
    pub connect_timeout: Duration,
    /// From the end of the request until the head of the response.
    pub head_timeout: Duration,
    /// Between two reads of the response's body.
    pub idle_timeout: Duration,
    /// From the head of the request to the end of the response; none for no limit.
    pub total_timeout: Option<Duration>,
    /// How long an unused connection is kept.
    pub pool_idle: Duration,
    /// How many unused connections are kept, per worker and target.
    pub pool_size: usize,
    /// How long a connection is used at all.
    pub connection_age: Duration,
    /// How many requests share an HTTP/2 connection at a time.
    pub http2_streams: u32,
    /// How often the addresses of a name are asked for.
    pub resolve_every: Duration,
    /// When a target is passed over because of what requests met there.
    pub ejection: Ejection,
    /// How targets are checked beside the requests; none: not at all.
    pub health: Option<HealthCheck>,
    /// How long a target that came back gets less than its share.
    pub slow_start: Duration,
    /// How many requests may be sent again.
    pub retries: RetryBudget,
}

impl Upstream {
    /// The most targets of one upstream. A name may have any number of addresses.
    pub const TARGETS_MAX: usize = 1_000;

    /// The defaults, for these targets.
    #[must_use]
    pub const fn new(targets: Vec<Target>) -> Self {
        Self {
            targets,
            balance: Balance::RoundRobin,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            total_timeout: None,
            pool_idle: Duration::from_secs(30),
            pool_size: 1024,
            connection_age: Duration::from_secs(300),
            http2_streams: 100,
            resolve_every: Duration::from_secs(10),
            ejection: Ejection::DEFAULT,
            health: None,
            slow_start: Duration::ZERO,
            retries: RetryBudget::DEFAULT,
        }
    }
}

/// Which target a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    RoundRobin,
    /// The one that this worker has the fewest requests at.
    LeastRequests,
}

/// When a target is passed over because of what requests met there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// After so many failures in a row; after one where it could not be connected to.
    pub failures: u32,
    /// For how long at first. Each time in a row it doubles.
    pub base: Duration,
    /// For how long at most.
    pub max: Duration,
    /// How many of a hundred targets at most.
    pub share_max: u32,
}

impl Ejection {
    /// What holds where nothing else is said.
    pub const DEFAULT: Self =
        Self { failures: 5, base: Duration::from_secs(2), max: Duration::from_secs(60), share_max: 50 };
}

/// How targets are checked beside the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// How often.
    pub interval: Duration,
    /// For the whole check.
    pub timeout: Duration,
    /// So many good ones in a row make a target that was down be up.
    pub healthy_after: u32,
    /// So many bad ones in a row make it be down.
    pub unhealthy_after: u32,
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `GET` of this path is answered with 2xx.
    Http(String),
    /// `grpc.health.v1.Health/Check` says that this service, or all where it is empty, is serving.
    Grpc(String),
    /// A connection is accepted.
    Tcp,
}

/// How many requests may be sent again, over all reasons but stale connections. Per worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of a hundred requests.
    pub share: u32,
    /// And so many a second besides.
    pub per_second: u32,
}

impl RetryBudget {
    /// What holds where nothing else is said.
    pub const DEFAULT: Self = Self { share: 20, per_second: 10 };
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// `host:port`, or `unix:path`, as configured, for messages and metrics.
    pub authority: String,
    /// The host: a name or an address. Empty for a socket file.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The address, where the host is one.
    pub address: Option<SocketAddr>,
    /// What is spoken there.
    pub speaks: Speaks,
}

/// What a target speaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// HTTP/1.1 in clear text.
    Http,
    /// HTTP/2 or HTTP/1.1 over TLS, as the handshake settles.
    Https,
    /// HTTP/2 in clear text, without asking.
    H2c,
    /// HTTP/1.1 over the socket file of this path.
    Unix(PathBuf),
}

impl Target {
    /// What a request that names no host names.
    #[must_use]
    pub fn host_field(&self) -> &str {
        match self.speaks {
            Speaks::Http | Speaks::H2c => &self.authority,
            Speaks::Https => self.authority.strip_suffix(":443").unwrap_or(&self.authority),
            Speaks::Unix(_) => "localhost",
        }
    }
}
