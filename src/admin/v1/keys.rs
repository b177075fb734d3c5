//! `/v1/api-keys`: keys are listed, made, read, changed, replaced and revoked.

use std::time::Duration;

use axum::body::Body;
use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::page;
use super::shape::{ChangedKey, KeyShape, KeyWhole, Minted, NewWebhookSecret, Replacement, Revocation};
use crate::admin::answer::{self, Answer, written};
use crate::admin::input::{
    Flags, Json, JsonOrNothing, Named, Nothing, Object, Patience, Props, Query, RECEIVER, RESERVED_FLAG, Whole, given,
    nullable, present,
};
use crate::admin::operator::{Call, key_id};
use crate::admin::problem::Refusal;
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, Format, Grants, KeyId, OperatorScope, ProjectId, Status, UserId};
use crate::manage::{
    Activity, Answered, Expiry, KeyChange, KeyView, ManageError, NewKey, RevokeScope, Revoked, Rotated,
    WebhookSecretRotated,
};
use crate::store::KeyQuery;

const SECONDS_PER_DAY: u64 = 86_400;
/// A hundred years.
const EXPIRY_DAYS_MAX: u32 = 36_500;

/// Which keys to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Filter {
    /// Of this project; may be left out by an operator of all, and of one.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._-]{1,64}$")]
    project_id: Option<ProjectId>,
    /// Of this environment.
    #[param(value_type = Option<String>, pattern = "^[a-z0-9]{1,16}$")]
    environment_id: Option<EnvironmentId>,
    /// Of this user.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._:@+-]{1,128}$")]
    user_id: Option<UserId>,
    /// Of this status.
    #[param(value_type = Option<AskedStatus>, inline)]
    status: Option<AskedStatus>,
    /// That expire within so many days, and have not yet.
    #[param(maximum = 36500)]
    expires_within_days: Option<u32>,
    /// That were not used for so many days.
    #[param(maximum = 36500)]
    unused_for_days: Option<u32>,
    /// Whose name contains this, or whose id or shown prefix begins with it.
    #[param(min_length = 1, max_length = 200, pattern = r"^[^\u0000]*$")]
    q: Option<String>,
    /// How many; 100 where it is left out.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Where the page before ended: from its `Link`.
    #[param(min_length = 1)]
    cursor: Option<String>,
}

/// A status that the store can give a key; `listed` is each gateway's own.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum AskedStatus {
    Revoked,
    Disabled,
    UserDisabled,
    Expired,
    Superseded,
    Grace,
    Active,
}

impl From<AskedStatus> for Status {
    fn from(asked: AskedStatus) -> Self {
        match asked {
            AskedStatus::Revoked => Self::Revoked,
            AskedStatus::Disabled => Self::Disabled,
            AskedStatus::UserDisabled => Self::UserDisabled,
            AskedStatus::Expired => Self::Expired,
            AskedStatus::Superseded => Self::Superseded,
            AskedStatus::Grace => Self::Grace,
            AskedStatus::Active => Self::Active,
        }
    }
}

/// Lists keys, newest first.
pub(in crate::admin) async fn list(call: Call, Query(asked): Query<Filter>, uri: Uri) -> Answer {
    let limit = page::limit(asked.limit)?;
    let query = KeyQuery {
        project: asked.project_id,
        environment: asked.environment_id,
        user: asked.user_id,
        status: asked.status.map(Into::into),
        text: search(asked.q)?,
        expires_within_days: days("expires_within_days", asked.expires_within_days, 0)?,
        unused_for_days: days("unused_for_days", asked.unused_for_days, 0)?,
        before: page::place(asked.cursor.as_deref(), |place| place.parse().ok())?,
        limit,
        ..KeyQuery::default()
    };
    let listed = call.manager().keys(&call.caller, query).await?;
    for (row, cause) in &listed.damaged {
        tracing::error!(?row, cause, "a row of the store cannot be read, and is left out of a list of keys");
    }
    let shapes: Vec<_> = listed.keys.iter().map(KeyShape::of).collect();
    let mut response = answer::json(StatusCode::OK, &shapes)?;
    if let Some(last) = listed.next {
        call.link_next(&mut response, &uri, &page::cursor(&last.to_string()));
    }
    Ok(response)
}

fn search(text: Option<String>) -> Result<Option<String>, Refusal> {
    match text {
        Some(text) if !(1..=200).contains(&text.chars().count()) || text.contains('\0') => {
            Err(Refusal::of_field("q", "expected 1 to 200 letters"))
        }
        text => Ok(text),
    }
}

/// A number of days within `least` and a hundred years.
fn days(field: &'static str, days: Option<u32>, least: u32) -> Result<Option<u32>, Refusal> {
    match days {
        Some(days) if !(least..=EXPIRY_DAYS_MAX).contains(&days) => {
            Err(Refusal::of_field(field, format_args!("{days} is not within {least} and {EXPIRY_DAYS_MAX}")))
        }
        days => Ok(days),
    }
}

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = KeyToMake)]
pub(in crate::admin) struct ToMake {
    /// Its project; null for an operator of all projects.
    #[serde(deserialize_with = "nullable")]
    #[schema(value_type = Option<String>, required, pattern = "^[A-Za-z0-9._-]{1,64}$")]
    project_id: Option<ProjectId>,
    /// What people call it: 1 to 200 characters, no control characters.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    name: String,
    /// The flags that it holds. None: it opens only routes for any key.
    #[serde(default)]
    scopes: Flags,
    /// Whether it holds whatever its user holds, now and later.
    #[serde(default)]
    inherit: bool,
    /// When it ends.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// After how many days it ends, in place of `expires_at`.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 36500)]
    expires_in_days: Option<Whole>,
    /// Its environment; `live` where it is left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[a-z0-9]{1,16}$")]
    environment_id: Option<EnvironmentId>,
    /// Its user, who must exist.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:@+-]{1,128}$")]
    user_id: Option<UserId>,
    /// Free text by name: at most 64 entries and 4 KiB.
    #[serde(default)]
    props: Props,
    /// How its token is made; `opaque` where it is left out.
    #[serde(default)]
    format: MintedFormat,
    /// Whether it may rotate itself.
    #[serde(default)]
    self_rotate: bool,
    /// Days between rotations.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 3650)]
    rotation_interval_days: Option<Whole>,
    /// Where its rotations are announced: an https address. Lets it rotate itself.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 2048)]
    rotation_webhook_url: Option<String>,
    /// Which flags it may grant: operators only.
    #[serde(default)]
    may_grant: Flags,
    /// Which keys it may manage: operators, who hold a flag of `keyward`, and nobody else.
    #[serde(default)]
    #[schema(value_type = Option<Scope>)]
    operates_on: Option<Object<Scope>>,
}

/// How a token can be made.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum MintedFormat {
    /// `kw_live_…`.
    #[default]
    Opaque,
    /// A signed JWT.
    Jwt,
}

/// Which keys an operator may manage.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = OperatorScope)]
pub(in crate::admin) struct Scope {
    /// A project, or `all`.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9._-]{1,64}$")]
    project: ProjectId,
    /// An environment, or `all`.
    #[schema(value_type = String, pattern = "^[a-z0-9]{1,16}$")]
    environment: EnvironmentId,
}

impl From<Scope> for OperatorScope {
    fn from(scope: Scope) -> Self {
        Self {
            project: Some(scope.project).filter(|project| !project.is_reserved()),
            environment: Some(scope.environment).filter(|environment| environment.as_str() != "all"),
        }
    }
}

impl ToMake {
    /// How its fields go together.
    pub(in crate::admin) fn rules() -> Vec<Value> {
        let nothing = || json!({ "type": "null" });
        let of_operators = || json!({ "pattern": RESERVED_FLAG });
        let project = |project: Value, scope: Value| {
            let scope = json!({ "properties": { "project": scope } });
            json!({ "properties": { "project_id": project, "operates_on": scope } })
        };
        vec![
            json!({ "properties": {
                "project_id": { "not": { "const": "all" } },
                "rotation_webhook_url": { "pattern": RECEIVER },
            } }),
            json!({ "description": "One end.", "anyOf": [
                { "properties": { "expires_at": nothing() } },
                { "properties": { "expires_in_days": nothing() } },
            ] }),
            json!({ "description": "A key has its own flags or its user's.", "anyOf": [
                { "properties": { "inherit": { "const": false } } },
                { "properties": { "scopes": { "maxItems": 0 }, "user_id": { "type": "string" } }, "required": ["user_id"] },
            ] }),
            json!({ "description": "Operators, and nobody else, manage keys and grant flags.", "anyOf": [
                { "properties": { "inherit": { "const": true } }, "required": ["inherit"] },
                {
                    "properties": { "scopes": { "contains": of_operators() }, "operates_on": { "type": "object" } },
                    "required": ["scopes", "operates_on"],
                },
                { "properties": {
                    "scopes": { "items": { "not": of_operators() } },
                    "operates_on": nothing(),
                    "may_grant": { "maxItems": 0 },
                    "project_id": { "type": "string" },
                } },
            ] }),
            json!({
                "description": "An operator manages its own project, or all where it has none itself.",
                "anyOf": [
                    { "properties": { "operates_on": nothing() } },
                    project(nothing(), json!({ "const": "all" })),
                    project(json!({ "type": "string" }), json!({ "not": { "const": "all" } })),
                ],
            }),
        ]
    }

    fn meaning(self) -> Result<NewKey, Refusal> {
        let expires_in_days = self.expires_in_days.map(|Whole(days)| days);
        let expires = match (self.expires_at, days("expires_in_days", expires_in_days, 1)?) {
            (Some(_), Some(_)) => {
                return Err(Refusal::of_field("expires_in_days", "is there beside expires_at: keep one"));
            }
            (Some(end), None) => Expiry::At(end),
            (None, Some(days)) => Expiry::In(Duration::from_secs(u64::from(days) * SECONDS_PER_DAY)),
            (None, None) => Expiry::Never,
        };
        Ok(NewKey {
            environment: self.environment_id.unwrap_or_else(EnvironmentId::live),
            user: self.user_id,
            grants: grants(self.scopes, self.inherit)?,
            props: self.props.0,
            may_grant: self.may_grant.0,
            operates_on: self.operates_on.map(|Object(scope)| scope.into()),
            self_rotate: self.self_rotate,
            format: match self.format {
                MintedFormat::Opaque => Format::Opaque,
                MintedFormat::Jwt => Format::Jwt,
            },
            expires,
            rotation_interval_days: self.rotation_interval_days.map(|Whole(days)| days),
            rotation_webhook_url: self.rotation_webhook_url,
            ..NewKey::named(&self.name, self.project_id)
        })
    }
}

/// What a key shall hold. A key that inherits names no flags of its own.
fn grants(scopes: Flags, inherit: bool) -> Result<Grants, Refusal> {
    match (inherit, scopes.0.is_empty()) {
        (true, true) => Ok(Grants::Inherit),
        (true, false) => {
            Err(Refusal::of_field("inherit", "is true beside scopes: a key has its own flags or its user's"))
        }
        (false, _) => Ok(Grants::Only(scopes.0)),
    }
}

/// Refusals of what a body says: there, a user that is not known is a field that is wrong.
fn of_body(error: ManageError) -> Refusal {
    match error {
        ManageError::UserNotFound { id } => Refusal::of_field("user_id", format_args!("there is no user {id:?}")),
        ManageError::UserDeleted { id } => {
            Refusal::of_field("user_id", format_args!("user {id:?} was deleted, and its id is never used again"))
        }
        ManageError::Invalid { field: "flags", cause } => Refusal::of_field("scopes", cause),
        error => error.into(),
    }
}

/// Makes a key.
pub(in crate::admin) async fn create(
    call: Call,
    Query(wait): Query<Patience>,
    Json(new, body): Json<ToMake>,
) -> Answer {
    let patience = wait.span()?;
    let once = call.once(&body)?;
    let new = new.meaning()?;
    let Some(once) = once else {
        let made = call.manager().create_key(&call.caller, new).await.map_err(of_body)?;
        call.about(&made.key.id);
        let response = call.changed(StatusCode::CREATED, &Minted::of(&made), made.committed, patience).await?;
        return Ok(located(response, made.key.id));
    };
    let answered = call.manager().create_key_once(&call.caller, new, once, |made| written(&Minted::of(made))).await;
    let answered = answered.map_err(of_body)?;
    let made = match &answered {
        Answered::First { outcome, .. } => Some(outcome.key.id),
        Answered::Again { answer, .. } => id_in(answer),
    };
    let response = call.once_answered(StatusCode::CREATED, answered, |made| made.committed, patience).await?;
    Ok(match made {
        Some(id) => {
            call.about(&id);
            located(response, id)
        }
        None => response,
    })
}

/// The id in an answer that was given before.
fn id_in(answer: &[u8]) -> Option<KeyId> {
    #[derive(Deserialize)]
    struct Made {
        id: KeyId,
    }
    serde_json::from_slice::<Made>(answer).ok().map(|made| made.id)
}

fn located(mut response: Response<Body>, id: KeyId) -> Response<Body> {
    if let Ok(place) = HeaderValue::try_from(format!("/v1/api-keys/{id}")) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

/// Reads a key, its use, and which keys replaced which.
pub(in crate::admin) async fn show(call: Call, Named(id): Named, Query(Nothing {}): Query<Nothing>) -> Answer {
    let id = key_id(&id)?;
    call.about(&id);
    let view = call.manager().key(&call.caller, id).await?;
    let lineage = call.manager().lineage(&call.caller, id).await?;
    let announced = call.manager().announcements(&call.caller, id).await?;
    answer::json(StatusCode::OK, &KeyWhole::of(&view, &lineage, &announced))
}

/// What to change of a key. What is left out stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = KeyChanges)]
pub(in crate::admin) struct Changes {
    /// Another name.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, min_length = 1, max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    name: Option<String>,
    /// On or off.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    active: Option<bool>,
    /// Other flags, in place of all there were.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Flags, required = false)]
    scopes: Option<Flags>,
    /// Whether it shall hold whatever its user holds; `false` wants `scopes` beside it.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    inherit: Option<bool>,
    /// Other props, in place of all there were.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Props, required = false)]
    props: Option<Props>,
    /// Another end; null for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<Timestamp>>,
    /// Another environment.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, pattern = "^[a-z0-9]{1,16}$", required = false)]
    environment_id: Option<EnvironmentId>,
    /// Other days between rotations; null for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 3650)]
    rotation_interval_days: Option<Option<Whole>>,
    /// Another place where its rotations are announced; null for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 2048)]
    rotation_webhook_url: Option<Option<String>>,
    /// Other flags that it may grant.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Flags, required = false)]
    may_grant: Option<Flags>,
    /// Other keys that it may manage; null for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Scope>)]
    operates_on: Option<Option<Object<Scope>>>,
}

impl Changes {
    /// How its fields go together.
    pub(in crate::admin) fn rules() -> Vec<Value> {
        vec![
            json!({ "properties": { "rotation_webhook_url": { "pattern": RECEIVER } } }),
            json!({ "description": "A key has its own flags or its user's.", "anyOf": [
                { "properties": { "inherit": { "const": false } } },
                { "properties": { "scopes": { "maxItems": 0 } } },
            ] }),
            json!({ "description": "One that inherits no more says what it holds.", "anyOf": [
                { "properties": { "inherit": { "const": true } } },
                { "required": ["scopes"] },
            ] }),
        ]
    }

    fn meaning(self) -> Result<KeyChange, Refusal> {
        let grants = match (self.inherit, self.scopes) {
            (None, None) => None,
            (None, Some(scopes)) => Some(Grants::Only(scopes.0)),
            (Some(true), scopes) => Some(grants(scopes.unwrap_or_default(), true)?),
            (Some(false), Some(scopes)) => Some(Grants::Only(scopes.0)),
            (Some(false), None) => {
                return Err(Refusal::of_field("inherit", "is false: say beside it which scopes the key shall hold"));
            }
        };
        Ok(KeyChange {
            name: self.name,
            active: self.active.map(|on| if on { Activity::Active } else { Activity::Disabled }),
            grants,
            props: self.props.map(|props| props.0),
            expires: self.expires_at.map(|end| end.map_or(Expiry::Never, Expiry::At)),
            environment: self.environment_id,
            rotation_interval_days: self.rotation_interval_days.map(|days| days.map(|Whole(days)| days)),
            rotation_webhook_url: self.rotation_webhook_url,
            may_grant: self.may_grant.map(|flags| flags.0),
            operates_on: self.operates_on.map(|scope| scope.map(|Object(scope)| scope.into())),
        })
    }
}

/// Changes a key.
pub(in crate::admin) async fn update(
    call: Call,
    Named(id): Named,
    Query(wait): Query<Patience>,
    Json(changes, _): Json<Changes>,
) -> Answer {
    let (id, patience) = (key_id(&id)?, wait.span()?);
    call.about(&id);
    let changed = call.manager().update_key(&call.caller, id, changes.meaning()?).await.map_err(of_body)?;
    let status = changed.key.status(changed.user.as_ref(), changed.committed.at);
    let usage = call.manager().key(&call.caller, id).await.ok().and_then(|view| view.usage);
    let view = KeyView { key: changed.key, user: changed.user, usage, status };
    let shown = ChangedKey::of(&view, changed.webhook_secret.as_ref());
    call.changed(StatusCode::OK, &shown, changed.committed, patience).await
}

/// Revokes a key for good.
pub(in crate::admin) async fn delete(call: Call, Named(id): Named, Query(wait): Query<Patience>) -> Answer {
    let (id, patience) = (key_id(&id)?, wait.span()?);
    call.about(&id);
    let revoked = call.manager().end_key(&call.caller, id, RevokeScope::Key).await?;
    call.gone(revoked.committed, patience).await
}

/// How far a revocation shall reach.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = KeyToRevoke)]
pub(in crate::admin) struct ToRevoke {
    /// `key` where it is left out.
    #[serde(default)]
    scope: Reach,
}

/// How far a revocation reaches.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RevocationScope)]
pub(in crate::admin) enum Reach {
    /// That key.
    #[default]
    Key,
    /// That key, all it replaced and all that replaced it.
    Lineage,
    /// That key and all keys it minted, directly or through others.
    Descendants,
}

/// Revokes a key, its lineage, or it and what it minted.
pub(in crate::admin) async fn revoke(
    call: Call,
    Named(id): Named,
    Query(wait): Query<Patience>,
    JsonOrNothing(asked, body): JsonOrNothing<ToRevoke>,
) -> Answer {
    let (id, patience) = (key_id(&id)?, wait.span()?);
    call.about(&id);
    let scope = match asked.scope {
        Reach::Key => RevokeScope::Key,
        Reach::Lineage => RevokeScope::Lineage,
        Reach::Descendants => RevokeScope::Descendants,
    };
    let manager = call.manager();
    let Some(once) = call.once(&body)? else {
        let revoked = manager.revoke_key(&call.caller, id, scope).await?;
        return call.changed(StatusCode::OK, &Revocation::of(&revoked), revoked.committed, patience).await;
    };
    let answer = |revoked: &Revoked| written(&Revocation::of(revoked));
    let answered = manager.revoke_key_once(&call.caller, id, scope, once, answer).await?;
    call.once_answered(StatusCode::OK, answered, |revoked| revoked.committed, patience).await
}

/// Changes the secret that the receiver of a key's webhook verifies with.
pub(in crate::admin) async fn rotate_webhook_secret(
    call: Call,
    Named(id): Named,
    Query(wait): Query<Patience>,
) -> Answer {
    let (id, patience) = (key_id(&id)?, wait.span()?);
    call.about(&id);
    let manager = call.manager();
    let Some(once) = call.once(b"")? else {
        let rotated = manager.rotate_webhook_secret(&call.caller, id).await?;
        return call.changed(StatusCode::OK, &NewWebhookSecret::of(&rotated), rotated.committed, patience).await;
    };
    let answer = |rotated: &WebhookSecretRotated| written(&NewWebhookSecret::of(rotated));
    let answered = manager.rotate_webhook_secret_once(&call.caller, id, once, answer).await?;
    call.once_answered(StatusCode::OK, answered, |rotated| rotated.committed, patience).await
}

/// How a key shall be replaced.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = KeyToRotate)]
pub(in crate::admin) struct ToRotate {
    /// How many minutes the old token still works; 60 where it is left out, 0 ends it at once.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = u32, required = false, maximum = 43200)]
    grace_period_minutes: Option<Whole>,
}

/// Replaces a key.
pub(in crate::admin) async fn rotate(
    call: Call,
    Named(id): Named,
    Query(wait): Query<Patience>,
    JsonOrNothing(asked, body): JsonOrNothing<ToRotate>,
) -> Answer {
    let (id, patience) = (call.to_rotate(&id)?, wait.span()?);
    call.about(&id);
    let minutes = asked.grace_period_minutes.map_or(60, |Whole(minutes)| minutes);
    let grace = Duration::from_secs(u64::from(minutes) * 60);
    let manager = call.manager();
    let Some(once) = call.once(&body)? else {
        let rotated = manager.rotate_key(&call.caller, id, grace).await?;
        return call.changed(StatusCode::OK, &Replacement::of(&rotated), rotated.committed, patience).await;
    };
    let answer = |rotated: &Rotated| written(&Replacement::of(rotated));
    let answered = manager.rotate_key_once(&call.caller, id, grace, once, answer).await?;
    call.once_answered(StatusCode::OK, answered, |rotated| rotated.committed, patience).await
}
