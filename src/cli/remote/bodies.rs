//! What is asked, in the API's words.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, FlagSet, Format, Grants, OperatorScope, ProjectId, UserId};
use crate::manage::{Activity, Expiry, KeyChange, NewKey, RevokeScope, UserPatch};

/// A key to make.
#[derive(Debug, Serialize)]
pub(super) struct ToMake<'a> {
    project_id: Option<&'a ProjectId>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<&'a FlagSet>,
    inherit: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    environment_id: &'a EnvironmentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a UserId>,
    props: &'a BTreeMap<String, String>,
    format: Format,
    self_rotate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_interval_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_webhook_url: Option<&'a str>,
    #[serde(skip_serializing_if = "FlagSet::is_empty")]
    may_grant: &'a FlagSet,
    #[serde(skip_serializing_if = "Option::is_none")]
    operates_on: Option<Scope<'a>>,
}

impl<'a> ToMake<'a> {
    /// `new`, which ends as it says from `now` on.
    pub(super) fn of(new: &'a NewKey, now: Timestamp) -> Self {
        let (inherit, scopes) = match &new.grants {
            Grants::Inherit => (true, None),
            Grants::Only(flags) => (false, Some(flags)),
        };
        Self {
            project_id: new.project.as_ref(),
            name: &new.name,
            scopes,
            inherit,
            expires_at: end(new.expires, now),
            environment_id: &new.environment,
            user_id: new.user.as_ref(),
            props: &new.props,
            format: new.format,
            self_rotate: new.self_rotate,
            rotation_interval_days: new.rotation_interval_days,
            rotation_webhook_url: new.rotation_webhook_url.as_deref(),
            may_grant: &new.may_grant,
            operates_on: new.operates_on.as_ref().map(Scope::of),
        }
    }
}

/// Which keys an operator shall manage.
#[derive(Debug, Serialize)]
struct Scope<'a> {
    project: &'a str,
    environment: &'a str,
}

impl<'a> Scope<'a> {
    fn of(scope: &'a OperatorScope) -> Self {
        Self {
            project: scope.project.as_ref().map_or("all", ProjectId::as_str),
            environment: scope.environment.as_ref().map_or("all", EnvironmentId::as_str),
        }
    }
}

/// What to change of a key. What is left out stays as it is.
#[derive(Debug, Serialize)]
pub(super) struct Changes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<&'a FlagSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inherit: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    props: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Option<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment_id: Option<&'a EnvironmentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_interval_days: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_webhook_url: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    may_grant: Option<&'a FlagSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operates_on: Option<Option<Scope<'a>>>,
}

impl<'a> Changes<'a> {
    /// `change`, by which a key ends as it says from `now` on.
    pub(super) fn of(change: &'a KeyChange, now: Timestamp) -> Self {
        let (scopes, inherit) = match &change.grants {
            None => (None, None),
            Some(Grants::Inherit) => (None, Some(true)),
            Some(Grants::Only(flags)) => (Some(flags), None),
        };
        Self {
            name: change.name.as_deref(),
            active: change.active.map(is_on),
            scopes,
            inherit,
            props: change.props.as_ref(),
            expires_at: change.expires.map(|expires| end(expires, now)),
            environment_id: change.environment.as_ref(),
            rotation_interval_days: change.rotation_interval_days,
            rotation_webhook_url: change.rotation_webhook_url.as_ref().map(Option::as_deref),
            may_grant: change.may_grant.as_ref(),
            operates_on: change.operates_on.as_ref().map(|scope| scope.as_ref().map(Scope::of)),
        }
    }
}

/// How a key shall be replaced.
#[derive(Debug, Serialize)]
pub(super) struct ToRotate {
    grace_period_minutes: u64,
}

impl ToRotate {
    /// With this grace, which the API counts in minutes.
    pub(super) fn with(grace: Duration) -> Result<Self, Failure> {
        if !grace.as_secs().is_multiple_of(60) || grace.subsec_nanos() > 0 {
            return Err(Failure::usage("--grace: the management API counts whole minutes, such as 60m"));
        }
        Ok(Self { grace_period_minutes: grace.as_secs() / 60 })
    }
}

/// How far a revocation shall reach.
#[derive(Debug, Serialize)]
pub(super) struct ToRevoke {
    scope: &'static str,
}

impl ToRevoke {
    /// As far as this.
    pub(super) const fn with(scope: RevokeScope) -> Self {
        let scope = match scope {
            RevokeScope::Key => "key",
            RevokeScope::Lineage => "lineage",
            RevokeScope::Descendants => "descendants",
        };
        Self { scope }
    }
}

/// What to change of a user. What is not named is not sent, and stays as it is.
#[derive(Debug, Serialize)]
pub(super) struct UserChanges {
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<FlagSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
}

impl UserChanges {
    pub(super) fn of(patch: UserPatch) -> Self {
        Self {
            project_id: patch.project.map(|project| project.map(|project| project.to_string())),
            flags: patch.flags,
            active: patch.active.map(is_on),
        }
    }
}

fn is_on(activity: Activity) -> bool {
    activity == Activity::Active
}

/// When a key ends that is asked for at `now`.
fn end(expires: Expiry, now: Timestamp) -> Option<Timestamp> {
    match expires {
        Expiry::Never => None,
        Expiry::At(end) => Some(end),
        Expiry::In(span) => Some(now.plus(span)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_is_not_sent() {
        let new = NewKey::named("build", Some("acme".parse().expect("a project")));
        let body = serde_json::to_value(ToMake::of(&new, Timestamp::EPOCH)).expect("JSON");
        let expected = json!({
            "project_id": "acme", "name": "build", "scopes": [], "inherit": false, "environment_id": "live",
            "props": {}, "format": "opaque", "self_rotate": false,
        });
        assert_eq!(body, expected);
        let change =
            KeyChange { expires: Some(Expiry::Never), rotation_webhook_url: Some(None), ..KeyChange::default() };
        let body = serde_json::to_value(Changes::of(&change, Timestamp::EPOCH)).expect("JSON");
        assert_eq!(body, json!({"expires_at": null, "rotation_webhook_url": null}));
    }

    #[test]
    fn a_key_that_inherits_names_no_flags() {
        let new = NewKey { grants: Grants::Inherit, ..NewKey::named("n", None) };
        let body = serde_json::to_value(ToMake::of(&new, Timestamp::EPOCH)).expect("JSON");
        assert_eq!((&body["inherit"], body.get("scopes")), (&json!(true), None));
        let change = KeyChange { grants: Some(Grants::Inherit), ..KeyChange::default() };
        let body = serde_json::to_value(Changes::of(&change, Timestamp::EPOCH)).expect("JSON");
        assert_eq!(body, json!({"inherit": true}));
    }

    #[test]
    fn what_is_not_named_of_a_user_stays() {
        let patch = |project| UserPatch {
            id: "ann".parse().expect("a user id"),
            project,
            flags: None,
            active: Some(Activity::Disabled),
        };
        let body = serde_json::to_value(UserChanges::of(patch(Some(None)))).expect("JSON");
        assert_eq!(body, json!({"project_id": null, "active": false}));
        let flags = Some(FlagSet::default());
        let body =
            serde_json::to_value(UserChanges::of(UserPatch { flags, active: None, ..patch(None) })).expect("JSON");
        assert_eq!(body, json!({"flags": []}));
    }

    #[test]
    fn a_grace_is_whole_minutes() {
        assert!(ToRotate::with(Duration::from_secs(90)).is_err());
        assert_eq!(ToRotate::with(Duration::from_secs(3600)).map(|asked| asked.grace_period_minutes), Ok(60));
    }
}
