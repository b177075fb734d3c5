//! One connection, from its first byte to its last.
//!
//! HTTP/2 or HTTP/1 is chosen by ALPN, and on clear text by the first bytes. There is no moment without a
//! deadline: first byte, handshake, head, idle, a write that is not taken, age, close. Requests have the
//! handler's own.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::rt::{Sleep, Timer};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntGauge;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::accept::refuse;
use super::answer::{RawRefusal, Refusal};
use super::beginning::Beginning;
use super::cap::{ClientIsFull, Place};
use super::flow::{Flow, Phase, Protocol};
use super::handler::{Handler, RefusedHead};
use super::http1::Http1;
use super::metrics::ListenMetrics;
use super::peer::{Peer, TlsInfo, Worker};
use super::request_body::RequestBody;
use super::settings::Settings;
use super::stream::{Caught, OpenRequest, Panicked, Streams};
use super::ticker::{CoarseClock, NEVER, Slot};
use super::watched::Watched;
use crate::tls;
use crate::wire::{ProxyHeader, ProxyTold, RequestId};

/// A connection that was just accepted, and what it is served with.
pub(super) struct Accepted<H> {
    pub(super) handler: Rc<H>,
    pub(super) worker: Rc<Worker>,
    pub(super) metrics: Rc<ListenMetrics>,
    pub(super) settings: Arc<Settings>,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) place: Place,
    pub(super) address: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) number: u64,
}

impl<H: Handler> Accepted<H> {
    /// Serves the connection until it is closed or in the hands of an upgrade.
    pub(super) async fn serve(mut self, mut tcp: TcpStream) {
        let ticker = &self.worker.ticker;
        let flow = Flow::new(ticker.watch(), ticker.coarse().clone(), &self.settings);
        if self.worker.stopping.get() {
            flow.hurry(self.worker.idle_until.get());
        }
        let introduced = self.settings.proxy_protocol.iter().any(|network| network.contains(self.address.ip()));
        if introduced {
            match Box::pin(self.read_introduction(&flow, &mut tcp)).await {
                Some(ProxyTold::Client(address)) => {
                    self.address = address;
                    if self.place.count_for(address.ip(), &self.settings.clients) == Err(ClientIsFull) {
                        self.metrics.refused_of_client.inc();
                        return refuse(&tcp, self.tls.is_none());
                    }
                }
                Some(ProxyTold::Nobody) => {}
                None => return,
            }
        }
        self.metrics.accepted.inc();
        match self.tls.clone() {
            Some(config) => self.serve_tls(tcp, flow, config).await,
            None => self.serve_clear(tcp, flow).await,
        }
    }

    /// Reads the PROXY header that comes before anything else; none where the connection is over. Its time is
    /// that of the first byte: it comes from a balancer, all at once.
    async fn read_introduction(&self, flow: &Flow, tcp: &mut TcpStream) -> Option<ProxyTold> {
        let mut header = ProxyHeader::default();
        let mut next = [0; INTRODUCTION_BYTES];
        loop {
            // Looked at before it is taken: what follows the header is not ours.
            let seen = match in_time(flow, &self.worker, tcp.peek(&mut next)).await {
                Ok(Ok(count)) if count > 0 => next.get_mut(..count).unwrap_or_default(),
                Ok(_gone) => return None,
                Err(TooSlow(phase)) => {
                    self.count_timeout(phase);
                    return None;
                }
            };
            let told = match header.wants(seen) {
                Ok(count) => {
                    let mine = seen.get_mut(..count).unwrap_or_default();
                    tcp.read_exact(mine).await.ok()?;
                    header.take(mine);
                    header.told()
                }
                Err(no_header) => Err(no_header),
            };
            match told {
                Ok(Some(told)) => {
                    flow.enter(Phase::FirstByte);
                    return Some(told);
                }
                Ok(None) => {}
                Err(_no_header) => {
                    self.metrics.bad_introductions.inc();
                    return None;
                }
            }
        }
    }

    async fn serve_clear(self, mut tcp: TcpStream, flow: Arc<Flow>) {
        let mut beginning = Beginning::default();
        let http2 = loop {
            if let Some(http2) = beginning.is_http2() {
                break http2;
            }
            match in_time(&flow, &self.worker, poll_fn(|cx| beginning.poll_read(&mut tcp, cx))).await {
                Err(TooSlow(phase)) => {
                    self.count_timeout(phase);
                    if phase == Phase::Head {
                        let (connection, place) = self.into_http(None, None);
                        let tcp = Watched::new(Box::new(tcp), Bytes::new(), Arc::clone(&flow), place);
                        Box::pin(connection.refuse(&flow, tcp, Refusal::HeadTooSlow)).await;
                    }
                    return;
                }
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => {
                    if flow.phase() == Phase::FirstByte {
                        flow.enter(Phase::Head);
                    }
                }
            }
        };
        let (connection, place) = self.into_http(None, (!http2).then_some(&flow));
        let io = Watched::new(Box::new(tcp), beginning.into_bytes(), Arc::clone(&flow), place);
        // On the heap, so that a connection that has sent nothing yet stays small.
        if http2 {
            Box::pin(connection.serve_http2(io, flow)).await;
        } else {
            Box::pin(connection.serve_http1(io, flow)).await;
        }
    }

    async fn serve_tls(self, tcp: TcpStream, flow: Arc<Flow>, config: Arc<ServerConfig>) {
        // Not `readable`: that may be ready with nothing to read.
        match in_time(&flow, &self.worker, tcp.peek(&mut [0])).await {
            Err(TooSlow(phase)) => return self.count_timeout(phase),
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => flow.enter(Phase::Handshake),
        }
        let Some(stream) = Box::pin(self.shake_hands(tcp, &flow, config)).await else { return };
        let (info, http2) = self.agreed(&stream);
        let (connection, place) = self.into_http(Some(info), (!http2).then_some(&flow));
        let io = Watched::new(stream, Bytes::new(), Arc::clone(&flow), place);
        if http2 {
            Box::pin(connection.serve_http2(io, flow)).await;
        } else {
            Box::pin(connection.serve_http1(io, flow)).await;
        }
    }

    /// The stream behind a handshake, on the heap: a kilobyte that each future it passes through would hold.
    async fn shake_hands(
        &self,
        tcp: TcpStream,
        flow: &Flow,
        config: Arc<ServerConfig>,
    ) -> Option<Box<TlsStream<TcpStream>>> {
        let handshake = TlsAcceptor::from(config).accept(tcp);
        match in_time(flow, &self.worker, handshake).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                let reason = handshake_failure(&error);
                self.metrics.handshake_failures.with_label_values(&[reason]).inc();
                None
            }
            Err(TooSlow(phase)) => {
                self.metrics.handshake_failures.with_label_values(&["timeout"]).inc();
                self.count_timeout(phase);
                None
            }
        }
    }

    /// What the handshake agreed, and whether that is HTTP/2.
    fn agreed(&self, stream: &TlsStream<TcpStream>) -> (TlsInfo, bool) {
        let (_tcp, session) = stream.get_ref();
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let resumed = if session.handshake_kind() == Some(HandshakeKind::Resumed) { "true" } else { "false" };
        self.metrics.handshakes.with_label_values(&[version, resumed]).inc();
        let info = TlsInfo {
            version,
            server_name: session.server_name().map(str::to_ascii_lowercase),
            client_subject: session.peer_certificates().and_then(<[_]>::first).and_then(tls::subject),
        };
        (info, session.alpn_protocol() == Some(b"h2"))
    }

    fn count_timeout(&self, phase: Phase) {
        self.metrics.timeouts.with_label_values(&[phase.name()]).inc();
    }

    /// The flow is that of HTTP/1, which waits for the end of each request.
    fn into_http(self, tls: Option<TlsInfo>, flow: Option<&Arc<Flow>>) -> (HttpConnection<H>, Place) {
        let worker = Rc::clone(&self.worker);
        let (settings, flow) = (&self.settings, flow.map(Arc::clone));
        let peer = Peer::new(self.address, self.local, tls, self.number, settings, Rc::clone(&worker), flow);
        let (handler, settings, metrics) = (self.handler, self.settings, self.metrics);
        (HttpConnection { handler, peer: Rc::new(peer), worker, settings, metrics }, self.place)
    }
}

/// A connection whose protocol is known.
pub(super) struct HttpConnection<H> {
    pub(super) handler: Rc<H>,
    pub(super) peer: Rc<Peer>,
    pub(super) worker: Rc<Worker>,
    pub(super) settings: Arc<Settings>,
    pub(super) metrics: Rc<ListenMetrics>,
}

impl<H: Handler> HttpConnection<H> {
    pub(super) async fn serve_http1(self, mut io: Watched, flow: Arc<Flow>) {
        flow.speak(Protocol::Http1);
        let this = Rc::new(self);
        let encrypted = this.peer.tls.is_some();
        loop {
            let head = match this.await_head(&flow, &mut io).await {
                Ok(head) => head,
                Err(Headless::Gone) => return,
                Err(Headless::TooSlow(phase)) => {
                    this.metrics.timeouts.with_label_values(&[phase.name()]).inc();
                    if phase == Phase::Head {
                        Box::pin(this.refuse(&flow, io, Refusal::HeadTooSlow)).await;
                    }
                    return;
                }
            };
            let serve = |request: Request<RequestBody>| {
                let open = OpenRequest::on_connection(&flow, !request.body().is_end_stream());
                this.answer(request, open, Protocol::Http1)
            };
            let (worker, settings) = (Rc::clone(&this.worker), Arc::clone(&this.settings));
            let connection = Http1::new(io, head, Arc::clone(&flow), worker, settings, encrypted, serve);
            let mut connection = Box::pin(connection);
            let end = this.drive(&flow, &mut connection, |connection| connection.get_mut().as_mut().leave()).await;
            if end == End::Panicked {
                return;
            }
            if let Some((refusal, request_id)) = connection.as_mut().take_refused() {
                this.tell_refused(refusal, &request_id, None);
            }
            let Some((stream, ahead)) = connection.as_mut().into_parts() else {
                return flow.enter(Phase::Upgraded);
            };
            drop(connection);
            io = stream;
            match end {
                End::Resting => {
                    io.put_back(ahead);
                    if !io.has_replay() && this.rest(&flow, &mut io).await.is_err() {
                        return;
                    }
                }
                End::TooSlow(Phase::Head) if !flow.is_write_blocked() => {
                    return Box::pin(this.refuse(&flow, io, Refusal::HeadTooSlow)).await;
                }
                End::Closed if flow.must_linger() => return linger(&flow, &this.worker, io).await,
                End::Closed | End::TooSlow(_) | End::Stalled | End::Panicked => return,
            }
        }
    }

    /// Waits for a head with no more memory than it has bytes.
    async fn await_head(&self, flow: &Flow, io: &mut Watched) -> Result<BytesMut, Headless> {
        let mut head = Beginning::of(io.take_replay());
        loop {
            if head.skip_empty_lines() {
                flow.begins_nothing();
                // There is nothing here that could be given back.
                flow.alarm.set(Slot::Rest, NEVER);
            }
            if head.is_for_parser() {
                return Ok(head.into_bytes().into());
            }
            match in_time(flow, &self.worker, poll_fn(|cx| head.poll_read(io, cx))).await {
                Ok(Ok(count)) if count > 0 => {}
                Ok(Ok(_) | Err(_)) => return Err(Headless::Gone),
                Err(TooSlow(phase)) => return Err(Headless::TooSlow(phase)),
            }
        }
    }

    /// Waits for the next request with no buffers.
    async fn rest(&self, flow: &Flow, io: &mut Watched) -> Result<(), Closed> {
        flow.alarm.set(Slot::Rest, NEVER);
        let resting = Resting::new(&self.metrics.resting);
        self.worker.trim.freed();
        let mut first = Beginning::default();
        let came = poll_fn(|cx| {
            flow.alarm.register(cx.waker());
            if let Poll::Ready(read) = first.poll_read(io, cx) {
                return Poll::Ready(read.is_ok_and(|count| count > 0));
            }
            if self.worker.stopping.get() {
                flow.hurry(self.worker.idle_until.get());
            }
            let is_late = flow.is_late(Slot::Phase);
            if is_late {
                self.metrics.timeouts.with_label_values(&[Phase::Idle.name()]).inc();
            }
            let over = is_late || flow.is_late(Slot::Age);
            if over { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        drop(resting);
        if !came {
            flow.enter(Phase::Closing);
            let _said_goodbye = in_time(flow, &self.worker, io.shutdown()).await;
            return Err(Closed);
        }
        io.put_back(first.into_bytes());
        Ok(())
    }

    async fn serve_http2(self, io: Watched, flow: Arc<Flow>) {
        flow.speak(Protocol::Http2);
        let this = Rc::new(self);
        let body_idle = this.settings.timeouts.body_idle;
        let streams = Streams::new(Rc::clone(&this.worker), body_idle, Rc::clone(&this.metrics));
        let builder = this.http2_builder(streams.clone());
        let service = {
            let (this, flow) = (Rc::clone(&this), Arc::clone(&flow));
            service_fn(move |request: Request<Incoming>| {
                let open = OpenRequest::on_stream(&flow, &streams);
                // In a box, for hyper moves it from hand to hand. Room first: so it is written where it stays.
                let request = request.map(RequestBody::of_http2);
                let answer = Box::write(Box::new_uninit(), this.answer(request, open, Protocol::Http2));
                let answer = Box::into_pin(answer);
                async { Ok::<_, Infallible>(answer.await) }
            })
        };
        let mut connection = builder.serve_connection(TokioIo::new(io), service);
        this.drive(&flow, &mut connection, http2::Connection::graceful_shutdown).await;
    }

    fn http2_builder(&self, streams: Streams) -> http2::Builder<Streams> {
        let limits = &self.settings.limits;
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(CoarseTimer(self.worker.ticker.coarse().clone()))
            .max_concurrent_streams(limits.http2_streams)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .adaptive_window(false)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(16 * 1024)
            .max_send_buf_size(WRITTEN_AHEAD_MAX)
            .max_pending_accept_reset_streams(RESETS_PENDING)
            .max_local_error_reset_streams(RESETS_BY_ERROR)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        builder
    }

    /// Refuses where there is no request to answer, and closes.
    async fn refuse(&self, flow: &Flow, io: Watched, refusal: Refusal) {
        let RawRefusal { refusal, request_id, text } = refusal.raw();
        self.tell_refused(refusal, &request_id, None);
        answer_and_linger(flow, &self.worker, io, &text).await;
    }

    pub(super) fn tell_refused(
        &self,
        refusal: Refusal,
        request_id: &RequestId,
        request: Option<&Request<RequestBody>>,
    ) {
        self.handler.refused(&RefusedHead { refusal, request_id, request }, &self.peer);
    }

    /// Polls the connection until it ends or is late, and asks it to end when idle, old or told to stop.
    async fn drive<C>(&self, flow: &Flow, connection: &mut C, shut_down: impl Fn(Pin<&mut C>)) -> End
    where
        C: Future + Unpin,
    {
        let stops = || self.worker.stopping.get() && flow.is_http2();
        let mut leave = stops();
        let mut left = false;
        let mut connection = Caught::new(connection);
        // Nobody else registers while this runs, so the alarm's lock is taken once and not with every poll.
        let mut registered: Option<Waker> = None;
        let end = poll_fn(|cx| {
            let mut rests = false;
            if !registered.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                flow.alarm.register(cx.waker());
                registered = Some(cx.waker().clone());
            }
            if flow.alarm.take_fired() {
                if flow.is_late(Slot::Write) {
                    return Poll::Ready(End::Stalled);
                }
                if flow.is_late(Slot::Phase) {
                    match flow.phase() {
                        Phase::Idle if !left => {
                            self.metrics.timeouts.with_label_values(&[Phase::Idle.name()]).inc();
                            leave = true;
                        }
                        phase => return Poll::Ready(End::TooSlow(phase)),
                    }
                }
                leave |= flow.is_late(Slot::Age);
                rests = !leave && !self.worker.stopping.get();
                if self.worker.stopping.get() {
                    // GOAWAY tells a client of HTTP/2. One of HTTP/1 can only be told by an answer, so it gets
                    // some time for another request.
                    leave |= stops();
                    flow.hurry(self.worker.idle_until.get());
                }
            }
            loop {
                match Pin::new(&mut connection).poll(cx) {
                    Poll::Ready(Ok(_)) => return Poll::Ready(End::Closed),
                    Poll::Ready(Err(Panicked)) => return Poll::Ready(End::Panicked),
                    Poll::Pending => {}
                }
                // Only now: the parser may have had something to do yet, and all it knows goes with it.
                if rests && flow.may_rest() {
                    return Poll::Ready(End::Resting);
                }
                // A head that is on its way is still answered: its sender could not know.
                if left || !leave || matches!(flow.phase(), Phase::FirstByte | Phase::Head) {
                    return Poll::Pending;
                }
                left = true;
                flow.leave();
                shut_down(Pin::new(&mut **connection.future_mut()));
            }
        })
        .await;
        match end {
            End::Stalled => self.metrics.timeouts.with_label_values(&["write"]).inc(),
            End::TooSlow(phase) => self.metrics.timeouts.with_label_values(&[phase.name()]).inc(),
            End::Panicked => self.metrics.panics.inc(),
            End::Closed | End::Resting => {}
        }
        end
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By HTTP's own rules.
    Closed,
    /// The other side took too long in this phase.
    TooSlow(Phase),
    /// The other side took none of what was written.
    Stalled,
    /// Not at all: it has been idle for a while and can do without its buffers.
    Resting,
    /// A fault of this program.
    Panicked,
}

/// The connection is over.
struct Closed;

/// No head came.
enum Headless {
    /// The other side has gone.
    Gone,
    /// It took too long in this phase.
    TooSlow(Phase),
}

/// Counts one resting connection.
struct Resting<'a>(&'a IntGauge);

impl<'a> Resting<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The other side took too long in this phase.
struct TooSlow(Phase);

/// Awaits `future` within the flow's present phase.
async fn in_time<T>(flow: &Flow, worker: &Worker, future: impl Future<Output = T>) -> Result<T, TooSlow> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        flow.alarm.register(cx.waker());
        if flow.alarm.take_fired() {
            if flow.is_late(Slot::Phase) {
                return Poll::Ready(Err(TooSlow(flow.phase())));
            }
            if worker.stopping.get() {
                flow.hurry(worker.idle_until.get());
            }
        }
        future.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// Writes `text` and closes.
async fn answer_and_linger(flow: &Flow, worker: &Worker, mut io: Watched, text: &[u8]) {
    flow.enter(Phase::Closing);
    let written = in_time(flow, worker, async {
        io.write_all(text).await?;
        io.shutdown().await
    });
    if let Ok(Ok(())) = written.await {
        linger(flow, worker, io).await;
    }
}

/// Reads on for a moment. To close a socket with unread bytes resets it, and destroys the answer on its way.
async fn linger(flow: &Flow, worker: &Worker, mut io: Watched) {
    flow.linger();
    let mut left = LINGER_BYTES_MAX;
    while let Ok(Ok(count)) = in_time(flow, worker, poll_fn(|cx| poll_waste(&mut io, cx))).await {
        left = left.saturating_sub(count);
        if count == 0 || left == 0 {
            return;
        }
    }
}

/// Reads what nobody wants. Its space is on the stack of this call alone.
fn poll_waste(io: &mut Watched, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut space = [const { MaybeUninit::uninit() }; WASTE_BYTES];
    let mut space = ReadBuf::uninit(&mut space);
    Pin::new(io).poll_read(cx, &mut space).map_ok(|()| space.filled().len())
}

/// Why a handshake failed, as one of a few words.
fn handshake_failure(error: &io::Error) -> &'static str {
    let Some(error) = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "closed",
            _ => "connection",
        };
    };
    match error {
        rustls::Error::NoCertificatesPresented => "no_client_certificate",
        rustls::Error::InvalidCertificate(_) => "bad_client_certificate",
        rustls::Error::PeerIncompatible(_) => "incompatible",
        rustls::Error::NoApplicationProtocol => "no_protocol",
        rustls::Error::AlertReceived(_) => "client_alert",
        rustls::Error::InvalidMessage(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. } => "not_tls",
        _ => "other",
    }
}

/// Timers for hyper, on the worker's coarse clock: reading it costs no system call.
struct CoarseTimer(CoarseClock);

impl Timer for CoarseTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        self.0.instant()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        TokioTimer::new().reset(sleep, deadline);
    }
}

/// What is read or written ahead of the other side at most, a connection.
pub const WRITTEN_AHEAD_MAX: usize = 64 * 1024;
/// What is looked at of a PROXY header at a time: most are shorter.
const INTRODUCTION_BYTES: usize = 128;
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Rapid reset (CVE-2023-44487): how many streams may be reset before they were accepted.
const RESETS_PENDING: usize = 20;
/// The same by provoked errors (CVE-2025-8671): how many streams we may be made to reset.
const RESETS_BY_ERROR: usize = 256;
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// What is read at most before a connection closes behind an answer that came too early for what its client sends:
/// the rest meets a reset, and many take that for the answer.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
const WASTE_BYTES: usize = 16 * 1024;
