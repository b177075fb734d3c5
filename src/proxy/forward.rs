//! Sending a permitted request on, and relaying what comes back. Takes its permit by value: without
//! a decision there is nothing to call this with.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::account::Account;
use super::answer::{Content, RelayRules, Relayed, RequestLeft, UNWATCHED_BYTES_MAX, Watch};
use super::drain::Unread;
use super::handle::{Admitted, Refused};
use super::handshake::{Handshake, handshake};
use super::headers::{Notice, Passage, rewrite_request, rewrite_response};
use super::metrics::{UpstreamCells, UpstreamError};
use super::refusal::is_grpc;
use super::settings::Settings;
use super::streams::{OpenStream, Streams};
use super::tunnel::Tunnel;
use super::upstream::{Connector, Exchange, Failure, Service, Source, Upload};
use super::worker::Worker;
use crate::clock::Timestamp;
use crate::listen::{BodyFault, Peer};
use crate::policy::{Access, CanonicalPath, Code, Denial, Forward, Permit, RouteSpec};
use crate::wire::{Inbound, InboundFault, TraceParent, Transfer};

/// What forwarding needs to know of a request beside its permit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forwarding<'a> {
    pub(super) worker: &'a Worker,
    pub(super) settings: &'a Settings,
    pub(super) route: &'a RouteSpec,
    pub(super) service: Option<&'a (Rc<Service<Connector>>, Arc<UpstreamCells>)>,
    pub(super) peer: &'a Rc<Peer>,
    pub(super) trusted: bool,
    pub(super) path: &'a CanonicalPath<'a>,
    pub(super) now: Timestamp,
}

/// Forwards a request that `permit` lets through.
///
/// # Errors
/// When the request cannot be sent on as it is, or the upstream did not answer.
pub(super) async fn forward(
    forwarding: Forwarding<'_>,
    permit: Permit,
    parts: Parts,
    body: Incoming,
    account: &mut Account,
) -> Result<Admitted, Box<Refused>> {
    let Forwarding { worker, settings, route, peer, .. } = forwarding;
    let grpc = is_grpc(&parts.headers);
    let transfer = Rc::new(Transfer::default());
    let limit = route.forward.request_body_max.unwrap_or(u64::MAX);
    let length = declared_length(&parts, &body);
    let stream_idle = stream_idle(route, grpc && parts.version == Version::HTTP_2);
    let body = if stream_idle.is_some() { peer.unpaced(body) } else { peer.paced(body) };
    let body = Inbound::new(body, limit, grpc, Rc::clone(&transfer));
    account.received = Some(Rc::clone(&transfer));
    if length.is_some_and(|length| length > limit) {
        return Err(Refused::new(Code::BodyTooLarge, Some(body)));
    }
    let Some((service, cells)) = forwarding.service else {
        return Err(Refused::new(Code::NoTarget, Some(body)));
    };

    let mut parts = parts;
    let client_upgrade = parts.extensions.remove::<OnUpgrade>();
    let websocket = match handshake(&parts.method, parts.version, &parts.headers) {
        Handshake::Asked => route.forward.websocket && client_upgrade.is_some(),
        Handshake::Wrong if route.forward.websocket => return Err(Refused::new(Code::BadRequest, Some(body))),
        Handshake::Wrong | Handshake::None => false,
    };
    account.websocket = websocket;
    let notice = Notice::of(&permit, keyed(route), &route.forward, settings.expiry_notice, forwarding.now);
    let target = match upstream_target(forwarding.path, route, parts.uri) {
        Ok(target) => target,
        Err(code) => return Err(Refused::new(code, Some(body))),
    };
    let identity = permit.record().map(|record| (worker.identities.of(record), record));
    let assertion = identity.as_ref().zip(account.upstream.as_ref()).filter(|_| route.forward.assertion);
    let assertion = assertion.map(|((identity, record), upstream)| {
        let signers = worker.shared.signers.load();
        worker.assertions.of(record, identity, upstream, &signers, forwarding.now)
    });
    let passage = Passage {
        peer: worker.peers.of(peer.address.ip()),
        trusted: forwarding.trusted,
        tls: peer.tls.is_some(),
        version: parts.version,
        authority: account.authority.as_ref(),
        target: service.target_name.as_ref(),
        request_id: &account.request_id,
        trace: &account.trace,
        trace_continues: TraceParent::find(&parts.headers).is_some(),
        credential: &route.credential,
        forward: &route.forward,
        grpc,
        websocket,
        length,
        identity: identity.map(|(identity, _)| identity),
        assertion,
    };
    if let Err(code) = rewrite_request(&mut parts.headers, &permit, passage) {
        return Err(Refused::new(code, Some(body)));
    }

    let source = (!transfer.is_ended()).then_some(body).map(Source::new);
    let upload = source.as_ref().map_or(Upload::Empty, Upload::of);
    let to_prove = (length == Some(0)).then(|| upload.kept());
    let mut request = Box::new(Request::new(upload));
    *request.method_mut() = parts.method;
    *request.uri_mut() = target;
    *request.headers_mut() = parts.headers;
    if length.is_none() && source.is_some() {
        // Said by name: hyper's client takes a GET without it for one without a body, and drops what there is.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let head = request.method() == Method::HEAD;
    let mut unread = Unread::new(source, Rc::clone(peer), parts.version);

    let sent = worker.shared.clock.monotonic();
    let deadline = service.upstream.total_timeout.map(|total| tokio::time::Instant::from_std(sent + total));
    let open = OnceCell::new();
    let answered = {
        // Once and in its place: each await that it is moved into would hold it once more.
        let mut sending = pin!(async {
            if let Some(upload) = to_prove {
                prove_empty(upload).await?;
            }
            service.send(request, &transfer, websocket).await
        });
        tokio::select! {
            biased;
            answered = &mut sending => Ok(answered),
            () = reached(deadline) => Ok(Err(Failure::TotalTimeout)),
            denial = no_longer(&worker.streams, account, &transfer, &open) => Err(Refused::cut(denial, None)),
            () = silent_client(stream_idle, &transfer) => Err(Refused::new(Code::RequestTimeout, None)),
        }
    };
    let took = worker.shared.clock.monotonic().saturating_duration_since(sent);
    account.upstream_took = Some(took);
    let exchange = match answered {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(failure)) => return Err(failed(&failure, &transfer, unread, cells, grpc)),
        Err(mut refused) => {
            refused.unread = unread.take();
            return Err(refused);
        }
    };
    cells.answered(took);
    let upgrade = client_upgrade.filter(|_| websocket);
    relay(
        exchange,
        upgrade,
        Relay {
            forwarding,
            notice,
            grpc,
            head,
            transfer,
            unread,
            cells,
            deadline,
            stream_idle,
            open: open.into_inner(),
        },
        account,
    )
}

/// Ends at `deadline`, where there is one.
async fn reached(deadline: Option<tokio::time::Instant>) {
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
) -> Denial {
    if transfer.is_ended() {
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
fn declared_length(parts: &Parts, body: &Incoming) -> Option<u64> {
    let exact = body.size_hint().exact();
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    exact.filter(|length| *length > 0 || parts.headers.contains_key(CONTENT_LENGTH))
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

/// A query as RFC 3986 spells it: hyper takes raw UTF-8, a stricter server behind us may not.
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

/// What a request that got no response is refused with.
fn failed(
    failure: &Failure,
    transfer: &Transfer,
    mut unread: Unread,
    cells: &UpstreamCells,
    grpc: bool,
) -> Box<Refused> {
    // A body that broke off breaks the exchange too, and then is the reason for it.
    if let Some(fault) = transfer.take_fault() {
        return Refused::new(code_of(&fault), None);
    }
    let (code, error) = match failure {
        Failure::NoTarget => (Code::NoTarget, UpstreamError::NoTarget),
        Failure::Unreachable(error) => {
            tracing::debug!(error = &**error, "upstream unreachable");
            (Code::UpstreamUnreachable, UpstreamError::Unreachable)
        }
        // gRPC tells apart whether the request can have been processed: here it cannot.
        Failure::ConnectTimeout if grpc => (Code::UpstreamUnreachable, UpstreamError::ConnectTimeout),
        Failure::ConnectTimeout => (Code::UpstreamTimeout, UpstreamError::ConnectTimeout),
        Failure::HeadTimeout => (Code::UpstreamTimeout, UpstreamError::HeadTimeout),
        Failure::TotalTimeout => (Code::UpstreamTimeout, UpstreamError::TotalTimeout),
        Failure::Broken(error) => {
            tracing::debug!(error = &**error, "upstream broke off");
            (Code::UpstreamBroken, UpstreamError::Broken)
        }
    };
    cells.failed(error);
    Refused::failed(code, unread.take())
}

/// What a request is refused with whose body broke off.
pub(super) fn code_of(fault: &InboundFault) -> Code {
    match fault {
        InboundFault::TooLarge { .. } => Code::BodyTooLarge,
        InboundFault::Sender(error) => match error.downcast_ref::<BodyFault>() {
            Some(BodyFault::TooSlow) => Code::RequestTimeout,
            Some(BodyFault::Broken(_)) | None => Code::BadRequest,
        },
    }
}

/// What relaying a response needs to know.
struct Relay<'a> {
    forwarding: Forwarding<'a>,
    notice: Notice<'a>,
    grpc: bool,
    head: bool,
    transfer: Rc<Transfer>,
    unread: Unread,
    cells: &'a Arc<UpstreamCells>,
    deadline: Option<tokio::time::Instant>,
    stream_idle: Option<Duration>,
    open: Option<Rc<OpenStream>>,
}

fn relay(
    exchange: Exchange<Connector>,
    upgrade: Option<OnUpgrade>,
    relay: Relay<'_>,
    account: &Account,
) -> Result<Admitted, Box<Refused>> {
    let Exchange { mut response, lease } = exchange;
    let Forwarding { worker, route, .. } = relay.forwarding;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let agreed = response.headers().get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let (Some(client), true) = (upgrade, agreed) else {
            // Nobody asked for it.
            relay.cells.failed(UpstreamError::Broken);
            let mut unread = relay.unread;
            return Err(Refused::failed(Code::UpstreamBroken, unread.take()));
        };
        rewrite_response(response.headers_mut(), &route.forward, &relay.notice, &account.request_id, false);
        let mut switching = Response::new(());
        *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        switching.headers_mut().clone_from(response.headers());
        switching.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        switching.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        let open = relay.open.or_else(|| worker.streams.open(account));
        let idle = route.forward.websocket_idle;
        return Ok(Admitted::Tunnel(switching, Box::new(Tunnel { client, response, lease, open, idle })));
    }

    if !is_framed_well(response.headers()) {
        relay.cells.failed(UpstreamError::Broken);
        let mut unread = relay.unread;
        return Err(Refused::failed(Code::UpstreamBroken, unread.take()));
    }
    // Length and coding together: the coding counts, and nothing after the body can be trusted.
    let both = response.headers().contains_key(TRANSFER_ENCODING) && response.headers().contains_key(CONTENT_LENGTH);
    let (mut head, body) = response.into_parts();
    rewrite_response(&mut head.headers, &route.forward, &relay.notice, &account.request_id, relay.grpc);
    if let Some(cors) = &account.cors {
        cors.write(&mut head.headers);
    }
    let told = if both || head.status == StatusCode::NO_CONTENT {
        None
    } else if relay.head || head.status == StatusCode::NOT_MODIFIED {
        length_told(&head.headers)
    } else {
        body.size_hint().exact().filter(|_| head.headers.contains_key(CONTENT_LENGTH))
    };
    match told {
        Some(length) => head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
        None => head.headers.remove(CONTENT_LENGTH),
    };
    if !relay.transfer.is_ended() && account.version != Version::HTTP_2 {
        // An answer before the end of the request: what is left is read only within bounds.
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let idle = relay.forwarding.service.map_or(Duration::MAX, |(service, _)| service.upstream.idle_timeout);
    let rules = RelayRules {
        idle: relay.stream_idle.unwrap_or(idle),
        both_ways: relay.stream_idle.is_some(),
        deadline: relay.deadline,
        trailers: relay.grpc,
        stalls: account.version == Version::HTTP_2,
        poolable: !both,
        farewell: relay.grpc && account.version == Version::HTTP_2,
    };
    // Of a stream without a window nobody may ever ask for a first part.
    let is_long = || body.size_hint().upper().is_none_or(|most| most > UNWATCHED_BYTES_MAX as u64);
    let open = relay.open.or_else(|| {
        let watched = rules.stalls && !body.is_end_stream() && is_long();
        watched.then(|| worker.streams.open(account)).flatten()
    });
    let relayed = Relayed::new(
        body,
        lease,
        RequestLeft { upload: relay.transfer, unread: relay.unread },
        rules,
        Arc::clone(relay.cells),
        Watch { streams: Rc::clone(&worker.streams), open },
    );
    head.version = Version::default();
    head.extensions = http::Extensions::new();
    let content = match told {
        Some(length) if head.status == StatusCode::NOT_MODIFIED && account.version != Version::HTTP_2 => {
            Content::Unsent(length)
        }
        Some(_) | None => Content::Relayed(Box::new(relayed)),
    };
    Ok(Admitted::Answer(Response::from_parts(head, content)))
}

/// The length of what is not sent, for HEAD and 304: the one number that the upstream gives for it.
fn length_told(headers: &HeaderMap) -> Option<u64> {
    let mut told = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        let length = text.parse().ok()?;
        if told.is_some_and(|other| other != length) {
            return None;
        }
        told = Some(length);
    }
    told
}

/// Whether an answer's body is what its bytes say. Another coding than `chunked` was not asked for, and is
/// lost where the field is taken off.
fn is_framed_well(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}
