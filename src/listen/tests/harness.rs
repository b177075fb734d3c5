//! A listener with a handler that does what its path says, and clients for it.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::clock::SystemClock;
use crate::listen::{
    BodyFault, Clients, Connections, Handler, Limits, ListenMetrics, Listening, Peer, RequestBody, Settings, Timeouts,
    bind, serve,
};
use crate::wire::Network;

/// Runs one test on one thread, as a worker does; it fails when it hangs.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let limited = async { tokio::time::timeout(Duration::from_secs(20), test).await };
    runtime.expect("a runtime").block_on(limited).expect("the test hangs")
}

/// A running listener.
pub(super) struct House {
    pub(super) address: SocketAddr,
    pub(super) metrics: ListenMetrics,
    pub(super) script: Rc<Script>,
    stop: watch::Sender<bool>,
    served: JoinHandle<std::io::Result<()>>,
}

/// What a listener of a test is told.
pub(super) struct Plan {
    pub(super) tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    pub(super) timeouts: Timeouts,
    pub(super) limits: Limits,
    pub(super) connections: usize,
    pub(super) proxy_protocol: Vec<Network>,
    pub(super) clients: Clients,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            tls: None,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            connections: 100,
            proxy_protocol: Vec::new(),
            clients: Clients::default(),
        }
    }
}

impl House {
    pub(super) fn open(plan: Plan) -> Self {
        let listener = bind("127.0.0.1:0".parse().expect("an address"), 1).expect("a free port").remove(0);
        let address = listener.local_addr().expect("bound");
        let metrics = ListenMetrics::new("test").expect("counters");
        let script = Rc::new(Script::default());
        let listening = Listening {
            tls: plan.tls,
            settings: Arc::new(ArcSwap::from_pointee(Settings {
                timeouts: plan.timeouts,
                limits: plan.limits,
                proxy_protocol: plan.proxy_protocol,
                clients: plan.clients,
            })),
            connections: Connections::new(plan.connections),
            clock: Arc::new(SystemClock::default()),
            metrics: metrics.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        let served = tokio::task::spawn_local(serve(listener, Rc::clone(&script), listening, stopped));
        Self { address, metrics, script, stop, served }
    }

    /// A connection from one of this machine's many addresses.
    pub(super) async fn connect_from(&self, address: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("an address of loopback");
        socket.connect(self.address).await.expect("accepted")
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("accepted")
    }

    pub(super) fn timeouts(&self, which: &str) -> u64 {
        self.metrics.timeouts.with_label_values(&[which]).get()
    }

    /// Tells it to stop, without waiting.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until all is done.
    pub(super) async fn closed(self) {
        self.served.await.expect("no panic").expect("no fault");
    }
}

/// The handler: what it does is in the path.
#[derive(Default)]
pub(super) struct Script {
    /// How many requests have begun.
    pub(super) begun: Cell<usize>,
    /// Somebody began.
    pub(super) began: Notify,
    /// Lets `/wait` answer.
    pub(super) release: Notify,
    /// A request was dropped unanswered, or a tunnel cut.
    pub(super) dropped: Rc<Cell<usize>>,
}

impl Script {
    /// Waits until `count` requests have begun.
    pub(super) async fn has_begun(&self, count: usize) {
        while self.begun.get() < count {
            self.began.notified().await;
        }
    }
}

/// Counts itself when it is dropped before its end.
pub(super) struct Unanswered(Option<Rc<Cell<usize>>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(count) = self.0.take() {
            count.set(count.get() + 1);
        }
    }
}

type Answered = Either<Full<Bytes>, Endless>;

impl Handler for Script {
    type Body = Answered;

    async fn handle(self: Rc<Self>, request: Request<RequestBody>, peer: Rc<Peer>) -> Response<Answered> {
        self.begun.set(self.begun.get() + 1);
        self.began.notify_one();
        let mut guard = Unanswered(Some(Rc::clone(&self.dropped)));
        let answer = self.answer(request, &peer).await;
        guard.0 = None;
        answer
    }
}

impl Script {
    async fn answer(&self, mut request: Request<RequestBody>, peer: &Rc<Peer>) -> Response<Answered> {
        let text = |text: &str| Response::new(Either::Left(Full::new(Bytes::from(text.to_owned()))));
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/panic" => panic!("as the path says"),
            "/broken" => Response::new(Either::Right(Endless::Panics)),
            "/shown" => text(&format!("{:?}", request.body())),
            "/bare" => {
                let mut answer = text("");
                *answer.status_mut() = StatusCode::BAD_REQUEST;
                answer
            }
            "/wait" => {
                self.release.notified().await;
                text("waited")
            }
            "/endless" => Response::new(Either::Right(Endless::Runs)),
            "/pauses" | "/ends-late" => {
                let guard = Unanswered(Some(Rc::clone(&self.dropped)));
                let mut answer = Response::new(Either::Right(Endless::Pauses { said: false, _guard: guard }));
                if path == "/ends-late" {
                    answer.headers_mut().insert("content-length", http::HeaderValue::from_static("5"));
                }
                answer
            }
            "/large" => text(&"x".repeat(LARGE)),
            "/who" => text(&format!("{:?} {} {}", peer.tls, peer.connection, peer.address)),
            "/upload" => match peer.paced(request.into_body()).collect().await {
                Ok(body) => text(&format!("{} bytes", body.to_bytes().len())),
                Err(fault) => {
                    let mut answer = text("slow");
                    if matches!(fault, BodyFault::TooSlow) {
                        *answer.status_mut() = StatusCode::REQUEST_TIMEOUT;
                    }
                    answer
                }
            },
            "/tunnel" => {
                let upgrade = request.body_mut().take_upgrade().expect("asked for");
                let guard = Unanswered(Some(Rc::clone(&self.dropped)));
                peer.spawn(async move {
                    let _guard = guard;
                    let mut tunnel = upgrade.await.expect("upgraded");
                    let mut word = [0; 4];
                    while tunnel.read_exact(&mut word).await.is_ok() {
                        tunnel.write_all(&word).await.expect("echoed");
                    }
                });
                let mut answer = text("");
                *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let fields = answer.headers_mut();
                fields.insert("connection", http::HeaderValue::from_static("upgrade"));
                fields.insert("upgrade", http::HeaderValue::from_static("echo"));
                answer
            }
            _ => text("hello"),
        }
    }
}

/// A body that never ends, or ends badly.
pub(super) enum Endless {
    Runs,
    Panics,
    /// After a first piece.
    Pauses {
        said: bool,
        _guard: Unanswered,
    },
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Pauses { said, .. } => {
                let is_first = !std::mem::replace(said, true);
                if is_first { Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"hello"))))) } else { Poll::Pending }
            }
            Self::Runs => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024]))))),
            Self::Panics => panic!("as the path says"),
        }
    }
}

/// Reads until the connection is closed, and gives what came.
pub(super) async fn read_to_close(mut stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // A reset is as good an end as any.
    let _reset = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes `text` and reads until the connection is closed.
pub(super) async fn exchange(mut stream: TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("taken");
    read_to_close(stream).await
}

pub(super) type Sender1 = http1::SendRequest<Empty<Bytes>>;
pub(super) type Sender2 = http2::SendRequest<Empty<Bytes>>;

/// An HTTP/1 client on `stream`. The handle ends with the connection.
pub(super) async fn http1<S>(stream: S) -> (Sender1, JoinHandle<hyper::Result<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a client");
    (sender, tokio::task::spawn_local(connection))
}

/// An HTTP/2 client on `stream`. The handle ends with the connection.
pub(super) async fn http2<S>(stream: S) -> (Sender2, JoinHandle<hyper::Result<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await.expect("a client");
    (sender, tokio::task::spawn_local(connection))
}

/// Runs the client's own tasks on this thread.
#[derive(Clone)]
pub(super) struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

pub(super) fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://localhost{path}")).body(Empty::new()).expect("a request")
}

/// The whole body of an answer as text.
pub(super) async fn text(answer: Response<Incoming>) -> String {
    let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// What `/large` answers has so many bytes: more than sockets hold.
pub(super) const LARGE: usize = 8 * 1024 * 1024;

/// Short enough for a test, long enough for a slow machine.
pub(super) const SHORT: Duration = Duration::from_millis(200);
