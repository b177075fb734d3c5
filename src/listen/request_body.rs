//! The body of a request, whatever protocol it comes by.

use std::error::Error as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http1::{Http1Body, Http1BodyFault};
use super::upgrade::ClientUpgrade;

/// The body of a request, read from its connection by whoever polls it.
#[derive(Debug)]
pub struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    /// None; the connection may be asked to become another protocol's.
    Empty(Option<ClientUpgrade>),
    Http1(Http1Body),
    Http2(Incoming),
}

impl RequestBody {
    /// No body.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Kind::Empty(None))
    }

    /// No body, of a request that asks for another protocol.
    pub(super) const fn upgrading(upgrade: ClientUpgrade) -> Self {
        Self(Kind::Empty(Some(upgrade)))
    }

    pub(super) const fn of_http1(body: Http1Body) -> Self {
        Self(Kind::Http1(body))
    }

    pub(super) const fn of_http2(body: Incoming) -> Self {
        Self(Kind::Http2(body))
    }

    /// The client's connection behind an answer of 101, where the request asks for another protocol and has no body.
    /// Given out once.
    pub const fn take_upgrade(&mut self) -> Option<ClientUpgrade> {
        match &mut self.0 {
            Kind::Empty(upgrade) => upgrade.take(),
            Kind::Http1(_) | Kind::Http2(_) => None,
        }
    }
}

/// Why a request's body was not read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum RequestBodyFault {
    /// Over HTTP/1.
    Http1(#[from] Http1BodyFault),
    /// Over HTTP/2.
    Http2(#[from] hyper::Error),
}

impl RequestBodyFault {
    /// Whether its sender went away, or gave the request up.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Http1(Http1BodyFault::Malformed(_)) => false,
            Self::Http1(_) => true,
            Self::Http2(error) => {
                let of_stream = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
                of_stream.is_some_and(|error| error.is_io() || error.is_remote())
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyFault>>> {
        match &mut self.get_mut().0 {
            Kind::Empty(_) => Poll::Ready(None),
            Kind::Http1(body) => body.poll(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Kind::Http2(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty(_) => true,
            Kind::Http1(body) => body.is_over(),
            Kind::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty(_) => SizeHint::with_exact(0),
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
        }
    }
}
