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
    /// The keys are older than the route tolerates. A key that the deny list names is presented as
    /// itself all the same, so that a route which only watches does not let it pass.
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
pub fn decide<'r>(
    found: &RouteMatch<'_, '_>,
    presented: Presented<'r>,
    deny: &DenyList,
    now: Timestamp,
) -> Result<Permit<'r>, Denial> {
    let route = found.route;
    if route.spec.access == Access::Public {
        return Ok(Permit::new(route.index, PermitKind::Public));
    }
    match judge(found, presented, deny, now) {
        Ok((record, status)) => Ok(Permit::new(route.index, PermitKind::Key { record, status })),
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
    if record.flags().holds_reserved() {
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
        Access::Flags { .. } if found.route.requirement.is_met_as_written(record.flags()) => Ok(()),
        Access::Flags { .. } => Filling::with(&found.captures, |filling| {
            let requirement = &found.route.requirement;
            if requirement.is_met(filling, record.flags()) {
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
    projects.is_empty() || record.project().is_some_and(|project| projects.contains(project))
}

/// Whether the key is of an environment that may use the route.
pub(super) fn allows_environment(route: &Route, record: &Record) -> bool {
    let environments = &route.spec.environments;
    environments.is_empty() || environments.contains(record.environment())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{States, UserCore, UserStanding};
    use crate::policy::testing::{any_of, at, label, record, route, set, table, template};
    use crate::policy::{DeniedStatus, Found, RouteSpec, Shadow, canonicalize, explain};
    use http::Method;
    use proptest::prelude::*;

    fn guarded() -> RouteSpec {
        RouteSpec { access: any_of(&["ring.read", "ring.{ring}.read"]), ..route("r", "/rings/{ring}", &[]) }
    }

    fn with_match<T>(spec: RouteSpec, path: &str, then: impl FnOnce(&RouteMatch<'_, '_>) -> T) -> T {
        let table = table(vec![spec]);
        let path = canonicalize(path).expect("a path");
        match table.find(None, &Method::GET, &path) {
            Found::Route(found) => then(&found),
            Found::NoRoute | Found::WrongMethod(_) | Found::Ambiguous(_) => panic!("no route"),
        }
    }

    fn decided(spec: RouteSpec, presented: Presented<'_>) -> Result<Permit<'_>, Denial> {
        with_match(spec, "/rings/comms", |found| decide(found, presented, &DenyList::default(), at(100)))
    }

    fn refused(spec: RouteSpec, presented: Presented<'_>) -> (Code, Reason) {
        let denial = decided(spec, presented).expect_err("a refusal");
        (denial.code, denial.reason)
    }

    #[test]
    fn a_key_with_the_flag_passes() {
        for flags in [&["ring.read"][..], &["ring.comms.read"], &["ring.*.read"], &["**"]] {
            let key = record(1, flags);
            let permit = decided(guarded(), Presented::Record(&key)).expect("a permit");
            assert_eq!(permit.status(), Some(Status::Active));
            assert_eq!(permit.record().map(|record| record.id), Some(key.id));
            assert_eq!((permit.route(), permit.ends_at()), (0, None));
        }
    }

    #[test]
    fn what_was_presented_is_refused_by_its_own_code() {
        let wait = Duration::from_secs(7);
        for (presented, code, reason) in [
            (Presented::Missing, Code::MissingKey, Reason::AsCoded(Code::MissingKey)),
            (Presented::Repeated, Code::InvalidRequest, Reason::AsCoded(Code::InvalidRequest)),
            (Presented::Malformed, Code::InvalidKey, Reason::Malformed),
            (Presented::Unknown, Code::InvalidKey, Reason::Unknown),
            (Presented::Listed, Code::InvalidKey, Reason::Listed),
            (Presented::UnknownYet, Code::UnknownYet, Reason::AsCoded(Code::UnknownYet)),
            (
                Presented::TooManyFailures { retry_after: wait },
                Code::TooManyFailures,
                Reason::AsCoded(Code::TooManyFailures),
            ),
            (Presented::Overloaded, Code::Overloaded, Reason::AsCoded(Code::Overloaded)),
            (Presented::NotReady, Code::NotReady, Reason::AsCoded(Code::NotReady)),
            (Presented::Stale, Code::StaleKeys, Reason::AsCoded(Code::StaleKeys)),
        ] {
            assert_eq!(refused(guarded(), presented), (code, reason));
        }
        let denial = decided(guarded(), Presented::TooManyFailures { retry_after: wait }).expect_err("a refusal");
        assert_eq!(denial.retry_after_seconds(), Some(7));
    }

    #[test]
    fn every_way_a_key_ends_looks_the_same_from_outside() {
        let live = record(1, &["**"]);
        let states = |states| {
            let mut key = live.clone();
            key.standing.states = states;
            key
        };
        let mut user_disabled = live.clone();
        user_disabled.standing.user = UserStanding::Disabled;
        let mut expired = live.clone();
        expired.standing.expires_at = Some(at(100));
        let mut superseded = live.clone();
        superseded.standing.grace_expires_at = Some(at(100));
        let unknown = decided(guarded(), Presented::Unknown).expect_err("a refusal");
        for (key, reason) in [
            (states(States { revoked: true, ..States::default() }), Reason::Revoked),
            (states(States { disabled: true, ..States::default() }), Reason::Disabled),
            (states(States { superseded: true, ..States::default() }), Reason::Superseded),
            (user_disabled, Reason::UserDisabled),
            (expired, Reason::Expired),
            (superseded, Reason::Superseded),
        ] {
            let denial = decided(guarded(), Presented::Record(&key)).expect_err("a refusal");
            assert_eq!(denial.reason, reason);
            assert_eq!(Denial { reason: unknown.reason, ..denial }, unknown);
        }
    }

    #[test]
    fn a_key_works_until_its_end_and_not_at_it() {
        let mut key = record(1, &["**"]);
        key.standing.expires_at = Some(at(200));
        key.standing.grace_expires_at = Some(at(150));
        let decide_at = |now: Timestamp| {
            with_match(guarded(), "/rings/comms", |found| {
                decide(found, Presented::Record(&key), &DenyList::default(), now)
                    .map(|permit| (permit.status(), permit.ends_at()))
            })
        };
        let last = Timestamp::from_nanos(at(150).nanos() - 1);
        assert_eq!(decide_at(last), Ok((Some(Status::Grace), Some(at(150)))));
        assert_eq!(decide_at(at(150)).expect_err("a refusal").reason, Reason::Superseded);
        assert_eq!(decide_at(at(200)).expect_err("a refusal").reason, Reason::Expired);
    }

    #[test]
    fn a_listed_key_is_refused_before_all_else() {
        let mut key = record(1, &["**"]);
        key.standing.states.revoked = true;
        let (deny, _) = DenyList::parse(key.lineage.to_string());
        let denial =
            with_match(guarded(), "/rings/comms", |found| decide(found, Presented::Record(&key), &deny, at(1)));
        assert_eq!(denial.expect_err("a refusal").reason, Reason::Listed);
    }

    #[test]
    fn a_key_that_lacks_flags_is_told_which_would_do() {
        let key = record(1, &["ring.other.read"]);
        let spec = RouteSpec {
            access: crate::policy::Access::Flags {
                any: vec![template("ring.{ring}.read"), template("ring.read")],
                all: vec![template("mfa")],
            },
            ..guarded()
        };
        let denial = decided(spec.clone(), Presented::Record(&key)).expect_err("a refusal");
        assert_eq!((denial.code, denial.reason), (Code::InsufficientScope, Reason::LacksFlags));
        assert_eq!(denial.scope.as_deref(), Some("ring.comms.read mfa"));
        assert_eq!(denial.status().as_u16(), 403);
        let spec = RouteSpec { denied_status: DeniedStatus::Unauthorized401, ..spec };
        assert_eq!(decided(spec, Presented::Record(&key)).expect_err("a refusal").status().as_u16(), 401);
    }

    #[test]
    fn any_and_all_flags_are_asked_together() {
        let spec = RouteSpec {
            access: crate::policy::Access::Flags {
                any: vec![template("a"), template("b")],
                all: vec![template("c"), template("d")],
            },
            ..guarded()
        };
        for (flags, passes) in [
            (&["a", "c", "d"][..], true),
            (&["b", "c", "d"], true),
            (&["c", "d"], false),
            (&["a", "b", "c"], false),
            (&["a"], false),
            (&[], false),
        ] {
            assert_eq!(decided(spec.clone(), Presented::Record(&record(1, flags))).is_ok(), passes, "{flags:?}");
        }
    }

    #[test]
    fn a_key_without_flags_passes_only_where_any_key_does() {
        let key = record(1, &[]);
        assert!(decided(route("r", "/rings/{ring}", &[]), Presented::Record(&key)).is_ok());
        assert_eq!(refused(guarded(), Presented::Record(&key)).1, Reason::LacksFlags);
    }

    #[test]
    fn a_user_caps_its_keys() {
        let user =
            |flags| UserCore { flags: set(flags), active: true, ..UserCore::unknown("u".parse().expect("a user")) };
        let mut key = record(1, &["ring.**"]);
        key.user = Some(user(&["jobs.**"]).into());
        assert_eq!(refused(guarded(), Presented::Record(&key)).1, Reason::LacksFlags);
        key.user = Some(user(&["ring.read"]).into());
        assert!(decided(guarded(), Presented::Record(&key)).is_ok());
    }

    #[test]
    fn a_public_route_asks_nothing() {
        let public = RouteSpec { access: crate::policy::Access::Public, ..guarded() };
        for presented in [Presented::Missing, Presented::Repeated, Presented::NotReady, Presented::Unknown] {
            let permit = decided(public.clone(), presented).expect("a permit");
            assert!(matches!(permit.kind(), PermitKind::Public));
        }
    }

    #[test]
    fn an_operator_key_opens_no_route() {
        let key = record(1, &["keyward.keys.read", "**"]);
        assert_eq!(refused(guarded(), Presented::Record(&key)), (Code::InsufficientScope, Reason::OperatorKey));
        let any_key = route("r", "/rings/{ring}", &[]);
        assert_eq!(refused(any_key, Presented::Record(&key)), (Code::InsufficientScope, Reason::OperatorKey));
    }

    #[test]
    fn projects_and_environments_narrow() {
        let narrowed = |projects: &[&str], environments: &[&str]| RouteSpec {
            projects: projects.iter().map(|id| id.parse().expect("an id")).collect(),
            environments: environments.iter().map(|id| id.parse().expect("an id")).collect(),
            ..guarded()
        };
        let key = record(1, &["**"]);
        assert!(decided(narrowed(&["other", "acme"], &["live"]), Presented::Record(&key)).is_ok());
        let denied = (Code::InsufficientScope, Reason::WrongProject);
        assert_eq!(refused(narrowed(&["other"], &[]), Presented::Record(&key)), denied);
        let nobodys = Record { label: label(None, &["**"]).into(), ..key.clone() };
        assert_eq!(refused(narrowed(&["acme"], &[]), Presented::Record(&nobodys)), denied);
        assert!(decided(narrowed(&[], &[]), Presented::Record(&nobodys)).is_ok());
        let denied = (Code::InsufficientScope, Reason::WrongEnvironment);
        assert_eq!(refused(narrowed(&[], &["test"]), Presented::Record(&key)), denied);
    }

    #[test]
    fn a_watching_route_lets_pass_what_it_would_refuse_until_its_date() {
        let watching = |until| RouteSpec { shadow: Some(Shadow { until }), ..guarded() };
        let key = record(1, &[]);
        for presented in
            [Presented::Missing, Presented::Malformed, Presented::Unknown, Presented::Record(&key), Presented::NotReady]
        {
            let permit = decided(watching(Some(at(101))), presented).expect("a permit");
            assert!(permit.shadow().is_some() && permit.record().is_none());
            assert!(decided(watching(Some(at(100))), presented).is_err());
            assert!(decided(watching(None), presented).is_ok());
        }
        let allowed = record(1, &["ring.read"]);
        let permit = decided(watching(None), Presented::Record(&allowed)).expect("a permit");
        assert!(permit.shadow().is_none() && permit.record().is_some());
    }

    #[test]
    fn watching_relaxes_neither_the_deny_list_nor_two_credentials() {
        let watching = || RouteSpec { shadow: Some(Shadow { until: None }), ..guarded() };
        assert!(decided(watching(), Presented::Repeated).is_err());
        assert!(decided(watching(), Presented::Listed).is_err());
        let key = record(1, &["**"]);
        let (deny, _) = DenyList::parse(key.id.to_string());
        let listed =
            with_match(watching(), "/rings/comms", |found| decide(found, Presented::Record(&key), &deny, at(1)));
        assert_eq!(listed.expect_err("a refusal").reason, Reason::Listed);
    }

    #[test]
    fn an_explanation_says_which_alternative_was_met() {
        use crate::policy::Outcome::{Met, NoFlag, Unmet};
        let outcomes = |path: &str, flags: &[&str]| {
            with_match(guarded(), path, |found| {
                let explanation = explain(found, &record(1, flags));
                (explanation.any.iter().map(|one| one.outcome).collect::<Vec<_>>(), explanation.permits())
            })
        };
        assert_eq!(outcomes("/rings/comms", &["ring.comms.read"]), (vec![Unmet, Met], true));
        assert_eq!(outcomes("/rings/comms", &["ring.read"]), (vec![Met, Unmet], true));
        assert_eq!(outcomes("/rings/a.b", &["**"]), (vec![Met, NoFlag], true));
        assert_eq!(outcomes("/rings/comms", &["jobs"]), (vec![Unmet, Unmet], false));
    }

    proptest! {
        #[test]
        fn an_explanation_agrees_with_the_decision(
            flags in prop::collection::vec(prop::sample::select(vec!["ring.read", "ring.comms.read", "ring.*.read", "**", "keyward.x", "a"]), 0..3),
            capture in prop::sample::select(vec!["comms", "x", "a.b", "a%3Ab", "%20"]),
            project in prop::option::of(prop::sample::select(vec!["acme", "other"])),
        ) {
            let mut spec = guarded();
            spec.projects.extend(project.map(|id| id.parse().expect("an id")));
            let key = record(1, &flags);
            let (permitted, explained) = with_match(spec, &format!("/rings/{capture}"), |found| {
                (decide(found, Presented::Record(&key), &DenyList::default(), at(1)).is_ok(), explain(found, &key).permits())
            });
            prop_assert_eq!(permitted, explained);
        }
    }
}
