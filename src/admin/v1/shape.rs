//! Keys and users as JSON: the shape of `/v1`, also of the commands' `--json`.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, FlagSet, Format, Grants, Key, KeyId, LineageId, OperatorScope, ProjectId, Status, User, UserId,
};
use crate::manage::{Changed, Created, KeyView, Revoked, Rotated, WebhookSecretRotated};
use crate::secret::Secret;
use crate::store::{Delivery, DeliveryId, DeliveryState};

/// A key. Never its token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyShape<'a> {
    /// Its id.
    #[schema(value_type = String, pattern = "^key_[0-9a-f]{32}$")]
    id: KeyId,
    /// Its project; null of operators of all projects.
    #[schema(value_type = Option<String>, required)]
    project_id: Option<&'a ProjectId>,
    /// What people call it.
    name: &'a str,
    /// What may be shown of its token; null of one that was imported by its hash.
    #[schema(required)]
    key_prefix: Option<&'a str>,
    /// The flags that it names itself; empty where it inherits its user's.
    #[schema(value_type = Vec<String>)]
    scopes: FlagSet,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<Timestamp>,
    /// When it was last used, over all gateways; some seconds late.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_used_at: Option<Timestamp>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    revoked_at: Option<Timestamp>,
    /// What replaced it.
    #[schema(value_type = Option<String>, required)]
    replaced_by_key_id: Option<KeyId>,
    /// Until when it works although it was replaced.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    grace_expires_at: Option<Timestamp>,
    /// Its environment.
    #[schema(value_type = String)]
    environment_id: &'a EnvironmentId,
    /// Days between rotations.
    #[schema(required)]
    rotation_interval_days: Option<u32>,
    /// When it is due to be rotated.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_rotation_at: Option<Timestamp>,
    /// Who is told then.
    #[schema(required)]
    rotation_webhook_url: Option<&'a str>,
    /// Whether it is switched on and has not ended.
    active: bool,
    /// Its status at this moment.
    #[schema(value_type = StatusName)]
    status: Status,
    /// Whether it holds whatever its user holds.
    inherit: bool,
    /// Its user.
    #[schema(value_type = Option<String>, required)]
    user_id: Option<&'a UserId>,
    /// Free text by name.
    props: &'a BTreeMap<String, String>,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// The revision of its last change.
    revision: u64,
    /// How its token is made.
    #[schema(value_type = FormatName)]
    format: Format,
    /// Shared by it and all that it replaced or was replaced by.
    #[schema(value_type = String)]
    lineage_id: LineageId,
    /// The key that made it; null where somebody at the command line did.
    #[schema(value_type = Option<String>, required)]
    minted_by: Option<KeyId>,
    /// Whether it may rotate itself.
    self_rotate: bool,
    /// Which flags it may grant: operators only.
    #[schema(value_type = Vec<String>)]
    may_grant: &'a FlagSet,
    /// Which keys it may manage: operators only.
    #[schema(required)]
    operates_on: Option<OperatesOn<'a>>,
}

/// The words of a status.
#[derive(ToSchema)]
#[schema(as = Status, rename_all = "snake_case")]
#[expect(dead_code, reason = "tells the API's description what a status may be")]
enum StatusName {
    Listed,
    Revoked,
    Disabled,
    UserDisabled,
    Expired,
    Superseded,
    Grace,
    Active,
}

/// The words of a format.
#[derive(ToSchema)]
#[schema(as = Format, rename_all = "snake_case")]
#[expect(dead_code, reason = "tells the API's description what a format may be")]
enum FormatName {
    Opaque,
    Jwt,
    Imported,
}

/// Which keys an operator may manage: a project and an environment, or `all`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OperatesOn<'a> {
    project: &'a str,
    environment: &'a str,
}

impl<'a> KeyShape<'a> {
    /// A key that was read.
    #[must_use]
    pub fn of(view: &'a KeyView) -> Self {
        Self { last_used_at: view.usage.map(|usage| usage.last_used_at), ..Self::unused(&view.key, view.status) }
    }

    /// A key that was just changed, and whose usage was not read.
    #[must_use]
    pub fn unused(key: &'a Key, status: Status) -> Self {
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
            may_grant: &key.may_grant,
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

/// A key that was minted, with its token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MintedKey)]
pub struct Minted<'a> {
    /// The key.
    #[serde(flatten)]
    #[schema(inline)]
    pub record: KeyShape<'a>,
    /// Its token: in this answer and nowhere else.
    pub key: &'a str,
    /// What the receiver of its webhook verifies with, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_webhook_secret: Option<&'a str>,
}

impl<'a> Minted<'a> {
    /// A key that was made.
    #[must_use]
    pub fn of(Created { key, user, token, webhook_secret, committed }: &'a Created) -> Self {
        let record = KeyShape::unused(key, key.status(user.as_ref(), committed.at));
        Self { record, key: token.expose(), rotation_webhook_secret: text_of(webhook_secret.as_ref()) }
    }
}

/// A webhook secret as its text.
pub(super) fn text_of(secret: Option<&Secret>) -> Option<&str> {
    secret.and_then(|secret| std::str::from_utf8(secret.expose()).ok())
}

/// A key that was changed, with what the receiver of its webhook verifies with, where one was set.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedKey<'a> {
    /// The key.
    #[serde(flatten)]
    #[schema(inline)]
    record: KeyShape<'a>,
    /// What the receiver of its webhook verifies with, where one was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_webhook_secret: Option<&'a str>,
}

impl<'a> ChangedKey<'a> {
    /// A key that was read after it was changed, and what was told with that.
    #[must_use]
    pub fn of(view: &'a KeyView, webhook_secret: Option<&'a Secret>) -> Self {
        Self { record: KeyShape::of(view), rotation_webhook_secret: text_of(webhook_secret) }
    }

    /// A key that was changed, and whose usage was not read.
    #[must_use]
    pub fn unused(Changed { key, user, webhook_secret, committed }: &'a Changed) -> Self {
        let record = KeyShape::unused(key, key.status(user.as_ref(), committed.at));
        Self { record, rotation_webhook_secret: text_of(webhook_secret.as_ref()) }
    }
}

/// A webhook secret that was changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewWebhookSecret<'a> {
    /// The key.
    #[schema(value_type = String)]
    id: KeyId,
    /// Its lineage, which shares the secret.
    #[schema(value_type = String)]
    lineage_id: LineageId,
    /// What the receiver verifies with from now on.
    rotation_webhook_secret: &'a str,
    /// Until when the secret before it is signed with, too.
    #[schema(value_type = String, format = DateTime)]
    old_secret_valid_until: Timestamp,
    /// The revision that holds the change.
    revision: u64,
}

impl<'a> NewWebhookSecret<'a> {
    /// What was changed.
    #[must_use]
    pub fn of(WebhookSecretRotated { key, secret, old_until, committed }: &'a WebhookSecretRotated) -> Self {
        Self {
            id: key.id,
            lineage_id: key.lineage,
            rotation_webhook_secret: text_of(Some(secret)).unwrap_or_default(),
            old_secret_valid_until: *old_until,
            revision: committed.revision,
        }
    }
}

/// A key with what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyWithLineage)]
pub struct KeyWhole<'a> {
    /// The key.
    #[serde(flatten)]
    #[schema(inline)]
    key: KeyShape<'a>,
    /// How often it was used.
    uses: u64,
    /// The last four characters of its token; null of one that was imported by its hash.
    #[schema(required)]
    last_four: Option<&'a str>,
    /// Which secret of its lineage announcements are signed with, counted from 1; null without a webhook.
    #[schema(required)]
    webhook_secret_version: Option<u32>,
    /// Until when they are signed with the secret before that one, too.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    old_webhook_secret_valid_until: Option<Timestamp>,
    /// It and all that it replaced or was replaced by, oldest first.
    lineage: Vec<LineageMember>,
    /// What was announced of its lineage lately at its webhook, or is to be, newest first.
    announcements: Vec<Announcement>,
}

impl<'a> KeyWhole<'a> {
    /// `view`, the views of its lineage in any order, and what was announced, newest first.
    #[must_use]
    pub fn of(view: &'a KeyView, lineage: &[KeyView], announced: &[Delivery]) -> Self {
        let mut lineage: Vec<_> = lineage.iter().map(LineageMember::of).collect();
        lineage.sort_by_key(|member| (member.created_at, member.id));
        let rotation = Some(&view.key.rotation).filter(|rotation| rotation.webhook_url.is_some());
        Self {
            key: KeyShape::of(view),
            uses: view.usage.map_or(0, |usage| usage.count),
            last_four: view.key.last_four.as_deref(),
            webhook_secret_version: rotation.map(|rotation| rotation.secret_version),
            old_webhook_secret_valid_until: rotation.and_then(|rotation| rotation.old_secret_until),
            lineage,
            announcements: announced.iter().map(Announcement::of).collect(),
        }
    }
}

/// Something that was announced at a webhook, or is to be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Announcement {
    /// Its id, which the receiver was sent as `webhook-id`.
    #[schema(value_type = String)]
    id: DeliveryId,
    /// The key that it is about.
    #[schema(value_type = String)]
    key_id: KeyId,
    /// What is announced, such as `api_key.rotation_due`.
    r#type: &'static str,
    /// What became of it: `pending`, `delivered`, `gone`, `given_up` or `moot`.
    state: &'static str,
    /// When it was taken on.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// How often it was tried and has failed.
    failed_attempts: u32,
    /// When it is tried next.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_attempt_at: Option<Timestamp>,
    /// What the last attempt came to; empty before the first.
    last_outcome: String,
}

impl Announcement {
    fn of(delivery: &Delivery) -> Self {
        let is_pending = delivery.state == DeliveryState::Pending;
        Self {
            id: delivery.id,
            key_id: delivery.key,
            r#type: delivery.kind.as_str(),
            state: delivery.state.as_str(),
            created_at: delivery.created_at,
            failed_attempts: delivery.attempts,
            next_attempt_at: is_pending.then_some(delivery.next_attempt_at),
            last_outcome: delivery.told.clone(),
        }
    }
}

/// One key of a lineage.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LineageMember {
    /// Its id.
    #[schema(value_type = String)]
    pub id: KeyId,
    /// Its status.
    #[schema(value_type = StatusName)]
    pub status: Status,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// What replaced it.
    #[schema(value_type = Option<String>, required)]
    pub replaced_by_key_id: Option<KeyId>,
    /// Until when it works although it was replaced.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    pub grace_expires_at: Option<Timestamp>,
    /// When it was last used.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    pub last_used_at: Option<Timestamp>,
    /// How often it was used.
    pub uses: u64,
}

impl LineageMember {
    /// A key of the lineage, as it was read.
    #[must_use]
    pub fn of(KeyView { key, usage, status, .. }: &KeyView) -> Self {
        Self {
            id: key.id,
            status: *status,
            created_at: key.created_at,
            replaced_by_key_id: key.replaced_by,
            grace_expires_at: key.grace_expires_at,
            last_used_at: usage.map(|usage| usage.last_used_at),
            uses: usage.map_or(0, |usage| usage.count),
        }
    }
}

/// A key that was replaced, and what replaces it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replacement<'a> {
    /// The replaced key.
    #[schema(value_type = String)]
    old_key_id: KeyId,
    /// What replaces it.
    #[schema(value_type = String)]
    new_key_id: KeyId,
    /// The project of both.
    #[schema(value_type = Option<String>, required)]
    project_id: Option<&'a ProjectId>,
    /// The name of both.
    name: &'a str,
    /// The new key's token: in this answer and nowhere else.
    key: &'a str,
    /// What may be shown of it.
    #[schema(required)]
    key_prefix: Option<&'a str>,
    /// The flags that both name themselves.
    #[schema(value_type = Vec<String>)]
    scopes: FlagSet,
    /// When the new key ends.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<Timestamp>,
    /// When the new key was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Until when the replaced key works.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    grace_expires_at: Option<Timestamp>,
    /// What an earlier rotation had replaced it by, and was never used: it is revoked now.
    #[schema(value_type = Option<String>, required)]
    revoked_key_id: Option<KeyId>,
    /// The revision that holds this.
    revision: u64,
}

impl<'a> Replacement<'a> {
    /// A rotation that was made.
    #[must_use]
    pub fn of(Rotated { old, new, token, revoked, committed }: &'a Rotated) -> Self {
        Self {
            old_key_id: old.id,
            new_key_id: new.id,
            project_id: new.project.as_ref(),
            name: &new.name,
            key: token.expose(),
            key_prefix: new.shown_prefix.as_deref(),
            scopes: own_flags(new),
            expires_at: new.expires_at,
            created_at: new.created_at,
            grace_expires_at: old.grace_expires_at,
            revoked_key_id: *revoked,
            revision: committed.revision,
        }
    }
}

/// What a revocation ended, and what it left.
#[derive(Debug, Serialize, ToSchema)]
pub struct Revocation {
    /// The keys that it revoked: none of those that were so already.
    #[schema(value_type = Vec<String>)]
    revoked: Vec<KeyId>,
    /// What the key minted or was replaced by, and is not revoked. Where there is very much of it, a part:
    /// no more than 1000 of each are looked at.
    #[schema(value_type = Vec<String>)]
    related: Vec<KeyId>,
    /// How many more keys it would have reached that the caller does not manage.
    out_of_reach: usize,
    /// The revision that holds this.
    revision: u64,
}

impl Revocation {
    /// A revocation that was made.
    #[must_use]
    pub fn of(revoked: &Revoked) -> Self {
        Self {
            revoked: revoked.keys.iter().map(|key| key.id).collect(),
            related: revoked.related.clone(),
            out_of_reach: revoked.out_of_reach,
            revision: revoked.committed.revision,
        }
    }
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserShape<'a> {
    /// Its id.
    #[schema(value_type = String)]
    id: &'a UserId,
    /// Its project; null of one that belongs to none.
    #[schema(value_type = Option<String>, required)]
    project_id: Option<&'a ProjectId>,
    /// What its keys may do at most.
    #[schema(value_type = Vec<String>)]
    flags: &'a FlagSet,
    /// Whether its keys work.
    active: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// The revision of its last change.
    revision: u64,
}

impl<'a> UserShape<'a> {
    /// `user` as it stands.
    #[must_use]
    pub const fn of(user: &'a User) -> Self {
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
#[must_use]
pub fn own_flags(key: &Key) -> FlagSet {
    match &key.grants {
        Grants::Only(flags) => flags.clone(),
        Grants::Inherit => FlagSet::default(),
    }
}
