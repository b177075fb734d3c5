//! HTTP/1.1 towards an upstream, by hyper's connection without its pool.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

use super::connect::OnWorker;
use super::link::{LinkState, Lost, Upload, Word};

/// The most that one connection buffers of what it reads, and so the largest head of a response.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// One connection, run by a task of its own that ends with it.
pub(crate) struct Http1Link {
    sender: SendRequest<Upload>,
    heard: Arc<AtomicBool>,
    run: AbortHandle,
}

impl Http1Link {
    /// Over a stream that was just connected.
    pub(super) async fn over<S>(stream: S, on: &OnWorker) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let heard = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Listened { stream, heard: Arc::clone(&heard) });
        let (sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(io).await.map_err(io::Error::other)?;
        let run = on.spawn(async move {
            // How a connection ended shows in its exchange, or concerns nobody.
            let _ended = connection.with_upgrades().await;
        });
        Ok(Self { sender, heard, run: run.ok_or(io::ErrorKind::NotConnected)? })
    }

    pub(super) fn state(&self) -> LinkState {
        if self.sender.is_closed() {
            LinkState::Closed
        } else if self.sender.is_ready() {
            LinkState::Ready
        } else {
            LinkState::Busy
        }
    }

    pub(super) async fn exchange(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, Lost> {
        self.heard.store(false, Ordering::Relaxed);
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut failed) => Err(Lost {
                untouched: failed.take_message().map(Box::new),
                word: if self.heard.load(Ordering::Relaxed) { Word::Begun } else { Word::Silent },
                cause: failed.into_error().into(),
            }),
        }
    }
}

impl Drop for Http1Link {
    fn drop(&mut self) {
        self.run.abort();
    }
}

impl fmt::Debug for Http1Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Link").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// A stream that notes whether anything was heard from the other side.
#[derive(Debug)]
struct Listened<S> {
    stream: S,
    heard: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.heard.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
