//! HTTP/1.1 towards an upstream, by a codec of our own on httparse.
//!
//! hyper's client runs each connection in a task beside the request's: a request goes there through a
//! channel and its answer comes back through another, with a wake-up and several allocations each way. Here the
//! request's own task writes and reads. What that was worth is in docs/decisions/0080.
//!
//! Answers are read no more leniently than hyper reads them. Where the message ends is decided in [`head`] and by
//! the [`Decoder`](crate::wire::Decoder); whatever is left behind it, or cannot be told, ends the connection.

mod answer;
#[cfg(test)]
mod corpus;
mod head;
mod outgoing;
mod socket;
mod wire;

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response, Uri};
use http_body::{Body, Frame, SizeHint};

pub use answer::{AnswerEnd, AnswerRead, read_answer};
pub(super) use socket::{Socket, Tunnel};

use super::connect::OnWorker;
use super::link::{Added, Asked, LinkState, Lost, Word};
use wire::Wire;
pub(crate) use wire::WireFault;

/// One connection.
pub(crate) struct Http1Link {
    wire: Rc<RefCell<Wire>>,
    on: OnWorker,
}

impl Http1Link {
    /// Over a socket that was just connected.
    pub(super) fn over(socket: Socket, on: OnWorker) -> Self {
        Self { wire: Rc::new(RefCell::new(Wire::over(socket))), on }
    }

    pub(super) fn state(&self) -> LinkState {
        self.wire.borrow_mut().state()
    }

    pub(super) fn is_kept(&self) -> bool {
        self.wire.borrow_mut().is_kept()
    }

    pub(super) fn rest(&self) {
        self.wire.borrow_mut().rest();
    }

    pub(super) async fn exchange(&mut self, mut request: Box<Asked>) -> Result<Response<Http1Body>, Lost> {
        self.wire.borrow_mut().begin(&request);
        let mut let_go = false;
        let answered = poll_fn(|cx| {
            let mut wire = self.wire.borrow_mut();
            let polled = wire.poll_exchange(cx, request.request.headers_mut());
            if polled.is_pending() && !let_go && wire.awaits_body() {
                // For as long as the client takes: its head is out, and a request whose body has begun is never
                // sent again. As parts of what was read of the client its fields would keep the whole of that.
                let_go = true;
                wire.lighten();
                (*request.request.headers_mut(), *request.request.uri_mut()) = (HeaderMap::new(), Uri::default());
                request.added = Added::nothing();
            }
            polled
        })
        .await;
        match answered {
            Ok(response) => {
                if self.wire.borrow().is_sending() {
                    self.send_on();
                }
                let number = self.wire.borrow().number();
                Ok(response.map(|()| Http1Body { wire: Rc::clone(&self.wire), number }))
            }
            Err(fault) => {
                let mut wire = self.wire.borrow_mut();
                wire.close();
                let heard = wire.has_heard();
                let word = if heard { Word::Begun } else { Word::Silent };
                // What came may have taken the place of its fields.
                let whole = (!let_go && !heard).then_some(request);
                let (untouched, written) = if wire.is_touched() { (None, whole) } else { (whole, None) };
                Err(Lost { untouched, written, word, cause: fault.into() })
            }
        }
    }

    /// Sends the rest of a request whose answer has begun. In a task of its own: who reads the answer may
    /// wait for a client that reads only once it has sent everything.
    fn send_on(&self) {
        let wire = Rc::clone(&self.wire);
        let _ends_with_the_connection = self.on.spawn(poll_fn(move |cx| wire.borrow_mut().poll_send_on(cx)));
    }
}

impl Drop for Http1Link {
    fn drop(&mut self) {
        self.wire.borrow_mut().close();
    }
}

impl fmt::Debug for Http1Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Link").finish_non_exhaustive()
    }
}

/// The body of an answer, read from the connection by whoever polls it.
pub(crate) struct Http1Body {
    wire: Rc<RefCell<Wire>>,
    /// Of the exchange that it belongs to. Once the connection has gone on to another, this is over.
    number: u64,
}

impl Http1Body {
    /// The connection itself, behind a 101.
    pub(super) fn into_tunnel(self) -> io::Result<Tunnel> {
        self.present().and_then(|mut wire| wire.hand_over()).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// All that is left of it, where all of it is here already.
    pub(super) fn take_whole(&self) -> Option<Bytes> {
        self.present()?.take_whole()
    }

    fn present(&self) -> Option<RefMut<'_, Wire>> {
        let wire = self.wire.borrow_mut();
        (wire.number() == self.number).then_some(wire)
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = WireFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireFault>>> {
        self.present().map_or(Poll::Ready(None), |mut wire| wire.poll_body(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.present().is_none_or(|wire| wire.is_answered())
    }

    fn size_hint(&self) -> SizeHint {
        self.present().map_or_else(|| SizeHint::with_exact(0), |wire| wire.size_hint())
    }
}

impl fmt::Debug for Http1Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Body").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;
    use http::{HeaderValue, Request};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;
    use crate::proxy::upstream::link::Upload;

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_that_rests_holds_no_buffer_and_serves_the_next_request() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut link = Http1Link::over(Socket::Unix(ours), OnWorker::default());
        for _ in 0..2 {
            theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("there is room");
            let answer = link.exchange(Box::new(Asked::of(Request::new(Upload::Empty)))).await.expect("answered");
            drop(answer);
            assert_eq!(link.state(), LinkState::Ready);
            assert!(link.wire.borrow().memory() > 0);
            link.rest();
            assert_eq!(link.wire.borrow().memory(), 0);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_request_that_lost_its_fields_to_what_came_is_not_given_back() {
        for (came, word) in [("", Word::Silent), ("HTTP/1.1 100 Continue\r\n\r\n", Word::Begun)] {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            theirs.write_all(came.as_bytes()).await.expect("there is room");
            // Nothing of the request can be written any more.
            drop(theirs);
            let mut link = Http1Link::over(Socket::Unix(ours), OnWorker::default());
            let mut request = Request::new(Upload::Empty);
            request.headers_mut().insert(COOKIE, HeaderValue::from_static("a=b"));
            let lost = link.exchange(Box::new(Asked::of(request))).await.expect_err("no answer came");
            assert_eq!((lost.word, lost.untouched.is_some()), (word, came.is_empty()));
            assert!(lost.written.is_none());
            assert!(lost.untouched.is_none_or(|back| back.request.headers().contains_key(COOKIE)));
        }
    }
}
