//! The ops listener: `/metrics`, `/livez` and `/readyz`, for those who run the gateway.
//!
//! It answers everybody who can reach it, tells nothing of single keys, and is bound to loopback
//! unless the configuration says otherwise.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use prometheus::Registry;

use crate::clock::Clock;
use crate::listen::{Handler, Peer, RequestBody};
use crate::ready::{Readiness, Unready};
use crate::sync::StalePolicy;
use crate::table::{Freshness, Table};
use crate::telemetry;

/// Answers the ops listener's requests.
#[derive(Debug)]
pub struct Ops {
    /// Every metric of the process.
    pub registry: Registry,
    /// Whether the process is up.
    pub readiness: Arc<Readiness>,
    /// Whether requests can be decided.
    pub table: Arc<Table>,
    /// What a stale table means: while any route serves keys from it, the gateway is ready.
    pub on_stale: Arc<dyn StalePolicy>,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
}

impl Handler for Ops {
    type Body = Full<Bytes>;

    async fn handle(self: Rc<Self>, request: Request<RequestBody>, _peer: Rc<Peer>) -> Response<Self::Body> {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            match request.uri().path() {
                "/metrics" => self.metrics(),
                "/livez" => text(StatusCode::OK, "live"),
                "/readyz" => match self.unready() {
                    None => text(StatusCode::OK, "ready"),
                    Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
                },
                _ => text(StatusCode::NOT_FOUND, "nothing here: /metrics, /livez, /readyz"),
            }
        } else {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET only");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refusal
        }
    }
}

impl Ops {
    /// Why requests would be refused, if they would be.
    fn unready(&self) -> Option<&'static str> {
        match self.readiness.check() {
            Err(Unready::Starting) => return Some("starting: not every listener is bound"),
            Err(Unready::Draining) => return Some("draining: a stop was asked for"),
            Ok(()) => {}
        }
        match self.table.freshness(self.clock.now()) {
            Freshness::Empty => Some("no keys loaded yet"),
            Freshness::Stale if self.on_stale.denies_all() => Some("keys are too stale to be served"),
            Freshness::Stale | Freshness::Fresh => None,
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match telemetry::page(&self.registry) {
            Ok(page) => {
                let mut response = Response::new(Full::from(page));
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::error!(%error, "the metrics page could not be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written; the log says why")
            }
        }
    }
}

fn text(status: StatusCode, line: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{line}\n")));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
