//! The dialect of user keys, `/api/data/api-keys`: a user's key manages that user's keys.
//!
//! Served where `[admin] self_service` is on. Times are RFC 3339 with microseconds, every success is 200,
//! and a token is shown once, when it is made; the list masks it to its last four letters.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admin::answer::{Answer, json, written};
use crate::admin::input::{Json, JsonOrNothing, Named, Nothing, Patience, Query, given};
use crate::admin::operator::{Call, key_id};
use crate::admin::problem::{Code, Refusal};
use crate::key::{Key, KeyId, UserId};
use crate::manage::{Activity, Created, OwnChange};

/// A key of this dialect.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UserKey)]
pub(in crate::admin) struct UserKey<'a> {
    /// Its id.
    #[schema(value_type = String)]
    id: KeyId,
    /// Its name.
    name: &'a str,
    /// Its token, in the answer that made it; elsewhere its last four letters.
    jwt: String,
    /// Whether it is switched on and has not ended.
    active: bool,
    /// Its user.
    #[schema(value_type = Option<String>, required)]
    user_id: Option<&'a UserId>,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

impl<'a> UserKey<'a> {
    fn of(key: &'a Key) -> Self {
        Self {
            id: key.id,
            name: &key.name,
            jwt: format!("***{}", key.last_four.as_deref().unwrap_or_default()),
            active: !key.states.disabled && !key.states.is_terminal(),
            user_id: key.user.as_ref(),
            created_at: key.created_at.to_rfc3339_with(6),
            updated_at: key.updated_at.to_rfc3339_with(6),
        }
    }

    fn minted(made: &'a Created) -> Self {
        Self { jwt: made.token.expose().to_owned(), ..Self::of(&made.key) }
    }
}

/// A user's keys.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UserKeys)]
pub(in crate::admin) struct UserKeys<'a> {
    /// The keys, newest first.
    #[serde(rename = "api-keys")]
    keys: Vec<UserKey<'a>>,
}

/// Where it is switched off, it is as if it were not there.
fn is_on(call: &Call) -> Result<(), Refusal> {
    if call.parts().settings.load().self_service {
        return Ok(());
    }
    Err(Refusal::new(Code::NoRoute, "users do not manage their own keys here: [admin] self_service is off"))
}

/// A key to make.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = UserKeyToMake)]
pub(in crate::admin) struct ToMake {
    /// What people call it; a name is given where it is left out.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, min_length = 1, max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    name: Option<String>,
}

/// Makes a key of the caller's user.
pub(in crate::admin) async fn create(
    call: Call,
    Query(wait): Query<Patience>,
    JsonOrNothing(asked, body): JsonOrNothing<ToMake>,
) -> Answer {
    is_on(&call)?;
    let patience = wait.span()?;
    let manager = call.manager();
    let Some(once) = call.once(&body)? else {
        let made = manager.own_create(&call.caller, asked.name).await?;
        call.about(&made.key.id);
        return call.changed(StatusCode::OK, &UserKey::minted(&made), made.committed, patience).await;
    };
    let answer = |made: &Created| written(&UserKey::minted(made));
    let answered = manager.own_create_once(&call.caller, asked.name, once, answer).await?;
    call.once_answered(StatusCode::OK, answered, |made| made.committed, patience).await
}

/// Lists the keys of the caller's user, newest first.
pub(in crate::admin) async fn list(call: Call, Query(Nothing {}): Query<Nothing>) -> Answer {
    is_on(&call)?;
    let listed = call.manager().own_keys(&call.caller).await?;
    let keys = listed.keys.iter().map(|view| UserKey::of(&view.key)).collect();
    json(StatusCode::OK, &UserKeys { keys })
}

/// What to change of a key. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = UserKeyChanges)]
pub(in crate::admin) struct Changes {
    /// Another name.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, min_length = 1, max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    name: Option<String>,
    /// On or off.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    active: Option<bool>,
}

/// Changes a key of the caller's user.
pub(in crate::admin) async fn update(
    call: Call,
    Named(id): Named,
    Query(wait): Query<Patience>,
    Json(changes, _): Json<Changes>,
) -> Answer {
    is_on(&call)?;
    let (id, patience) = (key_id(&id)?, wait.span()?);
    call.about(&id);
    let active = changes.active.map(|on| if on { Activity::Active } else { Activity::Disabled });
    let changed = call.manager().own_update(&call.caller, id, OwnChange { name: changes.name, active }).await?;
    call.changed(StatusCode::OK, &UserKey::of(&changed.key), changed.committed, patience).await
}

/// Revokes a key of the caller's user, for good.
pub(in crate::admin) async fn delete(call: Call, Named(id): Named, Query(wait): Query<Patience>) -> Answer {
    is_on(&call)?;
    let (id, patience) = (key_id(&id)?, wait.span()?);
    call.about(&id);
    let changed = call.manager().own_revoke(&call.caller, id).await?;
    call.changed(StatusCode::OK, &UserKey::of(&changed.key), changed.committed, patience).await
}
