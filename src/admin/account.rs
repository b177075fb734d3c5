//! The account of one request to the management API: settled once, when its answer is there or nobody
//! waits for it any more. Settling counts it and writes its line of the log, which names endpoint,
//! caller and what it was about, and never a token, a body or a query.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};
use parking_lot::Mutex;

use super::metrics::AdminMetrics;
use super::settings::Surface;
use crate::clock::Clock;
use crate::key::{KeyId, ProjectId};
use crate::wire::RequestId;

/// What a request turned out to be. Shared with the one who answers it.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// The pattern of the endpoint.
    pub(super) endpoint: Option<String>,
    /// Who asks.
    pub(super) caller: Option<(KeyId, Option<ProjectId>)>,
    /// The key or user it is about.
    pub(super) subject: Option<String>,
    /// The revision it made.
    pub(super) revision: Option<u64>,
}

/// What the one who answers a request knows of where it comes from, and tells of what it is.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) from: IpAddr,
    pub(super) surface: Surface,
    pub(super) noted: Arc<Mutex<Noted>>,
}

/// What is known of one request. Settled when dropped.
pub(super) struct Account {
    pub(super) context: Context,
    pub(super) surface: Surface,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: AdminMetrics,
    pub(super) started: Instant,
    pub(super) method: Method,
    pub(super) request_id: RequestId,
    /// None where nobody waited for an answer.
    pub(super) status: Option<u16>,
    pub(super) code: Option<&'static str>,
}

impl Account {
    /// Notes that there is an answer.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status.as_u16());
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let took = self.clock.monotonic().saturating_duration_since(self.started);
        let listener = self.surface.listener();
        let Noted { endpoint, caller, subject, revision } = std::mem::take(&mut *self.context.noted.lock());
        let status = self.status.map_or("none".to_owned(), |status| status.to_string());
        let labels = [listener, endpoint.as_deref().unwrap_or("none"), &status];
        self.metrics.requests.with_label_values(&labels).inc();
        self.metrics.duration.with_label_values(&[listener]).observe(took.as_secs_f64());
        if let Some(code) = self.code {
            self.metrics.refusals.with_label_values(&[listener, code]).inc();
        }
        tracing::info!(
            target: "keyward::access",
            listener,
            request_id = self.request_id.as_str(),
            method = shown(&self.method),
            endpoint,
            subject,
            client = %self.context.from,
            key = caller.as_ref().map(|(id, _)| tracing::field::display(id)),
            project = caller.as_ref().and_then(|(_, project)| project.as_ref()).map(ProjectId::as_str),
            code = self.code,
            status = self.status,
            revision,
            duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "management request"
        );
    }
}

/// A method as the log has it: an unknown one is what somebody typed, and may be anything.
fn shown(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS
        | Method::TRACE
        | Method::CONNECT => method.as_str(),
        _ => "other",
    }
}
