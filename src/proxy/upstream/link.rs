//! What the pool needs of a protocol towards an upstream: dialling, one exchange at a time, and
//! knowing whether a connection is still good. A leaner codec can take the place of the present one
//! by implementing these two traits.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::listen::Paced;
use crate::wire::{BrokenOff, Inbound};

/// Makes connections.
pub(crate) trait Dial: fmt::Debug + 'static {
    /// A connection.
    type Link: Link;

    /// Connects to `address`. Cancel-safe: a dropped future leaves no connection.
    fn dial(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Link>>;
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// It can take a request now.
    Ready,
    /// It is still busy with the last exchange.
    Busy,
    /// It is closed.
    Closed,
}

/// One connection. Dropping it closes it, whatever it is in the middle of.
pub(crate) trait Link: fmt::Debug + 'static {
    /// A response's body.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + fmt::Debug + Unpin + 'static;
    /// The connection's two directions once an upgrade took it over.
    type Tunnel: AsyncRead + AsyncWrite + Unpin + 'static;

    /// How it stands.
    fn state(&self) -> LinkState;

    /// Sends a request and waits for the head of its response.
    fn exchange(&mut self, request: Request<Upload>) -> impl Future<Output = Result<Response<Self::Body>, Lost>>;

    /// The raw connection behind a 101.
    fn tunnel(response: Response<Self::Body>) -> impl Future<Output = io::Result<Self::Tunnel>>;
}

/// An exchange that ended without a response's head.
#[derive(Debug)]
pub(crate) struct Lost {
    /// The request, if no byte of it was written.
    pub(crate) untouched: Option<Box<Request<Upload>>>,
    /// Whether any byte of a response had come.
    pub(crate) answered: bool,
    /// What happened.
    pub(crate) cause: Box<dyn Error + Send + Sync>,
}

/// A client's body, limited and paced.
pub(crate) type ClientBody = Inbound<Paced<Incoming>>;

/// A request's body as an upstream gets it.
#[derive(Debug)]
pub(crate) enum Upload {
    /// None.
    Empty,
    /// What the client sends, as it comes.
    Stream(Rc<Source>),
}

/// A client's body that can be taken back from the connection it is sent on, for instance when the
/// upstream has answered without waiting for all of it.
#[derive(Debug)]
pub(crate) struct Source(RefCell<Option<ClientBody>>);

impl Source {
    /// Puts `body` at the disposal of a connection.
    pub(crate) fn new(body: ClientBody) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Some(body))))
    }

    /// What is left of it. The connection sees a body that broke off.
    pub(crate) fn take(&self) -> Option<ClientBody> {
        self.0.borrow_mut().take()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(source) => match source.0.borrow_mut().as_mut() {
                Some(body) => Pin::new(body).poll_frame(cx),
                None => Poll::Ready(Some(Err(BrokenOff))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(source) => source.0.borrow().as_ref().is_some_and(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(source) => source.0.borrow().as_ref().map_or_else(SizeHint::default, Body::size_hint),
        }
    }
}
