//! Services that speak HTTP/2 or TLS, or listen on a socket file. Each runs on a thread of its own and
//! remembers what came.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What a peer has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    resets: AtomicUsize,
    heads: Mutex<Vec<(http::Version, String, HeaderMap)>>,
    handshakes: Mutex<Vec<(Option<String>, bool)>>,
}

impl Seen {
    fn note<B>(&self, request: &Request<B>) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let head = (request.version(), request.uri().to_string(), request.headers().clone());
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
    }

    /// A stream was reset with CANCEL.
    pub(super) fn note_cancel(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn cancels(&self) -> usize {
        self.resets.load(Ordering::SeqCst)
    }
}

/// A service. It ends when this is dropped.
pub(super) struct Peer {
    address: SocketAddr,
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;
/// Serves one connection; the number counts connections from 0.
type Serve<S> = Arc<dyn Fn(S, usize, Arc<Seen>) -> Serving + Send + Sync>;

/// Any stream that a connection may run over.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}
pub(super) type AnyIo = Box<dyn Io>;

impl Peer {
    /// A service whose connections `serve` serves.
    pub(super) fn serving(tls: Option<rustls::ServerConfig>, serve: Serve<AnyIo>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::on(listener, tls, serve)
    }

    /// The same on a listener that is there already.
    pub(super) fn on(listener: std::net::TcpListener, tls: Option<rustls::ServerConfig>, serve: Serve<AnyIo>) -> Self {
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound socket");
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let (stop, thread) = on_thread(move || async move {
            let listener = TcpListener::from_std(listener).expect("a listening socket");
            let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _peer)) = listener.accept().await else { return };
                stream.set_nodelay(true).expect("a socket");
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let (serve, seen, acceptor) = (Arc::clone(&serve), Arc::clone(&shared), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => serve(Box::new(stream), number, seen).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let tls = stream.get_ref().1;
                            let shown = (tls.server_name().map(str::to_owned), tls.peer_certificates().is_some());
                            seen.handshakes.lock().unwrap_or_else(PoisonError::into_inner).push(shown);
                            if tls.alpn_protocol() == Some(b"h2") {
                                h2_echo(Box::new(stream), seen).await;
                            } else {
                                h1_text(Box::new(stream), seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// HTTP/1.1 or HTTP/2 over TLS, as the handshake settles.
    pub(super) fn over_tls(config: rustls::ServerConfig) -> Self {
        Self::serving(Some(config), Arc::new(|_stream, _number, _seen| Box::pin(async {})))
    }

    /// HTTP/2 in clear text, which sends back what it gets.
    pub(super) fn h2c() -> Self {
        Self::serving(None, Arc::new(|stream, _number, seen| Box::pin(h2_echo(stream, seen))))
    }

    /// HTTP/1.1 on a socket file.
    pub(super) fn on_file(path: &Path) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(path).expect("a socket file");
        listener.set_nonblocking(true).expect("a socket");
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let (stop, thread) = on_thread(move || async move {
            let listener = UnixListener::from_std(listener).expect("a listening socket");
            let mut connections = JoinSet::new();
            while let Ok((stream, _peer)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(h1_text(Box::new(stream), Arc::clone(&shared)));
            }
        });
        Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), seen, stop: Some(stop), thread: Some(thread) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub(super) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The last head that came: version, target, fields.
    pub(super) fn last(&self) -> (http::Version, String, HeaderMap) {
        self.seen.heads.lock().unwrap_or_else(PoisonError::into_inner).last().expect("a request").clone()
    }

    /// Of each handshake the name that was asked for, and whether a certificate was shown.
    pub(super) fn handshakes(&self) -> Vec<(Option<String>, bool)> {
        self.seen.handshakes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has already failed the test's own expectations.
            let _ended = thread.join();
        }
    }
}

fn on_thread<F: Future<Output = ()>>(
    run: impl FnOnce() -> F + Send + 'static,
) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            tokio::select! {
                () = run() => {}
                _stopped = stopped => {}
            }
        });
    };
    (stop, std::thread::Builder::new().name("peer".into()).spawn(work).expect("a thread"))
}

/// Answers with the protocol that was spoken.
pub(super) async fn h1_text(stream: AnyIo, seen: Arc<Seen>) {
    let service = service_fn(|request: Request<Incoming>| {
        seen.note(&request);
        async { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"http/1.1")))) }
    });
    // The gateway may close a connection at any time.
    let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Sends back what it gets, as it comes, with trailers; `h2` where it gets nothing.
pub(super) async fn h2_echo(stream: AnyIo, seen: Arc<Seen>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        seen.note(&request);
        streams.spawn(echo(request.into_body(), respond, Arc::clone(&seen)));
    }
}

/// One stream of [`h2_echo`].
pub(super) async fn echo(mut body: RecvStream, mut respond: SendResponse<Bytes>, seen: Arc<Seen>) {
    let mut answer = Response::new(());
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let Ok(mut sending) = respond.send_response(answer, false) else { return };
    let mut nothing = true;
    while let Some(read) = body.data().await {
        let data = match read {
            Ok(data) => data,
            Err(error) => {
                if error.reason() == Some(h2::Reason::CANCEL) {
                    seen.note_cancel();
                }
                return;
            }
        };
        let _released = body.flow_control().release_capacity(data.len());
        nothing &= data.is_empty();
        if sending.send_data(data, false).is_err() {
            return;
        }
    }
    if nothing && sending.send_data(Bytes::from_static(b"h2"), false).is_err() {
        return;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let _gone = sending.send_trailers(trailers);
}

/// An authority of the tests' own, and what it issues.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Chain and key of a certificate for this name.
    pub(super) fn issue(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }
}

/// A certificate with its key.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
    der: CertificateDer<'static>,
}

/// A server that shows this certificate and speaks these protocols; `asks` names whose certificates it
/// demands.
pub(super) fn server(shown: &Issued, protocols: &[&str], asks: Option<&Authority>) -> rustls::ServerConfig {
    use rustls::pki_types::pem::PemObject;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3");
    let builder = match asks {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.0.der().clone()).expect("a certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("a key");
    let mut config = builder.with_single_cert(vec![shown.der.clone()], key).expect("a pair");
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// How often each answer came.
pub(super) fn tally<T: Ord>(answers: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    answers.into_iter().fold(BTreeMap::new(), |mut counts, answer| {
        *counts.entry(answer).or_default() += 1;
        counts
    })
}
