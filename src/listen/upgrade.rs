//! A client's connection that becomes another protocol's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::server::TlsStream;

use super::watched::Watched;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + fmt::Debug {
    /// Once it is closed the other end sees that it broke, and not that it came to its end.
    fn break_on_close(&self);
}

impl Stream for TcpStream {
    fn break_on_close(&self) {
        // Of a socket that is broken already there is nothing to set.
        drop(self.set_zero_linger());
    }
}

impl Stream for TlsStream<TcpStream> {
    fn break_on_close(&self) {
        self.get_ref().0.break_on_close();
    }
}

/// Its reader sees no difference: for tests.
#[cfg(test)]
impl Stream for tokio::io::DuplexStream {
    fn break_on_close(&self) {}
}

/// Ends with the client's connection once an answer of 101 was written.
#[derive(Debug)]
pub struct ClientUpgrade(oneshot::Receiver<Watched>);

/// The client has gone, or got another answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection did not become another protocol's")]
pub struct NotUpgraded;

impl ClientUpgrade {
    /// What hands the connection over, and what gets it.
    pub(super) fn new() -> (oneshot::Sender<Watched>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }
}

impl Future for ClientUpgrade {
    type Output = Result<Box<dyn Stream>, NotUpgraded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|handed| match handed {
            Ok(stream) => Ok(Box::new(stream) as Box<dyn Stream>),
            Err(_gone) => Err(NotUpgraded),
        })
    }
}
