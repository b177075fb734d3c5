//! One request from its head to its answer. [`Gateway::handle`] has one exit: it opens the account,
//! lets [`admit`] walk the straight line, and turns a refusal into the answer for it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::ALLOW;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use super::account::{Account, Decided};
use super::answer::{AnswerBody, Content};
use super::authenticate::{Authenticated, authenticate};
use super::cors::{self, CorsFields};
use super::drain::{KEPT_BYTES_MAX, drain};
use super::forward::{Forwarding, forward};
use super::gate;
use super::headers::REQUEST_ID;
use super::jwks;
use super::metrics::Outcome;
use super::refusal::{Asked, answer, is_grpc, is_head};
use super::tunnel::Tunnel;
use super::upstream::ClientBody;
use super::worker::{Shared, View, Worker, ends_at};
use crate::listen::{Handler, Peer};
use crate::policy::{Access, Code, Denial, Found, PermitKind, canonicalize, decide};
use crate::secret::NoRandomness;
use crate::wire::{Inbound, RequestId, TraceParent, Transfer, client_address, trim_values};

/// The data plane of one worker: lets through what a key, or a public route, allows.
#[derive(Debug)]
pub struct Gateway {
    worker: Rc<Worker>,
    // Ends with the gateway.
    chores: RefCell<JoinSet<()>>,
}

impl Gateway {
    /// The data plane for one more worker, made on that worker's `LocalSet`.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn new(shared: Shared) -> Result<Self, NoRandomness> {
        let gateway = Self { worker: Worker::new(shared)?, chores: RefCell::default() };
        gateway.begin_chores();
        Ok(gateway)
    }

    /// Begins to look after open streams, idle connections and the targets' health.
    fn begin_chores(&self) {
        let mut chores = self.chores.borrow_mut();
        if chores.is_empty() {
            chores.spawn_local(Rc::clone(&self.worker).tend());
        }
    }
}

/// A request that is not let through, or that its upstream did not answer.
#[derive(Debug)]
pub(super) struct Refused {
    /// What the client is told.
    pub(super) denial: Denial,
    /// Whether the gateway refused it, at once or later, or the upstream failed.
    pub(super) outcome: Outcome,
    /// The methods of a 405.
    pub(super) allow: Option<HeaderValue>,
    /// What nobody has read of the request's body.
    pub(super) unread: Option<ClientBody>,
}

impl Refused {
    /// Refused by the gateway.
    pub(super) fn new(denial: impl Into<Denial>, unread: Option<ClientBody>) -> Box<Self> {
        Box::new(Self { denial: denial.into(), outcome: Outcome::Denied, allow: None, unread })
    }

    /// Let through, and no longer permitted before there was an answer.
    pub(super) fn cut(denial: Denial, unread: Option<ClientBody>) -> Box<Self> {
        Box::new(Self { denial, outcome: Outcome::Cut, allow: None, unread })
    }

    /// Not answered by the upstream.
    pub(super) fn failed(code: Code, unread: Option<ClientBody>) -> Box<Self> {
        Box::new(Self { denial: code.into(), outcome: Outcome::Failed, allow: None, unread })
    }
}

/// What becomes of a request that was let through.
#[derive(Debug)]
pub(super) enum Admitted {
    /// An answer.
    Answer(Response<Content>),
    /// A WebSocket.
    Tunnel(Response<()>, Box<Tunnel>),
}

impl Handler for Gateway {
    type Body = AnswerBody;

    async fn handle(&self, request: Request<Incoming>, peer: &Rc<Peer>) -> Response<AnswerBody> {
        let worker = &*self.worker;
        let view = worker.view();
        let in_flight = worker.ledger.begin();
        let (mut parts, body) = request.into_parts();
        if parts.version == Version::HTTP_2 {
            // hyper has done so for HTTP/1.
            trim_values(&mut parts.headers);
        }
        let mut account = open_account(worker, &view, &parts, !body.is_end_stream(), peer);
        let grpc = is_grpc(&parts.headers);
        let head = is_head(&parts.method);
        let expects = parts.headers.contains_key(http::header::EXPECT);
        let admitted = if in_flight > view.settings.requests_max {
            let (body, _) = limited(body, None, false, peer);
            Err(Refused::new(Code::Overloaded, Some(body)))
        } else {
            Box::pin(admit(worker, &view, parts, body, peer, &mut account)).await
        };
        match admitted {
            Ok(Admitted::Answer(response)) => {
                account.status = response.status().as_u16();
                response.map(|content| AnswerBody::new(content, account))
            }
            Ok(Admitted::Tunnel(response, tunnel)) => {
                account.status = response.status().as_u16();
                tunnel.run(peer, account);
                response.map(|()| AnswerBody::none())
            }
            Err(refused) => {
                account.refused(&refused.denial, refused.outcome);
                let close = settle_unread(&refused, account.version, expects);
                let was_cut = refused.outcome == Outcome::Cut;
                let status = |denial: &Denial| if was_cut { denial.grpc_status_of_cut() } else { denial.grpc_status() };
                let grpc = grpc.then(|| status(&refused.denial));
                let asked = Asked {
                    version: account.version,
                    head,
                    grpc,
                    request_id: &account.request_id,
                    realm: &view.settings.realm,
                    reveal_reason: view.settings.reveal_reason,
                };
                let mut response = answer(&refused.denial, asked, refused.allow, close);
                if let Some(cors) = &account.cors {
                    cors.write(response.headers_mut());
                }
                account.status = response.status().as_u16();
                if let Some(body) = refused.unread
                    && !expects
                    && account.version != Version::HTTP_2
                {
                    drain(peer, body);
                }
                response.map(|text| AnswerBody::new(Content::Own((!text.is_empty()).then_some(text)), account))
            }
        }
    }
}

/// Whether the connection closes after a refusal. It stays where nothing is left of the body, or so
/// little that it is read to its end. A client that waits for 100 may send its body or not: nobody
/// can know where its next request begins.
fn settle_unread(refused: &Refused, version: Version, expects: bool) -> bool {
    if version == Version::HTTP_2 {
        return false;
    }
    let left = refused.unread.as_ref().filter(|body| !body.is_end_stream());
    refused.denial.code.closes()
        || left.is_some_and(|body| expects || body.size_hint().upper().is_none_or(|upper| upper > KEPT_BYTES_MAX))
}

fn open_account(worker: &Worker, view: &View, parts: &Parts, has_body: bool, peer: &Peer) -> Box<Account> {
    let settings = &view.settings;
    let trusted = is_trusted(settings, peer.address.ip());
    let request_id = parts.headers.get(REQUEST_ID).filter(|_| trusted).and_then(RequestId::from_trusted);
    let trace = TraceParent::find(&parts.headers)
        .map_or_else(|| TraceParent::fresh(&worker.ids), |trace| trace.continued(&worker.ids));
    Box::new(Account {
        ledger: Rc::clone(&worker.ledger),
        cells: Arc::clone(worker.unrouted()),
        started: worker.shared.clock.monotonic(),
        logged: settings.access_log,
        prefix: settings.token_prefix.clone(),
        request_id: request_id.unwrap_or_else(|| RequestId::fresh(&worker.ids)),
        trace,
        method: parts.method.clone(),
        version: parts.version,
        client: client_address(peer.address.ip(), &parts.headers, &settings.trusted_proxies),
        tls: peer.tls.is_some(),
        authority: None,
        target: parts.uri.path_and_query().map(|target| if has_body { apart(target) } else { target.clone() }),
        route: None,
        upstream: None,
        websocket: false,
        key: None,
        decided: None,
        denial: None,
        cors: None,
        outcome: Outcome::Abandoned,
        // What nginx logs where the client went away before its answer.
        status: 499,
        upstream_took: None,
        received: None,
        sent: 0,
    })
}

/// The same target in memory of its own. As a part of the head it would keep the whole buffer of that for as
/// long as a body takes to come.
fn apart(target: &PathAndQuery) -> PathAndQuery {
    let own = bytes::Bytes::copy_from_slice(target.as_str().as_bytes());
    PathAndQuery::from_maybe_shared(own).unwrap_or_else(|_never| target.clone())
}

fn is_trusted(settings: &super::Settings, peer: IpAddr) -> bool {
    settings.trusted_proxies.iter().any(|network| network.contains(peer))
}

/// A request's body with its limit and pace.
fn limited(body: Incoming, limit: Option<u64>, trailers: bool, peer: &Peer) -> (ClientBody, Rc<Transfer>) {
    let transfer = Rc::new(Transfer::default());
    let body = Inbound::new(peer.paced(body), limit.unwrap_or(u64::MAX), trailers, Rc::clone(&transfer));
    (body, transfer)
}

/// The straight line: gate, route, key, decision, forwarding.
async fn admit(
    worker: &Worker,
    view: &Rc<View>,
    parts: Parts,
    body: Incoming,
    peer: &Rc<Peer>,
    account: &mut Account,
) -> Result<Admitted, Box<Refused>> {
    let settings = &view.settings;
    let refuse = |denial: Denial, body: Incoming| Refused::new(denial, Some(limited(body, None, false, peer).0));

    let gated = match gate::check(&parts, |method| settings.routes.knows_method(method)) {
        Ok(gated) => gated,
        Err(code) => return Err(refuse(code.into(), body)),
    };
    account.authority.clone_from(&gated.authority);
    if gated.asterisk {
        return Ok(Admitted::Answer(nothing_to_say(account)));
    }

    let target = account.target.clone();
    let path = match canonicalize(target.as_ref().map_or("", PathAndQuery::path)) {
        Ok(path) => path,
        Err(_fault) => return Err(refuse(Code::AmbiguousPath.into(), body)),
    };
    if settings.jwks && path.as_str() == jwks::PATH {
        return match jwks::answer(&parts.method, &worker.shared.signers.load(), account) {
            Ok(response) => Ok(Admitted::Answer(response)),
            Err(allow) => {
                let mut refused = refuse(Code::MethodNotAllowed.into(), body);
                refused.allow = Some(allow);
                Err(refused)
            }
        };
    }
    if let Some(method) = cors::asked_method(&parts)
        && let Found::Route(found) = settings.routes.find(gated.host().as_deref(), &method, &path)
        && let Some(rules) = &found.route.spec().forward.cors
    {
        if let Some(route_view) = view.route(found.route.index()) {
            account.route = Some(Rc::clone(&route_view.name));
            account.cells = Arc::clone(&route_view.cells);
        }
        let mut response = nothing_to_say(account);
        response.headers_mut().remove(ALLOW);
        cors::write_preflight(rules, &parts.headers, response.headers_mut());
        return Ok(Admitted::Answer(response));
    }
    let found = match settings.routes.find(gated.host().as_deref(), &parts.method, &path) {
        Found::Route(found) => found,
        Found::NoRoute => return Err(refuse(Code::NoRoute.into(), body)),
        Found::Ambiguous(_fault) => return Err(refuse(Code::AmbiguousPath.into(), body)),
        Found::WrongMethod(allow) => {
            let mut refused = refuse(Code::MethodNotAllowed.into(), body);
            refused.allow = Some(allow.to_value());
            return Err(refused);
        }
    };
    let route = found.route.spec();
    let Some(route_view) = view.route(found.route.index()) else {
        return Err(refuse(Code::Internal.into(), body));
    };
    account.route = Some(Rc::clone(&route_view.name));
    account.cells = Arc::clone(&route_view.cells);
    account.upstream = Some(Rc::clone(&route_view.upstream));
    account.cors = route.forward.cors.as_ref().map(|rules| CorsFields::of(rules, &parts.headers));

    let version = worker.shared.table.version();
    let deny = worker.shared.deny.load();
    let authenticated = if route.access == Access::Public {
        Authenticated::nobody()
    } else {
        let registry = worker.registry(settings, &deny);
        authenticate(registry, &parts.headers, route, account.client, worker.shared.clock.now()).await
    };
    let now = worker.shared.clock.now();
    let permit = match decide(&found, authenticated.presented(), &deny, now) {
        Ok(permit) => permit,
        Err(denial) => {
            if let crate::policy::Presented::Record(record) = authenticated.presented() {
                account.key = Some((record.id, record.project.clone()));
            }
            return Err(refuse(denial, body));
        }
    };
    drop(deny);
    match permit.kind() {
        PermitKind::Public => account.outcome = Outcome::Public,
        PermitKind::Shadow(denial) => account.refused(&denial.clone(), Outcome::Shadow),
        PermitKind::Key { record, .. } => {
            account.outcome = Outcome::Allowed;
            account.key = Some((record.id, record.project.clone()));
            worker.shared.table.used(record.slot, now);
        }
    }
    account.decided = Some(Decided { sent: authenticated.sent, version, ends_at: ends_at(&permit, route) });

    // The outcome stands once there is an answer; until then the client may still go away.
    let outcome = std::mem::replace(&mut account.outcome, Outcome::Abandoned);
    let forwarding = Forwarding {
        worker,
        settings,
        route,
        service: route_view.service.as_ref(),
        peer,
        trusted: is_trusted(settings, peer.address.ip()),
        path: &path,
        now,
    };
    let admitted = forward(forwarding, permit, parts, body, account).await?;
    account.outcome = outcome;
    Ok(admitted)
}

/// `OPTIONS *` asks about the server as a whole: 204, and never forwarded.
fn nothing_to_say(account: &mut Account) -> Response<Content> {
    account.outcome = Outcome::Answered;
    let mut response = Response::new(Content::Own(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"));
    response.headers_mut().insert(REQUEST_ID, account.request_id.value().clone());
    response
}
