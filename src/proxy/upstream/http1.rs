//! HTTP/1.1 towards an upstream, by hyper's connection without its pool.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

use super::link::{Dial, Link, LinkState, Lost, Upload};

/// The most that one connection buffers of what it reads, and so the largest head of a response.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Dials upstreams and runs their connections on this worker.
#[derive(Debug, Default)]
pub(crate) struct Http1 {
    connections: Rc<RefCell<JoinSet<()>>>,
}

impl Dial for Http1 {
    type Link = Http1Link;

    async fn dial(&self, address: SocketAddr) -> io::Result<Http1Link> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let heard = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Listened { stream, heard: Arc::clone(&heard) });
        let (sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(io).await.map_err(io::Error::other)?;
        let mut connections = self.connections.borrow_mut();
        while connections.try_join_next().is_some() {}
        let run = connections.spawn_local(async move {
            // How a connection ended shows in its exchange, or concerns nobody.
            let _ended = connection.with_upgrades().await;
        });
        Ok(Http1Link { sender, heard, run })
    }
}

/// One connection, run by a task of its own that ends with it.
pub(crate) struct Http1Link {
    sender: SendRequest<Upload>,
    heard: Arc<AtomicBool>,
    run: AbortHandle,
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

impl Link for Http1Link {
    type Body = Incoming;
    type Tunnel = TokioIo<Upgraded>;

    fn state(&self) -> LinkState {
        if self.sender.is_closed() {
            LinkState::Closed
        } else if self.sender.is_ready() {
            LinkState::Ready
        } else {
            LinkState::Busy
        }
    }

    async fn exchange(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, Lost> {
        self.heard.store(false, Ordering::Relaxed);
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut failed) => Err(Lost {
                untouched: failed.take_message().map(Box::new),
                answered: self.heard.load(Ordering::Relaxed),
                cause: failed.into_error().into(),
            }),
        }
    }

    async fn tunnel(response: Response<Incoming>) -> io::Result<TokioIo<Upgraded>> {
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(io::Error::other)
    }
}

/// A stream that notes whether anything was heard from the other side.
#[derive(Debug)]
struct Listened {
    stream: TcpStream,
    heard: Arc<AtomicBool>,
}

impl AsyncRead for Listened {
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

impl AsyncWrite for Listened {
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
