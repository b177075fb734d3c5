//! The configuration: strict TOML in, checked settings out, and every fault at once.
//!
//! A file is parsed, walked with the schema in hand, and turned into the plain settings that each
//! module owns. Nothing is guessed: an unknown key, a value out of range or a reference to nothing
//! is a fault with its line, and a file with one fault gives no settings. Certificates and the deny
//! file are read by those who use them; the master secrets by [`master_secrets`]. This module opens no
//! socket and no store.

mod cors;
mod fault;
mod fields;
mod gateway;
mod management;
mod master;
mod private;
mod reader;
mod rotation;
mod routes;
pub mod schema;
mod stores;
mod syntax;
mod units;
mod upstreams;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use crate::secret::{MasterSecret, Secret};
use crate::table::OnStale;
use crate::telemetry::{Format as LogFormat, LogSettings};
use crate::wire::{FailureLimit, Network};
use crate::{admin, listen, proxy, store, sync, tls};

pub use fault::Fault;
pub use master::{MASTER_SECRET_VARIABLE, MASTER_SECRETS_MAX, master_file_text, master_secrets};
pub use stores::POSTGRES_URL_VARIABLE;
pub use units::{UnitFault, format_duration, format_size, parse_duration, parse_size};

use fault::{Faults, NamedFile};
use reader::{Section, set};

/// The environment variable that takes the place of `[log] level`.
pub const LOG_VARIABLE: &str = "KEYWARD_LOG";

/// What a quickstart stands in front of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fronted {
    /// A service of its own, which echoes: below `/demo`, with some routes more.
    Echo,
    /// A service that was named, as it is.
    Service,
}

impl Fronted {
    /// What the upstream is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Service => "service",
        }
    }

    /// The configuration that `keyward quickstart` writes, with the service at `url`.
    #[must_use]
    pub fn quickstart_text(self, url: &str) -> String {
        let template = include_str!("../../config/quickstart.toml");
        let (of_all, of_echo) = template.split_once("# {echo}\n").unwrap_or((template, ""));
        let text = match self {
            Self::Echo => format!("{of_all}{of_echo}"),
            Self::Service => of_all.replace("/demo/", "/").trim_end().to_owned() + "\n",
        };
        text.replace("{name}", self.name()).replace("{upstream}", url)
    }
}

/// Everything that a configuration file says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// The listener that callers reach.
    pub gateway: Gateway,
    /// The data plane: what one reload swaps at once.
    pub proxy: Arc<proxy::Settings>,
    /// Where metrics and health are, if anywhere.
    pub ops: Option<SocketAddr>,
    /// The management listener, if any.
    pub admin: Option<Admin>,
    /// The listener where keys are used for themselves and their users, if any.
    pub own_keys: Option<Admin>,
    /// What the management API is told.
    pub management: admin::Settings,
    /// The file of the master secrets. Read by [`master_secrets`].
    pub master_file: PathBuf,
    /// Where keys are kept.
    pub store: store::Settings,
    /// How the table follows the store.
    pub sync: sync::Settings,
    /// How rotations are announced.
    pub rotation: crate::rotation::Settings,
    /// What is logged.
    pub log: LogSettings,
    /// Files of secrets that were read with the configuration: when one changes, it is to be read again.
    pub secret_files: Vec<PathBuf>,
    environment: Environment,
    /// Where `secrets.master_file` stands, for the faults of that file.
    master_file_line: Option<usize>,
    /// The files that this one names, for the faults that are found in those.
    named_files: Vec<NamedFile>,
}

/// The listener that callers reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its addresses. At least one.
    pub listen: Vec<SocketAddr>,
    /// Further addresses, in clear text though the others speak TLS.
    pub listen_cleartext: Vec<SocketAddr>,
    /// Worker threads. 0: one per core.
    pub workers: usize,
    /// TLS, or clear text.
    pub tls: Option<tls::ServerSettings>,
    /// How large a listener may get.
    pub limits: listen::Limits,
    /// How patient it is.
    pub timeouts: listen::Timeouts,
    /// Whose connections begin with a PROXY header.
    pub proxy_protocol: Vec<Network>,
    /// How large a listener may get for one client.
    pub clients: listen::Clients,
    /// How it makes way.
    pub leaving: Leaving,
    /// The file of refused keys.
    pub deny_file: Option<PathBuf>,
    /// What it calls itself in what it signs.
    pub issuer: String,
}

/// How long a process takes to make way, for a stop or for the next binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// How long a process that was told to stop says that it is not ready, before it stops listening.
    pub drain_delay: Duration,
    /// How long the next binary may take until it is ready.
    pub upgrade: Duration,
    /// What stands for `drain` in a process whose place was taken.
    pub upgrade_drain: Duration,
}

impl Default for Leaving {
    fn default() -> Self {
        Self { drain_delay: Duration::ZERO, upgrade: Duration::from_secs(60), upgrade_drain: Duration::from_secs(600) }
    }
}

impl Gateway {
    /// What its listeners are told, and told again by a reload.
    #[must_use]
    pub fn listen_settings(&self) -> listen::Settings {
        listen::Settings {
            timeouts: self.timeouts.clone(),
            limits: self.limits.clone(),
            proxy_protocol: self.proxy_protocol.clone(),
            clients: self.clients.clone(),
        }
    }
}

/// A listener of the management API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its address.
    pub listen: SocketAddr,
    /// TLS, or clear text on loopback.
    pub tls: Option<tls::ServerSettings>,
}

/// What the environment says beside the file; a variable that is empty says nothing. Tests build
/// one; a process reads its own.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `KEYWARD_MASTER_SECRET`.
    pub master_secret: Option<Secret>,
    /// `KEYWARD_LOG`.
    pub log: Option<String>,
    /// Any variable that the file names.
    pub variables: Variables,
}

/// Looks an environment variable up.
#[derive(Clone, Copy)]
pub struct Variables(pub fn(&str) -> Option<Secret>);

impl Default for Variables {
    fn default() -> Self {
        Self(|_name| None)
    }
}

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Variables(..)")
    }
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where the configuration reads the environment")]
    pub fn of_process() -> Self {
        use std::os::unix::ffi::OsStringExt;
        let read = |name| std::env::var_os(name).map(OsStringExt::into_vec).filter(|text| !text.is_empty());
        let log = read(LOG_VARIABLE).map(|level| String::from_utf8_lossy(&level).into_owned());
        let variables = Variables(|name| std::env::var_os(name).map(|value| Secret::new(value.into_vec())));
        Self { master_secret: read(MASTER_SECRET_VARIABLE).map(Secret::new), log, variables }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Every fault of the file, in file order; or the one that it cannot be read.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, Vec<Fault>> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text, environment),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(vec![Fault::of_file(&file, "", "is not UTF-8 text, expected TOML")])
            }
            Err(error) => Err(vec![Fault::of_file(&file, "", format!("cannot be read: {error}"))]),
        }
    }

    /// Checks `text` as if it were the file at `path`.
    ///
    /// # Errors
    /// Every fault, in file order.
    pub fn parse(path: &Path, text: &str, environment: &Environment) -> Result<Self, Vec<Fault>> {
        let faults = Faults::new(path.display().to_string(), text);
        let (document, errors) = DeTable::parse_recoverable(text);
        syntax::report(&errors, document.get_ref(), text, &faults);
        let config = Self::read(path, &Section::root(document.get_ref(), &faults), environment, &faults);
        let mut found = faults.into_sorted();
        found.extend(environment.log.as_deref().and_then(|level| {
            let what = log_level_fault(level)?;
            Some(Fault::of_file(LOG_VARIABLE, "", what))
        }));
        match config {
            Some(config) if found.is_empty() => Ok(config),
            _ => Err(found),
        }
    }

    /// Reads every part, whatever is wrong with the others. What a faulty part leaves behind is of
    /// no use, and the caller drops it.
    fn read(path: &Path, root: &Section<'_>, environment: &Environment, faults: &Faults) -> Option<Self> {
        let base = path.parent().unwrap_or(Path::new(""));
        let read = gateway::read(&root.section("gateway"), base);
        let upstreams = upstreams::read(root, base);
        let secrets = fields::Secrets::new(base, environment.variables);
        let routes = routes::read(root, &read.routes, &upstreams, &secrets);
        let mut listeners = read.listeners;
        let admin = management::read_listener(&root.section("admin"), base, management::ADMIN, &mut listeners);
        let own_keys = management::read_listener(&root.section("self"), base, management::OWN_KEYS, &mut listeners);
        let ops = gateway::read_ops(&root.section("ops"), &mut listeners);
        gateway::refuse_shared_addresses(&listeners, faults);
        let store = stores::read(&root.section("store"), base, &secrets);
        let master_file = read_secrets(&root.section("secrets"), base, store.as_ref());
        let sync = read_sync(&root.section("sync"), path, base, read.failure_limit);
        let management = management::read(&root.section("admin"));
        let rotation = rotation::read(&root.section("rotation"), management.public_url.clone(), base);
        let mut log = read_log(&root.section("log"));
        set(&mut log.filter, environment.log.clone());
        let master_file_line = root.section("secrets").item("master_file").map(|item| faults.line_of(item.at()));
        let settings = read.proxy;
        Some(Self {
            path: path.to_owned(),
            gateway: read.gateway,
            proxy: Arc::new(proxy::Settings {
                routes: routes?,
                upstreams: upstreams.into_usable(),
                token_prefix: settings.token_prefix,
                realm: settings.realm,
                reveal_reason: settings.reveal_reason,
                expiry_notice: settings.expiry_notice,
                trusted_proxies: settings.trusted_proxies,
                on_stale: sync.on_stale,
                requests_max: settings.requests_max,
                access_log: settings.access_log,
                jwks: settings.jwks,
            }),
            ops,
            admin,
            own_keys,
            management,
            master_file,
            store: store?,
            sync,
            rotation,
            log,
            secret_files: secrets.into_files(),
            environment: environment.clone(),
            master_file_line,
            named_files: faults.named_files(),
        })
    }

    /// What a reload from these settings to `new` would change that only a restart can.
    #[must_use]
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let listen = |admin: &Option<Admin>| admin.as_ref().map(|admin| admin.listen);
        let speaks_tls = |admin: &Option<Admin>| admin.as_ref().is_some_and(|admin| admin.tls.is_some());
        let changes = [
            ("gateway.listen", self.gateway.listen != new.gateway.listen),
            ("gateway.listen_cleartext", self.gateway.listen_cleartext != new.gateway.listen_cleartext),
            ("gateway.workers", self.gateway.workers != new.gateway.workers),
            ("gateway.token_prefix", self.proxy.token_prefix != new.proxy.token_prefix),
            ("gateway.tls (turned on or off)", self.gateway.tls.is_some() != new.gateway.tls.is_some()),
            ("admin.listen", listen(&self.admin) != listen(&new.admin)),
            ("admin.tls (turned on or off)", speaks_tls(&self.admin) != speaks_tls(&new.admin)),
            ("admin.keys_per_user_max", self.management.keys_per_user_max != new.management.keys_per_user_max),
            ("self.listen", listen(&self.own_keys) != listen(&new.own_keys)),
            ("self.tls (turned on or off)", speaks_tls(&self.own_keys) != speaks_tls(&new.own_keys)),
            ("ops.listen", self.ops != new.ops),
            ("secrets.master_file", self.master_file != new.master_file),
            (self.store_key(), self.store != new.store),
            ("sync.state_dir", self.sync.state_dir != new.sync.state_dir),
        ];
        changes.into_iter().filter(|(_, is_changed)| *is_changed).map(|(name, _)| name).collect()
    }

    /// What differs in `new` and is looked at only when a process starts, so that a reload leaves it
    /// as it was.
    #[must_use]
    pub fn waits_for_restart(&self, new: &Self) -> Vec<&'static str> {
        // What a stale table means is asked of the routes in force.
        let sync = sync::Settings { on_stale: self.sync.on_stale, ..new.sync.clone() };
        let changes = [
            ("[sync] or [gateway.failure_limit]", self.sync != sync),
            ("[rotation] or admin.public_url", self.rotation != new.rotation),
            ("[log]", self.log != new.log),
        ];
        changes.into_iter().filter(|(_, is_changed)| *is_changed).map(|(name, _)| name).collect()
    }

    const fn store_key(&self) -> &'static str {
        match self.store {
            store::Settings::Sqlite { .. } => "store.sqlite.path",
            store::Settings::Postgres(_) => "store.postgres",
        }
    }

    /// What is wrong with certificates and their keys, each told where `table` names the file: `gateway.tls`,
    /// `upstreams`.
    #[must_use]
    pub fn certificate_faults(&self, table: &str, faults: &[tls::CertificateFault]) -> Vec<Fault> {
        let file = self.path.display().to_string();
        let told = |fault: &tls::CertificateFault| {
            let is_in_table = |named: &&NamedFile| {
                let rest = named.key.strip_prefix(table);
                named.path == fault.file && rest.is_some_and(|rest| rest.starts_with(['.', '[']))
            };
            match self.named_files.iter().find(is_in_table) {
                Some(named) => Fault::of_line(&file, Some(named.line), &named.key, fault.to_string()),
                // The machine's own authorities, for instance, are no file of ours.
                None => Fault::of_file(&file, table, fault.to_string()),
            }
        };
        faults.iter().map(told).collect()
    }

    /// Whether the master secret comes from the environment, so that no file is needed.
    #[must_use]
    pub const fn has_master_secret_in_environment(&self) -> bool {
        self.environment.master_secret.is_some()
    }
}

fn read_secrets(secrets: &Section<'_>, base: &Path, store: Option<&store::Settings>) -> PathBuf {
    let default = match store {
        Some(store::Settings::Sqlite { path: beside }) => beside.with_file_name("master.secret"),
        Some(store::Settings::Postgres(_)) | None => base.join("master.secret"),
    };
    // Somebody who wrote the secret where its file's name belongs must not read it in a fault.
    let text = secrets.item("master_file").and_then(|item| match item.value() {
        toml::de::DeValue::String(text) => Some(text),
        _ => None,
    });
    if text.is_some_and(|text| MasterSecret::parse(text.as_bytes()).is_ok()) {
        secrets.fault_of("master_file", "looks like the secret itself, expected the path of a file that holds it");
        return default;
    }
    secrets.file("master_file", base).unwrap_or(default)
}

fn read_sync(section: &Section<'_>, file: &Path, base: &Path, failure_limit: FailureLimit) -> sync::Settings {
    let mut settings = sync::Settings::new(file.with_extension("state"));
    settings.failure_limit = failure_limit;
    set(&mut settings.state_dir, section.file("state_dir", base));
    set(&mut settings.poll, section.duration("poll"));
    set(&mut settings.max_staleness, section.duration("max_staleness"));
    set(&mut settings.on_stale, section.choice("on_stale", &[OnStale::Serve, OnStale::Deny]));
    set(&mut settings.unknown_grace, section.duration("unknown_grace"));
    set(&mut settings.misses_per_second, section.count("misses_per_second"));
    set(&mut settings.snapshot_max_age, section.duration("snapshot_max_age"));
    set(&mut settings.reload_drop_max_percent, section.count("reload_drop_max"));
    set(&mut settings.reconcile_every, section.duration("reconcile_every"));
    set(&mut settings.usage_flush, section.duration("usage_flush"));
    if settings.poll >= settings.max_staleness {
        section.fault_of(
            "max_staleness",
            format!(
                "is {}, expected more than poll, which is {}",
                format_duration(settings.max_staleness),
                format_duration(settings.poll)
            ),
        );
    }
    settings
}

fn read_log(section: &Section<'_>) -> LogSettings {
    let mut settings = LogSettings::default();
    set(&mut settings.format, section.choice("format", &[LogFormat::Json, LogFormat::Text]));
    if let Some(level) = section.text("level") {
        match log_level_fault(level) {
            Some(what) => section.fault_of("level", what),
            None => level.clone_into(&mut settings.filter),
        }
    }
    settings
}

/// What is wrong with the text of a log level, if anything.
fn log_level_fault(text: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_target = |target: &str| {
        !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
    };
    let is_level = |part: &str| match part.split_once('=') {
        Some((target, level)) => is_target(target) && LEVELS.contains(&level),
        None => LEVELS.contains(&part),
    };
    let wrong = text.split(',').map(str::trim).find(|part| !is_level(part))?;
    let levels = LEVELS.join(", ");
    Some(format!("found {}, expected one of {levels}; or target=level, joined by commas", fault::shown(wrong)))
}
