//! `/v1/gateways` and `/v1/revisions`: which gateways there are, and where a change is in force.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, empty, json};
use crate::admin::input::{Named, Nothing, Query};
use crate::admin::operator::Call;
use crate::admin::problem::{Code, Refusal};
use crate::clock::Timestamp;
use crate::manage::{Confirmation, GatewayState, GatewayView};
use crate::store::{GatewayId, Incarnation, WhenStale};

/// A process of a gateway, as it said of itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Gateway)]
pub struct GatewayShape<'a> {
    /// The gateway's id, as long as its state folder exists.
    #[schema(value_type = String, pattern = "^gw_[0-9a-f]{32}$")]
    id: &'a GatewayId,
    /// The process: a gateway has two of them while one binary takes over from another.
    #[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
    incarnation: Incarnation,
    /// How it stands.
    #[schema(value_type = GatewayStanding)]
    state: &'static str,
    /// Up to which revision it decides requests, also after a restart without the store.
    applied_revision: u64,
    /// Up to which revision it has cut streams that are no longer permitted.
    streams_cut_revision: u64,
    /// How many revisions it has not confirmed; null where it follows another history than the store's.
    #[schema(required)]
    lag_revisions: Option<u64>,
    /// For how many seconds there has been one that it has not confirmed; null where that is not known.
    #[schema(required)]
    lag_seconds: Option<f64>,
    /// When the store last heard of it.
    #[schema(value_type = String, format = DateTime)]
    last_seen_at: Timestamp,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// What it does once it has gone without its store for `max_staleness_seconds`.
    #[schema(value_type = OnStale)]
    on_stale: &'static str,
    /// How long it goes without its store before that.
    max_staleness_seconds: u64,
    /// The program's version.
    version: &'a str,
    /// The machine's name.
    host: &'a str,
    /// The process's number on that machine.
    pid: u32,
}

/// How a process of a gateway stands.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "tells the API's description what there is; states name themselves")]
enum GatewayStanding {
    /// It has confirmed the newest revision.
    Current,
    /// It was heard lately, and has not confirmed the newest revision yet.
    Behind,
    /// It was not heard for a while, and may still be serving.
    Silent,
    /// It was not heard for so long that by its own configuration it refuses everything.
    Stale,
}

/// What a gateway does once it is stale.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "tells the API's description what there is")]
enum OnStale {
    /// It goes on letting through what it knows, on some route at least.
    Serve,
    /// It refuses every key.
    Deny,
}

impl<'a> GatewayShape<'a> {
    /// Of a process.
    #[must_use]
    pub fn of(view: &'a GatewayView) -> Self {
        let GatewayView { gateway, state, lag_revisions, lag } = view;
        let report = &gateway.report;
        Self {
            id: &report.gateway,
            incarnation: report.incarnation,
            state: GatewayState::as_str(*state),
            applied_revision: report.applied.revision,
            streams_cut_revision: report.streams_cut,
            lag_revisions: *lag_revisions,
            lag_seconds: lag.map(|lag| lag.as_secs_f64()),
            last_seen_at: gateway.last_seen,
            started_at: report.started_at,
            on_stale: match report.when_stale {
                WhenStale::Serves => "serve",
                WhenStale::Denies => "deny",
            },
            max_staleness_seconds: report.max_staleness.as_secs(),
            version: &report.version,
            host: &report.host,
            pid: report.pid,
        }
    }
}

/// Where a revision is in force.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RevisionConfirmation)]
pub struct ConfirmationShape<'a> {
    /// The revision.
    revision: u64,
    /// Whether it is in force everywhere: nobody is unconfirmed.
    confirmed: bool,
    /// The processes that decide by it, and have cut the streams that it ends.
    applied: Vec<GatewayShape<'a>>,
    /// Those that may not yet.
    unconfirmed: Vec<GatewayShape<'a>>,
}

impl<'a> ConfirmationShape<'a> {
    /// Of a confirmation.
    #[must_use]
    pub fn of(confirmation: &'a Confirmation) -> Self {
        let shapes = |views: &'a [GatewayView]| views.iter().map(GatewayShape::of).collect();
        Self {
            revision: confirmation.revision,
            confirmed: confirmation.is_of_all(),
            applied: shapes(&confirmation.applied),
            unconfirmed: shapes(&confirmation.unconfirmed),
        }
    }
}

/// Lists every process of every gateway.
pub(in crate::admin) async fn list(call: Call, Query(Nothing {}): Query<Nothing>) -> Answer {
    let fleet = call.manager().gateways(&call.caller).await?;
    let shapes: Vec<_> = fleet.gateways.iter().map(GatewayShape::of).collect();
    json(StatusCode::OK, &shapes)
}

/// Tells where a revision is in force.
pub(in crate::admin) async fn confirmation(
    call: Call,
    Named(revision): Named,
    Query(Nothing {}): Query<Nothing>,
) -> Answer {
    // What the store counts with has a sign.
    let number = revision.parse::<u64>().ok().filter(|number| i64::try_from(*number).is_ok());
    let number = number.ok_or_else(|| Refusal::new(Code::RevisionNotFound, "a revision is a number"))?;
    let confirmation = call.manager().confirmation(&call.caller, number).await?;
    json(StatusCode::OK, &ConfirmationShape::of(&confirmation))
}

/// Forgets a gateway.
pub(in crate::admin) async fn forget(call: Call, Named(id): Named, Query(Nothing {}): Query<Nothing>) -> Answer {
    call.about(&id);
    let id: GatewayId = id.parse().map_err(|fault| Refusal::new(Code::GatewayNotFound, format!("{fault}")))?;
    call.manager().forget_gateway(&call.caller, id).await?;
    Ok(empty())
}
