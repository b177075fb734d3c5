//! A configuration, line by line.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::upstream::Upstream;

/// What will be written as `keyward.toml`. Paths in it are relative to the site's folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    gateway: Vec<String>,
    tls: bool,
    workers: Option<usize>,
    sync: Vec<String>,
    admin: Option<Vec<String>>,
    own_keys: bool,
    postgres: Option<String>,
    upstreams: Vec<String>,
    routes: Vec<String>,
}

impl Config {
    /// Three routes to `upstream`: `GET /keyrings/{ring}` asks for a flag of that ring, `/any/…`
    /// for any key, and `/public/…` for none.
    pub(crate) fn in_front_of(upstream: &Upstream) -> Self {
        Self::bare(upstream)
            .route(
                "name = 'ring-read'\npath = '/keyrings/{ring}'\nmethods = ['GET']\n\
                 any_flags = ['keyring.read', 'keyring.{ring}.read']",
            )
            .route("name = 'any'\npath = '/any/{*rest}'\nany_key = true")
            .route("name = 'public'\npath = '/public/{*rest}'\npublic = true")
    }

    /// No routes yet; the ones that are added go to `upstream`.
    pub(crate) fn bare(upstream: &Upstream) -> Self {
        Self::to(upstream.address())
    }

    /// No routes yet; the ones that are added go to whatever listens at `address`.
    pub(crate) fn to(address: SocketAddr) -> Self {
        let target = format!("[upstreams.service]\ntargets = ['http://{address}']");
        Self { upstreams: vec![target], ..Self::default() }
    }

    /// One route, `/any/…` for any key and `/public/…` for none, to a service that these lines of
    /// TOML define.
    pub(crate) fn towards(service: &str) -> Self {
        let upstreams = vec![format!("[upstreams.service]\n{service}")];
        // A WebSocket needs HTTP/1.1.
        let upgrades = if service.contains("h2c://") { "" } else { "\nupgrades = ['websocket']" };
        Self { upstreams, ..Self::default() }
            .route(&format!("name = 'any'\npath = '/any/{{*rest}}'\nany_key = true{upgrades}"))
            .route("name = 'public'\npath = '/public/{*rest}'\npublic = true")
    }

    /// So many workers in place of two.
    pub(crate) fn gateway_workers(self, workers: usize) -> Self {
        Self { workers: Some(workers), ..self }
    }

    /// No routes yet; the ones that are added go to whatever listens on `address`.
    pub(crate) fn in_front_of_address(address: std::net::SocketAddr) -> Self {
        Self { upstreams: vec![format!("[upstreams.service]\ntargets = ['http://{address}']")], ..Self::default() }
    }

    /// A line of `[gateway]`.
    pub(crate) fn gateway(mut self, line: &str) -> Self {
        self.gateway.push(line.to_owned());
        self
    }

    /// With the management API, on a free port of loopback.
    pub(crate) fn admin(self) -> Self {
        Self { admin: Some(self.admin.unwrap_or_default()), ..self }
    }

    /// With the management API and this line of `[admin]`.
    pub(crate) fn admin_line(self, line: &str) -> Self {
        let mut lines = self.admin.unwrap_or_default();
        lines.push(line.to_owned());
        Self { admin: Some(lines), ..self }
    }

    /// With the listener where keys are used for themselves.
    pub(crate) fn own_keys(self) -> Self {
        Self { own_keys: true, ..self }
    }

    /// Keys in the PostgreSQL database at this URL, with these further lines of `[store.postgres]`.
    pub(crate) fn postgres(self, url: &str, lines: &str) -> Self {
        Self { postgres: Some(format!("url = '{url}'\n{lines}")), ..self }
    }

    /// A line of `[sync]`.
    pub(crate) fn sync(mut self, line: &str) -> Self {
        self.sync.push(line.to_owned());
        self
    }

    /// Further tables, in TOML.
    pub(crate) fn section(mut self, lines: &str) -> Self {
        self.upstreams.push(lines.to_owned());
        self
    }

    /// TLS with the site's own certificate.
    pub(crate) fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// One route to the upstream, in TOML.
    pub(crate) fn route(mut self, lines: &str) -> Self {
        self.routes.push(format!("[[routes]]\nupstream = 'service'\n{lines}"));
        self
    }

    /// Whatever else, in TOML, after everything before it.
    pub(crate) fn raw(mut self, lines: &str) -> Self {
        self.routes.push(lines.to_owned());
        self
    }

    pub(crate) fn to_toml(&self) -> String {
        let workers = self.workers.unwrap_or(2);
        let mut text = format!("[gateway]\nlisten = ['127.0.0.1:0']\nworkers = {workers}\n");
        let mut add = |line: &str| writeln!(text, "{line}").expect("text grows");
        self.gateway.iter().for_each(|line| add(line));
        if self.tls {
            add("[gateway.tls]\ncertificates = [{ chain = 'tls/chain.pem', key = 'tls/key.pem' }]");
        }
        if let Some(lines) = &self.admin {
            add("[admin]\nlisten = '127.0.0.1:0'");
            lines.iter().for_each(|line| add(line));
        }
        if self.own_keys {
            add("[self]\nlisten = '127.0.0.1:0'");
        }
        add("[ops]\nlisten = '127.0.0.1:0'");
        add("[secrets]\nmaster_file = 'data/master.secret'");
        match &self.postgres {
            None => add("[store.sqlite]\npath = 'data/keyward.db'"),
            Some(lines) => add(&format!("[store.postgres]\n{lines}")),
        }
        add("[log]\nformat = 'json'");
        if !self.sync.is_empty() {
            add("[sync]");
        }
        self.sync.iter().for_each(|line| add(line));
        self.upstreams.iter().chain(&self.routes).for_each(|section| add(section));
        text
    }
}
