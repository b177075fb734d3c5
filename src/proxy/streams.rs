//! Requests, answers and tunnels that last: what let them through is asked again whenever the answer
//! may have changed, and what is no longer permitted is cut.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Method;
use http::uri::{Authority, PathAndQuery};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::account::{Account, Decided};
use super::upstream::{AnyBody, BodyFault, Connector, Lease, Source};
use crate::clock::Timestamp;
use crate::policy::Denial;

/// The open streams of one worker.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: RefCell<Vec<Weak<OpenStream>>>,
    /// Not looked at since they were opened.
    fresh: RefCell<Vec<Weak<OpenStream>>>,
    opened: Notify,
    round: Rc<Notify>,
}

/// One stream, and what it was decided by.
#[derive(Debug)]
pub(super) struct OpenStream {
    pub(super) method: Method,
    pub(super) authority: Option<Authority>,
    pub(super) target: PathAndQuery,
    /// The name of the upstream that it reaches.
    pub(super) upstream: Rc<str>,
    /// Whether it is, or is about to be, a WebSocket.
    pub(super) websocket: bool,
    pub(super) decided: Cell<Decided>,
    /// Let go of by a cut, also where nobody polls the stream because its reader has stopped reading.
    held: RefCell<Held>,
    cut: RefCell<Option<Denial>>,
    waker: RefCell<Option<Waker>>,
}

/// What an answer has of its upstream. On a connection that others share too, an exchange is over only
/// when nobody holds its answer and nobody sends its request any more.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) lease: Option<Lease<Connector>>,
    pub(super) body: Option<AnyBody>,
    pub(super) upload: Option<Rc<Source>>,
}

/// The streams that a review takes its time with.
#[derive(Debug)]
pub(super) struct Review<'a> {
    streams: &'a Streams,
    waiting: Vec<Weak<OpenStream>>,
    done: Vec<Weak<OpenStream>>,
}

impl Streams {
    /// Watches over the stream of this account from now on; none where nothing was decided.
    pub(super) fn open(&self, account: &Account) -> Option<Rc<OpenStream>> {
        let stream = Rc::new(OpenStream {
            method: account.method.clone(),
            authority: account.authority.clone(),
            target: account.target.clone()?,
            upstream: Rc::clone(&account.route_view()?.upstream),
            websocket: account.websocket,
            decided: Cell::new(account.decided?),
            held: RefCell::default(),
            cut: RefCell::default(),
            waker: RefCell::default(),
        });
        self.fresh.borrow_mut().push(Rc::downgrade(&stream));
        // Looked at from its beginning on: the table may have moved meanwhile.
        self.opened.notify_one();
        Some(stream)
    }

    /// Ends when streams were opened that have to be looked at.
    pub(super) fn opened(&self) -> Notified<'_> {
        self.opened.notified()
    }

    /// Ends at the next round. What still waits then is watched over.
    pub(super) fn next_round(&self) -> Notified<'_> {
        self.round.notified()
    }

    /// Notified of each round, of which there are some a second: by it a timer that will hardly ever be needed is
    /// made only for what still waits then.
    pub(super) fn rounds(&self) -> Rc<Notify> {
        Rc::clone(&self.round)
    }

    /// A round begins.
    pub(super) fn begin_round(&self) {
        self.round.notify_waiters();
    }

    /// Whether none is open, as far as the last review knows.
    pub(super) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty() && self.fresh.borrow().is_empty()
    }

    /// Takes up the streams that were opened since they were last taken up.
    pub(super) fn review_fresh(&self) -> Review<'_> {
        Review { streams: self, waiting: self.fresh.take(), done: Vec::new() }
    }

    /// Takes up all streams.
    pub(super) fn review_all(&self) -> Review<'_> {
        let mut waiting = self.open.take();
        waiting.append(&mut self.fresh.borrow_mut());
        Review { streams: self, waiting, done: Vec::new() }
    }
}

impl Review<'_> {
    /// Asks `again` of up to `count` streams, and cuts those that it denies. Whether any are left.
    pub(super) fn advance(
        &mut self,
        count: usize,
        mut again: impl FnMut(&OpenStream) -> Result<Decided, Denial>,
    ) -> bool {
        let from = self.waiting.len().saturating_sub(count);
        for stream in self.waiting.drain(from..) {
            let Some(open) = stream.upgrade() else { continue };
            match again(&open) {
                Ok(decided) => {
                    open.decided.set(decided);
                    self.done.push(stream);
                }
                Err(denial) => open.cut(denial),
            }
        }
        !self.waiting.is_empty()
    }
}

impl Drop for Review<'_> {
    fn drop(&mut self) {
        let mut open = self.streams.open.borrow_mut();
        open.append(&mut self.done);
        open.append(&mut self.waiting);
    }
}

impl Decided {
    /// Whether the clock or the table has moved past it.
    pub(super) fn is_past(&self, version: u64, now: Timestamp) -> bool {
        self.version != version || self.ends_at.is_some_and(|end| now >= end)
    }
}

impl OpenStream {
    fn cut(&self, denial: Denial) {
        *self.cut.borrow_mut() = Some(denial);
        self.let_go();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn let_go(&self) {
        let held = self.held.take();
        if let Some(upload) = &held.upload {
            drop(upload.take());
        }
        drop(held);
    }

    /// Takes over what the answer has of its upstream, for as long as the stream lasts.
    pub(super) fn hold(&self, held: Held) {
        *self.held.borrow_mut() = held;
        if self.cut.borrow().is_some() {
            self.let_go();
        }
    }

    /// Gives the connection back; none where the stream was cut.
    pub(super) fn release(&self) -> Option<Lease<Connector>> {
        self.held.take().lease
    }

    /// The next frame of the answer. None where there is none any more.
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut self.held.borrow_mut().body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    /// Whether the answer has come to its end by itself.
    pub(super) fn is_end_stream(&self) -> bool {
        self.held.borrow().body.as_ref().is_some_and(Body::is_end_stream)
    }

    /// How much of the answer there is still to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.held.borrow().body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }

    /// Why it was cut. If it was not, `cx` is woken when it is.
    pub(super) fn poll_cut(&self, cx: &Context<'_>) -> Option<Denial> {
        if let Some(denial) = &*self.cut.borrow() {
            return Some(denial.clone());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        None
    }

    /// Ends when it is cut, with the reason.
    pub(super) async fn until_cut(&self) -> Denial {
        poll_fn(|cx| self.poll_cut(cx).map_or(Poll::Pending, Poll::Ready)).await
    }
}
