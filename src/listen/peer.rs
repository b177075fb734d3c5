//! Who is at the other end of a connection, and what its requests may use of it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::credit::Credit;
use super::flow::Flow;
use super::http1::Date;
use super::paced::{OpenBody, Paced};
use super::settings::Settings;
use super::ticker::{NEVER, Tick, Ticker};
use super::trim::Trim;
use crate::clock::Clock;

/// The other end of one connection. Shared by all its requests.
#[derive(Debug)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// The address it was accepted on.
    pub local: SocketAddr,
    /// What the handshake agreed, or none on clear text.
    pub tls: Option<TlsInfo>,
    /// Counts connections of one worker, from 1.
    pub connection: u64,
    body_idle: Duration,
    rate_min: u32,
    worker: Rc<Worker>,
    /// Of HTTP/1: it takes no request before the body of the last has come to its end.
    flow: Option<Arc<Flow>>,
}

/// What a TLS handshake agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The server name that the client asked for, lower case.
    pub server_name: Option<String>,
    /// The subject of the client's verified certificate, as RFC 4514 prints it.
    pub client_subject: Option<String>,
}

impl Peer {
    pub(super) fn new(
        address: SocketAddr,
        local: SocketAddr,
        tls: Option<TlsInfo>,
        connection: u64,
        settings: &Settings,
        worker: Rc<Worker>,
        flow: Option<Arc<Flow>>,
    ) -> Self {
        let (body_idle, rate_min) = (settings.timeouts.body_idle, settings.limits.rate_min);
        Self { address, local, tls, connection, body_idle, rate_min, worker, flow }
    }

    /// A peer of no listener, for tests of handlers. Its bodies are never too slow and it never stops.
    #[must_use]
    pub fn detached(address: SocketAddr, tls: Option<TlsInfo>, clock: Arc<dyn Clock>) -> Rc<Self> {
        let worker = Worker::new(Ticker::new(clock));
        Rc::new(Self::new(address, address, tls, 1, &Settings::default(), worker, None))
    }

    /// This request body, failing with [`BodyFault::TooSlow`](super::BodyFault::TooSlow) when the client pauses
    /// for longer than the listener's `body_idle`, or sends less than its `rate_min` for as long.
    #[must_use]
    pub fn paced<B: Body>(&self, body: B) -> Paced<B> {
        self.with_credit(body, Credit::new(self.body_idle, self.rate_min))
    }

    /// The same for a body that may pause for as long as whoever reads it allows.
    #[must_use]
    pub fn unpaced<B: Body>(&self, body: B) -> Paced<B> {
        self.with_credit(body, Credit::new(Duration::MAX, 0))
    }

    fn with_credit<B: Body>(&self, body: B, credit: Credit) -> Paced<B> {
        let flow = self.flow.as_ref().filter(|_| !body.is_end_stream());
        Paced::new(body, credit, Rc::clone(&self.worker.ticker), flow.map(OpenBody::on_connection))
    }

    /// Ends when the listener drains and open requests have had their time. What then ends by itself, within
    /// a second, can still say goodbye.
    pub fn overdue(&self) -> impl Future<Output = ()> + 'static {
        let mut overdue = self.worker.overdue.subscribe();
        async move {
            if overdue.wait_for(|overdue| *overdue).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs `future` on this worker beside its requests, for instance the tunnel of an upgrade. A drain
    /// waits for it until its deadline and then drops it.
    ///
    /// # Panics
    /// Outside a local runtime or `LocalSet`.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.worker.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(future);
    }

    #[cfg(test)]
    pub(super) fn worker(&self) -> Rc<Worker> {
        Rc::clone(&self.worker)
    }

    /// Whether the listener drains: answers should not invite further requests.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.worker.stopping.get()
    }
}

/// What all connections of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    /// The worker's timers.
    pub(super) ticker: Rc<Ticker>,
    /// The Date of its answers.
    pub(super) date: Date,
    /// What gives back memory that is free.
    pub(super) trim: Trim,
    /// Tunnels and other work that outlives its request.
    pub(super) tasks: RefCell<JoinSet<()>>,
    /// How many streams of HTTP/2 are running.
    pub(super) streams: Cell<usize>,
    /// Whether it drains.
    pub(super) stopping: Cell<bool>,
    /// Whether what is still open then has had its time.
    pub(super) overdue: watch::Sender<bool>,
    /// Until when it then waits for connections without a request.
    pub(super) idle_until: Cell<Tick>,
}

impl Worker {
    pub(super) fn new(ticker: Rc<Ticker>) -> Rc<Self> {
        Rc::new(Self {
            ticker,
            date: Date::default(),
            trim: Trim::default(),
            tasks: RefCell::default(),
            streams: Cell::new(0),
            stopping: Cell::new(false),
            overdue: watch::Sender::new(false),
            idle_until: Cell::new(NEVER),
        })
    }
}
