//! Keys and users as JSON: the shape of the `/v1` API, everywhere the same.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, FlagSet, Format, Grants, Key, KeyId, LineageId, OperatorScope, ProjectId, Status, User, UserId,
};
use crate::manage::KeyView;

/// A key as JSON. `scopes` are its flags; they are empty where it inherits its user's.
#[derive(Debug, Serialize)]
pub(super) struct KeyShape<'a> {
    id: KeyId,
    project_id: Option<&'a ProjectId>,
    name: &'a str,
    key_prefix: Option<&'a str>,
    scopes: FlagSet,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    created_at: Timestamp,
    revoked_at: Option<Timestamp>,
    replaced_by_key_id: Option<KeyId>,
    grace_expires_at: Option<Timestamp>,
    environment_id: &'a EnvironmentId,
    rotation_interval_days: Option<u32>,
    next_rotation_at: Option<Timestamp>,
    rotation_webhook_url: Option<&'a str>,
    active: bool,
    status: Status,
    inherit: bool,
    user_id: Option<&'a UserId>,
    props: &'a BTreeMap<String, String>,
    updated_at: Timestamp,
    revision: u64,
    format: Format,
    lineage_id: LineageId,
    minted_by: Option<KeyId>,
    self_rotate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    may_grant: Option<&'a FlagSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operates_on: Option<OperatesOn<'a>>,
}

/// Which keys an operator may manage.
#[derive(Debug, Serialize)]
struct OperatesOn<'a> {
    project: &'a str,
    environment: &'a str,
}

impl<'a> KeyShape<'a> {
    /// A key that was read.
    pub(super) fn of(view: &'a KeyView) -> Self {
        Self { last_used_at: view.usage.map(|usage| usage.last_used_at), ..Self::unused(&view.key, view.status) }
    }

    /// A key that was just changed, and whose usage was not read.
    pub(super) fn unused(key: &'a Key, status: Status) -> Self {
        Self {
            id: key.id,
            project_id: key.project.as_ref(),
            name: &key.name,
            key_prefix: key.shown_prefix.as_deref(),
            scopes: own_flags(key),
            expires_at: key.expires_at,
            last_used_at: None,
            created_at: key.created_at,
            revoked_at: key.revoked_at,
            replaced_by_key_id: key.replaced_by,
            grace_expires_at: key.grace_expires_at,
            environment_id: &key.environment,
            rotation_interval_days: key.rotation.interval_days,
            next_rotation_at: key.rotation.next_at,
            rotation_webhook_url: key.rotation.webhook_url.as_deref(),
            active: !key.states.disabled && !key.states.is_terminal(),
            status,
            inherit: key.grants == Grants::Inherit,
            user_id: key.user.as_ref(),
            props: &key.props,
            updated_at: key.updated_at,
            revision: key.stamp.revision,
            format: key.format,
            lineage_id: key.lineage,
            minted_by: key.minted_by,
            self_rotate: key.self_rotate,
            may_grant: Some(&key.may_grant).filter(|flags| !flags.is_empty()),
            operates_on: key.operates_on.as_ref().map(OperatesOn::of),
        }
    }
}

impl<'a> OperatesOn<'a> {
    fn of(scope: &'a OperatorScope) -> Self {
        Self {
            project: scope.project.as_ref().map_or("all", ProjectId::as_str),
            environment: scope.environment.as_ref().map_or("all", EnvironmentId::as_str),
        }
    }
}

/// A user as JSON.
#[derive(Debug, Serialize)]
pub(super) struct UserShape<'a> {
    id: &'a UserId,
    project_id: Option<&'a ProjectId>,
    flags: &'a FlagSet,
    active: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
    revision: u64,
}

impl<'a> UserShape<'a> {
    /// `user` as it stands.
    pub(super) const fn of(user: &'a User) -> Self {
        Self {
            id: &user.id,
            project_id: user.project.as_ref(),
            flags: &user.flags,
            active: user.is_usable(),
            created_at: user.created_at,
            updated_at: user.updated_at,
            revision: user.stamp.revision,
        }
    }
}

/// The flags that a key names itself.
pub(super) fn own_flags(key: &Key) -> FlagSet {
    match &key.grants {
        Grants::Only(flags) => flags.clone(),
        Grants::Inherit => FlagSet::default(),
    }
}
