//! What a listener hands its requests to.

use std::error::Error;
use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::answer::Refusal;
use super::peer::Peer;
use super::request_body::RequestBody;
use crate::wire::RequestId;

/// Answers requests. One per worker; its futures stay on that worker's thread.
pub trait Handler: 'static {
    /// The body of its answers. An error of it aborts the connection (HTTP/1) or resets the stream (HTTP/2).
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static;

    /// Answers one request.
    ///
    /// The future is dropped when the client goes away or its stream is reset, so what it holds open
    /// upstream must end with it. A panic in it is answered with a 500 and ends the connection, so nothing is done
    /// before it is polled.
    fn handle(
        self: Rc<Self>,
        request: Request<RequestBody>,
        peer: Rc<Peer>,
    ) -> impl Future<Output = Response<Self::Body>>;

    /// Hears of a request that the listener refused by itself, to count it and to log it.
    fn refused(&self, _head: &RefusedHead<'_>, _peer: &Peer) {}
}

/// A request whose head the listener refused.
#[derive(Debug)]
pub struct RefusedHead<'r> {
    /// Why.
    pub refusal: Refusal,
    /// The id that its client was told.
    pub request_id: &'r RequestId,
    /// The request; none where its head could not be read.
    pub request: Option<&'r Request<RequestBody>>,
}
