//! `/v1/users`: who owns keys, and what their keys may do at most.

use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::page;
use super::shape::UserShape;
use crate::admin::answer::{Answer, json};
use crate::admin::input::{Flags, Json, Named, Nothing, Patience, Query, Wait, given, present};
use crate::admin::operator::Call;
use crate::admin::problem::{Code, Refusal};
use crate::key::{ProjectId, UserId};
use crate::manage::{Activity, UserChange, UserPatch};
use crate::store::UserQuery;

/// Which users to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Filter {
    /// Of this project; of all that the caller manages where it is left out.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9._-]{1,64}$")]
    project_id: Option<ProjectId>,
    /// How many; 100 where it is left out.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Where the page before ended: from its `Link`.
    #[param(min_length = 1)]
    cursor: Option<String>,
}

/// Lists users by id.
pub(in crate::admin) async fn list(call: Call, Query(asked): Query<Filter>, uri: Uri) -> Answer {
    let limit = page::limit(asked.limit)?;
    let after: Option<UserId> = page::place(asked.cursor.as_deref(), |place| place.parse().ok())?;
    let query = UserQuery { project: asked.project_id, after, limit: limit + 1, ..UserQuery::default() };
    let mut users = call.manager().users(&call.caller, query).await?;
    let more = page::cut(&mut users, limit);
    let shapes: Vec<_> = users.iter().map(UserShape::of).collect();
    let mut response = json(StatusCode::OK, &shapes)?;
    if let Some(last) = users.last().filter(|_| more) {
        call.link_next(&mut response, &uri, &page::cursor(last.id.as_str()));
    }
    Ok(response)
}

/// A user's id in a path. What is none is no user that could be found.
fn user_id(text: &str) -> Result<UserId, Refusal> {
    text.parse().map_err(|_no_id| Refusal::new(Code::UserNotFound, "no user can have such an id"))
}

/// Reads a user.
pub(in crate::admin) async fn show(call: Call, Named(id): Named, Query(Nothing {}): Query<Nothing>) -> Answer {
    let id = user_id(&id)?;
    call.about(&id);
    let user = call.manager().user(&call.caller, id).await?;
    json(StatusCode::OK, &UserShape::of(&user))
}

/// A user as it shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = UserToSet)]
pub(in crate::admin) struct ToSet {
    /// Its project: the caller's where it is left out; null for none, which is for operators of all.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._-]{1,64}$")]
    project_id: Option<Option<ProjectId>>,
    /// What its keys may do at most.
    flags: Flags,
    /// Whether its keys work; true where it is left out.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    active: Option<bool>,
}

impl ToSet {
    /// What is not said by the types of its fields.
    pub(in crate::admin) fn rules() -> Vec<Value> {
        vec![project_rule()]
    }
}

/// `all` stands for every project and names none.
fn project_rule() -> Value {
    serde_json::json!({ "properties": { "project_id": { "not": { "const": "all" } } } })
}

/// Makes a user, or replaces what is known of it.
pub(in crate::admin) async fn set(
    call: Call,
    Named(id): Named,
    Query(wait): Query<Patience>,
    Json(asked, _): Json<ToSet>,
) -> Answer {
    let patience = wait.span()?;
    let id: UserId = id.parse().map_err(|fault| Refusal::of_field("id", fault))?;
    call.about(&id);
    let own = || call.key.operates_on.as_ref().and_then(|scope| scope.project.clone());
    let change = UserChange {
        id,
        project: asked.project_id.unwrap_or_else(own),
        flags: asked.flags.0,
        active: activity(asked.active.unwrap_or(true)),
    };
    put(&call, change.into(), patience).await
}

const fn activity(on: bool) -> Activity {
    if on { Activity::Active } else { Activity::Disabled }
}

async fn put(call: &Call, change: UserPatch, patience: Wait) -> Answer {
    let done = call.manager().set_user(&call.caller, change).await?;
    let status = if done.created { StatusCode::CREATED } else { StatusCode::OK };
    call.changed(status, &UserShape::of(&done.user), done.committed, patience).await
}

/// What to change of a user. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = UserChanges)]
pub(in crate::admin) struct Changes {
    /// Another project; null for none, which is for operators of all.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._-]{1,64}$")]
    project_id: Option<Option<ProjectId>>,
    /// Other flags, in place of all there were.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Flags, required = false)]
    flags: Option<Flags>,
    /// Whether its keys work.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    active: Option<bool>,
}

impl Changes {
    /// What is not said by the types of its fields.
    pub(in crate::admin) fn rules() -> Vec<Value> {
        vec![project_rule()]
    }
}

/// Changes a user, or makes one that there is not: of the caller's project, working and without flags where
/// nothing else is said.
pub(in crate::admin) async fn update(
    call: Call,
    Named(id): Named,
    Query(wait): Query<Patience>,
    Json(asked, _): Json<Changes>,
) -> Answer {
    let patience = wait.span()?;
    let id: UserId = id.parse().map_err(|fault| Refusal::of_field("id", fault))?;
    call.about(&id);
    let flags = asked.flags.map(|flags| flags.0);
    let change = UserPatch { id, project: asked.project_id, flags, active: asked.active.map(activity) };
    put(&call, change, patience).await
}

/// Deletes a user and revokes its keys.
pub(in crate::admin) async fn delete(call: Call, Named(id): Named, Query(wait): Query<Patience>) -> Answer {
    let (id, patience) = (user_id(&id)?, wait.span()?);
    call.about(&id);
    let deleted = call.manager().delete_user(&call.caller, id).await?;
    call.gone(deleted.committed, patience).await
}
