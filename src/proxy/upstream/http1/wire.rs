//! One connection and how far the exchange on it has come.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use super::head::{self, BadHead, Head, Progress, Read};
use super::outgoing::{Outgoing, Unsent};
use super::socket::{Socket, Tunnel};
use crate::proxy::upstream::link::{Asked, LinkState};
use crate::wire::{BadBody, Decoded, Decoder};

/// One connection.
pub(super) struct Wire {
    /// None once it is closed, or another protocol's.
    socket: Option<Socket>,
    read: BytesMut,
    /// How much is read at a time.
    step: usize,
    /// How much of the present answer was read, and how much of the one before: the next is about as long.
    read_bytes: usize,
    expected: usize,
    outgoing: Outgoing,
    /// Why the request is sent no further. Its answer may be here all the same.
    unsent: Option<Unsent>,
    method: Method,
    coming: Coming,
    progress: Progress,
    /// Which exchange this is: what is left of an earlier one sees nothing of it.
    number: u64,
    /// Whether it may serve another request after this one.
    keep: bool,
    /// Whether anything of the answer has come.
    heard: bool,
    /// Who sends the rest of a request, and who reads the answer: to be told when it is closed.
    sender: Option<Waker>,
    reader: Option<Waker>,
}

/// What of an answer is expected next.
#[derive(Debug)]
enum Coming {
    /// Nothing: there is no request, or its answer is here.
    Nothing,
    Head,
    Body(Decoder),
    /// Another protocol.
    Switched,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireFault {
    /// There is no connection any more.
    #[error("the connection was closed")]
    Closed,
    /// It ended before the answer did.
    #[error("the connection ended in the middle of an exchange")]
    Ended,
    /// It broke.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// The request could not be written.
    #[error("the request was not sent whole")]
    Unsent(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came is no answer.
    #[error("what came is no answer")]
    NoAnswer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Unsent> for WireFault {
    fn from(unsent: Unsent) -> Self {
        Self::Unsent(unsent.into())
    }
}

impl From<BadHead> for WireFault {
    fn from(bad: BadHead) -> Self {
        Self::NoAnswer(bad.into())
    }
}

impl From<BadBody> for WireFault {
    fn from(bad: BadBody) -> Self {
        Self::NoAnswer(bad.into())
    }
}

impl Wire {
    pub(super) fn over(socket: Socket) -> Self {
        Self {
            socket: Some(socket),
            read: BytesMut::new(),
            step: READ_BYTES_MIN,
            read_bytes: 0,
            expected: 0,
            outgoing: Outgoing::nothing(),
            unsent: None,
            method: Method::GET,
            coming: Coming::Nothing,
            progress: Progress::default(),
            number: 0,
            keep: true,
            heard: false,
            sender: None,
            reader: None,
        }
    }

    /// How it stands. Between exchanges nothing may come: what does, or an end, ends the connection. Costs no
    /// system call while nothing came, for then tokio knows that there is nothing to read.
    pub(super) fn state(&mut self) -> LinkState {
        let Some(socket) = &mut self.socket else { return LinkState::Closed };
        if !matches!(self.coming, Coming::Nothing) || !self.outgoing.is_over() {
            // A request that was answered before it was sent whole is sent to its end, and that is all: what the
            // other side makes of the rest of it cannot be told.
            self.keep &= !matches!(self.coming, Coming::Nothing);
            return LinkState::Busy;
        }
        let mut space = [0; 1];
        let quiet = || {
            let mut space = ReadBuf::new(&mut space);
            Pin::new(socket).poll_read(&mut Context::from_waker(Waker::noop()), &mut space).is_pending()
        };
        if self.keep && self.read.is_empty() && quiet() {
            // What is seen of a buffer may be the end of a larger one.
            if self.read.capacity().max(self.step) > READ_BYTES_KEPT {
                (self.read, self.step) = (BytesMut::new(), READ_BYTES_MIN);
            }
            self.outgoing.rest();
            return LinkState::Ready;
        }
        self.close();
        LinkState::Closed
    }

    /// Whether it may serve another request, as far as is known without looking at the socket, which costs as much as
    /// a request's whole way through the pool.
    pub(super) fn is_kept(&mut self) -> bool {
        if matches!(self.coming, Coming::Nothing) && self.outgoing.is_over() {
            return self.socket.is_some() && self.keep && self.read.is_empty();
        }
        self.state() != LinkState::Closed
    }

    /// Closes it, in the middle of whatever is going on.
    pub(super) fn close(&mut self) {
        self.socket = None;
        for waker in [self.sender.take(), self.reader.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Begins an exchange.
    pub(super) fn begin(&mut self, asked: &Asked) {
        self.outgoing.begin(asked);
        self.method.clone_from(asked.request.method());
        (self.unsent, self.coming, self.heard) = (None, Coming::Head, false);
        (self.progress, self.number) = (Progress::default(), self.number.wrapping_add(1));
        (self.read_bytes, self.expected) = (0, self.read_bytes.min(READ_BYTES_MIN));
    }

    /// Which exchange this is.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Whether anything of the request was taken from its body, or written.
    pub(super) const fn is_touched(&self) -> bool {
        self.outgoing.is_touched()
    }

    /// Whether anything of an answer has come.
    pub(super) const fn has_heard(&self) -> bool {
        self.heard
    }

    /// Whether all that there is of the request was written, and its body is waited for.
    pub(super) const fn awaits_body(&self) -> bool {
        self.outgoing.awaits_body()
    }

    /// Holds no memory for what is yet to come.
    pub(super) fn lighten(&mut self) {
        self.outgoing.lighten();
        if self.read.is_empty() {
            (self.read, self.step) = (BytesMut::new(), READ_BYTES_MIN);
        }
    }

    /// Holds no memory for the next exchange.
    pub(super) fn rest(&mut self) {
        if matches!(self.coming, Coming::Nothing) && self.outgoing.is_over() && self.read.is_empty() {
            (self.read, self.step) = (BytesMut::new(), READ_BYTES_MIN);
            self.outgoing.give_back();
        }
    }

    /// Bytes of its buffers.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.read.capacity() + self.outgoing.memory()
    }

    /// Whether some of the request is still to be sent.
    pub(super) const fn is_sending(&self) -> bool {
        !self.outgoing.is_over()
    }

    /// Whether the whole answer is here.
    pub(super) const fn is_answered(&self) -> bool {
        matches!(self.coming, Coming::Nothing | Coming::Switched)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.coming {
            Coming::Nothing | Coming::Switched => SizeHint::with_exact(0),
            Coming::Head => SizeHint::default(),
            Coming::Body(decoder) => decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }

    /// Sends the request, and ends with the head of its answer.
    ///
    /// The answer's fields take the place of `fields`, once the request is no longer needed: one map goes from
    /// request to answer and, by the listener, back to the next request.
    pub(super) fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        fields: &mut HeaderMap,
    ) -> Poll<Result<Response<()>, WireFault>> {
        if let Err(unsent) = self.send(cx) {
            if matches!(unsent, Unsent::Broken(_)) {
                // A service that has said no may close before it has read everything: its answer counts.
                self.unsent = Some(unsent);
            } else {
                return Poll::Ready(Err(unsent.into()));
            }
        }
        let head = match ready!(self.poll_head(cx, fields)) {
            Ok(head) => head,
            Err(fault) => {
                let unsent = self.unsent.take().filter(|_| !self.heard);
                return Poll::Ready(Err(unsent.map_or(fault, WireFault::from)));
            }
        };
        self.keep &= head.keep && self.unsent.is_none();
        self.coming = if head.switches {
            Coming::Switched
        } else if head.decoder.is_over() {
            Coming::Nothing
        } else {
            Coming::Body(head.decoder)
        };
        Poll::Ready(Ok(head.response))
    }

    /// Sends what it can.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, Unsent> {
        let Some(socket) = &mut self.socket else {
            self.outgoing.give_up();
            return Ok(true);
        };
        match self.outgoing.poll_send(socket, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(unsent)) => {
                self.outgoing.give_up();
                Err(unsent)
            }
        }
    }

    /// Sends the rest of a request, beside its answer.
    pub(super) fn poll_send_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.send(cx) {
            Ok(true) => Poll::Ready(()),
            Ok(false) => {
                self.sender = Some(cx.waker().clone());
                Poll::Pending
            }
            Err(Unsent::Broken(_)) => {
                self.keep = false;
                Poll::Ready(())
            }
            // What was half sent is to be taken for nothing.
            Err(Unsent::Body(_) | Unsent::Length) => {
                self.close();
                Poll::Ready(())
            }
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, fields: &mut HeaderMap) -> Poll<Result<Head, WireFault>> {
        loop {
            if let Read::Head(head) = head::read(&mut self.read, &self.method, fields, &mut self.progress)? {
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(WireFault::Ended));
            }
        }
    }

    /// All that is left of a body that has its length, where all of it was read with its head, as of most answers.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        let whole = match &self.coming {
            Coming::Nothing => Bytes::new(),
            Coming::Body(decoder) => decoder.take_whole(&mut self.read)?,
            Coming::Head | Coming::Switched => return None,
        };
        self.coming = Coming::Nothing;
        Some(whole)
    }

    /// The next piece of the answer's body; none at its end.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireFault>>> {
        let polled = self.poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            // Whatever is asked after this gets no more of it.
            self.read.clear();
            self.close();
        }
        if polled.is_pending() && !self.reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireFault>>> {
        loop {
            let Coming::Body(decoder) = &mut self.coming else { return Poll::Ready(None) };
            match decoder.decode(&mut self.read)? {
                Decoded::Data(data) => {
                    decoder.finish(&mut self.read);
                    if decoder.is_over() {
                        self.coming = Coming::Nothing;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Decoded::Trailers(trailers) => {
                    self.coming = Coming::Nothing;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Decoded::End => {
                    self.coming = Coming::Nothing;
                    return Poll::Ready(None);
                }
                Decoded::More => {}
            }
            let until_end = matches!(decoder, Decoder::UntilEnd);
            if ready!(self.poll_read(cx))? == 0 {
                if !until_end {
                    return Poll::Ready(Some(Err(WireFault::Ended)));
                }
                self.coming = Coming::Nothing;
                self.keep = false;
            }
        }
    }

    /// Reads what there is, in steps that grow while they are filled. 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, WireFault>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(WireFault::Closed)) };
        if self.read.capacity() == 0 {
            // Made once there is something to read: an answer may be waited for as long as a body takes to come.
            ready!(socket.poll_readable(cx))?;
        }
        // What is left of the last step is enough for most answers, and the whole of it is used again once
        // nobody holds a part of it.
        let wanted = READ_BYTES_LEFT.max(self.step - READ_BYTES_MIN).max(self.expected);
        // From its beginning on wherever it can be: that much of it is still in the processor's cache.
        let is_whole = self.read.is_empty() && self.read.try_reclaim(self.step);
        if !is_whole && self.read.capacity() - self.read.len() < wanted {
            self.read.reserve(self.step);
        }
        let space = self.read.capacity() - self.read.len();
        let count = ready!(pin!(socket.read_buf(&mut self.read)).poll(cx))?;
        if count == space {
            self.step = (self.step * 2).min(READ_BYTES_MAX);
        } else if count < self.step / 4 {
            self.step = (self.step / 2).max(READ_BYTES_MIN);
        }
        self.heard |= count > 0;
        self.read_bytes += count;
        self.expected = 0;
        Poll::Ready(Ok(count))
    }

    /// The connection itself, where it is another protocol's now, and nothing of the old one is still on its way.
    pub(super) fn hand_over(&mut self) -> Option<Tunnel> {
        let may = matches!(self.coming, Coming::Switched) && self.outgoing.is_over();
        let socket = self.socket.take_if(|_| may)?;
        Some(Tunnel { read: std::mem::take(&mut self.read), socket })
    }
}

/// As much as a record of TLS has: with less an answer of 10 KiB was read, encrypted and written in two pieces.
const READ_BYTES_MIN: usize = 16 * 1024;
/// A connection that waits keeps no more than this.
const READ_BYTES_KEPT: usize = 16 * 1024;
const READ_BYTES_MAX: usize = 64 * 1024;
/// With less room than this a read gets new room.
const READ_BYTES_LEFT: usize = 2 * 1024;
