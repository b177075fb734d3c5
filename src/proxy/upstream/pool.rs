//! The connections of one worker to one target: dialled here, kept here while idle, last in first
//! out so that the surplus of a busy hour goes idle and is let go. HTTP/2 connections are shared.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::link::{Dial, Endpoint, Link, LinkState};
use super::resolve::Resolver;
use super::standing::Standing;
use crate::clock::Clock;
use crate::proxy::metrics::PoolCells;
use crate::proxy::settings::{Speaks, Target, Upstream};
use crate::tls;

/// Sooner than this no service closes a connection for being idle.
const RESTED_AFTER: Duration = Duration::from_millis(1);

/// An idle connection then gives its buffers back, which are more than all else that it holds.
const LIGHT_AFTER: Duration = Duration::from_secs(1);

/// One target as one worker sees it.
#[derive(Debug)]
pub(crate) struct Pool<D: Dial> {
    target: Target,
    tls: Option<Arc<tls::Client>>,
    pub(super) standing: Arc<Standing>,
    dial: Rc<D>,
    clock: Arc<dyn Clock>,
    idle: RefCell<VecDeque<Idle<D::Link>>>,
    shared: RefCell<Vec<Idle<D::Link>>>,
    /// Whether the last connection could be shared; none before the first.
    shares: Cell<Option<bool>>,
    /// Held while dialling where others would rather share what comes of it.
    dialling: Mutex<()>,
    resolver: Resolver,
    /// Requests that are there now.
    active: Cell<usize>,
    born: Cell<u32>,
    /// Whether it is configured no longer: what requests still use of it is not kept.
    retired: Cell<bool>,
    cells: Arc<PoolCells>,
    chores: RefCell<JoinSet<()>>,
}

#[derive(Debug)]
struct Idle<L> {
    link: L,
    open: Rc<OpenCount>,
    until: Instant,
    since: Instant,
}

/// Counts one connection for as long as anybody has a share of it.
#[derive(Debug)]
struct OpenCount(Arc<PoolCells>);

impl OpenCount {
    fn new(cells: &Arc<PoolCells>) -> Rc<Self> {
        cells.open.add(1);
        Rc::new(Self(Arc::clone(cells)))
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.0.open.subtract(1);
    }
}

/// A connection in use. Dropping it closes the connection, or ends this use of one that is shared;
/// [`Lease::give_back`] keeps it.
#[derive(Debug)]
pub(crate) struct Lease<D: Dial> {
    pub(super) link: D::Link,
    open: Rc<OpenCount>,
    until: Instant,
    at: Active<D>,
    size: usize,
    /// Whether it lay idle for long enough that the other side may have closed it.
    pub(super) rested: bool,
}

/// A request at a target.
#[derive(Debug)]
struct Active<D: Dial>(Rc<Pool<D>>);

impl<D: Dial> Active<D> {
    fn begin(pool: &Rc<Pool<D>>) -> Self {
        pool.active.set(pool.active.get() + 1);
        pool.cells.active.add(1);
        Self(Rc::clone(pool))
    }
}

impl<D: Dial> Drop for Active<D> {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        self.0.cells.active.subtract(1);
    }
}

impl<D: Dial> Lease<D> {
    /// Back to the idle ones, if it still lives and there is room.
    pub(crate) fn give_back(self) {
        let now = self.at.0.clock.monotonic();
        self.give_back_at(now);
    }

    /// The same for who knows what the time is.
    pub(crate) fn give_back_at(self, now: Instant) {
        let Self { link, open, until, at: Active(ref pool), size, rested: _ } = self;
        // One that is shared is still there.
        if link.is_multiplexed() || !link.is_kept() || pool.retired.get() {
            return;
        }
        let mut idle = pool.idle.borrow_mut();
        if idle.len() >= size {
            idle.pop_front();
        }
        if idle.len() < size {
            idle.push_back(Idle { link, open, until, since: now });
        }
        pool.count(idle.len());
    }
}

impl<D: Dial> Pool<D> {
    pub(crate) fn new(
        target: Target,
        tls: Option<Arc<tls::Client>>,
        standing: Arc<Standing>,
        dial: Rc<D>,
        clock: Arc<dyn Clock>,
        cells: Arc<PoolCells>,
    ) -> Rc<Self> {
        Rc::new(Self {
            target,
            tls,
            standing,
            dial,
            clock,
            idle: RefCell::default(),
            shared: RefCell::default(),
            shares: Cell::new(None),
            dialling: Mutex::default(),
            resolver: Resolver::new(),
            active: Cell::default(),
            born: Cell::default(),
            retired: Cell::new(false),
            cells,
            chores: RefCell::default(),
        })
    }

    /// Whether connections to `target`, spoken to like this, are the ones that are here.
    pub(crate) fn is_for(&self, target: &Target, tls: Option<&tls::Client>) -> bool {
        let same_tls = match (self.tls.as_deref(), tls) {
            (Some(ours), Some(theirs)) => ours.is_same(theirs),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.target == *target && same_tls
    }

    /// Lets go of all idle connections, and keeps none from now on. One request that lasts keeps all of the
    /// configuration that it began with, and nobody sweeps what is of an old one.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        drop((self.idle.take(), self.shared.take()));
        self.count(0);
    }

    pub(super) const fn target(&self) -> &Target {
        &self.target
    }

    /// How many requests are there now.
    pub(super) const fn active(&self) -> usize {
        self.active.get()
    }

    fn is_fresh(entry: &Idle<D::Link>, upstream: &Upstream, now: Instant) -> bool {
        now < entry.until && now.saturating_duration_since(entry.since) < upstream.pool_idle
    }

    /// A connection that is there already, if one is good `now`. `http1` takes none that is shared.
    pub(super) fn pooled(self: &Rc<Self>, upstream: &Upstream, http1: bool, now: Instant) -> Option<Lease<D>> {
        let shared = self.shares.get() == Some(true) && !http1;
        if shared && let Some(lease) = self.shared_lease(upstream, now) {
            return Some(lease);
        }
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return None;
        }
        let mut at = idle.len();
        while let Some(next) = at.checked_sub(1) {
            at = next;
            let entry = idle.get(at)?;
            let fresh = Self::is_fresh(entry, upstream, now);
            match entry.link.state() {
                LinkState::Ready if fresh => {
                    let Idle { link, open, until, since } = idle.remove(at)?;
                    self.count(idle.len());
                    let rested = now.saturating_duration_since(since) >= RESTED_AFTER;
                    return Some(Lease {
                        link,
                        open,
                        until,
                        at: Active::begin(self),
                        size: upstream.pool_size,
                        rested,
                    });
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

    /// A share of a connection that others use too.
    fn shared_lease(self: &Rc<Self>, upstream: &Upstream, now: Instant) -> Option<Lease<D>> {
        let mut shared = self.shared.borrow_mut();
        let good = |entry: &Idle<D::Link>| entry.link.state() == LinkState::Ready && now < entry.until;
        let entry = shared.iter_mut().find(|entry| good(entry))?;
        entry.since = now;
        let (link, open) = (entry.link.share()?, Rc::clone(&entry.open));
        let rested = false;
        Some(Lease { link, open, until: entry.until, at: Active::begin(self), size: upstream.pool_size, rested })
    }

    fn count(&self, idle: usize) {
        self.cells.idle.set(u64::try_from(idle).unwrap_or(u64::MAX));
    }

    /// Lets go of idle connections that have died, or lain or lived too long, and asks for the
    /// addresses again where it is time to.
    pub(super) fn sweep(self: &Rc<Self>, upstream: &Upstream) {
        let now = self.clock.monotonic();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|entry| {
            // What is used is used again at once: the rest of many that one moment called for may wait for long.
            if now.saturating_duration_since(entry.since) >= LIGHT_AFTER {
                entry.link.rest();
            }
            entry.link.state() != LinkState::Closed && Self::is_fresh(entry, upstream, now)
        });
        let mut shared = self.shared.borrow_mut();
        shared.retain_mut(|entry| {
            if entry.link.is_shared() {
                entry.since = now;
            }
            entry.link.state() != LinkState::Closed && Self::is_fresh(entry, upstream, now)
        });
        self.count(idle.len() + shared.iter().filter(|entry| !entry.link.is_shared()).count());
        let named = self.target.address.is_none() && !matches!(self.target.speaks, Speaks::Unix(_));
        let mut chores = self.chores.borrow_mut();
        while chores.try_join_next().is_some() {}
        if named && self.resolver.is_due(upstream.resolve_every, now) {
            let pool = Rc::downgrade(self);
            chores.spawn_local(async move {
                let Some(pool) = pool.upgrade() else { return };
                if let Err(error) = pool.resolver.refresh(&*pool.dial, &pool.target).await {
                    pool.cells.lookups_failed.add(1);
                    tracing::warn!(target = %pool.target.authority, %error, "the name cannot be looked up, its last addresses stay");
                }
            });
        }
    }

    /// A fresh connection, or one that somebody else dialled meanwhile and that can be shared.
    pub(super) async fn fresh(self: &Rc<Self>, upstream: &Upstream, http1: bool) -> Result<Dialled<D>, DialFault> {
        let at = Active::begin(self);
        let dialled = timeout(upstream.connect_timeout, async {
            // Those who come together share a connection, where it is of the kind that is shared.
            let may_share = match self.target.speaks {
                Speaks::Http | Speaks::Unix(_) => false,
                Speaks::H2c => true,
                Speaks::Https => self.shares.get() != Some(false),
            };
            if !may_share || http1 {
                return self.dial_any(upstream, http1).await.map(Ok);
            }
            let _turn = self.dialling.lock().await;
            if let Some(lease) = self.shared_lease(upstream, self.clock.monotonic()) {
                return Ok(Err(lease));
            }
            self.dial_any(upstream, http1).await.map(Ok)
        });
        let link = match dialled.await {
            Ok(Ok(Ok(link))) => link,
            Ok(Ok(Err(lease))) => return Ok(Dialled { lease, anew: false }),
            Ok(Err(error)) if is_exhausted(&error) => return Err(DialFault::Exhausted(error)),
            Ok(Err(error)) => return Err(DialFault::Refused(error)),
            Err(_elapsed) => return Err(DialFault::TimedOut),
        };
        let now = self.clock.monotonic();
        let until = now + self.age(upstream.connection_age);
        let share = link.share();
        if !http1 {
            self.shares.set(Some(share.is_some()));
        }
        let open = OpenCount::new(&self.cells);
        let link = match share {
            Some(share) if !self.retired.get() => {
                self.shared.borrow_mut().push(Idle { link, open: Rc::clone(&open), until, since: now });
                share
            }
            Some(_) | None => link,
        };
        Ok(Dialled { lease: Lease { link, open, until, at, size: upstream.pool_size, rested: false }, anew: true })
    }

    /// How long the next connection is used: up to a tenth less than `most`, so that those that were
    /// dialled together do not end together.
    fn age(&self, most: Duration) -> Duration {
        let number = self.born.get().wrapping_add(1);
        self.born.set(number);
        // Steps of the golden ratio spread evenly however many there are.
        let spread = number.wrapping_mul(0x9E37_79B9) >> 22;
        most.saturating_sub(most / 10 * spread / 1024)
    }

    async fn dial_any(&self, upstream: &Upstream, http1: bool) -> io::Result<D::Link> {
        let to = |address: Option<SocketAddr>| Endpoint {
            target: &self.target,
            address,
            tls: self.tls.as_deref(),
            http1,
            streams: upstream.http2_streams,
        };
        if self.target.address.is_some() || matches!(self.target.speaks, Speaks::Unix(_)) {
            return self.dial.dial(to(self.target.address)).await;
        }
        let asked = self.resolver.addresses(&*self.dial, &self.target, self.clock.monotonic()).await;
        let addresses = asked.inspect_err(|_| self.cells.lookups_failed.add(1))?;
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            // One that does not answer leaves time for the others.
            let patience = upstream.connect_timeout / left.max(1);
            left = left.saturating_sub(1);
            match timeout(patience, self.dial.dial(to(Some(address)))).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    /// A connection for a check alone: it never carries a request.
    pub(super) async fn dial_apart(&self, upstream: &Upstream) -> io::Result<D::Link> {
        self.dial_any(upstream, false).await
    }

    /// Runs `chore` beside the requests, for as long as this is used at all.
    pub(super) fn spawn(&self, chore: impl Future<Output = ()> + 'static) {
        self.chores.borrow_mut().spawn_local(chore);
    }
}

/// A connection that was waited for.
#[derive(Debug)]
pub(super) struct Dialled<D: Dial> {
    pub(super) lease: Lease<D>,
    /// Whether it is new.
    pub(super) anew: bool,
}

/// Whether it is this machine that has nothing left to connect with.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    let Some(number) = Errno::from_io_error(error) else { return false };
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&number)
}

/// Why no fresh connection came to be.
#[derive(Debug)]
pub(crate) enum DialFault {
    /// The target or the resolver refused.
    Refused(io::Error),
    /// The gateway has no file or memory left to connect with: says nothing about the target.
    Exhausted(io::Error),
    /// Not within the connect timeout.
    TimedOut,
}
