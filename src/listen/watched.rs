//! The I/O of a connection, watched: every read and write moves the connection's deadlines, and the bare
//! answers that hyper's HTTP/1 parser gives by itself go out in this program's shape.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::{RawRefusal, Refusal, for_bare_status};
use super::cap::Place;
use super::flow::Flow;
use crate::wire::RequestId;

/// A stream, and before it what was already read from it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    /// What was read already and is yet to be handed on.
    replay: Bytes,
    flow: Arc<Flow>,
    /// What goes out in place of what hyper wrote, and how long that was.
    instead: Option<Instead>,
    /// What that refused, and the id in it.
    refused: Option<Box<(Refusal, RequestId)>>,
    /// Kept until the stream closes, also by an upgrade.
    _place: Place,
}

/// Up to this much is written in one piece.
const GATHERED_BYTES: usize = 2048;

#[derive(Debug)]
struct Instead {
    text: Bytes,
    stands_for: usize,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, replay: Bytes, flow: Arc<Flow>, place: Place) -> Self {
        Self { stream, replay, flow, instead: None, refused: None, _place: place }
    }

    /// These bytes were read and come before all others.
    pub(super) fn put_back(&mut self, replay: Bytes) {
        self.replay = replay;
    }

    /// What was put back and not handed on yet.
    pub(super) fn take_replay(&mut self) -> Bytes {
        std::mem::take(&mut self.replay)
    }

    /// What was refused in place of a bare answer, once.
    pub(super) const fn take_refused(&mut self) -> Option<Box<(Refusal, RequestId)>> {
        self.refused.take()
    }

    /// Whether bytes were put back and not handed on yet.
    pub(super) const fn has_replay(&self) -> bool {
        !self.replay.is_empty()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
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

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn note(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(count)) => self.flow.on_write(*count),
            Poll::Pending => self.flow.on_write_blocked(),
            Poll::Ready(Err(_)) => {}
        }
    }

    /// Writes `instead` to its end, then reports what it stood for as written.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some(instead) = &mut self.instead {
            if instead.text.is_empty() {
                let stood_for = instead.stands_for;
                self.instead = None;
                return Poll::Ready(Ok(stood_for));
            }
            let result = Pin::new(&mut self.stream).poll_write(cx, &instead.text);
            self.note(&result);
            let count = ready!(result)?;
            if let Some(instead) = &mut self.instead {
                drop(instead.text.split_to(count.min(instead.text.len())));
            }
        }
        Poll::Ready(Ok(0))
    }

    fn begin_instead(&mut self, first: &[u8], length: usize) {
        if self.instead.is_none()
            && self.flow.is_between_requests()
            && first.len() == length
            && let Some(RawRefusal { refusal, request_id, text }) = for_bare_status(first)
        {
            // Whatever comes after what could not be parsed is not read any more.
            self.flow.leave_unread();
            self.instead = Some(Instead { text, stands_for: length });
            self.refused = Some(Box::new((refusal, request_id)));
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin_instead(buf, buf.len());
        if this.instead.is_some() {
            return this.poll_instead(cx);
        }
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
        if let Some(first) = bufs.first() {
            this.begin_instead(first, bufs.iter().map(|buf| buf.len()).sum());
        }
        if this.instead.is_some() {
            return this.poll_instead(cx);
        }
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
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
