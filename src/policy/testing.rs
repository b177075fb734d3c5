//! Records, routes and look-ups for the tests of this floor.

use std::sync::Arc;

use super::*;
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, FlagSet, KeyId, Label, Record, Standing, States, UserStanding};

/// A live key of project `acme`, environment `live`, without a user.
pub(super) fn record(number: u8, flags: &[&str]) -> Record {
    let id = KeyId::from_bits(u128::from(number));
    Record {
        id,
        lineage: id.lineage(),
        hash_head: [number; 32],
        standing: Standing {
            states: States::default(),
            user: UserStanding::None,
            expires_at: None,
            grace_expires_at: None,
        },
        label: label(Some("acme"), flags).into(),
        user: None,
        slot: 0,
    }
}

/// Of environment `live`.
pub(super) fn label(project: Option<&str>, flags: &[&str]) -> Label {
    Label {
        project: project.map(|id| id.parse().expect("a project")),
        environment: EnvironmentId::live(),
        flags: Some(set(flags)),
    }
}

pub(super) fn set(flags: &[&str]) -> Arc<FlagSet> {
    Arc::new(FlagSet::parse(flags).expect("flags of a test are well-formed"))
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

pub(super) fn template(text: &str) -> FlagTemplate {
    FlagTemplate::parse(text).expect("a required flag")
}

pub(super) fn any_of(flags: &[&str]) -> Access {
    Access::Flags { any: flags.iter().map(|flag| template(flag)).collect(), all: Vec::new() }
}

/// A route of any host and key, for these methods.
pub(super) fn route(name: &str, path: &str, methods: &[&str]) -> RouteSpec {
    let methods = methods.iter().map(|method| method.parse().expect("a method")).collect();
    RouteSpec { methods, ..RouteSpec::new(name, path, Access::AnyKey, Forward::to("api")) }
}

pub(super) fn table(specs: Vec<RouteSpec>) -> RouteTable {
    RouteTable::build(specs, PathOptions::default()).expect("routes of a test are well-formed")
}

/// What became of a request, as text: the route and its captures, or the refusal.
pub(super) fn look(table: &RouteTable, host: Option<&str>, method: &str, path: &str) -> String {
    let path = match canonicalize(path) {
        Ok(path) => path,
        Err(fault) => return format!("refused: {fault}"),
    };
    match table.find(host, &method.parse().expect("a method"), &path) {
        Found::Route(found) => {
            let captures: Vec<_> = found.captures.iter().collect();
            if captures.is_empty() {
                found.route.name().to_owned()
            } else {
                format!("{} {}", found.route.name(), captures.join(" "))
            }
        }
        Found::NoRoute => "no route".to_owned(),
        Found::WrongMethod(allow) => {
            let mut names: Vec<_> = allow.iter().map(http::Method::as_str).collect();
            names.sort_unstable();
            format!("allow {}", names.join(","))
        }
        Found::Ambiguous(fault) => format!("refused: {fault}"),
    }
}
