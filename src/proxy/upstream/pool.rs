//! The connections of one worker to one target: dialled here, kept here while idle, last in first
//! out so that the surplus of a busy hour goes idle and is let go.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::{Dial, Link, LinkState};
use crate::clock::Clock;
use crate::proxy::metrics;
use crate::proxy::settings::{Target, Upstream};

/// How long the addresses of a name are used before it is asked for again.
const RESOLVED_FOR: Duration = Duration::from_secs(30);
/// How long a target that could not be connected to is passed over.
const EJECTED_FOR: Duration = Duration::from_secs(2);

/// One target as one worker sees it.
#[derive(Debug)]
pub(crate) struct Pool<D: Dial> {
    target: Target,
    dial: Rc<D>,
    clock: Arc<dyn Clock>,
    idle: RefCell<VecDeque<Idle<D::Link>>>,
    ejected_until: Cell<Option<Instant>>,
    resolved: RefCell<Option<(Instant, Rc<[SocketAddr]>)>>,
    turn: Cell<usize>,
    gauge: Arc<metrics::Cell>,
}

#[derive(Debug)]
struct Idle<L> {
    link: L,
    born: Instant,
    since: Instant,
}

/// A connection in use. Dropping it closes the connection; [`Lease::give_back`] keeps it.
#[derive(Debug)]
pub(crate) struct Lease<D: Dial> {
    pub(super) link: D::Link,
    born: Instant,
    pool: Rc<Pool<D>>,
    size: usize,
}

impl<D: Dial> Lease<D> {
    /// Back to the idle ones, if it still lives and there is room.
    pub(crate) fn give_back(self) {
        let Self { link, born, pool, size } = self;
        if link.state() == LinkState::Closed {
            return;
        }
        let mut idle = pool.idle.borrow_mut();
        if idle.len() >= size {
            idle.pop_front();
        }
        if idle.len() < size {
            idle.push_back(Idle { link, born, since: pool.clock.monotonic() });
        }
        pool.count(idle.len());
    }
}

impl<D: Dial> Pool<D> {
    pub(crate) fn new(target: Target, dial: Rc<D>, clock: Arc<dyn Clock>, gauge: Arc<metrics::Cell>) -> Rc<Self> {
        Rc::new(Self {
            target,
            dial,
            clock,
            idle: RefCell::default(),
            ejected_until: Cell::new(None),
            resolved: RefCell::default(),
            turn: Cell::new(0),
            gauge,
        })
    }

    /// Which target this is.
    pub(crate) const fn target(&self) -> &Target {
        &self.target
    }

    /// Whether it could not be connected to a moment ago.
    pub(crate) fn is_ejected(&self) -> bool {
        let Some(until) = self.ejected_until.get() else { return false };
        if self.clock.monotonic() < until {
            return true;
        }
        self.ejected_until.set(None);
        false
    }

    /// The idle connection that was used last, if one is good.
    pub(crate) fn idle_lease(self: &Rc<Self>, upstream: &Upstream) -> Option<Lease<D>> {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return None;
        }
        let now = self.clock.monotonic();
        let mut at = idle.len();
        while let Some(next) = at.checked_sub(1) {
            at = next;
            let entry = idle.get(at)?;
            let fresh = now.saturating_duration_since(entry.since) < upstream.pool_idle
                && now.saturating_duration_since(entry.born) < upstream.connection_age;
            match entry.link.state() {
                LinkState::Ready if fresh => {
                    let Idle { link, born, .. } = idle.remove(at)?;
                    self.count(idle.len());
                    return Some(Lease { link, born, pool: Rc::clone(self), size: upstream.pool_size });
                }
                // It may become ready within this turn of the loop.
                LinkState::Busy if fresh => {}
                LinkState::Ready | LinkState::Busy | LinkState::Closed => {
                    idle.remove(at);
                }
            }
        }
        self.count(idle.len());
        None
    }

    fn count(&self, idle: usize) {
        self.gauge.set(u64::try_from(idle).unwrap_or(u64::MAX));
    }

    /// Lets go of idle connections that have died, or lain or lived too long.
    pub(crate) fn sweep(&self, upstream: &Upstream) {
        let now = self.clock.monotonic();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|entry| {
            entry.link.state() != LinkState::Closed
                && now.saturating_duration_since(entry.since) < upstream.pool_idle
                && now.saturating_duration_since(entry.born) < upstream.connection_age
        });
        self.count(idle.len());
    }

    /// A fresh connection. A failure passes the target over for a while.
    pub(crate) async fn fresh_lease(self: &Rc<Self>, upstream: &Upstream) -> Result<Lease<D>, DialFault> {
        let dialled = tokio::time::timeout(upstream.connect_timeout, self.dial_any()).await;
        match dialled {
            Ok(Ok(link)) => {
                self.ejected_until.set(None);
                let born = self.clock.monotonic();
                Ok(Lease { link, born, pool: Rc::clone(self), size: upstream.pool_size })
            }
            Ok(Err(error)) => {
                self.eject();
                Err(DialFault::Refused(error))
            }
            Err(_elapsed) => {
                self.eject();
                Err(DialFault::TimedOut)
            }
        }
    }

    fn eject(&self) {
        self.ejected_until.set(Some(self.clock.monotonic() + EJECTED_FOR));
    }

    async fn dial_any(&self) -> io::Result<D::Link> {
        if let Some(address) = self.target.address {
            return self.dial.dial(address).await;
        }
        let addresses = self.addresses().await?;
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for step in 0..addresses.len() {
            let Some(address) = addresses.get(turn.wrapping_add(step) % addresses.len()) else { continue };
            match self.dial.dial(*address).await {
                Ok(link) => return Ok(link),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The addresses of the target's name: fresh, or where the resolver fails, the last good ones.
    async fn addresses(&self) -> io::Result<Rc<[SocketAddr]>> {
        let known = self.resolved.borrow().clone();
        let now = self.clock.monotonic();
        if let Some((at, addresses)) = &known
            && now.saturating_duration_since(*at) < RESOLVED_FOR
        {
            return Ok(Rc::clone(addresses));
        }
        let asked = tokio::net::lookup_host((self.target.host.as_str(), self.target.port)).await;
        let found: io::Result<Rc<[SocketAddr]>> = asked.map(Iterator::collect);
        match (found, known) {
            (Ok(addresses), _) if !addresses.is_empty() => {
                *self.resolved.borrow_mut() = Some((now, Rc::clone(&addresses)));
                Ok(addresses)
            }
            (_, Some((_, addresses))) => {
                // Asked again only after a while, or every request would wait for a dead resolver.
                *self.resolved.borrow_mut() = Some((now, Rc::clone(&addresses)));
                Ok(addresses)
            }
            (found, None) => found,
        }
    }
}

/// Why no fresh connection came to be.
#[derive(Debug)]
pub(crate) enum DialFault {
    /// The target or the resolver refused.
    Refused(io::Error),
    /// Not within the connect timeout.
    TimedOut,
}
