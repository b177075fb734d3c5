//! HTTP/2 towards an upstream: one connection that many requests share.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::OnWorker;
use super::link::{Asked, LinkState, Lost, Upload, Word};

/// How much of one response is taken before its reader has read it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The fields of a response.
const FIELDS_BYTES_MAX: u32 = 64 * 1024;
/// What is buffered of one request's body.
const SEND_BYTES_MAX: usize = 64 * 1024;
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A share of a connection. The pool holds one that counts for no exchange.
pub(crate) struct Http2Link {
    connection: Rc<Connection>,
    counted: bool,
}

struct Connection {
    sender: RefCell<SendRequest<Upload>>,
    scheme: Scheme,
    open: Cell<usize>,
    /// What we want at most, and what the other side allows.
    streams: usize,
    allowed: Rc<Cell<usize>>,
}

impl Http2Link {
    /// Over a stream that was just connected.
    pub(super) async fn over<S>(stream: S, scheme: Scheme, streams: u32, on: &OnWorker) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(on.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            // All streams together, so that readers who are slow hold up nobody else.
            .initial_connection_window_size(STREAM_WINDOW.saturating_mul(streams).min((1 << 31) - 1))
            .max_header_list_size(FIELDS_BYTES_MAX)
            .max_send_buf_size(SEND_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
        let told = Rc::clone(&allowed);
        let _ends_by_itself = on.spawn(async move {
            let mut connection = pin!(connection);
            // How a connection ended shows in its exchanges, or concerns nobody.
            let _ended = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                told.set(connection.current_max_send_streams());
                polled
            })
            .await;
        });
        let streams = usize::try_from(streams).unwrap_or(usize::MAX);
        let connection = Connection { sender: RefCell::new(sender), scheme, open: Cell::new(0), streams, allowed };
        Ok(Self { connection: Rc::new(connection), counted: false })
    }

    pub(super) fn state(&self) -> LinkState {
        let connection = &*self.connection;
        // One that allows no streams at all would only collect requests.
        if connection.sender.borrow().is_closed() || connection.allowed.get() == 0 {
            LinkState::Closed
        } else if connection.open.get() < connection.streams.min(connection.allowed.get()) {
            LinkState::Ready
        } else {
            LinkState::Busy
        }
    }

    pub(super) fn share(&self) -> Self {
        let open = &self.connection.open;
        open.set(open.get() + 1);
        Self { connection: Rc::clone(&self.connection), counted: true }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.connection.open.get() > usize::from(self.counted)
    }

    pub(super) async fn exchange(&self, mut asked: Box<Asked>) -> Result<Response<Incoming>, Lost> {
        asked.settle();
        let mut request = asked.request;
        address(&mut request, &self.connection.scheme);
        let sent = self.connection.sender.borrow_mut().try_send_request(request);
        match sent.await {
            Ok(response) => Ok(response),
            Err(mut failed) => {
                let untouched = failed.take_message().map(|mut request| {
                    unaddress(&mut request);
                    Box::new(Asked::of(request))
                });
                let error = failed.into_error();
                Err(Lost { untouched, written: None, word: word_in(&error), cause: error.into() })
            }
        }
    }
}

impl Drop for Http2Link {
    fn drop(&mut self) {
        if self.counted {
            let open = &self.connection.open;
            open.set(open.get().saturating_sub(1));
        }
    }
}

impl fmt::Debug for Http2Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Http2Link");
        shown.field("state", &self.state()).field("open", &self.connection.open).finish_non_exhaustive()
    }
}

/// Says the host the way that HTTP/2 does.
fn address(request: &mut Request<Upload>, scheme: &Scheme) {
    *request.version_mut() = Version::HTTP_2;
    // Frames say what a coding says.
    request.headers_mut().remove(TRANSFER_ENCODING);
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::from_maybe_shared(bytes::Bytes::from_owner(host)).ok());
    let Some(authority) = authority else { return };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Says the host the way that HTTP/1.1 does.
fn unaddress(request: &mut Request<Upload>) {
    *request.version_mut() = Version::default();
    let parts = std::mem::take(request.uri_mut()).into_parts();
    let host = parts.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(path) = parts.path_and_query {
        *request.uri_mut() = Uri::from(path);
    }
}

/// What an error says of whether the request was processed (RFC 9113, 8.7).
fn word_in(error: &hyper::Error) -> Word {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<h2::Error>() {
            // A stream is ended by a GOAWAY only where it is above the last that was processed.
            return if error.is_go_away() && error.is_remote() {
                Word::GoingAway
            } else if error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
                Word::Refused
            } else if error.is_reset() {
                Word::Begun
            } else {
                Word::Silent
            };
        }
        cause = inner.source();
    }
    Word::Silent
}
