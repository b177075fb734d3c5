//! The I/O of a connection, watched: every read and write moves the connection's deadlines.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::cap::Place;
use super::flow::Flow;
use super::upgrade::Stream;

/// A stream, and before it what was already read from it.
pub(super) struct Watched {
    stream: Box<dyn Stream>,
    /// What was read already and is yet to be handed on.
    replay: Bytes,
    flow: Arc<Flow>,
    /// Kept until the stream closes, also by an upgrade.
    _place: Place,
}

/// Up to this much is written in one piece.
const GATHERED_BYTES: usize = 2048;

impl Watched {
    pub(super) const fn new(stream: Box<dyn Stream>, replay: Bytes, flow: Arc<Flow>, place: Place) -> Self {
        Self { stream, replay, flow, _place: place }
    }

    /// These bytes were read and come before all others.
    pub(super) fn put_back(&mut self, replay: Bytes) {
        self.replay = replay;
    }

    /// What was put back and not handed on yet.
    pub(super) fn take_replay(&mut self) -> Bytes {
        std::mem::take(&mut self.replay)
    }

    /// Whether bytes were put back and not handed on yet.
    pub(super) const fn has_replay(&self) -> bool {
        !self.replay.is_empty()
    }
}

/// Without what was read: that may be a head with a token in it.
impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Stream for Watched {
    fn break_on_close(&self) {
        self.stream.break_on_close();
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.replay.is_empty() {
            let count = this.replay.len().min(buf.remaining());
            buf.put_slice(&this.replay.split_to(count));
            if this.replay.is_empty() {
                // An empty rest would keep the whole.
                this.replay = Bytes::new();
            }
            this.flow.on_read(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.flow.on_read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl Watched {
    fn note(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(count)) => self.flow.on_write(*count),
            Poll::Pending => self.flow.on_write_blocked(),
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note(&result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let result = if length <= GATHERED_BYTES {
            // A small answer in one piece: to gather two costs the kernel more than to copy them.
            let mut space = [const { MaybeUninit::uninit() }; GATHERED_BYTES];
            let mut all = ReadBuf::uninit(&mut space);
            bufs.iter().for_each(|buf| all.put_slice(buf));
            Pin::new(&mut this.stream).poll_write(cx, all.filled())
        } else {
            Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
        };
        this.note(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        // TLS takes bytes at once and holds them back here when the socket does not.
        match &result {
            Poll::Ready(Ok(())) => this.flow.on_flushed(),
            Poll::Pending => this.flow.on_write_blocked(),
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(cx);
        if result.is_pending() {
            // TLS has a last word to say.
            this.flow.on_write_blocked();
        }
        result
    }
}
