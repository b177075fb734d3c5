//! The decision: may this request pass? Pure, and the only place where a [`Permit`] is made.

use std::time::Duration;

use super::denial::{Code, Denial, Reason};
use super::deny::DenyList;
use super::matcher::RouteMatch;
use super::permit::{Permit, PermitKind};
use super::requirement::{Access, Filling};
use super::route::Route;
use crate::clock::Timestamp;
use crate::key::{Record, Status};

/// What came of looking for the request's key.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// No credential.
    Missing,
    /// More than one credential.
    Repeated,
    /// One that can be no token, or has a wrong checksum.
    Malformed,
    /// A token that is no key's.
    Unknown,
    /// A token that the table does not know, and whose hash the deny list names.
    Listed,
    /// A token that is not known here, while the store cannot be asked.
    UnknownYet,
    /// An unknown token, from where too many came already.
    TooManyFailures {
        /// After how long to try again.
        retry_after: Duration,
    },
    /// An unknown token, while too many others are being looked for.
    Overloaded,
    /// No keys have been loaded yet.
    NotReady,
    /// The keys are older than the route tolerates.
    Stale,
    /// A key.
    Record(&'a Record),
}

/// Decides on a request.
///
/// A key that does not work is refused before what it may do is looked at, with the same answer as
/// an unknown one.
///
/// # Errors
/// The refusal.
pub fn decide(
    found: &RouteMatch<'_, '_>,
    presented: Presented<'_>,
    deny: &DenyList,
    now: Timestamp,
) -> Result<Permit, Denial> {
    let route = found.route;
    if route.spec.access == Access::Public {
        return Ok(Permit::new(route.index, PermitKind::Public));
    }
    match judge(found, presented, deny, now) {
        Ok((record, status)) => Ok(Permit::new(route.index, PermitKind::Key { record: record.clone(), status })),
        Err(denial) if may_watch(route, &denial, now) => Ok(Permit::new(route.index, PermitKind::Shadow(denial))),
        Err(denial) => Err(denial),
    }
}

/// Whether the route only watches, and this refusal is one that watching relaxes. The deny list is
/// an emergency brake, and a request with two credentials means one thing here and perhaps another
/// upstream: neither is relaxed.
fn may_watch(route: &Route, denial: &Denial, now: Timestamp) -> bool {
    let relaxed = denial.reason != Reason::Listed && denial.code != Code::InvalidRequest;
    relaxed && route.spec.shadow.is_some_and(|shadow| shadow.watches(now))
}

fn judge<'r>(
    found: &RouteMatch<'_, '_>,
    presented: Presented<'r>,
    deny: &DenyList,
    now: Timestamp,
) -> Result<(&'r Record, Status), Denial> {
    let record = match presented {
        Presented::Record(record) => record,
        Presented::Missing => return Err(Code::MissingKey.into()),
        Presented::Repeated => return Err(Code::InvalidRequest.into()),
        Presented::Malformed => return Err(Reason::Malformed.into()),
        Presented::Unknown => return Err(Reason::Unknown.into()),
        Presented::Listed => return Err(Reason::Listed.into()),
        Presented::UnknownYet => return Err(Code::UnknownYet.into()),
        Presented::TooManyFailures { retry_after } => {
            return Err(Denial { retry_after: Some(retry_after), ..Code::TooManyFailures.into() });
        }
        Presented::Overloaded => return Err(Code::Overloaded.into()),
        Presented::NotReady => return Err(Code::NotReady.into()),
        Presented::Stale => return Err(Code::StaleKeys.into()),
    };
    let status = record.standing.status(deny.names(record), now);
    if let Some(reason) = Reason::of_status(status) {
        return Err(reason.into());
    }
    authorize(found, record)?;
    Ok((record, status))
}

/// Whether a key that works may use the route.
fn authorize(found: &RouteMatch<'_, '_>, record: &Record) -> Result<(), Denial> {
    let spec = &found.route.spec;
    let denied = |reason: Reason| Denial { denied_status: spec.denied_status, ..reason.into() };
    if record.flags.holds_reserved() {
        return Err(denied(Reason::OperatorKey));
    }
    if !allows_project(found.route, record) {
        return Err(denied(Reason::WrongProject));
    }
    if !allows_environment(found.route, record) {
        return Err(denied(Reason::WrongEnvironment));
    }
    match &spec.access {
        Access::Public | Access::AnyKey => Ok(()),
        Access::Flags { .. } => Filling::with(&found.captures, |filling| {
            let requirement = &found.route.requirement;
            if requirement.is_met(filling, &record.flags) {
                return Ok(());
            }
            Err(Denial { scope: requirement.enough(filling), ..denied(Reason::LacksFlags) })
        }),
    }
}

/// Whether the key is of a project that may use the route. One of no project fails where some are
/// listed.
pub(super) fn allows_project(route: &Route, record: &Record) -> bool {
    let projects = &route.spec.projects;
    projects.is_empty() || record.project.as_ref().is_some_and(|project| projects.contains(project))
}

/// Whether the key is of an environment that may use the route.
pub(super) fn allows_environment(route: &Route, record: &Record) -> bool {
    let environments = &route.spec.environments;
    environments.is_empty() || environments.contains(&record.environment)
}
