//! The account of one request: what is learnt of it on its way, and settled once, when the last of
//! its answer is gone or nobody waits for it any more. Settling counts it and writes its line of the
//! access log. Never holds a token, a query value or a body.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::{Authority, PathAndQuery};
use http::{Method, Version};

use super::authenticate::SentToken;
use super::cors::CorsFields;
use super::headers::SharedIdentity;
use super::in_flight::OwnInFlight;
use super::metrics::{Outcome, RouteCells, WorkerCells};
use super::worker::{RouteView, View};
use crate::clock::{Clock, Timestamp};
use crate::key::{KeyId, ProjectId, Status, TokenPrefix};
use crate::policy::{Code, Denial};
use crate::wire::{RequestId, TraceParent, Transfer};

const SHOWN_PATH_BYTES_MAX: usize = 1024;
/// A run of this many letters and digits may be a secret.
const SECRET_LETTERS: usize = 32;

/// What is known of one request. Settled when dropped.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) ledger: Rc<Ledger>,
    /// The configuration that it began with.
    pub(super) view: Rc<View>,
    pub(super) started: Instant,
    /// When its answer was here whole; none where it comes bit by bit, and ends when it is dropped.
    pub(super) ended: Option<Instant>,
    pub(super) request_id: RequestId,
    pub(super) trace: TraceParent,
    /// Whether that began elsewhere.
    pub(super) trace_continues: bool,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) client: IpAddr,
    /// Who is connected, where that is a proxy which speaks for the client.
    pub(super) peer: Option<SocketAddr>,
    pub(super) tls: bool,
    pub(super) grpc: bool,
    pub(super) authority: Option<Authority>,
    pub(super) target: Option<PathAndQuery>,
    /// The place of its route in the view.
    pub(super) route: Option<usize>,
    /// Whether it is to become a WebSocket.
    pub(super) websocket: bool,
    /// Whose it is, where that is logged.
    pub(super) key: Option<(KeyId, Rc<SharedIdentity>)>,
    /// How the key stands and when it ends, where its holder should know.
    pub(super) expiry: Option<(Status, Timestamp)>,
    /// What was decided, for as long as the answer lasts.
    pub(super) decided: Option<Decided>,
    pub(super) denial: Option<Denial>,
    /// What the answer says to a script of another origin, whatever the answer is.
    pub(super) cors: Option<CorsFields>,
    pub(super) outcome: Outcome,
    pub(super) status: u16,
    pub(super) upstream_took: Option<Duration>,
    /// Why its upstream did not answer.
    pub(super) upstream_error: Option<Box<str>>,
    pub(super) received: Option<Rc<Transfer>>,
    pub(super) sent: u64,
}

/// What an open stream is decided again by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decided {
    /// The token that was sent.
    pub(super) sent: Option<SentToken>,
    /// What the table had seen.
    pub(super) version: u64,
    /// When the permit ends by the clock alone.
    pub(super) ends_at: Option<Timestamp>,
}

/// What the accounts of one worker share.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cells: Arc<WorkerCells>,
    pub(super) in_flight: OwnInFlight,
    /// The cells of requests that no route matched.
    pub(super) unrouted: Arc<RouteCells>,
}

impl Account {
    /// Its route, once it has one.
    pub(super) fn route_view(&self) -> Option<&RouteView> {
        self.route.and_then(|at| self.view.route(at))
    }

    /// Notes a refusal.
    pub(super) fn refused(&mut self, denial: &Denial, outcome: Outcome) {
        self.ledger.cells.denied(denial);
        self.denial = Some(denial.clone());
        self.outcome = outcome;
    }

    /// Notes that an answer ended before its end.
    pub(super) fn broke_off(&mut self, code: Code) {
        self.denial = Some(code.into());
        self.outcome = Outcome::Failed;
    }

    /// Notes that an answer was cut.
    pub(super) fn cut(&mut self, denial: Denial) {
        self.denial = Some(denial);
        self.outcome = Outcome::Cut;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The listener answers in place of who was at work on it.
            self.refused(&Code::Internal.into(), Outcome::Failed);
            self.status = Code::Internal.status();
        }
        let ended = self.ended.unwrap_or_else(|| self.ledger.clock.monotonic());
        let took = ended.saturating_duration_since(self.started);
        let cells = self.route_view().map_or(&self.ledger.unrouted, |route| &route.cells);
        cells.answered(self.outcome, self.status, took);
        self.ledger.in_flight.end(self.view.settings.requests_max);
        if self.view.settings.access_log {
            self.log(took);
        }
    }
}

impl Account {
    fn log(&self, took: Duration) {
        let trace = self.trace.trace_id();
        let (path, query) = shown_target(self.target.as_ref(), &self.view.settings.token_prefix);
        let denial = self.denial.as_ref();
        tracing::info!(
            target: "keyward::access",
            request_id = self.request_id.as_str(),
            trace_id = std::str::from_utf8(&trace).unwrap_or_default(),
            method = self.method.as_str(),
            host = self.authority.as_ref().map(Authority::as_str),
            path,
            query,
            protocol = protocol(self.version),
            tls = self.tls,
            client = %self.client,
            peer = self.peer.map(tracing::field::display),
            route = self.route_view().map(|route| &*route.name),
            key = self.key.as_ref().map(|(id, _)| tracing::field::display(id)),
            project = self.key.as_ref().and_then(|(_, shared)| shared.project.as_ref()).map(ProjectId::as_str),
            outcome = self.outcome.as_str(),
            code = denial.map(|denial| denial.code.as_str()),
            reason = denial.map(|denial| denial.reason.as_str()),
            status = self.status,
            duration_us = micros(took),
            upstream_us = self.upstream_took.map(micros),
            upstream_error = self.upstream_error.as_deref(),
            bytes_in = self.received.as_ref().map_or(0, |transfer| transfer.bytes()),
            bytes_out = self.sent,
            "request"
        );
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "other",
    }
}

/// The path with what looks like a token masked, and the names of the query's fields.
fn shown_target(target: Option<&PathAndQuery>, prefix: &TokenPrefix) -> (String, Option<String>) {
    let Some(target) = target else { return (String::new(), None) };
    let names = target.query().map(|query| {
        let names: Vec<_> = query.split(['&', ';']).map(|field| field.split('=').next().unwrap_or_default()).collect();
        mask(&names.join("&"), prefix)
    });
    (mask(target.path(), prefix), names)
}

/// `text` without what may be a secret: a run that begins like one of our tokens or a JWT, of 32
/// letters and digits, or of 32 with dashes, underscores or percent signs that mixes digits and
/// capitals.
fn mask(text: &str, prefix: &TokenPrefix) -> String {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '%');
    let mut shown = String::with_capacity(text.len().min(SHOWN_PATH_BYTES_MAX));
    for piece in text.split_inclusive(|letter: char| !is_part(letter)) {
        if shown.len() + piece.len() > SHOWN_PATH_BYTES_MAX {
            shown.push('…');
            break;
        }
        let run = piece.trim_end_matches(|letter: char| !is_part(letter));
        if looks_secret(run, prefix) {
            shown.push_str("***");
            shown.push_str(piece.strip_prefix(run).unwrap_or_default());
        } else {
            shown.push_str(piece);
        }
    }
    shown
}

fn looks_secret(run: &str, prefix: &TokenPrefix) -> bool {
    let ours = run.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('_'));
    let plain_run = run.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|part| part.len() >= SECRET_LETTERS);
    let mixed = run.len() >= SECRET_LETTERS
        && run.bytes().any(|byte| byte.is_ascii_digit())
        && run.bytes().any(|byte| byte.is_ascii_uppercase());
    ours || plain_run || mixed || run.starts_with("eyJ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(target: &str) -> (String, Option<String>) {
        let target: PathAndQuery = target.parse().expect("a target in a test");
        shown_target(Some(&target), &TokenPrefix::default())
    }

    #[test]
    fn a_path_is_shown_and_of_a_query_only_its_names() {
        let shown = shown("/keyrings/comms/read?token=secret&page=2&flag");
        assert_eq!(shown, ("/keyrings/comms/read".to_owned(), Some("token&page&flag".to_owned())));
    }

    #[test]
    fn what_looks_like_a_token_is_masked_wherever_it_stands() {
        let token = "kw_live_0123456789abcdefghijABCDEFGHIJ0123456789abc012345";
        for secret in [
            token,
            "kw_test_short",
            "kw_",
            "0123456789abcdef0123456789abcdef",
            "eyJhbGciOiJFZERTQSJ9",
            "aB3-aB3_aB3-aB3_aB3-aB3_aB3-aB3_",
            "%6b%77%5F%6c%69%76%65%5FABCDEFG0",
        ] {
            let (path, query) = shown(&format!("/a/{secret}/b?{secret}=1&x=1"));
            assert_eq!(path, "/a/***/b", "{secret}");
            assert_eq!(query.as_deref(), Some("***&x"), "{secret}");
        }
        assert_eq!(shown(&format!("/a/{token}.txt")).0, "/a/***.txt");
    }

    #[test]
    fn an_ordinary_path_is_not_masked() {
        for path in ["/v1/users/42", "/a/018f6b1e-7c1a-7b1e-8b1e-0123456789ab", "/some-rather-long-title-of-an-article"]
        {
            assert_eq!(shown(path).0, path);
        }
    }

    #[test]
    fn a_long_path_is_cut() {
        assert!(shown(&"/abc".repeat(1000)).0.len() <= SHOWN_PATH_BYTES_MAX + "…".len());
    }
}
