//! One request from its head to its answer. [`Gateway::handle`] has one exit: it opens the account,
//! lets [`walk`] go the straight line, waits for the upstream, and turns a refusal into the answer for it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use http::header::ALLOW;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::task::JoinSet;

use super::account::{Account, Decided};
use super::answer::{AnswerBody, Content};
use super::authenticate::{Authenticated, Missing, Told, authenticate};
use super::cors::{self, CorsFields};
use super::drain::{KEPT_BYTES_MAX, drain};
use super::forward::{Forwarding, Outbound, prepare};
use super::gate::{self, Gated};
use super::headers::{REQUEST_ID, expiry_of, write_expiry};
use super::jwks;
use super::metrics::Outcome;
use super::refusal::{Asked, answer, is_grpc, is_head};
use super::refused_head;
use super::tunnel::Tunnel;
use super::upstream::ClientBody;
use super::worker::{Shared, View, Worker, ends_at};
use crate::listen::{Handler, Peer, RefusedHead, RequestBody};
use crate::policy::{Access, Code, Denial, Found, PermitKind, Presented, canonicalize, decide};
use crate::secret::NoRandomness;
use crate::wire::{Inbound, RequestId, Seen, TraceParent, client_address, trim_values};

/// The data plane of one worker: lets through what a key, or a public route, allows.
#[derive(Debug)]
pub struct Gateway {
    worker: Rc<Worker>,
    // Ends with the gateway.
    chores: RefCell<JoinSet<()>>,
}

impl Gateway {
    /// The data plane for one more worker, made on that worker's local runtime.
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

/// What is let through where no route says otherwise.
const USUAL_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");

/// A request that is not let through, or that its upstream did not answer.
#[derive(Debug)]
pub(super) struct Refused {
    /// What the client is told.
    pub(super) denial: Denial,
    /// Whether the gateway refused it, at once or later, the upstream failed, or the client went away.
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

    /// Given up by its client, in the middle of its body. Nobody reads the answer.
    pub(super) fn abandoned() -> Box<Self> {
        Box::new(Self { denial: Code::BadRequest.into(), outcome: Outcome::Abandoned, allow: None, unread: None })
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

/// How far a request comes without waiting for anybody.
enum Step<'m> {
    /// It is answered here.
    Answer(Response<Content>),
    /// To its upstream.
    Onward(Outbound),
    /// The store has to be asked for its token; then the step is taken again.
    Missing(Missing<'m>),
}

impl Handler for Gateway {
    type Body = AnswerBody;

    fn handle(
        self: Rc<Self>,
        request: Request<RequestBody>,
        peer: Rc<Peer>,
    ) -> impl Future<Output = Response<AnswerBody>> {
        // Here, where they stay: an async fn would keep the request a second time.
        let (mut parts, mut body) = request.into_parts();
        async move {
            let worker = &*self.worker;
            let view = worker.view();
            let too_many = !worker.ledger.in_flight.begin(view.settings.requests_max);
            if parts.version == Version::HTTP_2 {
                // The parser has done so for HTTP/1.
                trim_values(&mut parts.headers);
            }
            let seen = Seen::of(&parts.headers);
            let mut account = open_account(worker, &view, &parts, seen, !body.is_end_stream(), &peer);
            let expects = seen.has(Seen::EXPECT);
            let mut told = None;
            // Where nothing was waited for it is as late as it was.
            let mut now = account.started;
            let step = loop {
                if too_many {
                    break Err(Refused::new(Code::Overloaded, None));
                }
                match walk(worker, &view, (&mut parts, seen), &mut body, &peer, &mut account, told.take()) {
                    Ok(Step::Missing(missing)) => {
                        told = Some(missing.told().await);
                        now = worker.shared.clock.monotonic();
                    }
                    step => break step,
                }
            };
            let admitted = match step {
                Ok(Step::Onward(outbound)) => {
                    let mut sending = outbound.with(body, &peer, &mut account);
                    sending.send(worker, &view, &mut account, now).await
                }
                Ok(Step::Answer(response)) => Ok(Admitted::Answer(response)),
                Ok(Step::Missing(_)) => Err(Refused::new(Code::Internal, unread(body, &peer))),
                Err(mut refused) => {
                    refused.unread = unread(body, &peer);
                    Err(refused)
                }
            };
            match admitted {
                Ok(Admitted::Answer(response)) => {
                    account.status = response.status().as_u16();
                    response.map(|content| AnswerBody::new(content, account))
                }
                Ok(Admitted::Tunnel(response, tunnel)) => {
                    account.status = response.status().as_u16();
                    tunnel.run(&peer, account);
                    response.map(|()| AnswerBody::none())
                }
                Err(refused) => turn_away(*refused, account, &peer, expects, parts.headers),
            }
        }
    }

    fn refused(&self, head: &RefusedHead<'_>, peer: &Peer) {
        refused_head::note(&self.worker, head, peer);
    }
}

/// The answer to a request that is refused, or that its upstream did not answer.
fn turn_away(
    refused: Refused,
    mut account: Box<Account>,
    peer: &Rc<Peer>,
    expects: bool,
    map: HeaderMap,
) -> Response<AnswerBody> {
    let is_abandoned = refused.outcome == Outcome::Abandoned;
    if !is_abandoned {
        account.refused(&refused.denial, refused.outcome);
    }
    let close = settle_unread(&refused, account.version, expects);
    let was_cut = refused.outcome == Outcome::Cut;
    let status = |denial: &Denial| if was_cut { denial.grpc_status_of_cut() } else { denial.grpc_status() };
    let asked = Asked {
        version: account.version,
        head: is_head(&account.method),
        grpc: account.grpc.then(|| status(&refused.denial)),
        request_id: &account.request_id,
        realm: &account.view.settings.realm,
        reveal_reason: account.view.settings.reveal_reason,
    };
    let mut response = answer(&refused.denial, asked, refused.allow, close, map);
    if !was_cut {
        write_expiry(response.headers_mut(), account.expiry);
    }
    if let Some(cors) = &account.cors {
        cors.write(response.headers_mut());
    }
    if !is_abandoned {
        account.status = response.status().as_u16();
    }
    if let Some(body) = refused.unread
        && !expects
        && account.version != Version::HTTP_2
    {
        drain(peer, body);
    }
    response.map(|text| AnswerBody::new(Content::Own((!text.is_empty()).then_some(text)), account))
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

fn open_account(
    worker: &Worker,
    view: &Rc<View>,
    parts: &Parts,
    seen: Seen,
    has_body: bool,
    peer: &Peer,
) -> Box<Account> {
    let settings = &view.settings;
    let trusted = is_trusted(settings, peer.address.ip());
    let request_id = if trusted { parts.headers.get(REQUEST_ID).and_then(RequestId::from_trusted) } else { None };
    let begun = if seen.has(Seen::TRACE) { TraceParent::find(&parts.headers) } else { None };
    let trace_continues = begun.is_some();
    let trace = begun.map_or_else(|| TraceParent::fresh(&worker.ids), |trace| trace.continued(&worker.ids));
    let client = client_address(peer.address.ip(), &parts.headers, &settings.trusted_proxies);
    // Room first: so it is written where it stays, and not copied there.
    Box::write(
        Box::new_uninit(),
        Account {
            ledger: Rc::clone(&worker.ledger),
            view: Rc::clone(view),
            started: worker.shared.clock.monotonic(),
            ended: None,
            request_id: request_id.unwrap_or_else(|| RequestId::fresh(&worker.ids)),
            trace,
            trace_continues,
            method: parts.method.clone(),
            version: parts.version,
            client,
            peer: (client != peer.address.ip()).then_some(peer.address),
            tls: peer.tls.is_some(),
            grpc: seen.has(Seen::CONTENT_TYPE) && is_grpc(&parts.headers),
            authority: None,
            target: parts.uri.path_and_query().map(|target| if has_body { apart(target) } else { target.clone() }),
            route: None,
            websocket: false,
            key: None,
            expiry: None,
            decided: None,
            denial: None,
            cors: None,
            outcome: Outcome::Abandoned,
            // What nginx logs where the client went away before its answer.
            status: 499,
            upstream_took: None,
            upstream_error: None,
            received: None,
            sent: 0,
        },
    )
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

/// What nobody will read of a request's body; none where there is nothing.
fn unread(body: RequestBody, peer: &Peer) -> Option<ClientBody> {
    if body.is_end_stream() {
        return None;
    }
    Some(Inbound::new(peer.paced(body), u64::MAX, false, Rc::default()))
}

/// The straight line: gate, route, key, decision, and the request as its upstream gets it. Waits for nobody: what is
/// on its stack is not copied from future to future.
fn walk<'m>(
    worker: &'m Worker,
    view: &View,
    (parts, seen): (&mut Parts, Seen),
    body: &mut RequestBody,
    peer: &Rc<Peer>,
    account: &mut Account,
    told: Option<Told>,
) -> Result<Step<'m>, Box<Refused>> {
    let gated = gate::check(parts, seen, &worker.hosts, |method| view.settings.routes.knows_method(method));
    let gated = gated.map_err(|code| {
        let mut refused = Refused::new(code, None);
        refused.allow = (code == Code::MethodNotAllowed).then_some(USUAL_METHODS);
        refused
    })?;
    if gated.asterisk {
        account.authority = gated.authority;
        return Ok(Step::Answer(nothing_to_say(account)));
    }
    let step = walk_on(worker, view, (parts, seen), &gated, body, peer, account, told);
    account.authority = gated.authority;
    step
}

#[expect(clippy::too_many_arguments, reason = "the second half of one function")]
fn walk_on<'m>(
    worker: &'m Worker,
    view: &View,
    (parts, seen): (&mut Parts, Seen),
    gated: &Gated,
    body: &mut RequestBody,
    peer: &Rc<Peer>,
    account: &mut Account,
    told: Option<Told>,
) -> Result<Step<'m>, Box<Refused>> {
    let settings = &view.settings;
    let refuse = |denial: Denial| Refused::new(denial, None);
    let host = gated.authority.as_ref().map(Authority::as_str);
    let target = account.target.clone();
    let path = target.as_ref().map_or("", PathAndQuery::path);
    let path = canonicalize(path).map_err(|_fault| refuse(Code::AmbiguousPath.into()))?;
    if settings.jwks && path.as_str() == jwks::PATH {
        return jwks::answer(&parts.method, &worker.shared.signers.load(), account).map(Step::Answer).map_err(
            |allow| {
                let mut refused = refuse(Code::MethodNotAllowed.into());
                refused.allow = Some(allow);
                refused
            },
        );
    }
    if let Some(method) = cors::asked_method(parts)
        && let Found::Route(found) = settings.routes.find(host, &method, &path)
        && let Some(rules) = &found.route.spec().forward.cors
    {
        account.route = Some(found.route.index());
        let mut response = nothing_to_say(account);
        response.headers_mut().remove(ALLOW);
        cors::write_preflight(rules, &parts.headers, response.headers_mut());
        return Ok(Step::Answer(response));
    }
    let found = match settings.routes.find(host, &parts.method, &path) {
        Found::Route(found) => found,
        Found::NoRoute => return Err(refuse(Code::NoRoute.into())),
        Found::Ambiguous(_fault) => return Err(refuse(Code::AmbiguousPath.into())),
        Found::WrongMethod(allow) => {
            let mut refused = refuse(Code::MethodNotAllowed.into());
            refused.allow = Some(allow.to_value());
            return Err(refused);
        }
    };
    let route = found.route.spec();
    account.route = Some(found.route.index());
    account.cors = route.forward.cors.as_ref().map(|rules| CorsFields::of(rules, &parts.headers));

    let deny = worker.shared.deny.load();
    let now = worker.shared.clock.now();
    let authenticated = if route.access == Access::Public {
        Authenticated::nobody(&worker.shared.table)
    } else {
        let (registry, misses) = (worker.registry(settings, &deny), &*worker.shared.misses);
        match authenticate(registry, misses, &parts.headers, route, (account.client, now), told) {
            Ok(authenticated) => authenticated,
            Err(missing) => return Ok(Step::Missing(missing)),
        }
    };
    if settings.access_log
        && let Presented::Record(record) = authenticated.presented()
    {
        account.key = Some((record.id, worker.identities.of(record)));
    }
    let decision = decide(&found, authenticated.presented(), &deny, now);
    drop(deny);
    let expiry_of = |record| expiry_of(record, settings.expiry_notice, now);
    let permit = match (decision, authenticated.presented()) {
        (Ok(permit), _) => permit,
        (Err(denial), presented) => {
            // It works, and does not reach so far.
            if let (Code::InsufficientScope, Presented::Record(record)) = (denial.code, presented) {
                account.expiry = expiry_of(record);
            }
            return Err(refuse(denial));
        }
    };
    account.expiry = permit.record().and_then(expiry_of);
    // It stands once there is an answer; until then the client may still go away.
    let outcome = match permit.kind() {
        PermitKind::Public => Outcome::Public,
        PermitKind::Shadow(denial) => {
            account.refused(denial, Outcome::Abandoned);
            Outcome::Shadow
        }
        PermitKind::Key { record, .. } => {
            worker.shared.table.used(record.slot, now);
            Outcome::Allowed
        }
    };
    let (sent, version) = (authenticated.sent, authenticated.version);
    account.decided = Some(Decided { sent, version, ends_at: ends_at(&permit, route) });

    let forwarding = Forwarding {
        worker,
        route: found.route,
        view,
        peer,
        trusted: is_trusted(settings, peer.address.ip()),
        seen,
        authority: gated.authority.as_ref(),
        path: &path,
        now,
    };
    prepare(&forwarding, permit, outcome, parts, body, account).map(Step::Onward)
}

/// `OPTIONS *` asks about the server as a whole: 204, and never forwarded.
fn nothing_to_say(account: &mut Account) -> Response<Content> {
    account.outcome = Outcome::Answered;
    let mut response = Response::new(Content::Own(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, USUAL_METHODS);
    response.headers_mut().insert(REQUEST_ID, account.request_id.value().clone());
    response
}
