//! A service behind the gateway: an HTTP/1.1 server in this process that remembers what reached
//! it and answers as the test says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::stream::{Received, Stream, receive};
use super::wait::until;

/// One request as it reached the upstream.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Received,
}

impl Recorded {
    /// The one value of a field; none where it is missing.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} reached the upstream more than once");
        Some(value.to_str().expect("field values in these tests are text"))
    }
}

/// What the upstream does with a request.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Stream,
    gate: Option<Gate>,
    hang_up: bool,
}

impl Reply {
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        let body = Stream::text(text);
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body, gate: None, hang_up: false }
    }

    pub(crate) fn zeros(bytes: u64) -> Self {
        Self { body: Stream::zeros(bytes), ..Self::text("") }
    }

    /// Closes the connection instead of answering.
    pub(crate) fn hang_up() -> Self {
        Self { hang_up: true, ..Self::text("") }
    }

    pub(crate) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a field name");
        self.headers.append(name, HeaderValue::from_str(value).expect("a field value"));
        self
    }

    /// Sends the body in chunks, without a length.
    pub(crate) fn chunked(self) -> Self {
        Self { body: self.body.clone().chunked(), ..self }
    }

    /// Answers only once the gate is open.
    pub(crate) fn behind(self, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }
}

/// Holds answers back until it is opened.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Ends once it is open.
    pub(crate) async fn passed(&self) {
        self.0.subscribe().wait_for(|open| *open).await.expect("the gate holds its own sender");
    }
}

type Answering = dyn Fn(&Recorded) -> Reply + Send + Sync;

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    heads: AtomicUsize,
    requests: Mutex<Vec<Recorded>>,
}

/// The service. It ends when this is dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// One that answers every request with a few words.
    pub(crate) fn start() -> Self {
        Self::answering(|_request| Reply::text("hello from the upstream"))
    }

    /// One that answers as `answer` says, once it has read the request whole.
    pub(crate) fn answering(answer: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound socket");
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&seen);
        let thread = std::thread::Builder::new()
            .name("upstream".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).expect("a listening socket");
                    tokio::select! {
                        () = accept(listener, Arc::new(answer), shared) => {}
                        _stopped = stopped => {}
                    }
                });
            })
            .expect("a thread");
        Self { address, seen, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request that was read whole, in that order.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one request that arrived.
    pub(crate) fn only_request(&self) -> Recorded {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many requests have begun.
    pub(crate) fn begun(&self) -> usize {
        self.seen.heads.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have begun.
    pub(crate) fn until_begun(&self, requests: usize) {
        until("a request at the upstream", || self.seen.heads.load(Ordering::SeqCst) >= requests);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has already failed the test's own expectations.
            let _ended = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, answer: Arc<Answering>, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _peer) = accepted.expect("an accepted connection");
                seen.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, Arc::clone(&answer), Arc::clone(&seen)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, answer: Arc<Answering>, seen: Arc<Seen>) {
    let service = service_fn(|request| respond(request, Arc::clone(&answer), Arc::clone(&seen)));
    // The gateway may close a connection at any time.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The upstream hung up on purpose.
#[derive(Debug, thiserror::Error)]
#[error("hung up")]
struct HungUp;

async fn respond(
    request: http::Request<Incoming>,
    answer: Arc<Answering>,
    seen: Arc<Seen>,
) -> Result<http::Response<Stream>, HungUp> {
    seen.heads.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let body = receive(body).await;
    let headers = kept(&head.headers);
    let recorded = Recorded { method: head.method, target: head.uri.to_string(), headers, body };
    let reply = answer(&recorded);
    seen.requests.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
    if let Some(gate) = &reply.gate {
        gate.passed().await;
    }
    if reply.hang_up {
        return Err(HungUp);
    }
    let mut response = http::Response::new(reply.body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    Ok(response)
}

/// Each value by itself: those that hyper parsed share the whole buffer they were read into.
fn kept(headers: &HeaderMap) -> HeaderMap {
    let own = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).expect("a value that was one");
    headers.iter().map(|(name, value)| (name.clone(), own(value))).collect()
}
