//! Requests to a management API, one at a time. A request whose answer was lost is sent again where that
//! cannot do anything twice; nothing is sent to any other host than the one that was named.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::url::ApiUrl;
use crate::cli::failure::Failure;
use crate::cli::place;
use crate::key::Token;
use crate::report::Chain;
use crate::tls::{Client as Tls, ClientSettings, certificate_fault, is_of_unknown_authority};

/// How long one address may take to answer a connection, and how many are tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const ADDRESSES_TRIED_MAX: usize = 3;
/// How long an answer may take beside what was asked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before each further attempt.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1)];
/// More than a page of 200 keys with all the flags and props that keys may have.
const BODY_BYTES_MAX: usize = 64 << 20;
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Makes an answer kept, so that the same request is not done twice.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Whether a request may be sent again after its answer was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Again {
    /// Doing it twice is doing it once.
    Harmless,
    /// The API knows it again by this Idempotency-Key.
    Known(String),
    /// It is not.
    Never,
}

/// A request, but for what all of them have.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query, from `/v1` on.
    pub(super) target: String,
    /// JSON.
    pub(super) body: Option<Vec<u8>>,
    pub(super) again: Again,
    /// How long the gateway was asked to take.
    pub(super) wait: Duration,
}

impl Ask {
    /// A read.
    pub(super) fn get(target: String) -> Self {
        Self { method: Method::GET, target, body: None, again: Again::Harmless, wait: Duration::ZERO }
    }

    /// A change.
    pub(super) fn change(method: Method, target: String, body: Option<Vec<u8>>, again: Again) -> Self {
        Self { method, target, body, again, wait: Duration::ZERO }
    }
}

/// What was answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// A management API, and who asks.
pub(super) struct Api {
    pub(super) url: ApiUrl,
    token: Token,
    tls: Option<Arc<ClientConfig>>,
    kept: RefCell<Option<Connection>>,
    runtime: Runtime,
}

/// A connection, which runs as long as this is there.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _running: JoinSet<()>,
}

/// Why nothing was answered.
#[derive(Debug)]
enum Fault {
    Resolve(io::Error),
    NotLocal(IpAddr),
    Connect(SocketAddr, io::Error),
    Tls(io::Error),
    Lost(String),
}

impl Api {
    /// The API at `url`, asked with `token`; certificates must come from the authorities in `ca`, or from
    /// those that the machine trusts.
    pub(super) fn new(url: ApiUrl, token: Token, ca: Option<&Path>) -> Result<Self, Failure> {
        let mut tls = None;
        if url.tls {
            let ca = ca.map(Path::to_owned);
            let client = Tls::new(ClientSettings { ca, certificate: None, server_name: None, http2: false });
            client.load().map_err(Failure::config)?;
            tls = client.config(true);
        }
        Ok(Self { url, token, tls, kept: RefCell::default(), runtime: place::runtime()? })
    }

    /// Waits.
    pub(super) fn pause(&self, length: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(length).await });
    }

    /// What is answered, whatever status that has.
    pub(super) fn send(&self, ask: &Ask) -> Result<Answer, Failure> {
        self.runtime.block_on(async {
            let mut attempt = 0;
            loop {
                let outcome = self.attempt(ask).await;
                let may_pass = match &outcome {
                    Ok(answer) => answer.status == StatusCode::SERVICE_UNAVAILABLE,
                    Err(Fault::Lost(_)) => true,
                    // A gateway that was never there will not be in a moment; one that went may come back.
                    Err(Fault::Connect(..)) => attempt > 0,
                    Err(Fault::Resolve(_) | Fault::NotLocal(_) | Fault::Tls(_)) => false,
                };
                let pause = PAUSES.get(attempt).filter(|_| may_pass && ask.again != Again::Never);
                let Some(pause) = pause else { return outcome.map_err(|fault| self.told(&fault, ask)) };
                tokio::time::sleep(*pause).await;
                attempt += 1;
            }
        })
    }

    async fn attempt(&self, ask: &Ask) -> Result<Answer, Fault> {
        let kept = self.kept.borrow_mut().take();
        // A change goes over a connection of its own: the gateway may be about to close one that idled.
        let kept = kept.filter(|kept| ask.method == Method::GET && kept.sender.is_ready());
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let request = self.request(ask).map_err(|error| Fault::Lost(error.to_string()))?;
        let patience = PATIENCE + ask.wait;
        let answered = timeout(patience, exchange(&mut connection.sender, request)).await;
        let answer =
            answered.unwrap_or_else(|_elapsed| Err(Fault::Lost(format!("none within {} s", patience.as_secs()))))?;
        *self.kept.borrow_mut() = Some(connection);
        Ok(answer)
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut bearer = HeaderValue::try_from(Zeroizing::new(format!("Bearer {}", self.token.expose())).as_str())?;
        bearer.set_sensitive(true);
        let body = ask.body.clone().unwrap_or_default();
        let target = format!("{}{}", self.url.base, ask.target);
        let mut request = Request::builder().method(ask.method.clone()).uri(target);
        request = request.header(HOST, &self.url.authority).header(AUTHORIZATION, bearer);
        request = request.header(USER_AGENT, concat!("keyward/", env!("CARGO_PKG_VERSION")));
        request = request.header(ACCEPT, "application/json");
        if let Again::Known(key) = &ask.again {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if ask.method != Method::GET {
            request = request.header(CONTENT_LENGTH, body.len());
        }
        request.body(Full::new(Bytes::from(body)))
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let host = (self.url.host.as_str(), self.url.port);
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host(host).await.map_err(Fault::Resolve)?.collect();
        let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut last = Fault::Resolve(none());
        for &address in addresses.iter().take(ADDRESSES_TRIED_MAX) {
            if !self.url.allows(address.ip()) {
                return Err(Fault::NotLocal(address.ip()));
            }
            match timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return self.over(stream).await,
                Ok(Err(error)) => last = Fault::Connect(address, error),
                Err(_elapsed) => last = Fault::Connect(address, io::ErrorKind::TimedOut.into()),
            }
        }
        Err(last)
    }

    async fn over(&self, stream: TcpStream) -> Result<Connection, Fault> {
        let Some(config) = &self.tls else { return shaken(stream).await };
        let name = ServerName::try_from(self.url.host.clone());
        let name = name.map_err(|error| Fault::Tls(io::Error::other(error)))?;
        let session = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        match timeout(CONNECT_PATIENCE, session).await {
            Ok(Ok(session)) => shaken(session).await,
            Ok(Err(error)) => Err(Fault::Tls(error)),
            Err(_elapsed) => Err(Fault::Tls(io::ErrorKind::TimedOut.into())),
        }
    }

    fn told(&self, fault: &Fault, ask: &Ask) -> Failure {
        let url = &self.url;
        Failure::failed(match fault {
            Fault::Resolve(error) => {
                format!("cannot find {url}: {error}; give the URL of a gateway's [admin] listener")
            }
            Fault::NotLocal(address) => {
                format!("{url} leads to {address}, and a token goes over http:// to this machine alone; use https://")
            }
            Fault::Connect(address, error) => format!(
                "cannot connect to {url} ({address}: {error}); is the gateway running, and is this its [admin] listener?"
            ),
            Fault::Tls(error) => {
                let remedy = match certificate_fault(error) {
                    Some(_) if is_of_unknown_authority(error) => "; name the authority of its certificate by --ca FILE",
                    Some(_) => "",
                    None => "; use http:// where the listener speaks clear text on this machine",
                };
                let what = certificate_fault(error).unwrap_or_else(|| error.to_string());
                format!("no TLS with {url}: {what}{remedy}")
            }
            Fault::Lost(cause) => {
                let unknown = match ask.again {
                    Again::Never => "; whether it was done is not known, so look before asking again",
                    Again::Harmless | Again::Known(_) => "; is that its [admin] listener, and does it speak https://?",
                };
                format!("no answer from {url}: {cause}{unknown}")
            }
        })
    }
}

async fn shaken<S>(stream: S) -> Result<Connection, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let mut running = JoinSet::new();
    // How it ended is told by the request that it ended.
    running.spawn(async move { drop(connection.await) });
    Ok(Connection { sender, _running: running })
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
    let (head, body) = sender.send_request(request).await.map_err(lost)?.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Fault::Lost(format!("the answer broke off: {}", Chain(&*error))))?;
    Ok(Answer { status: head.status, headers: head.headers, body: Zeroizing::new(body.to_bytes().into()) })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn lost(error: hyper::Error) -> Fault {
    Fault::Lost(Chain(&error).to_string())
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("url", &self.url).finish_non_exhaustive()
    }
}
