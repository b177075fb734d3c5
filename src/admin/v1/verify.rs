//! `/v1/verify`: what would be decided on a key, and why, without forwarding anything.

use std::fmt;

use http::{Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, json};
use crate::admin::input::{Flags, Json, Nothing, Query, SingleFlags, given};
use crate::admin::operator::Call;
use crate::admin::problem::{Code, Refusal};
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, KeyId, ProjectId, Record, Shape, Status, TOKEN_BYTES_MAX, Token, UserId};
use crate::manage::KeyView;
use crate::policy::{
    Access, Denial, DenyList, Found, HostPattern, PermitKind, Presented, Reason, Route, RouteTable, canonicalize,
    decide, normalize_host,
};

/// What looks at the gateway's routes as they are at this moment.
pub trait Routes: Send + Sync + fmt::Debug {
    /// Shows them.
    fn look(&self, see: &mut dyn FnMut(&RouteTable));
}

/// A token to decide on.
#[derive(Debug)]
pub(in crate::admin) struct Presentation(Token);

impl<'de> Deserialize<'de> for Presentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(Token::from_text(&text)));
        }
        Err(serde::de::Error::custom("expected a token: 1 to 4096 printable ASCII characters without spaces"))
    }
}

/// A key to decide on, and for what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = KeyToVerify)]
pub(in crate::admin) struct ToVerify {
    /// The token.
    #[schema(value_type = String, min_length = 1, max_length = 4096, pattern = "^[!-~]+$")]
    key: Presentation,
    /// The route: its name, or a method and a path or URL, such as `GET /keyrings/comms`.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, min_length = 1, max_length = 8192)]
    route: Option<String>,
    /// Flags that it must all hold, in place of a route.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = SingleFlags, required = false)]
    flags: Option<Flags>,
}

impl ToVerify {
    /// How its fields go together.
    pub(in crate::admin) fn rules() -> Vec<Value> {
        let both = serde_json::json!({ "properties": { "route": {}, "flags": {} }, "required": ["route", "flags"] });
        vec![serde_json::json!({ "description": "A route or flags.", "not": both })]
    }
}

/// What would be decided.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct Verdict {
    /// Whether the request would be let through.
    allowed: bool,
    /// The code of the refusal, as the gateway would answer it.
    #[schema(required)]
    code: Option<&'static str>,
    /// The true reason of the refusal, as the gateway would log it.
    #[schema(required)]
    reason: Option<&'static str>,
    /// The route that was found.
    #[schema(required)]
    route: Option<String>,
    /// The key; null where there is none that the caller could know of.
    #[schema(value_type = Option<String>, required)]
    key_id: Option<KeyId>,
    /// Its status.
    #[schema(value_type = Option<String>, required)]
    status: Option<Status>,
    /// Its project.
    #[schema(value_type = Option<String>, required)]
    project_id: Option<ProjectId>,
    /// Its environment.
    #[schema(value_type = Option<String>, required)]
    environment_id: Option<EnvironmentId>,
    /// Its user.
    #[schema(value_type = Option<String>, required)]
    user_id: Option<UserId>,
    /// When it ends, by expiry or grace.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    ends_at: Option<Timestamp>,
}

/// Decides on a key.
pub(in crate::admin) async fn verify(
    call: Call,
    Query(Nothing {}): Query<Nothing>,
    Json(asked, _): Json<ToVerify>,
) -> Answer {
    let ToVerify { key: Presentation(token), route, flags } = asked;
    let parts = call.parts();
    let view = call.manager().find_token(&call.caller, &token).await?;
    let record = view.as_ref().map(|view| Record::of(&view.key, view.user.as_ref()));
    let (deny, now) = (parts.deny.load(), parts.clock.now());
    // Whichever of its hashes the key is known by.
    let is_listed = deny.names_hash(&token.hash()) || record.as_ref().is_some_and(|record| deny.names(record));
    let presented = match &record {
        Some(_) if is_listed => Presented::Listed,
        Some(record) => Presented::Record(record),
        None if Shape::of(token.expose().as_bytes(), &parts.prefix) == Shape::NoKey => Presented::Malformed,
        None => Presented::Unknown,
    };
    let (found, decided) = match (route, flags) {
        (Some(_), Some(_)) => return Err(Refusal::of_field("flags", "is there beside route: keep one")),
        (Some(route), None) => {
            let mut decided = None;
            parts.routes.look(&mut |routes| decided = Some(on_route(&route, routes, presented, &deny, now)));
            let (name, decided) = decided.unwrap_or_else(|| Err(unknown("the gateway has no routes")))?;
            (Some(name), decided)
        }
        (None, flags) => (None, on_flags(&required(flags)?, presented, now)),
    };
    if let Some(view) = &view {
        call.about(&view.key.id);
    }
    json(StatusCode::OK, &Verdict::of(found, decided, view.as_ref(), is_listed, now))
}

impl Verdict {
    fn of(
        route: Option<String>,
        decided: Result<(), (&'static str, &'static str)>,
        view: Option<&KeyView>,
        is_listed: bool,
        now: Timestamp,
    ) -> Self {
        let status = view.map(|KeyView { key, user, .. }| key.standing(user.as_ref()).status(is_listed, now));
        let key = view.map(|view| &view.key);
        Self {
            allowed: decided.is_ok(),
            code: decided.err().map(|(code, _)| code),
            reason: decided.err().map(|(_, reason)| reason),
            route,
            key_id: key.map(|key| key.id),
            status,
            project_id: key.and_then(|key| key.project.clone()),
            environment_id: key.map(|key| key.environment.clone()),
            user_id: key.and_then(|key| key.user.clone()),
            ends_at: view.and_then(|view| view.key.standing(view.user.as_ref()).ends_at()),
        }
    }
}

type Decided = Result<(), (&'static str, &'static str)>;

fn unknown(why: impl fmt::Display) -> Refusal {
    Refusal::new(Code::UnknownRoute, format!("route: {why}"))
}

/// Flags that are required are concrete.
fn required(flags: Option<Flags>) -> Result<Vec<String>, Refusal> {
    let flags: Vec<String> = flags.unwrap_or_default().0.iter().map(ToString::to_string).collect();
    match flags.iter().find(|flag| flag.contains('*')) {
        Some(pattern) => Err(Refusal::of_field("flags", format_args!("{pattern} is a pattern; name single flags"))),
        None => Ok(flags),
    }
}

fn on_flags(required: &[String], presented: Presented<'_>, now: Timestamp) -> Decided {
    let told = |reason: Reason| Err((reason.code().as_str(), reason.as_str()));
    let record = match presented {
        Presented::Record(record) => record,
        Presented::Malformed => return told(Reason::Malformed),
        Presented::Listed => return told(Reason::Listed),
        _ => return told(Reason::Unknown),
    };
    match Reason::of_status(record.standing.status(false, now)) {
        Some(reason) => told(reason),
        None if record.flags().holds_reserved() => told(Reason::OperatorKey),
        None if required.iter().all(|flag| record.flags().meets(&flag.split('.'))) => Ok(()),
        None => told(Reason::LacksFlags),
    }
}

fn on_route(
    asked: &str,
    routes: &RouteTable,
    presented: Presented<'_>,
    deny: &DenyList,
    now: Timestamp,
) -> Result<(String, Decided), Refusal> {
    let (method, host, path) = match asked.split_once(' ') {
        Some((method, url)) => request(method, url)?,
        None => example(asked, routes)?,
    };
    let path = canonicalize(&path).map_err(unknown)?;
    let found = match routes.find(host.as_deref(), &method, &path) {
        Found::Route(found) => found,
        Found::NoRoute => return Err(unknown("none matches this host and path")),
        Found::WrongMethod(_) => return Err(unknown("the path is served, but not for this method")),
        Found::Ambiguous(fault) => return Err(unknown(fault)),
    };
    let told = |denial: &Denial| (denial.code.as_str(), denial.reason.as_str());
    let decided = match decide(&found, presented, deny, now) {
        Err(denial) => Err(told(&denial)),
        // What a route in shadow lets pass, it would have refused.
        Ok(permit) => match permit.kind() {
            PermitKind::Shadow(denial) => Err(told(denial)),
            PermitKind::Public | PermitKind::Key { .. } => Ok(()),
        },
    };
    Ok((found.route.name().to_owned(), decided))
}

type Example = (Method, Option<String>, String);

/// A method and a path or URL.
fn request(method: &str, url: &str) -> Result<Example, Refusal> {
    let method = Method::from_bytes(method.as_bytes()).map_err(|_fault| unknown("the method is none"))?;
    let (host, rest) = match url.split_once("://") {
        Some(("http" | "https", rest)) => {
            let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at_checked(at).unwrap_or((rest, ""));
            let host = normalize_host(authority).ok_or_else(|| unknown("the host is none"))?;
            (Some(host.into_owned()), if rest.is_empty() { "/" } else { rest })
        }
        Some(_) => return Err(unknown("the scheme is neither http nor https")),
        None => (None, url),
    };
    Ok((method, host, rest.split(['?', '#']).next().unwrap_or_default().to_owned()))
}

/// A request that the route of this name would answer, where its flags are the same for all.
fn example(name: &str, routes: &RouteTable) -> Result<Example, Refusal> {
    let named = |route: &&Route| route.name() == name;
    let route = routes.routes().iter().find(named).ok_or_else(|| unknown("the gateway has none of this name"))?;
    let spec = route.spec();
    if let Access::Flags { any, all } = &spec.access
        && any.iter().chain(all).any(|flag| flag.captures().next().is_some())
    {
        return Err(unknown("what it asks depends on the path: say the method and the path"));
    }
    let segment = |segment: &'static str| {
        move |part: &str| if part.starts_with('{') { segment.to_owned() } else { part.to_owned() }
    };
    let path: Vec<String> = spec.path.split('/').map(segment("x")).collect();
    let host = match &spec.host {
        HostPattern::Any => None,
        HostPattern::Exact(host) => Some(host.to_string()),
        HostPattern::Wildcard(suffix) => Some(format!("x.{}", suffix.trim_start_matches('.'))),
    };
    Ok((spec.methods.first().cloned().unwrap_or(Method::GET), host, path.join("/")))
}
