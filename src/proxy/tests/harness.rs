//! A gateway in this process: raw bytes in on one side, an upstream that the test plays on the
//! other. Nothing here sleeps; each step waits for what the other side does.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

use crate::clock::{Clock, ManualClock, SystemClock, Timestamp};
use crate::key::{EnvironmentId, FlagSet, Grants, KeyId, Signers, Stamp, States, Token, TokenHash, TokenPrefix};
use crate::listen::testing::{http2_body, serve_http1};
use crate::listen::{Handler, Peer};
use crate::policy::{
    Access, CredentialSource, DenyList, FlagTemplate, Forward, PathOptions, RouteSpec, RouteTable, Shadow,
};
use crate::proxy::{Gateway, Metrics, Settings, Shared, Speaks, Target, Upstream};
use crate::secret::{MasterSecret, MasterSecrets};
use crate::table::{Head, KeyRow, MissAnswer, MissResolver, OnStale, Resolving, Row, Table};

pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with one upstream, `api`, that the test plays.
pub(super) struct House {
    pub(super) gateway: Rc<Gateway>,
    pub(super) shared: Shared,
    pub(super) table: Arc<Table>,
    pub(super) clock: Arc<HouseClock>,
    pub(super) upstream: TcpListener,
    pub(super) registry: prometheus::Registry,
    peer: Rc<Peer>,
}

/// The wall clock by hand, the monotonic clock as it runs.
#[derive(Debug)]
pub(super) struct HouseClock {
    wall: ManualClock,
    real: SystemClock,
    /// By how much the monotonic clock is ahead.
    ahead: Mutex<Duration>,
}

impl HouseClock {
    pub(super) fn advance(&self, span: Duration) {
        self.wall.advance(span);
    }

    /// So much time passes, for whoever looks at the monotonic clock.
    pub(super) fn pass(&self, span: Duration) {
        *self.ahead.lock() += span;
    }
}

impl Clock for HouseClock {
    fn now(&self) -> Timestamp {
        self.wall.now()
    }

    fn monotonic(&self) -> std::time::Instant {
        self.real.monotonic() + *self.ahead.lock()
    }
}

#[derive(Debug)]
struct NothingElse;

impl MissResolver for NothingElse {
    fn resolve(&self, hash: TokenHash, client: IpAddr, _now: Timestamp) -> Resolving<'_> {
        assert!(client.is_loopback());
        assert!(hash != TokenHash::of(token(OF_A_PANIC).as_bytes()), "as the token says");
        Resolving::Later(Box::pin(std::future::ready(MissAnswer::Unknown)))
    }
}

/// The number of a token by which this program is at fault.
pub(super) const OF_A_PANIC: u8 = 255;

/// How a house differs from the usual one.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) settings: Option<fn(&mut Settings)>,
    pub(super) upstream: Option<fn(&mut Upstream)>,
    pub(super) routes: Vec<RouteSpec>,
}

/// Runs `test` in a house built by `plan`.
pub(super) fn in_house<F: Future<Output = ()>>(plan: Plan, test: impl FnOnce(House) -> F) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(async {
        let house = House::build(plan).await;
        tokio::time::timeout(PATIENCE, test(house)).await.expect("the test hangs");
    });
}

/// A token of this house, and the same one each time.
pub(super) fn token(number: u8) -> String {
    Token::mint(&TokenPrefix::default(), &EnvironmentId::live(), [number; 32]).expose().to_owned()
}

pub(super) fn forward() -> Forward {
    Forward::to("api")
}

fn routes() -> Vec<RouteSpec> {
    let flags = |flag: &str| Access::Flags { any: vec![FlagTemplate::parse(flag).expect("a flag")], all: Vec::new() };
    let spec = |name: &str, path: &str, access: Access| RouteSpec::new(name, path, access, forward());
    let mut shadow = spec("watched", "/watched", Access::AnyKey);
    shadow.shadow = Some(Shadow { until: None });
    let mut small = spec("small", "/small", Access::AnyKey);
    small.forward.request_body_max = Some(10);
    let mut socket = spec("socket", "/socket", Access::AnyKey);
    socket.forward.websocket = true;
    let mut header = spec("header", "/header", Access::AnyKey);
    header.credential = vec![CredentialSource::Bearer, CredentialSource::Header("x-api-key".parse().expect("a name"))];
    vec![
        spec("any", "/any/{*rest}", Access::AnyKey),
        spec("ring-read", "/keyrings/{ring}", flags("keyring.{ring}.read")),
        spec("public", "/public/{*rest}", Access::Public),
        spec("grpc", "/pkg.Service/{method}", Access::AnyKey),
        shadow,
        small,
        socket,
        header,
    ]
}

fn signers() -> Signers {
    Signers::derive(&MasterSecrets::first(MasterSecret::generate().expect("randomness")), 1, "keyward")
}

impl House {
    async fn build(plan: Plan) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = upstream.local_addr().expect("an address");
        let mut api = Upstream::new(vec![target(address)]);
        if let Some(change) = plan.upstream {
            change(&mut api);
        }
        let mut specs = routes();
        specs.extend(plan.routes);
        let mut settings = Settings {
            routes: RouteTable::build(specs, PathOptions::default()).expect("routes"),
            upstreams: [("api".to_owned(), api)].into(),
            token_prefix: TokenPrefix::default(),
            realm: "keyward".to_owned(),
            reveal_reason: false,
            expiry_notice: Duration::from_secs(3600),
            trusted_proxies: Vec::new(),
            on_stale: OnStale::Serve,
            requests_max: 1000,
            access_log: true,
            jwks: false,
        };
        if let Some(change) = plan.settings {
            change(&mut settings);
        }
        let table = Arc::new(Table::new());
        let clock =
            Arc::new(HouseClock { wall: ManualClock::at(NOW), real: SystemClock::default(), ahead: Mutex::default() });
        let metrics = Metrics::new().expect("names are well-formed");
        let registry = prometheus::Registry::new();
        metrics.register(&registry).expect("nothing else is registered");
        let shared = Shared {
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            table: Arc::clone(&table),
            misses: Arc::new(NothingElse),
            deny: Arc::new(ArcSwap::from_pointee(DenyList::default())),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            metrics,
            signers: Arc::new(ArcSwap::from_pointee(signers())),
        };
        let peer = Peer::detached(SocketAddr::from(([127, 0, 0, 1], 4711)), None, Arc::clone(&shared.clock));
        let gateway = Rc::new(Gateway::new(shared.clone()).expect("randomness"));
        let house = Self { gateway, shared, table, clock, upstream, registry, peer };
        house.table.contact_made(NOW);
        house.table.set_ready();
        house.put(1, |_| {});
        house
    }

    /// Writes the key of [`token`] `number` to the table: live, of project `acme`, with
    /// `keyring.comms.read`, and what `change` says.
    pub(super) fn put(&self, number: u8, change: impl FnOnce(&mut KeyRow)) {
        let id = KeyId::from_bits(u128::from(number));
        let mut row = KeyRow {
            head: Head::from(&TokenHash::of(token(number).as_bytes())),
            id,
            lineage: id.lineage(),
            states: States::default(),
            project: Some("acme".parse().expect("a project")),
            environment: EnvironmentId::live(),
            user: None,
            grants: Grants::Only(FlagSet::parse(["keyring.comms.read"]).expect("flags")),
            expires_at: None,
            grace_expires_at: None,
            stamp: Stamp { revision: self.table.version() + 1, ordinal: 0 },
        };
        change(&mut row);
        self.table.apply(vec![Row::Key(Box::new(row))]);
    }

    /// A fresh HTTP/1.1 connection to the gateway.
    pub(super) fn connect(&self) -> Wire<DuplexStream> {
        self.connect_taking(64 * 1024)
    }

    /// One that takes so many bytes, either way, until they are read.
    pub(super) fn connect_taking(&self, bytes: usize) -> Wire<DuplexStream> {
        let (client, server) = tokio::io::duplex(bytes);
        let (gateway, peer) = (Rc::clone(&self.gateway), Rc::clone(&self.peer));
        self.peer.spawn(async move {
            serve_http1(server, gateway, peer).await;
        });
        Wire::new(client)
    }

    /// An HTTP/2 connection to the gateway.
    pub(super) async fn connect_http2<B>(&self) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: http_body::Body<Data = bytes::Bytes, Error = std::convert::Infallible> + Unpin + 'static,
    {
        self.connect_http2_with(hyper::client::conn::http2::Builder::new(Local)).await
    }

    /// An HTTP/2 connection to the gateway that takes so many bytes of an answer, until they are read.
    pub(super) async fn connect_http2_taking<B>(&self, bytes: u32) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: http_body::Body<Data = bytes::Bytes, Error = std::convert::Infallible> + Unpin + 'static,
    {
        let mut client = hyper::client::conn::http2::Builder::new(Local);
        client.initial_stream_window_size(bytes);
        self.connect_http2_with(client).await
    }

    async fn connect_http2_with<B>(
        &self,
        builder: hyper::client::conn::http2::Builder<Local>,
    ) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: http_body::Body<Data = bytes::Bytes, Error = std::convert::Infallible> + Unpin + 'static,
    {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let (gateway, peer) = (Rc::clone(&self.gateway), Rc::clone(&self.peer));
        self.peer.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (gateway, peer) = (Rc::clone(&gateway), Rc::clone(&peer));
                async move { Ok::<_, std::convert::Infallible>(gateway.handle(request.map(http2_body), peer).await) }
            });
            let connection =
                hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(server), service);
            let _ended = connection.await;
        });
        let (sender, connection) = builder.handshake(TokioIo::new(client)).await.expect("a handshake");
        self.peer.spawn(async move {
            let _ended = connection.await;
        });
        sender
    }

    /// A request by a client of its own, with the token of key 1, these fields, each with its line end, and this much
    /// of a body, that has reached its upstream over a connection of its own.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &str,
        body: &str,
    ) -> (Wire<DuplexStream>, Wire<TcpStream>) {
        let mut client = self.connect();
        client.request(method, path, fields).await;
        client.send(body).await;
        let mut upstream = self.accept().await;
        upstream.head().await;
        assert_eq!(upstream.take(body.len()).await, body);
        (client, upstream)
    }

    /// The next connection that the gateway makes to its upstream.
    pub(super) async fn accept(&self) -> Wire<TcpStream> {
        Wire::accept(&self.upstream).await
    }

    /// Waits until this is among what is scraped.
    pub(super) async fn until_counted(&self, line: &str) {
        while !self.metrics().contains(line) {
            tokio::task::yield_now().await;
        }
    }

    /// What is scraped.
    pub(super) fn metrics(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).expect("text")
    }
}

/// Runs the tasks of hyper's HTTP/2 on the worker.
#[derive(Debug, Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

pub(super) fn target(address: SocketAddr) -> Target {
    Target {
        authority: address.to_string(),
        host: address.ip().to_string(),
        port: address.port(),
        address: Some(address),
        speaks: Speaks::Http,
    }
}

/// One side of a connection, in bytes.
pub(super) struct Wire<S> {
    stream: S,
    seen: Vec<u8>,
}

impl Wire<TcpStream> {
    /// The next connection that is made there.
    pub(super) async fn accept(listener: &TcpListener) -> Self {
        Self::new(listener.accept().await.expect("a connection").0)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    const fn new(stream: S) -> Self {
        Self { stream, seen: Vec::new() }
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("the other side reads");
    }

    /// Sends as long as the other side takes it.
    pub(super) async fn try_send(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(text.as_bytes()).await
    }

    /// `GET path` with the token of key 1, and these fields.
    pub(super) async fn get(&mut self, path: &str, fields: &str) {
        self.request("GET", path, fields).await;
    }

    /// A request with the token of key 1, and these fields, each with its line end.
    pub(super) async fn request(&mut self, method: &str, path: &str, fields: &str) {
        let token = token(1);
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer {token}\r\n{fields}\r\n");
        self.send(&head).await;
    }

    /// The next head, up to and with its empty line; empty where the other side has closed.
    pub(super) async fn head(&mut self) -> Head1 {
        loop {
            if let Some(end) = self.seen.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.seen.drain(..end + 4).collect::<Vec<_>>();
                return Head1(String::from_utf8(head).expect("text"));
            }
            if !self.more().await {
                return Head1(String::new());
            }
        }
    }

    /// Exactly this many bytes.
    pub(super) async fn take(&mut self, count: usize) -> String {
        while self.seen.len() < count {
            assert!(self.more().await, "closed after {:?}", String::from_utf8_lossy(&self.seen));
        }
        String::from_utf8(self.seen.drain(..count).collect()).expect("text")
    }

    /// All until the other side closes.
    pub(super) async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.seen)).into_owned()
    }

    /// The next answer with a `Content-Length`, whole.
    pub(super) async fn answer(&mut self) -> (Head1, String) {
        let head = self.head().await;
        let length = head.field("content-length").map_or(0, |text| text.parse().expect("a length"));
        let body = self.take(length).await;
        (head, body)
    }

    async fn more(&mut self) -> bool {
        let mut chunk = [0; 1024];
        match self.stream.read(&mut chunk).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.seen.extend_from_slice(&chunk[..count]);
                true
            }
        }
    }
}

/// The head of a message as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head1(pub(super) String);

impl Head1 {
    /// The first line.
    pub(super) fn line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// The status of a response; 0 where there is none.
    pub(super) fn status(&self) -> u16 {
        self.line().split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The one field of this name; none where there is none or more than one.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.fields(name);
        if fields.len() == 1 { Some(fields[0]) } else { None }
    }

    /// All fields of this name.
    pub(super) fn fields(&self, name: &str) -> Vec<&str> {
        let split = self.0.lines().skip(1).filter_map(|line| line.split_once(':'));
        split.filter(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}
