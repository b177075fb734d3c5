//! What a decision on a key rests on, spelt out for people.

use super::decide::{allows_environment, allows_project};
use super::matcher::RouteMatch;
use super::requirement::{Access, Filling, FlagTemplate, Required};
use crate::key::Record;

/// What a route asks of a key, and whether this key gives it. Says nothing of whether the key
/// works at all: that is its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The alternatives, of which one must be met; empty where none are given.
    pub any: Vec<Alternative>,
    /// The flags that must all be met.
    pub all: Vec<Alternative>,
    /// Whether the key's project may use the route.
    pub project: bool,
    /// Whether the key's environment may use the route.
    pub environment: bool,
    /// Whether the key is an operator's, which opens no route.
    pub operator: bool,
}

/// One required flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternative {
    /// As configured, with captures.
    pub template: String,
    /// With the captures filled in, where they can be.
    pub flag: Option<String>,
    /// How it went.
    pub outcome: Outcome,
}

/// Whether a required flag is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The key grants it, and so does its user where it has one.
    Met,
    /// It is not granted.
    Unmet,
    /// What a capture took from the path can stand in no flag.
    NoFlag,
}

impl Explanation {
    /// Whether a working key would be let through.
    #[must_use]
    pub fn permits(&self) -> bool {
        let met = |flag: &Alternative| flag.outcome == Outcome::Met;
        !self.operator
            && self.project
            && self.environment
            && (self.any.is_empty() || self.any.iter().any(met))
            && self.all.iter().all(met)
    }
}

/// What the route that was found asks of the key, and whether it gives it.
#[must_use]
pub fn explain(found: &RouteMatch<'_, '_>, record: &Record) -> Explanation {
    let route = found.route;
    let (any, all) = match &route.spec.access {
        Access::Public | Access::AnyKey => (&[][..], &[][..]),
        Access::Flags { any, all } => (&any[..], &all[..]),
    };
    let requirement = &route.requirement;
    Filling::with(&found.captures, |filling| Explanation {
        any: alternatives(any, &requirement.any, filling, record),
        all: alternatives(all, &requirement.all, filling, record),
        project: allows_project(route, record),
        environment: allows_environment(route, record),
        operator: record.flags().holds_reserved(),
    })
}

fn alternatives(
    templates: &[FlagTemplate],
    required: &[Required],
    filling: &Filling<'_>,
    record: &Record,
) -> Vec<Alternative> {
    let explained = templates.iter().zip(required).map(|(template, required)| {
        let flag = required.fill(filling).map(|flag| flag.to_string());
        let outcome = match &flag {
            None => Outcome::NoFlag,
            Some(_) if required.is_met(filling, record.flags()) => Outcome::Met,
            Some(_) => Outcome::Unmet,
        };
        Alternative { template: template.to_string(), flag, outcome }
    });
    explained.collect()
}
