//! The accept loop of one worker, and its drain.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::Refusal;
use super::cap::{ClientIsFull, Connections};
use super::connection::Accepted;
use super::drain::drain;
use super::handler::Handler;
use super::metrics::ListenMetrics;
use super::peer::Worker;
use super::settings::Settings;
use super::ticker::Ticker;
use crate::clock::Clock;

/// What the workers of one listener share.
#[derive(Debug, Clone)]
pub struct Listening {
    /// The TLS configuration that each handshake starts with, or none for clear text.
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// Timeouts and limits, for connections accepted from now on.
    pub settings: Arc<ArcSwap<Settings>>,
    /// How many connections are open and may be.
    pub connections: Arc<Connections>,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: ListenMetrics,
}

/// Accepts and serves connections until `stop` is true or its sender gone, then drains. Returns when all is done.
///
/// Runs on a local runtime, or inside a `LocalSet`. On drop it closes the listener; connections end with the runtime.
///
/// # Errors
/// When the runtime cannot watch the socket.
///
/// # Panics
/// Outside a local runtime or `LocalSet`.
pub async fn serve<H: Handler>(
    listener: std::net::TcpListener,
    handler: Rc<H>,
    listening: Listening,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let bound = listener.local_addr()?;
    let ticker = Ticker::new(Arc::clone(&listening.clock));
    let worker = Worker::new(Rc::clone(&ticker));
    // A counter's handle is shared by all workers: one copy each, not one a request.
    let metrics = Rc::new(listening.metrics.clone());
    let trimming = Rc::clone(&worker);
    let mut acceptor = Acceptor { handler, listening, metrics, worker, bound, accepted: 0, open: JoinSet::new() };
    let mut back_off = BackOff::default();
    let mut resume: Option<Instant> = None;
    let stopped = async move {
        // A sender that is gone can never say stop: take it for one.
        let _gone = stop.wait_for(|stop| *stop).await;
    };
    let mut stopped = std::pin::pin!(stopped);
    let mut ticking = std::pin::pin!(ticker.run());
    let mut trimming = std::pin::pin!(trimming.trim.run());
    loop {
        let next = async {
            if let Some(resume) = resume {
                tokio::time::sleep_until(resume).await;
            }
            listener.accept().await
        };
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = &mut ticking => {}
            () = &mut trimming => {}
            Some(ended) = acceptor.open.join_next() => acceptor.reap(&ended),
            accepted = next => match accepted {
                Ok((tcp, address)) => {
                    resume = None;
                    back_off = BackOff::default();
                    acceptor.take_on(tcp, address);
                }
                Err(error) => {
                    acceptor.listening.metrics.accept_errors.inc();
                    resume = back_off.after(&error).map(|wait| Instant::now() + wait);
                }
            },
        }
    }
    acceptor.worker.stopping.set(true);
    // What the kernel has already accepted for us would be reset when the listener closes.
    acceptor.take_waiting(listener);
    let limit = acceptor.listening.settings.load().timeouts.drain;
    let mut open = acceptor.open;
    let draining = drain(&acceptor.worker, &mut open, limit, &acceptor.listening.metrics);
    tokio::select! {
        biased;
        () = &mut ticking => {}
        () = draining => {}
    }
    Ok(())
}

struct Acceptor<H> {
    handler: Rc<H>,
    listening: Listening,
    metrics: Rc<ListenMetrics>,
    worker: Rc<Worker>,
    bound: SocketAddr,
    accepted: u64,
    open: JoinSet<()>,
}

impl<H: Handler> Acceptor<H> {
    fn take_on(&mut self, tcp: TcpStream, address: SocketAddr) {
        let Listening { tls, settings, connections, .. } = &self.listening;
        let metrics = &self.metrics;
        let Some(mut place) = connections.enter(&metrics.open) else {
            metrics.refused.inc();
            return refuse(&tcp, tls.is_none());
        };
        let settings = settings.load_full();
        if place.count_for(address.ip(), &settings.clients) == Err(ClientIsFull) {
            metrics.refused_of_client.inc();
            return refuse(&tcp, tls.is_none());
        }
        self.accepted += 1;
        let local = if self.bound.ip().is_unspecified() { tcp.local_addr().unwrap_or(self.bound) } else { self.bound };
        self.worker.ticker.resolve(shortest(&settings));
        let accepted = Accepted {
            handler: Rc::clone(&self.handler),
            worker: Rc::clone(&self.worker),
            metrics: Rc::clone(&self.metrics),
            settings,
            tls: tls.as_ref().map(|tls| tls.load_full()),
            place,
            address,
            local,
            number: self.accepted,
        };
        self.open.spawn_local(accepted.serve(tcp));
    }

    /// Takes on what waits in a listener's queue, and closes the listener. Asks the socket itself: the runtime
    /// may not have heard yet that there is anything.
    fn take_waiting(&mut self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        let mut of_one_alone = BackOff::default();
        loop {
            let taken = listener.accept().and_then(|(tcp, address)| {
                tcp.set_nonblocking(true)?;
                Ok((TcpStream::from_std(tcp)?, address))
            });
            match taken {
                Ok((tcp, address)) => self.take_on(tcp, address),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.listening.metrics.accept_errors.inc();
                    if of_one_alone.after(&error).is_some() {
                        return;
                    }
                }
            }
        }
    }

    fn reap(&self, ended: &Result<(), tokio::task::JoinError>) {
        self.worker.trim.freed();
        if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
            self.listening.metrics.panics.inc();
        }
    }
}

/// The shortest time that the ticks must resolve.
fn shortest(settings: &Settings) -> Duration {
    let it = &settings.timeouts;
    let all = [it.first_byte, it.handshake, it.head, it.body_idle, it.idle, it.connection_age];
    all.into_iter().min().unwrap_or(it.idle)
}

/// Closes a connection that is over the cap: in clear text with an answer, as far as the socket takes it at once.
/// Asks the socket itself: the runtime has not heard of a new one that it is ready for anything.
pub(super) fn refuse(tcp: &TcpStream, clear: bool) {
    if clear {
        let socket = SockRef::from(tcp);
        let _unread = (&*socket).read(&mut [0; 1024]);
        let _untaken = (&*socket).write(&Refusal::Overloaded.raw().text);
    }
}

/// How long to wait after failures to accept.
#[derive(Debug)]
struct BackOff {
    next: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { next: BACK_OFF_MIN }
    }
}

impl BackOff {
    /// How long to wait after this failure, or none where it concerned one connection alone.
    fn after(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, WouldBlock};
        // accept(2): errors of the new socket are reported by accept, and the next call is about another.
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | WouldBlock) {
            return None;
        }
        // EMFILE, ENFILE, ENOBUFS, ENOMEM: the next call would fail too, and at once.
        let wait = self.next;
        self.next = (wait * 2).min(BACK_OFF_MAX);
        Some(wait)
    }
}

const BACK_OFF_MIN: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_file_descriptors_it_waits_longer_each_time_up_to_a_tenth_of_a_second() {
        let none_left = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..6).filter_map(|_| back_off.after(&none_left)).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 100, 100]);
    }

    #[test]
    fn a_connection_that_was_given_up_costs_no_wait() {
        let aborted = io::Error::from_raw_os_error(rustix::io::Errno::CONNABORTED.raw_os_error());
        assert_eq!(BackOff::default().after(&aborted), None);
    }
}
