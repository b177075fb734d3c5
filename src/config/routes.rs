//! `[[routes]]`: who may do what. Each table becomes a [`RouteSpec`]; what only shows between
//! routes, such as a tie, is found by [`RouteTable::build`] and given its lines here.

use std::collections::BTreeMap;
use std::str::FromStr;

use http::{HeaderName, Method};
use toml::de::DeValue;

use super::cors;
use super::fault::{nearest, shown};
use super::fields::{Secrets, read_credential_for_upstream, read_rules};
use super::gateway::{RouteDefaults, read_credential, read_denied_status, read_path_options};
use super::reader::{Item, Section, set};
use super::upstreams::{Upstreams, is_name};
use crate::clock::Timestamp;
use crate::policy::{
    Access, CredentialSource, FlagTemplate, Forward, HostForward, HostPattern, Prefix, RouteFault, RouteProblem,
    RouteSpec, RouteTable, Shadow, StaleRule, normalize_host,
};

/// Reads every route and builds the table. None where any of it is at fault.
pub(super) fn read(
    root: &Section<'_>,
    defaults: &RouteDefaults,
    upstreams: &Upstreams,
    secrets: &Secrets<'_>,
) -> Option<RouteTable> {
    let Some(sections) = root.sections("routes") else {
        if !root.has("routes") {
            root.missing("routes", "add [[routes]] with name, path, upstream, and one of any_flags, any_key, public");
        }
        return None;
    };
    if sections.is_empty() {
        root.fault_of("routes", "is empty, expected at least one route");
    }
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut specs = Vec::new();
    let mut of_spec = Vec::new();
    let mut is_complete = true;
    for section in &sections {
        let name = read_name(section, &mut names);
        let Some((spec, is_whole)) = read_route(section, name, defaults, upstreams, secrets) else {
            is_complete = false;
            continue;
        };
        is_complete &= is_whole;
        specs.push(spec);
        of_spec.push(section);
    }
    match RouteTable::build(specs, defaults.path_options) {
        Ok(table) => is_complete.then_some(table),
        Err(faults) => {
            for fault in faults {
                report(&fault, &of_spec);
            }
            None
        }
    }
}

/// Gives a fault of the table its line, and a tie the line of the other route too.
fn report(fault: &RouteFault, sections: &[&Section<'_>]) {
    let Some(section) = sections.get(fault.route) else { return };
    let what = match &fault.problem {
        RouteProblem::Tie { other, other_name } => {
            let place = sections.get(*other).map(|other| format!("{}, line {}", other.path(), other.line()));
            format!(
                "matches the same requests as route {} ({}), and neither is more specific: give them different paths, \
                 hosts or methods",
                shown(other_name),
                place.unwrap_or_default()
            )
        }
        problem => problem.to_string(),
    };
    section.fault_of(fault.field, what);
}

fn read_name<'a>(section: &Section<'a>, names: &mut BTreeMap<&'a str, String>) -> Option<&'a str> {
    if !section.has("name") {
        section.missing("name", "add name = \"…\"; logs and metrics show it");
    }
    let name = section.text("name")?;
    if !is_name(name) {
        section.fault_of("name", format!("found {}, expected 1 to 64 of A-Z a-z 0-9 _ . -", shown(name)));
        return None;
    }
    if let Some(first) = names.get(name) {
        section.fault_of("name", format!("{} is the name of {first} too: choose another", shown(name)));
        return None;
    }
    names.insert(name, section.path().to_owned());
    Some(name)
}

/// The route, and whether it is whole. What is at fault and says nothing about path and host has a
/// stand-in, so that the faults of those are told too.
fn read_route(
    section: &Section<'_>,
    name: Option<&str>,
    defaults: &RouteDefaults,
    upstreams: &Upstreams,
    secrets: &Secrets<'_>,
) -> Option<(RouteSpec, bool)> {
    if !section.has("path") {
        section.missing("path", "add path = \"/…\"; \"/{*rest}\" is every path");
    }
    let path = section.text("path");
    let host = if section.has("host") { section.parsed("host") } else { Some(HostPattern::Any) };
    let access = read_access(section);
    let mut forward = read_forward(section, defaults, upstreams);
    let mut path_options = defaults.path_options;
    read_path_options(section, &mut path_options);
    let methods = read_methods(section);
    let projects = read_unless_empty(section, "projects");
    let environments = read_unless_empty(section, "environments");
    let shadow = read_shadow(section);
    let credential = read_credential(section).unwrap_or_else(|| defaults.credential.clone());
    let denied_status = read_denied_status(section).unwrap_or(defaults.denied_status);
    let on_stale = section.choice("on_stale", &[StaleRule::Serve, StaleRule::Deny]);
    read_fields(section, &mut forward, &credential, secrets);
    forward.cors = cors::read(&section.section("cors"), &methods, access.as_ref(), &credential);
    // Without an upstream it leads nowhere.
    let is_whole = name.is_some() && access.is_some() && !forward.upstream.is_empty();
    let spec = RouteSpec {
        name: name.map_or_else(|| format!("unnamed-{}", section.line()), str::to_owned),
        host: host?,
        path: path?.to_owned(),
        methods,
        access: access.unwrap_or(Access::AnyKey),
        credential,
        projects,
        environments,
        shadow,
        denied_status,
        path_options,
        on_stale,
        forward,
    };
    Some((spec, is_whole))
}

/// Exactly one of flags, `any_key` and `public`.
fn read_access(section: &Section<'_>) -> Option<Access> {
    const ONE_OF: &str = "any_flags or all_flags, any_key = true, public = true";
    let any = read_flags(section, "any_flags");
    let all = read_flags(section, "all_flags");
    let any_key = section.switch("any_key").unwrap_or(false);
    let public = section.switch("public").unwrap_or(false);
    let has_flags = section.has("any_flags") || section.has("all_flags");
    match (has_flags, any_key, public) {
        (true, false, false) => {
            let (any, all) = (any?, all?);
            (!any.is_empty() || !all.is_empty()).then_some(Access::Flags { any, all })
        }
        (false, true, false) => Some(Access::AnyKey),
        (false, false, true) => Some(Access::Public),
        (false, false, false) => {
            let is_unread = section.has("any_key") && section.switch("any_key").is_none()
                || section.has("public") && section.switch("public").is_none();
            let is_mistyped = ["any_flags", "all_flags", "any_key", "public"].iter().any(|key| section.mistypes(key));
            if !is_unread && !is_mistyped {
                section.fault(format!("says nobody may use it: add one of {ONE_OF}"));
            }
            None
        }
        _ => {
            section.fault(format!("says in more than one way who may use it: keep one of {ONE_OF}"));
            None
        }
    }
}

/// The flags under `key`; none where one of them is at fault, nothing where the key is left out.
fn read_flags(section: &Section<'_>, key: &str) -> Option<Vec<FlagTemplate>> {
    if !section.has(key) {
        return Some(Vec::new());
    }
    let items = section.list(key)?;
    if items.is_empty() {
        section.fault_of(key, "is empty and would let nobody through: name a flag, or remove it");
        return None;
    }
    let mut flags = Vec::new();
    let mut is_whole = true;
    for item in items {
        let Some(text) = item.text() else {
            is_whole = false;
            continue;
        };
        match FlagTemplate::parse(text) {
            Ok(flag) if flags.contains(&flag) => item.fault(format!("{} is there twice: keep one", shown(text))),
            Ok(flag) => flags.push(flag),
            Err(fault) => {
                is_whole = false;
                item.fault(fault.to_string());
            }
        }
    }
    is_whole.then_some(flags)
}

fn read_methods(section: &Section<'_>) -> Vec<Method> {
    let Some(items) = section.list("methods") else { return Vec::new() };
    if items.is_empty() {
        section.fault_of("methods", "is empty: name a method, or remove it for any method");
    }
    read_method_items(&items)
}

/// The methods of a list.
pub(super) fn read_method_items(items: &[Item<'_>]) -> Vec<Method> {
    let mut methods = Vec::new();
    for item in items {
        let Some(text) = item.text() else { continue };
        match method(text) {
            Ok(method) if methods.contains(&method) => item.fault(format!("{method} is there twice: keep one")),
            Ok(method) => methods.push(method),
            Err(what) => item.fault(what),
        }
    }
    methods
}

fn method(text: &str) -> Result<Method, String> {
    let upper = text.to_ascii_uppercase();
    if matches!(upper.as_str(), "TRACE" | "CONNECT") {
        return Err(format!("{upper} is never forwarded: remove it"));
    }
    let method = Method::from_str(text).map_err(|_no_method| format!("found {}, expected a method", shown(text)))?;
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    if text != upper && known.contains(&upper.as_str()) {
        return Err(format!("found {}, and methods are case-sensitive: write \"{upper}\"", shown(text)));
    }
    Ok(method)
}

/// A list that narrows: left out it does not, and empty it would leave nobody.
fn read_unless_empty<T>(section: &Section<'_>, key: &str) -> Vec<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let values = section.list_of(key).unwrap_or_default();
    if section.list(key).is_some_and(|items| items.is_empty()) {
        section.fault_of(key, "is empty and would let nobody through: name one, or remove it");
    }
    values
}

fn read_shadow(section: &Section<'_>) -> Option<Shadow> {
    let shadow = section.switch("shadow").unwrap_or(false);
    let until = section.item("shadow_until").and_then(|item| read_time(&item));
    if !shadow && section.has("shadow_until") {
        section.fault_of("shadow_until", "has no meaning without shadow = true");
    }
    shadow.then_some(Shadow { until })
}

fn read_time(item: &Item<'_>) -> Option<Timestamp> {
    let text = match item.value() {
        DeValue::String(text) => text.clone().into_owned(),
        DeValue::Datetime(time) => time.to_string(),
        _ => String::new(),
    };
    let time = text.parse().ok();
    if time.is_none() {
        item.expected("an RFC 3339 time such as \"2027-01-31T00:00:00Z\"");
    }
    time
}

fn read_forward(section: &Section<'_>, defaults: &RouteDefaults, upstreams: &Upstreams) -> Forward {
    if !section.has("upstream") {
        section.missing("upstream", "add upstream = \"…\", the name of one of [upstreams.NAME]");
    }
    let upstream = section.text("upstream");
    if let Some(what) = upstream.and_then(|name| upstreams.name_fault(name)) {
        section.fault_of("upstream", what);
    }
    let mut forward = Forward::to(upstream.unwrap_or_default());
    forward.prefix = read_prefix(section);
    forward.host = read_host_rewrite(section);
    set(&mut forward.forward_credential, section.switch("forward_credential"));
    set(&mut forward.assertion, section.switch("assertion"));
    if forward.assertion && section.switch("public") == Some(true) {
        section
            .fault_of("assertion", "is true on a public route, where there is no key to tell of: remove one of them");
    }
    set(&mut forward.shared_cache, section.switch("shared_cache"));
    let body_max = section.size("body_max").unwrap_or(defaults.body_max);
    forward.request_body_max = (body_max > 0).then_some(body_max);
    for item in section.list("upgrades").unwrap_or_default() {
        match item.text() {
            Some("websocket") => forward.websocket = true,
            Some(_other) => item.expected("\"websocket\""),
            None => {}
        }
    }
    let unfit = upstream.filter(|_| forward.websocket).and_then(|name| upstreams.websocket_fault(name));
    if let Some(what) = unfit {
        section.fault_of("upgrades", what);
    }
    set(&mut forward.websocket_idle, section.duration("upgrade_idle"));
    forward.stream_idle = section.duration("stream_idle");
    for item in section.list("keep_override_headers").unwrap_or_default() {
        forward.keep_override_fields.extend(read_override(&item));
    }
    forward
}

/// What the route says of fields, and of a credential of the gateway's own.
fn read_fields(section: &Section<'_>, forward: &mut Forward, keyed: &[CredentialSource], secrets: &Secrets<'_>) {
    forward.request_fields = read_rules(&section.section("request_headers"), secrets);
    forward.response_fields = read_rules(&section.section("response_headers"), secrets);
    let credential = section.section("upstream_credential");
    if !credential.is_there() {
        return;
    }
    forward.upstream_credential = read_credential_for_upstream(&credential, secrets);
    let Some((name, _)) = &forward.upstream_credential else { return };
    let rules = &forward.request_fields;
    let is_ruled = rules.remove.contains(name) || rules.set.iter().chain(&rules.add).any(|(other, _)| other == name);
    if is_ruled {
        credential.fault_of("header", format!("{name} is in request_headers too: keep one"));
    }
    if forward.forward_credential && keyed.iter().any(|source| source.field() == name) {
        credential.fault_of("header", format!("{name} cannot also be forwarded: remove forward_credential"));
    }
}

fn read_prefix(section: &Section<'_>) -> Prefix {
    let path = |key| {
        let text = section.text(key)?;
        if text.starts_with('/') {
            return Some(text.to_owned());
        }
        section.fault_of(key, format!("found {}, expected a path that begins with /", shown(text)));
        None
    };
    match (path("strip_prefix"), path("rewrite_prefix")) {
        (None, None) => Prefix::Keep,
        (Some(from), None) => Prefix::Strip(from),
        (from, Some(to)) => Prefix::Rewrite { from: from.unwrap_or_else(|| "/".to_owned()), to },
    }
}

fn read_host_rewrite(section: &Section<'_>) -> HostForward {
    match section.text("host_rewrite") {
        None => HostForward::Client,
        Some("target") => HostForward::Target,
        Some(host) => {
            if normalize_host(host).is_none() {
                section.fault_of("host_rewrite", format!("found {}, expected \"target\" or a host", shown(host)));
            }
            HostForward::Fixed(host.to_owned())
        }
    }
}

/// One of the fields that are stripped because some services take method or URL from them.
fn read_override(item: &Item<'_>) -> Option<HeaderName> {
    const OVERRIDES: [&str; 6] = [
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-method",
    ];
    let text = item.text()?;
    let name = text.to_ascii_lowercase();
    if OVERRIDES.contains(&name.as_str()) {
        return name.parse().ok();
    }
    let remedy = match nearest(&name, OVERRIDES) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("expected one of {}", OVERRIDES.join(", ")),
    };
    item.fault(format!("found {}, which is not stripped anyway; {remedy}", shown(text)));
    None
}
