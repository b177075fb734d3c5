//! One request to one receiver: the name is resolved once, every address is held against what may be
//! reached, and the connection goes to an address that was. Follows no redirect, reads little of what
//! is answered, and takes no longer than it is given.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::report::Chain;
use crate::store::BoxFuture;
use crate::tls::{Client, ClientSettings};
use crate::wire::{Host, Reach, ReceiverUrl, Unreachable};

/// The largest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How much of an answer's body is read, and for how long, so that the receiver can finish.
const BODY_BYTES_MAX: usize = 64 * 1024;
const BODY_PATIENCE: Duration = Duration::from_secs(1);
/// How many of a name's addresses are tried.
const ADDRESSES_TRIED_MAX: u32 = 3;

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
pub enum PostFault {
    /// The name has no address.
    #[error("the name cannot be resolved: {0}")]
    Resolve(io::Error),
    /// An address may not be reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// No connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// No TLS session.
    #[error("TLS with {0}: {1}")]
    Tls(SocketAddr, io::Error),
    /// Whom to trust is not known.
    #[error("{0}")]
    Trust(String),
    /// The connection broke, or what came is no HTTP.
    #[error("{0}")]
    Http(String),
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

/// What a receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The status.
    pub status: StatusCode,
    /// How long it wants to be left alone, where it says so in seconds.
    pub retry_after: Option<Duration>,
}

/// Posts to receivers.
pub trait Post: Send + Sync + fmt::Debug {
    /// Posts `body` with `fields` to `url`, and what it is answered.
    fn post<'a>(
        &'a self,
        url: &'a ReceiverUrl,
        fields: HeaderMap,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PostFault>>;
}

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// Every address of `name`, with `port`.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
    }
}

/// Posts over connections of its own, one a request.
#[derive(Debug)]
pub struct Outbound {
    reach: Reach,
    patience: Duration,
    tls: Client,
    resolver: Arc<dyn Resolve>,
}

impl Outbound {
    /// Reaches what `reach` says, within `patience`. Certificates must come from the authorities in the
    /// file `ca`, or from those that the machine trusts.
    #[must_use]
    pub fn new(reach: Reach, patience: Duration, ca: Option<std::path::PathBuf>, resolver: Arc<dyn Resolve>) -> Self {
        let tls = Client::new(ClientSettings { ca, certificate: None, server_name: None, http2: false });
        Self { reach, patience, tls, resolver }
    }

    /// The addresses to connect to: all that the host has, if every one of them may be reached. One that
    /// may not is a reason to mistrust the rest.
    async fn addresses(&self, url: &ReceiverUrl) -> Result<Vec<SocketAddr>, PostFault> {
        let addresses = match (&url.host, url.address()) {
            (_, Some(address)) => vec![address],
            (Host::Name(name), None) => self.resolver.resolve(name, url.port).await.map_err(PostFault::Resolve)?,
            (Host::Address(address), None) => vec![SocketAddr::new(*address, url.port)],
        };
        if addresses.is_empty() {
            return Err(PostFault::Resolve(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
        }
        for address in &addresses {
            url.check(address.ip(), self.reach)?;
        }
        Ok(addresses)
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), PostFault> {
        let share = self.patience / ADDRESSES_TRIED_MAX;
        let mut last = PostFault::TimedOut(self.patience);
        for address in addresses.iter().take(usize::try_from(ADDRESSES_TRIED_MAX).unwrap_or(usize::MAX)) {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, *address)),
                Ok(Err(error)) => last = PostFault::Connect(*address, error),
                Err(_elapsed) => last = PostFault::Connect(*address, io::ErrorKind::TimedOut.into()),
            }
        }
        Err(last)
    }

    async fn exchange(&self, url: &ReceiverUrl, request: Request<Full<Bytes>>) -> Result<Receipt, PostFault> {
        let addresses = self.addresses(url).await?;
        if !url.tls {
            let (stream, _) = self.connect(&addresses).await?;
            return over(stream, request).await;
        }
        let trust = |faults: Vec<crate::tls::CertificateFault>| {
            PostFault::Trust(faults.first().map_or_else(String::new, |fault| Chain(fault).to_string()))
        };
        self.tls.load().map_err(trust)?;
        let config = self.tls.config(true).ok_or_else(|| PostFault::Trust("no authorities were read".to_owned()))?;
        let (stream, address) = self.connect(&addresses).await?;
        let shaken = TlsConnector::from(config).connect(url.server_name(), stream).await;
        over(shaken.map_err(|error| PostFault::Tls(address, error))?, request).await
    }
}

impl Post for Outbound {
    fn post<'a>(
        &'a self,
        url: &'a ReceiverUrl,
        fields: HeaderMap,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PostFault>> {
        Box::pin(async move {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = Method::POST;
            *request.version_mut() = Version::HTTP_11;
            *request.uri_mut() = url.target.parse().map_err(|error| PostFault::Http(format!("{error}")))?;
            *request.headers_mut() = fields;
            let host = HeaderValue::try_from(url.authority()).map_err(|error| PostFault::Http(error.to_string()))?;
            request.headers_mut().insert(HOST, host);
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            let answered = timeout(self.patience, self.exchange(url, request)).await;
            answered.unwrap_or(Err(PostFault::TimedOut(self.patience)))
        })
    }
}

/// Sends `request` over `stream`, and what it is answered.
async fn over<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Receipt, PostFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let broken = |error: hyper::Error| PostFault::Http(Chain(&error).to_string());
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let receipt = Receipt { status: response.status(), retry_after: seconds.map(Duration::from_secs) };
        // What comes after the head changes nothing.
        let _cut_short = timeout(BODY_PATIENCE, drain(response.into_body())).await;
        Ok(receipt)
    };
    let mut exchange = std::pin::pin!(exchange);
    // The connection runs as long as the exchange does, and ends with it.
    tokio::select! {
        biased;
        answered = &mut exchange => answered,
        _ended = connection => exchange.await,
    }
}

async fn drain(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > BODY_BYTES_MAX {
            return;
        }
    }
}
