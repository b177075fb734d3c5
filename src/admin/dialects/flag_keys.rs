//! The dialect of flag keys, `/apikey`: a key is its flags, told as a map of `true`.
//!
//! Times are RFC 3339 with milliseconds, every success is 200, and lacking a permission is 401.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::admin::answer::{self, Answer, written};
use crate::admin::input::{Flags, Json, Named, Nothing, Patience, Props, Query, RESERVED_FLAG, given};
use crate::admin::operator::{Call, key_id};
use crate::admin::problem::Refusal;
use crate::admin::v1::own_flags;
use crate::key::{EnvironmentId, Grants, Key, KeyId, ProjectId};
use crate::manage::{Activity, Created, KeyChange, ManageError, NewKey, RevokeScope};

/// What such a key is called elsewhere: the dialect has no names.
const NAME: &str = "flag key";
/// Where the keys of an operator of all projects go.
const PROJECT: &str = "default";

/// A key of this dialect.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FlagKey)]
pub(in crate::admin) struct FlagKey<'a> {
    /// Its token: in the answer that made it and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    key: Option<&'a str>,
    /// Its id.
    #[schema(value_type = String)]
    keyid: KeyId,
    /// When it was made.
    #[serde(rename = "createdAt")]
    #[schema(format = DateTime)]
    created_at: String,
    /// Whether it is switched on and has not ended.
    active: bool,
    /// Its flags, each `true`.
    flags: BTreeMap<String, bool>,
    /// Free text by name.
    props: &'a BTreeMap<String, String>,
}

impl<'a> FlagKey<'a> {
    fn minted(made: &'a Created) -> Self {
        Self { key: Some(made.token.expose()), ..Self::of(&made.key) }
    }

    fn of(key: &'a Key) -> Self {
        Self {
            key: None,
            keyid: key.id,
            created_at: key.created_at.to_rfc3339_with(3),
            active: !key.states.disabled && !key.states.is_terminal(),
            flags: own_flags(key).iter().map(|flag| (flag.to_string(), true)).collect(),
            props: &key.props,
        }
    }
}

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = FlagKeyToMake)]
pub(in crate::admin) struct ToMake {
    /// Its flags.
    flags: Flags,
    /// Free text by name: at most 64 entries and 4 KiB.
    #[serde(default)]
    props: Props,
}

impl ToMake {
    /// What is not said by the types of its fields.
    pub(in crate::admin) fn rules() -> Vec<Value> {
        let of_operators = json!({ "pattern": RESERVED_FLAG });
        vec![json!({
            "description": "Operators are not made here, for it cannot be said what they manage.",
            "properties": { "flags": { "items": { "not": of_operators } } },
        })]
    }
}

/// Refusals as this dialect has them.
fn refused(error: ManageError) -> Refusal {
    Refusal::from(error).unauthorized()
}

/// Makes a key.
pub(in crate::admin) async fn create(
    call: Call,
    Query(wait): Query<Patience>,
    Json(new, body): Json<ToMake>,
) -> Answer {
    let patience = wait.span()?;
    let scope = call.key.operates_on.as_ref();
    let project = scope.and_then(|scope| scope.project.clone());
    let project = project.or_else(|| PROJECT.parse::<ProjectId>().ok());
    let environment = scope.and_then(|scope| scope.environment.clone()).unwrap_or_else(EnvironmentId::live);
    let new =
        NewKey { environment, grants: Grants::Only(new.flags.0), props: new.props.0, ..NewKey::named(NAME, project) };
    let Some(once) = call.once(&body)? else {
        let made = call.manager().create_key(&call.caller, new).await.map_err(refused)?;
        call.about(&made.key.id);
        return call.changed(StatusCode::OK, &FlagKey::minted(&made), made.committed, patience).await;
    };
    let answer = |made: &Created| written(&FlagKey::minted(made));
    let answered = call.manager().create_key_once(&call.caller, new, once, answer).await.map_err(refused)?;
    call.once_answered(StatusCode::OK, answered, |made| made.committed, patience).await
}

/// Reads a key.
pub(in crate::admin) async fn show(call: Call, Named(id): Named, Query(Nothing {}): Query<Nothing>) -> Answer {
    let id = key_id(&id)?;
    call.about(&id);
    let view = call.manager().key(&call.caller, id).await.map_err(refused)?;
    answer::json(StatusCode::OK, &FlagKey::of(&view.key))
}

/// What to change of a key. What is left out stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = FlagKeyChanges)]
pub(in crate::admin) struct Changes {
    /// On or off.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    active: Option<bool>,
    /// Other flags, in place of all there were.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Flags, required = false)]
    flags: Option<Flags>,
    /// Other props, in place of all there were.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Props, required = false)]
    props: Option<Props>,
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
    let change = KeyChange {
        active: changes.active.map(|on| if on { Activity::Active } else { Activity::Disabled }),
        grants: changes.flags.map(|flags| Grants::Only(flags.0)),
        props: changes.props.map(|props| props.0),
        ..KeyChange::default()
    };
    let changed = call.manager().update_key(&call.caller, id, change).await.map_err(refused)?;
    call.changed(StatusCode::OK, &FlagKey::of(&changed.key), changed.committed, patience).await
}

/// Revokes a key for good.
pub(in crate::admin) async fn delete(call: Call, Named(id): Named, Query(wait): Query<Patience>) -> Answer {
    let (id, patience) = (key_id(&id)?, wait.span()?);
    call.about(&id);
    let revoked = call.manager().end_key(&call.caller, id, RevokeScope::Key).await.map_err(refused)?;
    let view = call.manager().key(&call.caller, id).await.ok();
    let key = revoked.keys.first().or(view.as_ref().map(|view| &view.key));
    match key {
        Some(key) => call.changed(StatusCode::OK, &FlagKey::of(key), revoked.committed, patience).await,
        // Who may revoke and not read learns that it is done and no more.
        None => call.changed(StatusCode::OK, &json!({ "keyid": id }), revoked.committed, patience).await,
    }
}
