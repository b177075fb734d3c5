//! `keyward check`: everything that would keep a configuration from being served, at once.

use serde::{Serialize, Serializer};

use super::failure::Failure;
use super::output::{self, Output};
use super::place;
use super::values::ConfigFile;
use crate::config::{Config, master_secret};
use crate::policy::{Access, DenyList};
use crate::report::Chain;
use crate::store::{self, SqliteStore, Store};
use crate::tls::{Certificates, ServerSettings};

/// Check a configuration and the files it names, and print every fault
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward check -c keyward.toml && systemctl reload keyward

Reads the certificates and the deny list, and, where they exist, the master secret and the store.
Exits 64 where there is a fault.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Findings {
    faults: Vec<String>,
    warnings: Vec<String>,
    /// What there is, by its name, in order.
    #[serde(serialize_with = "as_map")]
    summary: Vec<(&'static str, String)>,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let findings = match place::load(&args.config.path) {
        Ok(config) => Findings::of(&config)?,
        Err(Failure::Config(faults)) => Findings { faults, ..Findings::default() },
        Err(other) => return Err(other),
    };
    if args.json {
        output.json(&findings)?;
        output.flush()?;
    }
    if !findings.faults.is_empty() {
        return Err(Failure::Config(findings.faults));
    }
    if args.json {
        return Ok(());
    }
    for warning in &findings.warnings {
        output::note(&format!("warning: {warning}"));
    }
    output.line("ok")?;
    findings.summary.iter().try_for_each(|(name, what)| output.line(format_args!("  {name:<14} {what}")))
}

impl Findings {
    fn of(config: &Config) -> Result<Self, Failure> {
        let mut findings = Self::default();
        let listeners: Vec<_> = config.gateway.listen.iter().map(ToString::to_string).collect();
        findings.add_listener("gateway", &listeners.join(", "), config.gateway.tls.as_ref());
        if let Some(admin) = &config.admin {
            findings.add_listener("admin", &admin.listen.to_string(), admin.tls.as_ref());
        }
        if let Some(ops) = &config.ops {
            findings.say("ops", ops.to_string());
        }
        findings.say("routes", routes_text(config));
        findings.say("upstreams", config.proxy.upstreams.len().to_string());
        if let Err(faults) = config.proxy.load_certificates() {
            findings.faults.extend(faults.iter().map(|fault| Chain(fault).to_string()));
        }
        findings.add_deny_list(config);
        findings.add_store(config)?;
        Ok(findings)
    }

    fn say(&mut self, name: &'static str, what: String) {
        self.summary.push((name, what));
    }

    fn add_listener(&mut self, name: &'static str, address: &str, tls: Option<&ServerSettings>) {
        let Some(tls) = tls else { return self.say(name, format!("{address}, clear text")) };
        match Certificates::load(tls.clone()) {
            Err(faults) => self.faults.extend(faults.iter().map(|fault| Chain(fault).to_string())),
            Ok(certificates) => {
                let shown = certificates.shown();
                let now = place::clock().now();
                for certificate in shown.iter() {
                    let file = certificate.chain.display();
                    self.warnings.extend(certificate.warnings(now).iter().map(|warning| format!("{file}: {warning}")));
                }
                let end = shown.iter().map(|certificate| certificate.expires_at).min().unwrap_or_default();
                self.say(name, format!("{address}, TLS, {} certificates, the first expires {end}", shown.len()));
            }
        }
    }

    fn add_deny_list(&mut self, config: &Config) {
        let Some(path) = &config.gateway.deny_file else { return };
        let file = path.display();
        match std::fs::read(path) {
            Err(error) => self.faults.push(format!("{file}: the deny list cannot be read: {error}")),
            Ok(bytes) => {
                let (list, faults) = DenyList::parse(bytes);
                self.faults.extend(faults.iter().map(|fault| format!("{file}: {fault}")));
                self.say("deny list", format!("{file}, {} entries", list.len()));
            }
        }
    }

    /// The store and its master secret, as far as they have been made.
    fn add_store(&mut self, config: &Config) -> Result<(), Failure> {
        let store::Settings::Sqlite { path } = &config.store;
        let file = path.display();
        let store = match SqliteStore::open(path, place::clock()) {
            Ok(store) => {
                self.say("store", format!("{file}, schema known"));
                Some(store)
            }
            Err(store::StoreError::Missing { .. }) => {
                self.say("store", format!("{file}, not made yet: run `keyward init`"));
                None
            }
            Err(error) => {
                self.faults.push(Chain(&error).to_string());
                None
            }
        };
        if !config.has_master_secret_in_environment() && !config.master_file.exists() {
            let file = config.master_file.display();
            match &store {
                Some(_) => self.faults.push(format!("no master secret in {file}, which the store was made with")),
                None => self.say("master secret", format!("{file}, not made yet: run `keyward init`")),
            }
            return Ok(());
        }
        let secret = match master_secret(config) {
            Ok(secret) => secret,
            Err(fault) => {
                self.faults.push(fault.to_string());
                return Ok(());
            }
        };
        if let Some(store) = store {
            let known = place::runtime()?.block_on(store.secrets())?;
            let fingerprint = secret.fingerprint();
            if !known.is_empty() && !known.iter().any(|(_number, print)| *print == fingerprint) {
                let error = store::StoreError::WrongSecret { store: store.name().to_owned() };
                self.faults.push(error.to_string());
                return Ok(());
            }
        }
        self.say("master secret", "32 bytes".to_owned());
        Ok(())
    }
}

fn as_map<S: Serializer>(pairs: &[(&'static str, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, what)| (name, what)))
}

fn routes_text(config: &Config) -> String {
    let routes = config.proxy.routes.routes();
    let public = routes.iter().filter(|route| route.spec().access == Access::Public).count();
    let shadow = routes.iter().filter(|route| route.spec().shadow.is_some()).count();
    format!("{}, {public} public, {shadow} only watching", routes.len())
}
