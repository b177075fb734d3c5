//! `keyward check`: everything that would keep a configuration from being served, at once.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{self, Output};
use super::place;
use super::values::ConfigFile;
use crate::app::{AppError, remembers_a_store};
use crate::config::{Config, master_secrets};
use crate::policy::{Access, DenyList, Route};
use crate::report::Chain;
use crate::store::{self, Address};
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
    summary: Vec<(&'static str, Part)>,
}

/// One thing that was looked at: in words, and as JSON.
#[derive(Debug)]
struct Part {
    words: String,
    value: Value,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let findings = match place::load(&args.config.path) {
        Ok(config) => {
            let mut findings = Findings::of(&config)?;
            findings.warn_of_readable_password(&args.config.path);
            findings
        }
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
    findings.summary.iter().try_for_each(|(name, part)| {
        let name = name.replace('_', " ");
        output.line(format_args!("  {name:<14} {}", part.words))
    })
}

impl Findings {
    fn of(config: &Config) -> Result<Self, Failure> {
        let mut findings = Self::default();
        findings.add_listener(config, "gateway", &config.gateway.listen, config.gateway.tls.as_ref());
        if !config.gateway.listen_cleartext.is_empty() {
            findings.add_listener(config, "gateway_cleartext", &config.gateway.listen_cleartext, None);
        }
        if let Some(admin) = &config.admin {
            findings.add_listener(config, "admin", &[admin.listen], admin.tls.as_ref());
        }
        if let Some(own) = &config.own_keys {
            findings.add_listener(config, "self", &[own.listen], own.tls.as_ref());
        }
        if let Some(ops) = &config.ops {
            findings.say("ops", ops.to_string(), json!({ "listen": ops }));
        }
        findings.add_routes(config);
        let upstreams = config.proxy.upstreams.len();
        findings.say("upstreams", upstreams.to_string(), json!(upstreams));
        if let Err(faults) = config.proxy.load_certificates() {
            findings.faults.extend(config.certificate_faults("upstreams", &faults).iter().map(ToString::to_string));
        }
        findings.add_deny_list(config);
        findings.add_store(config)?;
        Ok(findings)
    }

    fn say(&mut self, name: &'static str, words: String, value: Value) {
        self.summary.push((name, Part { words, value }));
    }

    fn add_listener(
        &mut self,
        config: &Config,
        name: &'static str,
        listen: &[SocketAddr],
        tls: Option<&ServerSettings>,
    ) {
        let addresses = listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let Some(tls) = tls else {
            let value = json!({ "listen": listen, "certificates": 0 });
            return self.say(name, format!("{addresses}, clear text"), value);
        };
        match Certificates::load(tls.clone()) {
            Err(faults) => {
                let faults = config.certificate_faults(&format!("{name}.tls"), &faults);
                self.faults.extend(faults.iter().map(ToString::to_string));
            }
            Ok(certificates) => {
                let shown = certificates.shown();
                let now = place::clock().now();
                for certificate in shown.iter() {
                    let file = certificate.chain.display();
                    self.warnings.extend(certificate.warnings(now).iter().map(|warning| format!("{file}: {warning}")));
                }
                let count = shown.len();
                let end = shown.iter().map(|certificate| certificate.expires_at).min().unwrap_or_default().to_rfc3339();
                let which = if count == 1 { "which" } else { "the first" };
                let words = format!("{addresses}, TLS, {}, {which} expires {end}", counted(count, "certificate"));
                self.say(name, words, json!({ "listen": listen, "certificates": count, "first_expires_at": end }));
            }
        }
    }

    fn add_routes(&mut self, config: &Config) {
        let routes = config.proxy.routes.routes();
        let public = routes.iter().filter(|route| route.spec().access == Access::Public).count();
        let now = place::clock().now();
        let shadows = |route: &&Route| route.spec().shadow.is_some_and(|shadow| shadow.watches(now));
        let shadow = routes.iter().filter(shadows).count();
        let kinds = [(public, "public"), (shadow, "in shadow")];
        let told: Vec<_> =
            kinds.iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}")).collect();
        let kinds = if told.is_empty() { String::new() } else { format!(", {}", told.join(", ")) };
        let value = json!({ "count": routes.len(), "public": public, "shadow": shadow });
        self.say("routes", format!("{}{kinds}", routes.len()), value);
        let for_ever = routes.iter().filter(|route| route.spec().shadow.is_some_and(|shadow| shadow.until.is_none()));
        self.warnings.extend(for_ever.map(|route| {
            format!("route {}: it lets everybody through, as long as it has shadow = true: shadow_until ends that by a date", route.name())
        }));
        self.warnings.extend(routes.iter().filter_map(|route| {
            let (segment, capture) = route.spec().foreign_capture()?;
            let (name, path) = (route.name(), &route.spec().path);
            Some(format!("route {name}: in {path:?} {segment:?} is only that text; a capture is written {capture}"))
        }));
    }

    fn add_deny_list(&mut self, config: &Config) {
        let Some(path) = &config.gateway.deny_file else { return };
        let file = path.display();
        match std::fs::read(path) {
            Err(error) => self.faults.push(format!(
                "{file}: the deny list cannot be read: {error}; make it, empty if need be, or leave deny_file out"
            )),
            Ok(bytes) => {
                let (list, faults) = DenyList::parse(bytes);
                self.faults.extend(faults.iter().map(|fault| format!("{file}: {fault}")));
                let words = format!("{file}, {}", counted(list.len(), "line"));
                self.say("deny_list", words, json!({ "file": path, "lines": list.len() }));
            }
        }
    }

    /// The store and its master secret, as far as they have been made.
    fn add_store(&mut self, config: &Config) -> Result<(), Failure> {
        let name = config.store.name();
        let kind = match &config.store {
            store::Settings::Sqlite { .. } => "file",
            store::Settings::Postgres(_) => "server",
        };
        let mut is_away = false;
        let store = match config.store.open(place::clock()) {
            Ok(store) => {
                if let Err(error) = config.store.examine() {
                    self.faults.push(Chain(&error).to_string());
                }
                self.say("store", name.clone(), json!({ kind: name, "exists": true }));
                Some(store)
            }
            Err(store::StoreError::Missing { .. }) => {
                self.say("store", not_made(&name), json!({ kind: name, "exists": false }));
                self.warn_of_lost_store(config, &name);
                None
            }
            // A server that is away says nothing about the configuration.
            Err(error @ store::StoreError::Unavailable { .. }) if kind == "server" => {
                is_away = true;
                self.warnings.push(format!("{}; what it holds was not looked at", Chain(&error)));
                None
            }
            Err(error) => {
                self.faults.push(Chain(&error).to_string());
                None
            }
        };
        if !config.has_master_secret_in_environment() && !config.master_file.exists() {
            let secret = &config.master_file;
            match &store {
                Some(_) => self.faults.push(format!(
                    "the store {name} was made with a master secret, and there is none at {}: put that file back",
                    secret.display()
                )),
                None if is_away => self.warnings.push(format!(
                    "no master secret at {}: put it there before the store is used, or run `keyward init`",
                    secret.display()
                )),
                None => self.say(
                    "master_secret",
                    not_made(&secret.display().to_string()),
                    json!({ "file": secret, "exists": false }),
                ),
            }
            return Ok(());
        }
        let secrets = match master_secrets(config) {
            Ok(secrets) => secrets,
            Err(fault) => {
                self.faults.push(fault.to_string());
                return Ok(());
            }
        };
        if let Some(store) = store {
            let known = place::runtime()?.block_on(store.secrets())?;
            let given: Vec<_> = secrets.iter().map(|one| (one.number, one.secret.fingerprint())).collect();
            if !known.is_empty() && !store::belong_together(&known, &given) {
                let error = store::StoreError::WrongSecret { store: store.name().to_owned() };
                self.faults.push(error.to_string());
                return Ok(());
            }
            let newest = known.iter().map(|&(number, _)| number).max();
            if newest.is_some_and(|newest| newest > secrets.newest().number) {
                self.warnings.push(
                    "the store knows a newer master secret than is given here: copy the file that holds it".to_owned(),
                );
            }
        }
        if config.has_master_secret_in_environment() {
            self.say("master_secret", "in the environment".to_owned(), json!({ "file": null, "exists": true }));
        } else {
            let file = &config.master_file;
            self.say("master_secret", file.display().to_string(), json!({ "file": file, "exists": true }));
        }
        Ok(())
    }

    /// What is a secret of its own may be read by nobody else; a configuration may, unless it holds one.
    fn warn_of_readable_password(&mut self, path: &Path) {
        let read = || Some((fs::metadata(path).ok()?.permissions().mode() & 0o777, fs::read_to_string(path).ok()?));
        let Some((mode, text)) = read() else { return };
        let config = text.parse::<toml::Table>().unwrap_or_default();
        let url = ["store", "postgres"].iter().try_fold(&config, |table, name| table.get(*name)?.as_table());
        let url = url.and_then(|postgres| postgres.get("url")?.as_str());
        if mode & 0o077 != 0 && url.is_some_and(|url| Address::parse(url).is_ok_and(|address| address.has_password())) {
            let shown = path.display();
            self.warnings.push(format!(
                "{shown}: store.postgres.url holds a password, and others may read the file (mode {mode:04o}): chmod 600 {shown}, or put \
                 the URL into a file that url_file names"
            ));
        }
    }

    /// A gateway that has followed a store remembers it: one that is missing now was not always.
    fn warn_of_lost_store(&mut self, config: &Config, store: &str) {
        let state = &config.sync.state_dir;
        if remembers_a_store(state) {
            self.warnings.push(AppError::StoreLost { store: store.to_owned(), state: state.clone() }.to_string());
        }
    }
}

fn not_made(what: &str) -> String {
    format!("{what}, not made yet: run `keyward init`")
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn as_map<S: Serializer>(parts: &[(&'static str, Part)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parts.iter().map(|(name, part)| (name, &part.value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_others_may_read_is_warned_of_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keyward.toml");
        let warnings = |text: &str, mode: u32| {
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
            let mut findings = Findings::default();
            findings.warn_of_readable_password(&path);
            findings.warnings.join("\n")
        };
        let with = "[store.postgres]\nurl = \"postgres://kw:hunter2@db/kw\"\n";
        for mode in [0o644, 0o640, 0o604] {
            let warning = warnings(with, mode);
            assert!(warning.contains(&format!("chmod 600 {}", path.display())), "{warning}");
            assert!(!warning.contains("hunter2"), "{warning}");
        }
        assert_eq!(warnings(with, 0o600), "");
        for harmless in ["[store.postgres]\nurl = \"postgres://kw@db/kw\"\n", "[store.sqlite]\npath = \"a\"\n", ""] {
            assert_eq!(warnings(harmless, 0o644), "", "{harmless}");
        }
    }
}
