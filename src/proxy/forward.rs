//! Sending a permitted request on, and relaying what comes back. Takes its permit by value: without
//! a decision there is nothing to call this with.
//!
//! What needs no waiting is done by plain functions, [`prepare`] before and `relay` after the one wait: only what
//! must outlast the wait is in a future. All of it was, and was 9 KiB that were copied from future to future for each
//! request, 7 % of its time.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::error::Error;
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::account::Account;
use super::answer::{Content, RelayRules, Relayed, RequestLeft, UNWATCHED_BYTES_MAX, Watch};
use super::drain::Unread;
use super::handle::{Admitted, Refused};
use super::handshake::{Handshake, handshake};
use super::headers::{Notice, Passage, rewrite_request, rewrite_response};
use super::metrics::{Outcome, UpstreamCells, UpstreamError};
use super::streams::{OpenStream, Streams};
use super::tunnel::Tunnel;
use super::upstream::{Added, Asked, Connector, Exchange, Failure, LONG, Service, Source, Upload};
use super::worker::{View, Worker};
use crate::clock::Timestamp;
use crate::listen::{BodyFault, ClientUpgrade, Peer, RequestBody, WRITTEN_AHEAD_MAX};
use crate::policy::{Access, CanonicalPath, Code, Denial, Forward, Permit, Route, RouteSpec};
use crate::report::Chain;
use crate::tls::certificate_fault;
use crate::wire::{Inbound, InboundFault, Seen, Transfer, is_chunked_alone, one_length};

/// What forwarding needs to know of a request beside its permit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forwarding<'a> {
    pub(super) worker: &'a Worker,
    pub(super) route: &'a Route,
    pub(super) view: &'a View,
    pub(super) peer: &'a Rc<Peer>,
    pub(super) trusted: bool,
    /// Which fields it has.
    pub(super) seen: Seen,
    pub(super) authority: Option<&'a Authority>,
    pub(super) path: &'a CanonicalPath<'a>,
    pub(super) now: Timestamp,
}

/// A request as its upstream gets it, but for its body, and what has to be known of it until it is answered.
#[derive(Debug)]
pub(super) struct Outbound {
    request: Box<Asked>,
    route: usize,
    outcome: Outcome,
    length: Option<u64>,
    limit: u64,
    stream_idle: Option<Duration>,
    grpc: bool,
    /// The client's connection, where it is to become a WebSocket's.
    upgrade: Option<ClientUpgrade>,
}

/// Makes of a request that `permit` lets through the one that its upstream gets.
///
/// # Errors
/// When it cannot be sent on as it is.
#[expect(clippy::needless_pass_by_value, reason = "a permit is good for one request, and is used up here")]
pub(super) fn prepare(
    forwarding: &Forwarding<'_>,
    permit: Permit<'_>,
    outcome: Outcome,
    parts: &mut Parts,
    body: &mut RequestBody,
    account: &mut Account,
) -> Result<Outbound, Box<Refused>> {
    let Forwarding { worker, view, peer, seen, now, .. } = *forwarding;
    let route = forwarding.route.spec();
    let grpc = account.grpc;
    let limit = route.forward.request_body_max.unwrap_or(u64::MAX);
    let length = declared_length(seen, body);
    if length.is_some_and(|length| length > limit) {
        return Err(Refused::new(Code::BodyTooLarge, None));
    }
    let Some(route_view) = view.route(forwarding.route.index()) else {
        return Err(Refused::new(Code::Internal, None));
    };
    let Some((service, _)) = &route_view.service else {
        return Err(Refused::new(Code::NoTarget, None));
    };

    let upgrade = body.take_upgrade();
    let asks =
        if seen.has(Seen::UPGRADE) { handshake(&parts.method, parts.version, &parts.headers) } else { Handshake::None };
    let websocket = match asks {
        Handshake::Asked => route.forward.websocket && upgrade.is_some(),
        Handshake::Wrong if route.forward.websocket => return Err(Refused::new(Code::BadRequest, None)),
        Handshake::Wrong | Handshake::None => false,
    };
    account.websocket = websocket;
    let target = upstream_target(forwarding.path, route, std::mem::take(&mut parts.uri));
    let target = target.map_err(|code| Refused::new(code, None))?;
    let identity = permit.record().map(|record| (worker.identities.of(record), record));
    let assertion = identity.as_ref().filter(|_| route.forward.assertion).map(|(identity, record)| {
        let signers = worker.shared.signers.load();
        worker.assertions.of(record, identity, &route_view.upstream, &signers, now)
    });
    let passage = Passage {
        peer: worker.peers.of(peer.address.ip()),
        trusted: forwarding.trusted,
        tls: peer.tls.is_some(),
        version: parts.version,
        seen,
        authority: forwarding.authority,
        target: service.target_name.as_ref(),
        request_id: &account.request_id,
        trace: &account.trace,
        trace_continues: account.trace_continues,
        credential: &route.credential,
        forward: &route.forward,
        grpc,
        websocket,
        length,
        identity: identity.map(|(identity, _)| identity),
        assertion,
    };
    let mut asked = Box::new(Asked::of(Request::new(Upload::Empty)));
    let request = &mut asked.request;
    request.method_mut().clone_from(&account.method);
    *request.uri_mut() = target;
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    asked.added = Added::begin();
    let rewritten = rewrite_request(request.headers_mut(), &mut asked.added, &permit, passage);
    rewritten.map_err(|code| Refused::new(code, None))?;
    Ok(Outbound {
        request: asked,
        route: forwarding.route.index(),
        outcome,
        length,
        limit,
        stream_idle: stream_idle(route, grpc && parts.version == Version::HTTP_2),
        grpc,
        upgrade: upgrade.filter(|_| websocket),
    })
}

impl Outbound {
    /// With its body, on its way.
    pub(super) fn with(self, body: RequestBody, peer: &Rc<Peer>, account: &mut Account) -> Sending {
        let Self { mut request, limit, grpc, .. } = self;
        let transfer = Rc::new(Transfer::default());
        account.received = Some(Rc::clone(&transfer));
        let source = if body.is_end_stream() {
            transfer.end();
            None
        } else {
            let body = if self.stream_idle.is_some() { peer.unpaced(body) } else { peer.paced(body) };
            Some(Source::new(Inbound::new(body, limit, grpc, Rc::clone(&transfer))))
        };
        let upload = source.as_ref().map_or(Upload::Empty, Upload::of);
        let to_prove = (self.length == Some(0) && source.is_some()).then(|| upload.kept());
        *request.request.body_mut() = upload;
        if self.length.is_none() && source.is_some() {
            // As it came it goes on: in chunks.
            request.request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Sending {
            request: Some(request),
            route: self.route,
            outcome: self.outcome,
            stream_idle: self.stream_idle,
            grpc,
            head: account.method == Method::HEAD,
            upgrade: self.upgrade,
            to_prove,
            transfer,
            unread: Unread::new(source, Rc::clone(peer), account.version),
            deadline: None,
            open: OnceCell::new(),
        }
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Sending {
    request: Option<Box<Asked>>,
    route: usize,
    outcome: Outcome,
    stream_idle: Option<Duration>,
    grpc: bool,
    head: bool,
    upgrade: Option<ClientUpgrade>,
    to_prove: Option<Upload>,
    transfer: Rc<Transfer>,
    unread: Unread,
    deadline: Option<Instant>,
    open: OnceCell<Rc<OpenStream>>,
}

/// What comes before an answer, and ends a request.
enum Interrupted {
    /// Request and answer together took too long.
    TotalTimeout,
    /// It is no longer permitted.
    Cut(Denial),
    /// The client sends nothing of what it has still to send.
    Silent,
}

impl Sending {
    /// Sends it, as it is `now`, and makes of what comes back the answer for the client.
    ///
    /// # Errors
    /// When the upstream did not answer.
    pub(super) async fn send(
        &mut self,
        worker: &Worker,
        view: &View,
        account: &mut Account,
        now: std::time::Instant,
    ) -> Result<Admitted, Box<Refused>> {
        let (Some(route), Some(request)) = (view.settings.routes.routes().get(self.route), self.request.take()) else {
            return Err(Refused::new(Code::Internal, None));
        };
        let Some((service, cells)) = view.route(self.route).and_then(|route| route.service.as_ref()) else {
            return Err(Refused::new(Code::NoTarget, None));
        };
        self.deadline = service.upstream.total_timeout.map(|total| Instant::from_std(now + total));
        let to_prove = self.to_prove.take();
        let answered = {
            // Once and in its place: each await that it is moved into would hold it once more.
            let mut sending = pin!(async {
                let mut at = Some(now);
                if let Some(upload) = to_prove {
                    prove_empty(upload).await?;
                    // That may have taken a while.
                    at = None;
                }
                service.send(request, &self.transfer, self.upgrade.is_some(), at).await
            });
            tokio::select! {
                biased;
                answered = &mut sending => Ok(answered),
                interrupted = self.interrupted(&worker.streams, service.upstream.total_timeout, account) => {
                    Err(interrupted)
                }
            }
        };
        let began = now;
        let now = worker.shared.clock.monotonic();
        let took = now.saturating_duration_since(began);
        account.upstream_took = Some(took);
        let exchange = match answered {
            Ok(Ok(exchange)) => exchange,
            Ok(Err(failure)) => return Err(self.failed(&failure, cells, account)),
            Err(Interrupted::TotalTimeout) => return Err(self.failed(&Failure::TotalTimeout, cells, account)),
            Err(Interrupted::Cut(denial)) => return Err(Refused::cut(denial, self.unread.take())),
            Err(Interrupted::Silent) => return Err(Refused::new(Code::RequestTimeout, self.unread.take())),
        };
        cells.answered(took);
        let route = route.spec();
        let admitted = self.relay(exchange, worker, (service, cells), route, account, now).inspect_err(|_broken| {
            account.upstream_error = Some("what it answered cannot be passed on".into());
        })?;
        account.outcome = self.outcome;
        if matches!(&admitted, Admitted::Answer(answer) if matches!(answer.body(), Content::Own(_))) {
            // The clock is not asked again for the moment that it takes to write what is here whole.
            account.ended = Some(now);
        }
        Ok(admitted)
    }

    /// Ends where something comes before the answer.
    ///
    /// Nearly every answer is here before the next round, so that it is watched over, and its timers run, only from
    /// then on; a timer that may be due before that runs at once, and an upload is watched over from its beginning on.
    async fn interrupted(&self, streams: &Streams, total: Option<Duration>, account: &Account) -> Interrupted {
        let has_time = total.is_none_or(|total| total >= LONG);
        if self.transfer.is_ended() && has_time {
            streams.next_round().await;
        }
        // On the heap, for the few that get here.
        let watched = Box::pin(async {
            tokio::select! {
                biased;
                () = reached(self.deadline) => Interrupted::TotalTimeout,
                denial = no_longer(streams, account, &self.transfer, &self.open, has_time) => Interrupted::Cut(denial),
                () = silent_client(self.stream_idle, &self.transfer) => Interrupted::Silent,
            }
        });
        watched.await
    }
}

/// Ends at `deadline`, where there is one.
async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Reads a body that is said to be empty to its end. HTTP/2 shows that end after the head, and a
/// service that needs no body would have acted before it shows that there is one after all.
async fn prove_empty(mut upload: Upload) -> Result<(), Failure> {
    while let Some(frame) = upload.frame().await {
        frame.map_err(|cut_short| Failure::Broken(cut_short.into()))?;
    }
    Ok(())
}

/// How long request and answer may go without a byte either way, where that is what bounds their pauses.
/// HTTP/2 asks by its pings whether a silent other side is still there.
fn stream_idle(route: &RouteSpec, grpc_over_http2: bool) -> Option<Duration> {
    route.forward.stream_idle.or(grpc_over_http2.then_some(Forward::GRPC_IDLE))
}

/// Ends when a client whose body is still to come has sent none of it for `limit`, and no answer has begun
/// that would show that this is how they talk.
async fn silent_client(limit: Option<Duration>, transfer: &Transfer) {
    if let Some(limit) = limit {
        while !transfer.is_ended() {
            let seen = transfer.bytes();
            tokio::time::sleep(limit).await;
            if seen == transfer.bytes() && transfer.is_waiting_for_sender() {
                return;
            }
        }
    }
    pending::<()>().await;
}

/// Ends when a request that waits for its answer is no longer permitted. An upload is watched over
/// from its beginning on; what has nothing left to send, once it has waited for a while.
async fn no_longer(
    streams: &Streams,
    account: &Account,
    transfer: &Transfer,
    open: &OnceCell<Rc<OpenStream>>,
    has_waited: bool,
) -> Denial {
    if transfer.is_ended() && !has_waited {
        streams.next_round().await;
    }
    match streams.open(account) {
        Some(stream) => open.get_or_init(|| stream).until_cut().await,
        None => pending().await,
    }
}

/// Where a route's answers depend on a credential.
const fn keyed(route: &RouteSpec) -> &[crate::policy::CredentialSource] {
    match route.access {
        Access::Public => &[],
        Access::AnyKey | Access::Flags { .. } => route.credential.as_slice(),
    }
}

/// The length that the client declared, as it was parsed. A request that declares none and has no
/// body gets none.
fn declared_length(seen: Seen, body: &RequestBody) -> Option<u64> {
    let exact = body.size_hint().exact();
    if seen.has(Seen::TRANSFER_ENCODING) {
        return None;
    }
    exact.filter(|length| *length > 0 || seen.has(Seen::CONTENT_LENGTH))
}

/// The target that the upstream is asked for: the canonical path that was decided on, its prefix
/// replaced where the route says so, and the query as it came.
fn upstream_target(path: &CanonicalPath<'_>, route: &RouteSpec, uri: Uri) -> Result<Uri, Code> {
    let ambiguous = |_fault| Code::AmbiguousPath;
    let merged = path.forwarded(&route.path_options).map_err(ambiguous)?;
    let path = route.forward.prefix.apply(&merged, &route.path_options).map_err(ambiguous)?;
    let asked = uri.into_parts().path_and_query;
    let target = match asked {
        Some(asked) if asked.path() == path && asked.as_str().is_ascii() => asked,
        asked => {
            let text = match asked.as_ref().and_then(PathAndQuery::query) {
                Some(query) => Cow::Owned(format!("{path}?{}", in_ascii(query))),
                None => path,
            };
            PathAndQuery::try_from(text.as_ref()).map_err(|_unfit| Code::AmbiguousPath)?
        }
    };
    Ok(Uri::from(target))
}

/// A query as RFC 3986 spells it: the parser takes raw UTF-8, a stricter server behind us may not.
fn in_ascii(query: &str) -> Cow<'_, str> {
    use std::fmt::Write as _;
    if query.is_ascii() {
        return Cow::Borrowed(query);
    }
    let mut text = String::with_capacity(query.len() * 2);
    for byte in query.bytes() {
        if byte.is_ascii() {
            text.push(char::from(byte));
        } else {
            // A String takes whatever is written to it.
            let _never = write!(text, "%{byte:02X}");
        }
    }
    Cow::Owned(text)
}

/// Why an upstream did not answer, down to the first cause.
fn told(error: &(dyn Error + 'static)) -> String {
    let known = error.downcast_ref().and_then(certificate_fault);
    known.unwrap_or_else(|| Chain(error).to_string())
}

impl Sending {
    /// What a request that got no response is refused with.
    fn failed(&mut self, failure: &Failure, cells: &UpstreamCells, account: &mut Account) -> Box<Refused> {
        // A body that broke off breaks the exchange too, and then is the reason for it.
        if let Some(fault) = self.transfer.take_fault() {
            return code_of(&fault).map_or_else(Refused::abandoned, |code| Refused::new(code, None));
        }
        let (code, error) = match failure {
            Failure::NoTarget => (Code::NoTarget, UpstreamError::NoTarget),
            Failure::Unreachable(_) => (Code::UpstreamUnreachable, UpstreamError::Unreachable),
            Failure::Exhausted(_) => (Code::Overloaded, UpstreamError::Exhausted),
            // gRPC tells apart whether the request can have been processed: here it cannot.
            Failure::ConnectTimeout if self.grpc => (Code::UpstreamUnreachable, UpstreamError::ConnectTimeout),
            Failure::ConnectTimeout => (Code::UpstreamTimeout, UpstreamError::ConnectTimeout),
            Failure::HeadTimeout => (Code::UpstreamTimeout, UpstreamError::HeadTimeout),
            Failure::TotalTimeout => (Code::UpstreamTimeout, UpstreamError::TotalTimeout),
            Failure::Broken(_) => (Code::UpstreamBroken, UpstreamError::Broken),
        };
        account.upstream_error = Some(match failure {
            Failure::Unreachable(cause) | Failure::Exhausted(cause) | Failure::Broken(cause) => told(&**cause).into(),
            _ => error.as_str().into(),
        });
        cells.failed(error);
        Refused::failed(code, self.unread.take())
    }

    fn broken(&mut self, cells: &UpstreamCells) -> Box<Refused> {
        cells.failed(UpstreamError::Broken);
        Refused::failed(Code::UpstreamBroken, self.unread.take())
    }

    /// Makes of the upstream's answer the client's.
    fn relay(
        &mut self,
        exchange: Exchange<Connector>,
        worker: &Worker,
        (service, cells): (&Service<Connector>, &Arc<UpstreamCells>),
        route: &RouteSpec,
        account: &Account,
        now: std::time::Instant,
    ) -> Result<Admitted, Box<Refused>> {
        let Exchange { mut response, lease } = exchange;
        let seen = Seen::of(response.headers());
        let notice = Notice::of(account.expiry, keyed(route), &route.forward);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let agreed =
                response.headers().get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
            let (Some(client), true) = (self.upgrade.take(), agreed) else {
                // Nobody asked for it.
                return Err(self.broken(cells));
            };
            rewrite_response(response.headers_mut(), seen, &route.forward, &notice, &account.request_id, false);
            let mut switching = Response::new(());
            *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            switching.headers_mut().clone_from(response.headers());
            switching.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            switching.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            let open = self.open.take().or_else(|| worker.streams.open(account));
            let idle = route.forward.websocket_idle;
            return Ok(Admitted::Tunnel(switching, Box::new(Tunnel { client, response, lease, open, idle })));
        }

        let is_coded = seen.has(Seen::TRANSFER_ENCODING);
        if is_coded && !is_chunked_alone(response.headers()) {
            return Err(self.broken(cells));
        }
        let has_length = seen.has(Seen::CONTENT_LENGTH);
        // Length and coding together: the coding counts, and nothing after the body can be trusted.
        let both = is_coded && has_length;
        let (mut head, body) = response.into_parts();
        rewrite_response(&mut head.headers, seen, &route.forward, &notice, &account.request_id, self.grpc);
        if let Some(cors) = &account.cors {
            cors.write(&mut head.headers);
        }
        let told = if both || head.status == StatusCode::NO_CONTENT {
            None
        } else if self.head || head.status == StatusCode::NOT_MODIFIED {
            one_length(&head.headers)
        } else {
            body.size_hint().exact().filter(|_| has_length)
        };
        if has_length {
            tell_length(&mut head.headers, told);
        }
        let is_sent = self.transfer.is_ended();
        if !is_sent && account.version != Version::HTTP_2 {
            // An answer before the end of the request: what is left is read only within bounds.
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        head.version = Version::default();
        head.extensions = http::Extensions::new();
        let is_plain = is_sent && !both && !self.grpc && self.open.get().is_none();
        if is_plain && let Some(whole) = body.take_whole() {
            // Most answers are: the connection serves the next request while this one's client takes its answer.
            lease.give_back_at(now);
            self.unread.drain();
            let whole = Content::Own(Some(whole).filter(|whole| !whole.is_empty()));
            return Ok(Admitted::Answer(Response::from_parts(head, whole)));
        }
        let is_large = head_bytes(&head.headers) > HEAD_BYTES_UNWATCHED_MAX;
        let rules = RelayRules {
            idle: self.stream_idle.unwrap_or(service.upstream.idle_timeout),
            both_ways: self.stream_idle.is_some(),
            deadline: self.deadline,
            trailers: self.grpc,
            stalls: account.version == Version::HTTP_2 || is_large,
            poolable: !both,
            farewell: self.grpc && account.version == Version::HTTP_2,
        };
        // Of a stream without a window, or behind a head that fills all there is, nobody may ever ask for a first part.
        let is_long = || is_large || body.size_hint().upper().is_none_or(|most| most > UNWATCHED_BYTES_MAX as u64);
        let open = self.open.take().or_else(|| {
            let watched = rules.stalls && !body.is_end_stream() && is_long();
            watched.then(|| worker.streams.open(account)).flatten()
        });
        let relayed = Relayed::new(
            body,
            lease,
            RequestLeft { upload: Rc::clone(&self.transfer), unread: self.unread.let_go() },
            rules,
            Arc::clone(cells),
            Watch { streams: Rc::clone(&worker.streams), open },
        );
        Ok(Admitted::Answer(Response::from_parts(head, Content::Relayed(Box::new(relayed)))))
    }
}

/// Behind a head of more bytes an answer is watched over from its beginning on.
const HEAD_BYTES_UNWATCHED_MAX: usize = 16 * 1024;

// Until then the listener asks for more whether its client takes anything or not.
const _: () = assert!(HEAD_BYTES_UNWATCHED_MAX + UNWATCHED_BYTES_MAX < WRITTEN_AHEAD_MAX);

fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// Says the length of an answer in the one way there is to say it, or not at all.
fn tell_length(headers: &mut HeaderMap, told: Option<u64>) {
    let Some(length) = told else {
        headers.remove(CONTENT_LENGTH);
        return;
    };
    let mut said = headers.get_all(CONTENT_LENGTH).iter();
    let is_said = said.next().is_some_and(|value| is_number(value.as_bytes(), length)) && said.next().is_none();
    if !is_said {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Whether this is how `number` is written.
fn is_number(text: &[u8], number: u64) -> bool {
    let mut rest = number;
    let mut digits = text.iter().rev();
    loop {
        let last = digits.next().map(|digit| u64::from(*digit).wrapping_sub(u64::from(b'0')));
        if last != Some(rest % 10) {
            return false;
        }
        rest /= 10;
        if rest == 0 {
            return digits.next().is_none();
        }
    }
}

/// What a request is refused with whose body broke off; none where its client has gone, which refuses nothing.
pub(super) fn code_of(fault: &InboundFault) -> Option<Code> {
    match fault {
        InboundFault::TooLarge { .. } => Some(Code::BodyTooLarge),
        InboundFault::Sender(error) => match error.downcast_ref::<BodyFault>() {
            Some(fault) if fault.is_gone() => None,
            Some(BodyFault::TooSlow) => Some(Code::RequestTimeout),
            Some(BodyFault::Broken(_)) | None => Some(Code::BadRequest),
        },
    }
}
