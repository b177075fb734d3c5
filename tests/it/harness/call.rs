//! One request and its answer, over HTTP/1.1 or HTTP/2, in clear or over TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::stream::{Received, Stream, receive};
use super::wait::DEADLINE;

/// A request that is about to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    host: Option<String>,
    headers: HeaderMap,
    body: Stream,
}

pub(crate) fn get(path: &str) -> Call {
    Call::new(Method::GET, path)
}

pub(crate) fn post(path: &str) -> Call {
    Call::new(Method::POST, path)
}

pub(crate) fn patch(path: &str) -> Call {
    Call::new(Method::PATCH, path)
}

pub(crate) fn delete(path: &str) -> Call {
    Call::new(Method::DELETE, path)
}

pub(crate) fn put(path: &str) -> Call {
    Call::new(Method::PUT, path)
}

impl Call {
    pub(crate) fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), host: None, headers: HeaderMap::new(), body: Stream::default() }
    }

    /// With this token as its bearer.
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a field name");
        self.headers.append(name, HeaderValue::from_str(value).expect("a field value"));
        self
    }

    pub(crate) fn host(self, host: &str) -> Self {
        Self { host: Some(host.to_owned()), ..self }
    }

    pub(crate) fn text(self, text: &'static str) -> Self {
        Self { body: Stream::text(text), ..self }
    }

    /// With this as its body, as JSON.
    pub(crate) fn json(self, body: &serde_json::Value) -> Self {
        self.header("content-type", "application/json").bytes(body.to_string().into_bytes())
    }

    /// With these bytes as its body.
    pub(crate) fn bytes(self, bytes: Vec<u8>) -> Self {
        Self { body: Stream::text(bytes), ..self }
    }

    /// With so many bytes as its body.
    pub(crate) fn zeros(self, bytes: u64) -> Self {
        Self { body: Stream::zeros(bytes), ..self }
    }

    /// Does not tell how long the body is.
    pub(crate) fn chunked(self) -> Self {
        Self { body: self.body.clone().chunked(), ..self }
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Received,
}

impl Answer {
    /// The one value of a field; none where it is missing.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} came back more than once");
        Some(value.to_str().expect("field values in these tests are text"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.beginning).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body.beginning).unwrap_or_else(|fault| panic!("{fault} in {:?}", self.text()))
    }

    /// The reason code of a refusal; empty where the answer is none.
    pub(crate) fn code(&self) -> String {
        if self.header("content-type") != Some("application/problem+json") {
            return String::new();
        }
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Calls one after the other, each on the connection of the last unless the gateway has ended that
/// by the rules of its protocol. Anything else that goes wrong fails the test.
pub(crate) struct Client<'g> {
    gateway: &'g super::Gateway,
    http: Http,
    connection: Option<Connection>,
    /// How many connections were opened.
    pub(crate) opened: usize,
}

impl<'g> Client<'g> {
    pub(crate) fn new(gateway: &'g super::Gateway, http: Http) -> Self {
        Self { gateway, http, connection: None, opened: 0 }
    }

    pub(crate) fn send(&mut self, call: &Call) -> Answer {
        loop {
            let opened = &mut self.opened;
            let connection = self.connection.get_or_insert_with(|| {
                *opened += 1;
                self.gateway.connect(self.http)
            });
            match connection.try_send(call.clone()) {
                Ok(answer) => {
                    assert_eq!(answer.body.broken, None, "an answer broke off");
                    if answer.header("connection") == Some("close") {
                        self.connection = None;
                    }
                    return answer;
                }
                // Not a byte of the call has left: the connection had ended in peace before.
                Err(fault) if fault.is_canceled() || fault.is_closed() => self.connection = None,
                Err(fault) => panic!("a call over {:?} broke off: {fault:?}", self.http),
            }
        }
    }
}

/// Which protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// A connection that is kept open between calls.
pub(crate) struct Connection {
    // Declared before the runtime, so that they end while it is still there.
    sender: Sender,
    tasks: JoinSet<()>,
    authority: Authority,
    scheme: Scheme,
    runtime: Runtime,
}

enum Sender {
    One(http1::SendRequest<Stream>),
    Two(http2::SendRequest<Stream>),
}

impl Connection {
    /// Connects to `address`; over TLS where there is a certificate to trust.
    pub(crate) fn open(address: SocketAddr, trusted: Option<&CertificateDer<'static>>, http: Http) -> Self {
        Self::try_open(address, trusted, http).expect("the gateway accepts connections")
    }

    /// The same; none where nobody listens.
    pub(crate) fn try_open(address: SocketAddr, trusted: Option<&CertificateDer<'static>>, http: Http) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut tasks = JoinSet::new();
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.ok()?;
            stream.set_nodelay(true).expect("a socket");
            Some(match trusted {
                None => Sender::over(stream, http, &mut tasks).await,
                Some(certificate) => {
                    let name = ServerName::try_from("localhost").expect("a name");
                    let connector = tokio_rustls::TlsConnector::from(client_config(certificate, http));
                    let stream = connector.connect(name, stream).await.expect("a TLS handshake");
                    Sender::over(stream, http, &mut tasks).await
                }
            })
        })?;
        let scheme = if trusted.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = format!("localhost:{}", address.port()).parse().expect("an authority");
        Some(Self { sender, tasks, authority, scheme, runtime })
    }

    /// Sends a call and reads its answer whole.
    pub(crate) fn send(&mut self, call: Call) -> Answer {
        self.try_send(call).unwrap_or_else(|fault| panic!("no answer: {fault}"))
    }

    /// Sends a call; an error where the connection breaks before there is a head.
    pub(crate) fn try_send(&mut self, call: Call) -> Result<Answer, hyper::Error> {
        let request = self.request(call);
        let Self { sender, runtime, .. } = self;
        runtime.block_on(async {
            let exchange = async {
                let response = match sender {
                    Sender::One(sender) => {
                        sender.ready().await?;
                        sender.send_request(request).await?
                    }
                    Sender::Two(sender) => {
                        sender.ready().await?;
                        sender.send_request(request).await?
                    }
                };
                let (head, body) = response.into_parts();
                let body = receive(body).await;
                Ok(Answer { status: head.status.as_u16(), version: head.version, headers: head.headers, body })
            };
            // Streaming bodies of this suite stay well below this on any machine.
            tokio::time::timeout(DEADLINE * 4, exchange).await.expect("an answer in time")
        })
    }

    /// Whether the gateway closes this connection within `patience`.
    pub(crate) fn is_closed_within(&mut self, patience: Duration) -> bool {
        let Self { tasks, runtime, .. } = self;
        runtime.block_on(async { tokio::time::timeout(patience, tasks.join_next()).await.is_ok() })
    }

    fn request(&self, call: Call) -> Request<Stream> {
        let host = call.host.unwrap_or_else(|| self.authority.to_string());
        let mut request = Request::new(call.body);
        *request.method_mut() = call.method;
        *request.headers_mut() = call.headers;
        match self.sender {
            Sender::One(_) => {
                *request.uri_mut() = call.path.parse().expect("a path");
                request.headers_mut().insert("host", host.parse().expect("a host"));
            }
            Sender::Two(_) => {
                let uri = Uri::builder().scheme(self.scheme.clone()).authority(host).path_and_query(call.path);
                *request.uri_mut() = uri.build().expect("a URI");
                *request.version_mut() = Version::HTTP_2;
            }
        }
        request
    }
}

impl Sender {
    async fn over<S>(stream: S, http: Http, tasks: &mut JoinSet<()>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = TokioIo::new(stream);
        // How a connection ends is seen by the calls on it.
        match http {
            Http::One => {
                let (sender, connection) = http1::handshake(stream).await.expect("a fresh connection");
                tasks.spawn(async move { drop(connection.await) });
                Self::One(sender)
            }
            Http::Two => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), stream).await.expect("a fresh connection");
                tasks.spawn(async move { drop(connection.await) });
                Self::Two(sender)
            }
        }
    }
}

/// Trusts the one certificate and asks for the one protocol.
pub(crate) fn client_config(trusted: &CertificateDer<'static>, http: Http) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match http {
        Http::One => vec![b"http/1.1".to_vec()],
        Http::Two => vec![b"h2".to_vec()],
    };
    Arc::new(config)
}
