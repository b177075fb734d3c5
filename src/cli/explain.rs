//! `keyward explain`: which route a request would take, what it asks, and whether a key would pass.
//! Asks the same functions as the gateway, on the key as the store has it now.

use std::collections::BTreeMap;

use http::Method;
use serde::Serialize;

use super::failure::Failure;
use super::output::Output;
use super::place::{self, Place};
use super::values::{ConfigFile, key_id};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::key::{KeyId, ProjectId, Record, Status};
use crate::policy::{
    Access, Alternative, Code, Denial, DenyList, FlagTemplate, Found, Outcome, PermitKind, Presented, RouteMatch,
    canonicalize, decide, explain, normalize_host,
};

/// Say which route a request would take and whether a key would be let through, and why
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward explain -c keyward.toml --key-id key_0193… GET https://api.example.com/keyrings/comms
  keyward explain -c keyward.toml --no-key POST /jobs

Nothing is sent anywhere. Exits 0 whether the request would pass or not.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    key: Presenting,
    /// The method, in capitals
    #[arg(value_name = "METHOD")]
    method: Method,
    /// The address, or its path alone for routes of any host
    #[arg(value_name = "URL")]
    url: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Presenting {
    /// The key that the request carries
    #[arg(long, value_name = "ID", value_parser = key_id)]
    key_id: Option<KeyId>,
    /// The request carries no key
    #[arg(long)]
    no_key: bool,
}

/// A request, as far as it is decided on.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    method: Method,
    host: Option<String>,
    path: String,
}

/// What would become of the request.
#[derive(Debug, Serialize)]
struct Told {
    method: String,
    host: Option<String>,
    path: String,
    /// `permit`, `denial`, or `shadow` where a denial would pass because the route is in shadow.
    decision: &'static str,
    /// What the caller would be answered; none where the request is forwarded.
    status: Option<u16>,
    /// Of a denial.
    code: Option<&'static str>,
    /// Of a denial: the true one, as the log has it.
    reason: Option<&'static str>,
    /// The same in words, or what lets the request pass.
    detail: String,
    route: Option<ToldRoute>,
    key: Option<ToldKey>,
}

#[derive(Debug, Serialize)]
struct ToldRoute {
    name: String,
    path: String,
    upstream: String,
    requires: String,
    captures: BTreeMap<String, String>,
    /// Each required flag and whether the key meets it; empty without a key.
    flags: Vec<ToldFlag>,
}

#[derive(Debug, Serialize)]
struct ToldFlag {
    template: String,
    flag: Option<String>,
    outcome: &'static str,
}

#[derive(Debug, Serialize)]
struct ToldKey {
    id: KeyId,
    status: Status,
    project: Option<String>,
    environment: String,
    flags: String,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = Asked::parse(args.method, &args.url)?;
    let config = place::load(&args.config.path)?;
    let deny = deny_list(&config)?;
    let now = place::clock().now();
    let told = match args.key.key_id {
        None => tell(&asked, &config, None, &deny, now),
        Some(id) => {
            let place = Place::of(config)?;
            let view = place.wait(place.manager.key(&place.caller, id))?;
            let record = Record::of(&view.key, view.user.as_ref());
            tell(&asked, &place.config, Some(&record), &deny, now)
        }
    };
    if args.json { output.json(&told) } else { print(&told, output) }
}

impl Asked {
    fn parse(method: Method, url: &str) -> Result<Self, Failure> {
        let fault = |what: &str| Failure::usage(format_args!("URL: {what}; expected https://host/path or /path"));
        // Only the authority is taken apart here: the path is judged exactly as it was typed.
        let (host, rest) = match url.split_once("://") {
            Some(("http" | "https", rest)) => {
                let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, rest) = rest.split_at_checked(at).unwrap_or((rest, ""));
                let host = normalize_host(authority).ok_or_else(|| fault("the host is none"))?;
                (Some(host.into_owned()), rest)
            }
            Some(_) => return Err(fault("the scheme is neither http nor https")),
            None => (None, url),
        };
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let path = if path.is_empty() && host.is_some() { "/" } else { path };
        if !path.starts_with('/') {
            return Err(fault("it does not begin with http://, https:// or /"));
        }
        Ok(Self { method, host, path: path.to_owned() })
    }
}

fn deny_list(config: &Config) -> Result<DenyList, Failure> {
    let Some(path) = &config.gateway.deny_file else { return Ok(DenyList::default()) };
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::config([format!("the deny list {} cannot be read: {error}", path.display())]))?;
    // Good lines apply beside bad ones, as in the gateway.
    Ok(DenyList::parse(bytes).0)
}

fn tell(asked: &Asked, config: &Config, record: Option<&Record>, deny: &DenyList, now: Timestamp) -> Told {
    let routes = &config.proxy.routes;
    let key = || record.map(|record| ToldKey::of(record, deny, now));
    let refused = |code: Code, detail: String| Told::refused(asked, key(), code, detail);
    if matches!(asked.method, Method::TRACE | Method::CONNECT) {
        return refused(Code::MethodNotAllowed, "this method is never forwarded".to_owned());
    }
    if !routes.knows_method(&asked.method) {
        return refused(Code::MethodUnknown, "no route lists this method".to_owned());
    }
    let path = match canonicalize(&asked.path) {
        Ok(path) => path,
        Err(fault) => return refused(Code::AmbiguousPath, fault.to_string()),
    };
    match routes.find(asked.host.as_deref(), &asked.method, &path) {
        Found::NoRoute => refused(Code::NoRoute, "no route matches this host and path".to_owned()),
        Found::WrongMethod(allow) => {
            let methods: Vec<_> = allow.iter().map(Method::as_str).collect();
            refused(Code::MethodNotAllowed, format!("the path is served, for {}", methods.join(", ")))
        }
        Found::Ambiguous(fault) => refused(Code::AmbiguousPath, fault.to_string()),
        Found::Route(found) => {
            let presented = record.map_or(Presented::Missing, Presented::Record);
            let route = ToldRoute::of(&found, record);
            let told = Told { route: Some(route), ..Told::permitted(asked, key()) };
            match decide(&found, presented, deny, now) {
                Err(denial) => told.denied("denial", &denial),
                Ok(permit) => match permit.kind() {
                    PermitKind::Shadow(denial) => Told { status: None, ..told.denied("shadow", denial) },
                    PermitKind::Public => Told { detail: "the route is public".to_owned(), ..told },
                    PermitKind::Key { .. } => told,
                },
            }
        }
    }
}

impl Told {
    fn permitted(asked: &Asked, key: Option<ToldKey>) -> Self {
        Self {
            method: asked.method.to_string(),
            host: asked.host.clone(),
            path: asked.path.clone(),
            decision: "permit",
            status: None,
            code: None,
            reason: None,
            detail: "the key works and meets what the route requires".to_owned(),
            route: None,
            key,
        }
    }

    fn refused(asked: &Asked, key: Option<ToldKey>, code: Code, detail: String) -> Self {
        Self {
            decision: "denial",
            status: Some(code.status()),
            code: Some(code.as_str()),
            reason: Some(code.as_str()),
            detail,
            ..Self::permitted(asked, key)
        }
    }

    fn denied(self, decision: &'static str, denial: &Denial) -> Self {
        let needs = denial.scope.as_deref().map(|scope| format!(" Enough would be: {scope}.")).unwrap_or_default();
        Self {
            decision,
            status: Some(denial.status().as_u16()),
            code: Some(denial.code.as_str()),
            reason: Some(denial.reason.as_str()),
            detail: format!("{}{needs}", denial.detail(true)),
            ..self
        }
    }
}

impl ToldRoute {
    fn of(found: &RouteMatch<'_, '_>, record: Option<&Record>) -> Self {
        let spec = found.route.spec();
        let flags = record.map(|record| explain(found, record)).map(|told| told.any.into_iter().chain(told.all));
        Self {
            name: spec.name.clone(),
            path: spec.path.clone(),
            upstream: spec.forward.upstream.clone(),
            requires: requires(&spec.access, &spec.projects, &spec.environments),
            captures: found
                .route
                .capture_names()
                .map(str::to_owned)
                .zip(found.captures.iter().map(str::to_owned))
                .collect(),
            flags: flags.into_iter().flatten().map(ToldFlag::of).collect(),
        }
    }
}

impl ToldFlag {
    fn of(alternative: Alternative) -> Self {
        let outcome = match alternative.outcome {
            Outcome::Met => "met",
            Outcome::Unmet => "not met",
            Outcome::NoFlag => "not met: what the path holds there can stand in no flag",
        };
        Self { template: alternative.template, flag: alternative.flag, outcome }
    }
}

impl ToldKey {
    fn of(record: &Record, deny: &DenyList, now: Timestamp) -> Self {
        use crate::key::RecordFlags::{Both, Inherited, Own};
        let flags = match record.flags() {
            Own(flags) => flags.to_string(),
            Inherited(flags) => format!("{flags} (its user's)"),
            Both { key, user } => format!("{key} (as far as its user holds them: {user})"),
        };
        Self {
            id: record.id,
            status: record.standing.status(deny.names(record), now),
            project: record.project().map(ToString::to_string),
            environment: record.environment().to_string(),
            flags,
        }
    }
}

/// What a route asks, in words.
fn requires<E: ToString>(access: &Access, projects: &[ProjectId], environments: &[E]) -> String {
    let mut parts = Vec::new();
    let list = |templates: &[FlagTemplate]| templates.iter().map(FlagTemplate::as_str).collect::<Vec<_>>().join(", ");
    match access {
        Access::Public => parts.push("nothing".to_owned()),
        Access::AnyKey => parts.push("any live key".to_owned()),
        Access::Flags { any, all } => {
            if !any.is_empty() {
                parts.push(format!("any of {}", list(any)));
            }
            if !all.is_empty() {
                parts.push(format!("all of {}", list(all)));
            }
        }
    }
    let names = |names: Vec<String>| names.join(", ");
    if !projects.is_empty() {
        parts.push(format!("a key of project {}", names(projects.iter().map(ToString::to_string).collect())));
    }
    if !environments.is_empty() {
        parts.push(format!("a key of environment {}", names(environments.iter().map(ToString::to_string).collect())));
    }
    parts.join("; ")
}

fn print(told: &Told, output: &mut Output) -> Result<(), Failure> {
    let mut say = |name: &str, value: &str| output.line(format_args!("{name:<9} {value}"));
    say("request", &format!("{} {}{}", told.method, told.host.as_deref().unwrap_or(""), told.path))?;
    match &told.route {
        None => say("route", "none")?,
        Some(route) => {
            say("route", &format!("{} ({}) to upstream {}", route.name, route.path, route.upstream))?;
            for (name, value) in &route.captures {
                say("", &format!("{{{name}}} is {value:?}"))?;
            }
            say("requires", &route.requires)?;
            for flag in &route.flags {
                let filled = flag.flag.as_deref().unwrap_or(&flag.template);
                say("", &format!("{filled}: {}", flag.outcome))?;
            }
        }
    }
    match &told.key {
        None => say("key", "none")?,
        Some(key) => {
            let project = key.project.as_deref().unwrap_or("all");
            say(
                "key",
                &format!("{}, {}, project {project}, environment {}", key.id, key.status.as_str(), key.environment),
            )?;
            say("", &format!("flags {}", if key.flags.is_empty() { "(none)" } else { &key.flags }))?;
        }
    }
    let answer = match (told.decision, told.status, told.code) {
        ("shadow", _, Some(code)) => format!("permit, as the route is in shadow; without it a denial, {code}"),
        (_, Some(status), Some(code)) => format!("denial, {status} {code}"),
        _ => "permit".to_owned(),
    };
    say("decision", &answer)?;
    match told.reason {
        Some(reason) if told.code != Some(reason) => say("why", &format!("{reason}: {}", told.detail)),
        _ => say("why", &told.detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(url: &str) -> Result<(Option<String>, String), String> {
        let asked = Asked::parse(Method::GET, url).map_err(|failure| failure.lines().concat())?;
        Ok((asked.host, asked.path))
    }

    #[test]
    fn an_address_is_split_and_its_path_left_as_typed() {
        let host = Some("api.example.com".to_owned());
        assert_eq!(asked("https://API.example.com:8443/a/%2e?q=/x#f"), Ok((host.clone(), "/a/%2e".to_owned())));
        assert_eq!(asked("https://api.example.com"), Ok((host, "/".to_owned())));
        assert_eq!(asked("/a/../b"), Ok((None, "/a/../b".to_owned())));
        assert!(asked("a/b").is_err());
        assert!(asked("ftp://x/").is_err());
        assert!(asked("http://user:secret@x/").is_err_and(|line| !line.contains("secret")));
    }
}
