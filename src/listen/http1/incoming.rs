//! What comes from a client: heads, and the bodies behind them.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::head::{self, Head};
use super::outgoing::Outgoing;
use crate::listen::answer::Refusal;
use crate::listen::settings::Limits;
use crate::listen::upgrade::Stream as _;
use crate::listen::watched::Watched;
use crate::wire::{BadBody, Decoded, Decoder};

/// The connection, what was read of it, and what is expected next. Whoever has the body of the present request
/// reads it from here; between bodies the connection reads.
pub(super) struct Incoming {
    /// None once it is closed or in the hands of an upgrade.
    io: Option<Watched>,
    read: BytesMut,
    /// How much is read at a time.
    step: usize,
    /// Bytes of a head that were parsed in vain.
    tried: usize,
    /// Bytes of empty lines in front of the next head.
    skipped: usize,
    coming: Coming,
    /// What is left to write of a 100; none once it has left.
    interim: Option<&'static [u8]>,
    ended: bool,
    /// Who waits for the end of the body, and who for more of it.
    connection: Option<Waker>,
    reader: Option<Waker>,
}

/// What comes next.
#[derive(Debug)]
enum Coming {
    Head,
    /// A body; its sender may wait for a 100.
    Body(Decoder, Expectation),
    /// What cannot be told from a body that broke off.
    Broken,
}

/// Whether a client waits for a 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expectation {
    None,
    Continue,
}

/// What became of the body of a request that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It was read to its end: the next request follows.
    None,
    /// Somebody still reads it.
    Read,
    /// Nobody does, and it is not over.
    Left,
}

/// Why a head was not read.
#[derive(Debug)]
pub(super) enum NoHead {
    /// It is refused.
    Refused(Refusal),
    /// The client has gone.
    Gone,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum Http1BodyFault {
    /// There is no connection any more.
    #[error("the connection was closed")]
    Closed,
    /// It ended before the body did.
    #[error("the connection ended in the middle of the body")]
    Ended,
    /// It broke.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// What came is no body.
    #[error("what came is no body")]
    Malformed(#[from] BadBody),
}

impl Incoming {
    pub(super) fn new(io: Watched, read: BytesMut) -> Self {
        Self {
            io: Some(io),
            read,
            step: READ_BYTES_MIN,
            tried: 0,
            skipped: 0,
            coming: Coming::Head,
            interim: None,
            ended: false,
            connection: None,
            reader: None,
        }
    }

    /// Whether something of the next head is here.
    pub(super) fn has_begun(&self) -> bool {
        !self.read.is_empty()
    }

    /// Whether the client has ended its side.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The connection itself and what was read ahead of it. Whoever still reads a body learns that it is gone.
    pub(super) fn take(&mut self) -> Option<(Watched, Bytes)> {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        let read = std::mem::take(&mut self.read);
        // With nothing in it, it would keep the whole buffer all the same.
        let ahead = if read.is_empty() { Bytes::new() } else { read.freeze() };
        self.io.take().map(|io| (io, ahead))
    }

    /// The next head. The request is put into `request`, whose map is empty.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Request<()>,
        limits: &Limits,
    ) -> Poll<Result<Head, NoHead>> {
        loop {
            self.skip_empty_lines();
            if self.skipped > EMPTY_BYTES_MAX {
                return Poll::Ready(Err(NoHead::Refused(Refusal::BadRequest)));
            }
            if !self.read.is_empty()
                && let Some(head) =
                    head::read(&mut self.read, request, limits, &mut self.tried).map_err(NoHead::Refused)?
            {
                self.skipped = 0;
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(NoHead::Gone)),
                Ok(_count) => {}
            }
        }
    }

    /// The body that `decoder` delimits is next.
    pub(super) fn expect_body(&mut self, decoder: Decoder, is_awaited: bool) {
        self.coming = Coming::Body(decoder, if is_awaited { Expectation::Continue } else { Expectation::None });
    }

    /// The answer has begun: it is too late for a 100. Whether the client waits for one, and may never send the body.
    pub(super) fn expect_no_interim(&mut self) -> bool {
        let Coming::Body(_, expectation) = &mut self.coming else { return false };
        std::mem::replace(expectation, Expectation::None) == Expectation::Continue
    }

    /// Passes over empty lines in front of the next head.
    pub(super) fn skip_empty_lines(&mut self) {
        let length = self.read.len();
        if head::skip_empty_lines(&mut self.read) {
            // One that came in two pieces was taken for a head's beginning.
            self.tried = 0;
            self.skipped += length - self.read.len();
        }
    }

    /// Looks whether the client has gone, unless somebody reads its body. What comes ahead is kept, up to a limit.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.coming, Coming::Head) {
            self.await_end(cx);
            return Poll::Pending;
        }
        let Some(io) = &mut self.io else { return Poll::Ready(()) };
        while self.read.len() < AHEAD_BYTES {
            // On the stack of this call alone: nearly always there is nothing.
            let mut space = [const { MaybeUninit::uninit() }; AHEAD_BYTES];
            let mut space = ReadBuf::uninit(&mut space);
            if ready!(Pin::new(&mut *io).poll_read(cx, &mut space)).is_err() || space.filled().is_empty() {
                self.ended = true;
                return Poll::Ready(());
            }
            self.read.extend_from_slice(space.filled());
        }
        Poll::Pending
    }

    /// What is left of the body of a request that was answered. Where somebody reads it the task is woken at its end.
    pub(super) fn rest(&mut self, is_held: bool, cx: &Context<'_>) -> Rest {
        match &mut self.coming {
            Coming::Head => Rest::None,
            Coming::Broken => Rest::Left,
            Coming::Body(..) if is_held => {
                self.await_end(cx);
                Rest::Read
            }
            Coming::Body(decoder, _) => {
                // What is here already is not waited for.
                loop {
                    match decoder.decode(&mut self.read) {
                        Ok(Decoded::Data(_)) => {}
                        Ok(Decoded::Trailers(_) | Decoded::End) => {
                            self.end_body();
                            return Rest::None;
                        }
                        Ok(Decoded::More) | Err(_) => return Rest::Left,
                    }
                }
            }
        }
    }

    fn await_end(&mut self, cx: &Context<'_>) {
        if !self.connection.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.connection = Some(cx.waker().clone());
        }
    }

    /// Writes what is left of a 100.
    pub(super) fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.interim {
            let Some(io) = &mut self.io else { break };
            if left.is_empty() {
                ready!(Pin::new(io).poll_flush(cx))?;
                break;
            }
            match ready!(Pin::new(io).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.interim = left.get(count..),
            }
        }
        self.interim = None;
        Poll::Ready(Ok(()))
    }

    /// Writes all of `outgoing`.
    pub(super) fn poll_send(&mut self, outgoing: &mut Outgoing, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        let Some(io) = &mut self.io else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        outgoing.poll_write(io, cx)
    }

    /// Says that nothing more comes from here.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(io) = &mut self.io else { return Poll::Ready(()) };
        Pin::new(io).poll_shutdown(cx).map(drop)
    }

    /// Once the connection is closed nobody takes what was written for whole.
    pub(super) fn break_on_close(&self) {
        if let Some(io) = &self.io {
            io.break_on_close();
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1BodyFault>>> {
        let polled = self.poll_frame(cx);
        match &polled {
            Poll::Pending => {
                if !self.reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    self.reader = Some(cx.waker().clone());
                }
                // A body may be waited for as long as it takes to come, and what it was read into with it, were it
                // for a part of a chunk's size.
                if self.read.is_empty() {
                    self.read = BytesMut::new();
                } else if self.step > READ_BYTES_MIN && self.read.len() <= LEFT_BYTES_MAX {
                    self.read = BytesMut::from(&*self.read);
                }
            }
            Poll::Ready(Some(Err(_fault))) => self.coming = Coming::Broken,
            Poll::Ready(_) => {}
        }
        polled
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1BodyFault>>> {
        loop {
            let Coming::Body(decoder, expectation) = &mut self.coming else { return Poll::Ready(None) };
            match decoder.decode(&mut self.read)? {
                Decoded::Data(data) => {
                    decoder.finish(&mut self.read);
                    if decoder.is_over() {
                        self.end_body();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Decoded::Trailers(trailers) => {
                    self.end_body();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Decoded::End => {
                    self.end_body();
                    return Poll::Ready(None);
                }
                Decoded::More => {}
            }
            if *expectation == Expectation::Continue {
                *expectation = Expectation::None;
                self.interim = Some(CONTINUE);
            }
            if self.interim.is_some()
                && let Poll::Ready(written) = self.poll_interim(cx)
            {
                // It may have waited behind it: a socket tells one task alone that there is room.
                self.wake_connection();
                written?;
            }
            if self.io.is_none() {
                return Poll::Ready(Some(Err(Http1BodyFault::Closed)));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Some(Err(Http1BodyFault::Ended)));
            }
        }
    }

    /// A head is next. What a large body was read into is not kept for it.
    fn end_body(&mut self) {
        self.coming = Coming::Head;
        if self.step > READ_BYTES_MIN {
            self.step = READ_BYTES_MIN;
            self.read = BytesMut::from(&*self.read);
        }
    }

    /// Reads what there is, in steps that grow while they are filled. 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(0)) };
        // From its beginning on once nobody holds a part of it: that much of it is still in the processor's cache.
        // What is left of it is enough for most heads, too.
        let is_whole = self.read.is_empty() && self.read.try_reclaim(self.step);
        if !is_whole && self.read.capacity() - self.read.len() < READ_BYTES_LEFT.max(self.step - READ_BYTES_MIN) {
            self.read.reserve(self.step);
        }
        let space = self.read.capacity() - self.read.len();
        let count = ready!(pin!(io.read_buf(&mut self.read)).poll(cx))?;
        self.ended |= count == 0;
        if count == space {
            self.step = (self.step * 2).min(READ_BYTES_MAX);
        } else if count < self.step / 8 {
            self.step = (self.step / 2).max(READ_BYTES_MIN);
        }
        Poll::Ready(Ok(count))
    }

    const fn is_body_over(&self) -> bool {
        !matches!(self.coming, Coming::Body(..))
    }

    fn wake_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.wake();
        }
    }
}

/// The body of a request over HTTP/1, read from the connection by whoever polls it.
pub(in crate::listen) struct Http1Body {
    /// None once it is over: what comes then is the next request's.
    incoming: Option<Rc<RefCell<Incoming>>>,
}

impl Http1Body {
    pub(super) const fn new(incoming: Rc<RefCell<Incoming>>) -> Self {
        Self { incoming: Some(incoming) }
    }

    pub(in crate::listen) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1BodyFault>>> {
        let Some(shared) = &self.incoming else { return Poll::Ready(None) };
        let mut incoming = shared.borrow_mut();
        let polled = incoming.poll_body(cx);
        let is_over = incoming.is_body_over();
        drop(incoming);
        if is_over {
            self.let_go();
        }
        polled
    }

    pub(in crate::listen) const fn is_over(&self) -> bool {
        self.incoming.is_none()
    }

    pub(in crate::listen) fn size_hint(&self) -> SizeHint {
        let left = self.incoming.as_ref().map_or(Some(0), |incoming| match &incoming.borrow().coming {
            Coming::Body(decoder, _) => decoder.left(),
            Coming::Head | Coming::Broken => Some(0),
        });
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// The connection may go on once nobody but itself has a hold of it.
    fn let_go(&mut self) {
        if let Some(shared) = self.incoming.take() {
            shared.borrow_mut().wake_connection();
        }
    }
}

/// Without what was read: that may be a body, or a head with a token in it.
impl fmt::Debug for Http1Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Body").finish_non_exhaustive()
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Of empty lines in front of a head. One is for old clients, and any number of them would be read on and on.
pub(in crate::listen) const EMPTY_BYTES_MAX: usize = 1024;
/// More than the longest line of a chunk's size.
const LEFT_BYTES_MAX: usize = 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Most heads take a tenth of it, one after the other: a processor's cache holds that of hundreds of connections.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 64 * 1024;
/// With less room than this a read gets new room.
const READ_BYTES_LEFT: usize = 2 * 1024;
/// What is taken at a time of what comes before it is wanted.
const AHEAD_BYTES: usize = 4 * 1024;
