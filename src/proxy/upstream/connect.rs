//! Connecting to a target, by what it speaks.

use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::uri::Scheme;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsConnector;

use super::http1::{Http1Body, Http1Link, Socket, Tunnel};
use super::http2::Http2Link;
use super::link::{Asked, Dial, Endpoint, Link, LinkState, Lost};
use crate::proxy::settings::Speaks;

/// Dials upstreams and runs their connections on this worker.
#[derive(Debug, Default)]
pub(crate) struct Connector {
    tasks: Rc<RefCell<JoinSet<()>>>,
}

/// Runs a connection's tasks on this worker. They end with the worker's connector.
#[derive(Debug, Clone, Default)]
pub(super) struct OnWorker(Weak<RefCell<JoinSet<()>>>);

impl OnWorker {
    /// Runs `task`; not where the worker is on its way out.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> Option<AbortHandle> {
        let tasks = self.0.upgrade()?;
        let mut tasks = tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        Some(tasks.spawn_local(task))
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnWorker {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

impl Connector {
    fn on_worker(&self) -> OnWorker {
        OnWorker(Rc::downgrade(&self.tasks))
    }
}

impl Dial for Connector {
    type Link = AnyLink;

    async fn dial(&self, to: Endpoint<'_>) -> io::Result<AnyLink> {
        let on = self.on_worker();
        match &to.target.speaks {
            Speaks::Http => Ok(AnyLink::Http1(Http1Link::over(Socket::Tcp(connect(to.address).await?), on))),
            Speaks::Unix(path) => {
                Ok(AnyLink::Http1(Http1Link::over(Socket::Unix(UnixStream::connect(path).await?), on)))
            }
            Speaks::H2c if to.http1 => Err(io::Error::other("the target speaks HTTP/2 only, and this needs HTTP/1.1")),
            Speaks::H2c => {
                let stream = connect(to.address).await?;
                Ok(AnyLink::Http2(Http2Link::over(stream, Scheme::HTTP, to.streams, &on).await?))
            }
            Speaks::Https => {
                let config = to.tls.and_then(|tls| tls.config(to.http1));
                let config = config.ok_or_else(|| io::Error::other("the certificates were not read"))?;
                let name = server_name(&to)?;
                let stream = TlsConnector::from(config).connect(name, connect(to.address).await?).await?;
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    Ok(AnyLink::Http2(Http2Link::over(stream, Scheme::HTTPS, to.streams, &on).await?))
                } else {
                    Ok(AnyLink::Http1(Http1Link::over(Socket::Tls(Box::new(stream)), on)))
                }
            }
        }
    }

    /// By the system's resolver.
    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

async fn connect(address: Option<SocketAddr>) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address.ok_or(io::ErrorKind::AddrNotAvailable)?).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The name that the target's certificate must be for.
fn server_name(to: &Endpoint<'_>) -> io::Result<ServerName<'static>> {
    match to.tls.and_then(|tls| tls.server_name()) {
        Some(name) => Ok(name.clone()),
        None => ServerName::try_from(to.target.host.trim_end_matches('.'))
            .map(|name| name.to_owned())
            .map_err(io::Error::other),
    }
}

/// A connection of either protocol.
#[derive(Debug)]
pub(crate) enum AnyLink {
    Http1(Http1Link),
    Http2(Http2Link),
}

impl Link for AnyLink {
    type Body = AnyBody;
    type Tunnel = Tunnel;

    fn state(&self) -> LinkState {
        match self {
            Self::Http1(link) => link.state(),
            Self::Http2(link) => link.state(),
        }
    }

    fn is_kept(&self) -> bool {
        match self {
            Self::Http1(link) => link.is_kept(),
            Self::Http2(link) => link.state() != LinkState::Closed,
        }
    }

    fn rest(&self) {
        match self {
            Self::Http1(link) => link.rest(),
            // It is shared: somebody else may be in the middle of something.
            Self::Http2(_) => {}
        }
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(link) => Some(Self::Http2(link.share())),
        }
    }

    fn is_multiplexed(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(link) => link.is_shared(),
        }
    }

    async fn exchange(&mut self, request: Box<Asked>) -> Result<Response<AnyBody>, Lost> {
        match self {
            Self::Http1(link) => link.exchange(request).await.map(|response| response.map(AnyBody::Http1)),
            // On the heap: it would make every request's future larger by a kilobyte.
            Self::Http2(link) => Box::pin(link.exchange(request)).await.map(|response| response.map(AnyBody::Http2)),
        }
    }

    async fn tunnel(response: Response<AnyBody>) -> io::Result<Tunnel> {
        match response.into_body() {
            AnyBody::Http1(body) => body.into_tunnel(),
            AnyBody::Http2(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// The body of an answer over either protocol.
#[derive(Debug)]
pub(crate) enum AnyBody {
    Http1(Http1Body),
    Http2(Incoming),
}

/// Why an answer's body broke off. Of HTTP/2 the reason is among its sources.
pub(crate) type BodyFault = Box<dyn Error + Send + Sync>;

impl AnyBody {
    /// All that is left of the body, where all of it is here already.
    pub(crate) fn take_whole(&self) -> Option<Bytes> {
        match self {
            Self::Http1(body) => body.take_whole(),
            Self::Http2(_) => None,
        }
    }
}

impl Body for AnyBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
