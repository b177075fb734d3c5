//! What the data plane is told: everything that one reload swaps at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::key::TokenPrefix;
use crate::policy::RouteTable;
use crate::table::OnStale;
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
}

/// One service behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its addresses. At least one.
    pub targets: Vec<Target>,
    /// For connecting.
    pub connect_timeout: Duration,
    /// From the end of the request until the head of the response.
    pub head_timeout: Duration,
    /// Between two reads of the response's body.
    pub idle_timeout: Duration,
    /// How long an unused connection is kept.
    pub pool_idle: Duration,
    /// How many unused connections are kept, per worker and target.
    pub pool_size: usize,
    /// How long a connection is used at all.
    pub connection_age: Duration,
}

impl Upstream {
    /// The defaults, for these targets.
    #[must_use]
    pub const fn new(targets: Vec<Target>) -> Self {
        Self {
            targets,
            connect_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            pool_idle: Duration::from_secs(30),
            pool_size: 256,
            connection_age: Duration::from_secs(300),
        }
    }
}

/// One address of a service: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// `host:port` as configured, for messages and metrics.
    pub authority: String,
    /// The host: a name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The address, where the host is one.
    pub address: Option<SocketAddr>,
}
