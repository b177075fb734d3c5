//! What one worker keeps between requests: its upstream connections, its counters, and the present
//! configuration with everything that follows from it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::MissedTickBehavior;

use super::account::{Decided, Ledger};
use super::assertion::Assertions;
use super::authenticate::{Registry, again};
use super::gate::Hosts;
use super::headers::{Identities, PeerText};
use super::metrics::{Metrics, RouteCells, UpstreamCells, WorkerCells};
use super::settings::Settings;
use super::streams::{OpenStream, Review, Streams};
use super::upstream::{Connector, Pool, Service};
use crate::clock::{Clock, Timestamp};
use crate::key::Signers;
use crate::policy::{Code, Denial, DenyList, Found, Permit, PermitKind, RouteSpec, canonicalize, decide};
use crate::secret::{NoRandomness, random};
use crate::table::{Freshness, MissResolver, Reviewer, Table};
use crate::wire::IdSource;

/// How often clocks are looked at for open streams, and idle connections for their age.
const ROUND: Duration = Duration::from_millis(250);
/// The least time between two looks at all open streams, so that many changes at once do not cost a look each.
const BETWEEN_REVIEWS: Duration = Duration::from_millis(50);
/// How many open streams are looked at before requests have their turn.
const STREAMS_AT_ONCE: usize = 256;

/// What all workers of the data plane share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The configuration, swapped whole.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The key set.
    pub table: Arc<Table>,
    /// Asked where the table does not know a token.
    pub misses: Arc<dyn MissResolver>,
    /// The deny list, swapped whole.
    pub deny: Arc<ArcSwap<DenyList>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
    /// What signs assertions, swapped whole.
    pub signers: Arc<ArcSwap<Signers>>,
}

/// Upstream and target.
type TargetName = (String, String);

/// One worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) shared: Shared,
    pub(super) ledger: Rc<Ledger>,
    pub(super) ids: IdSource,
    pub(super) identities: Identities,
    pub(super) assertions: Assertions,
    pub(super) peers: PeerText,
    pub(super) hosts: Hosts,
    pub(super) streams: Rc<Streams>,
    cells: Arc<WorkerCells>,
    dial: Rc<Connector>,
    pools: RefCell<HashMap<TargetName, Rc<Pool<Connector>>>>,
    view: RefCell<Option<Rc<View>>>,
    reviewed: RefCell<Option<Reviewed>>,
    reviewer: Reviewer,
}

/// A configuration, with what this worker made of it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) settings: Arc<Settings>,
    routes: Vec<RouteView>,
    /// Those that a route leads to, each once.
    services: Vec<Rc<Service<Connector>>>,
}

/// A route, with what this worker needs for it.
#[derive(Debug)]
pub(super) struct RouteView {
    pub(super) name: Box<str>,
    pub(super) upstream: Rc<str>,
    pub(super) cells: Arc<RouteCells>,
    /// None where the configuration names an upstream that it does not define, which its check
    /// rules out.
    pub(super) service: Option<(Rc<Service<Connector>>, Arc<UpstreamCells>)>,
}

impl View {
    pub(super) fn route(&self, index: usize) -> Option<&RouteView> {
        self.routes.get(index)
    }
}

/// What open streams were last looked at with: where one of these has changed, all are due. Held, so that
/// nothing newer can lie where they lie.
#[derive(Debug)]
struct Reviewed {
    settings: Arc<Settings>,
    deny: Arc<DenyList>,
    freshness: Freshness,
}

impl Reviewed {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.settings, &other.settings)
            && Arc::ptr_eq(&self.deny, &other.deny)
            && self.freshness == other.freshness
    }
}

/// Which streams are decided again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// All of them, which were opened just now.
    First,
    /// All of them.
    All,
    /// Those that the table or the clock has moved past.
    Past,
}

/// A version that no table has.
const NEVER: u64 = u64::MAX;

impl Worker {
    pub(super) fn new(shared: Shared) -> Result<Rc<Self>, NoRandomness> {
        let cells = shared.metrics.worker();
        let ledger = Rc::new(Ledger {
            clock: Arc::clone(&shared.clock),
            cells: Arc::clone(&cells),
            in_flight: shared.metrics.in_flight.join(),
            unrouted: cells.route("none"),
        });
        Ok(Rc::new(Self {
            ledger,
            ids: IdSource::new(random()?),
            identities: Identities::default(),
            assertions: Assertions::default(),
            peers: PeerText::default(),
            hosts: Hosts::default(),
            streams: Rc::default(),
            cells,
            dial: Rc::default(),
            pools: RefCell::default(),
            view: RefCell::default(),
            reviewed: RefCell::default(),
            reviewer: shared.table.reviewer(),
            shared,
        }))
    }

    /// The present configuration. A request keeps the one it began with.
    pub(super) fn view(&self) -> Rc<View> {
        let settings = self.shared.settings.load();
        if let Some(view) = &*self.view.borrow()
            && Arc::ptr_eq(&view.settings, &settings)
        {
            return Rc::clone(view);
        }
        let view = Rc::new(self.view_of(Arc::clone(&settings)));
        *self.view.borrow_mut() = Some(Rc::clone(&view));
        view
    }

    fn view_of(&self, settings: Arc<Settings>) -> View {
        let standings = &self.shared.metrics.standings;
        let mut kept = HashMap::new();
        let used: HashSet<&str> =
            settings.routes.routes().iter().map(|route| route.spec().forward.upstream.as_str()).collect();
        let services: HashMap<&str, (Rc<Service<Connector>>, Arc<UpstreamCells>)> = settings
            .upstreams
            .iter()
            .filter(|(name, _)| used.contains(name.as_str()))
            .map(|(name, upstream)| {
                let pools = upstream.targets.iter().map(|target| {
                    let key = (name.clone(), target.authority.clone());
                    let known = self.pools.borrow().get(&key).map(Rc::clone);
                    let standing = standings.of(name, &target.authority, upstream.health.is_some());
                    let pool = known.filter(|pool| pool.is_for(target, upstream.tls.as_deref())).unwrap_or_else(|| {
                        let cells = self.cells.pool(name, &target.authority);
                        let (dial, clock) = (Rc::clone(&self.dial), Arc::clone(&self.shared.clock));
                        Pool::new(target.clone(), upstream.tls.clone(), standing, dial, clock, cells)
                    });
                    Rc::clone(kept.entry(key).or_insert(pool))
                });
                let (clock, cells) = (Arc::clone(&self.shared.clock), self.cells.upstream(name));
                let pools = pools.collect();
                let service = Service::new(
                    upstream.clone(),
                    pools,
                    Arc::clone(standings),
                    clock,
                    Arc::clone(&cells),
                    self.streams.rounds(),
                );
                (name.as_str(), (Rc::new(service), cells))
            })
            .collect();
        standings.retain(|upstream, target| kept.contains_key(&(upstream.to_owned(), target.to_owned())));
        let routes = settings.routes.routes().iter().map(|route| RouteView {
            name: route.name().into(),
            upstream: route.spec().forward.upstream.as_str().into(),
            cells: self.cells.route(route.name()),
            service: services.get(route.spec().forward.upstream.as_str()).cloned(),
        });
        let routes = routes.collect();
        let services = services.into_values().map(|(service, _)| service).collect();
        // Of what no route leads to any more the idle connections close now, and each other after its request.
        let before = std::mem::replace(&mut *self.pools.borrow_mut(), kept);
        for (key, pool) in before {
            if !self.pools.borrow().get(&key).is_some_and(|present| Rc::ptr_eq(present, &pool)) {
                pool.retire();
            }
        }
        View { settings, routes, services }
    }

    /// Looks after open streams and idle connections, for ever.
    pub(super) async fn tend(self: Rc<Self>) {
        let mut changes = self.shared.table.changes();
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reviewed = self.shared.clock.monotonic();
        let mut at_round = self.shared.table.version();
        loop {
            let mut round_began = None;
            tokio::select! {
                () = self.streams.opened() => {
                    let fresh = self.streams.review_fresh();
                    self.review(fresh, Look::First).await;
                    continue;
                }
                _tick = round.tick() => {
                    self.sweep();
                    round_began = Some(self.shared.table.version());
                    self.streams.begin_round();
                }
                changed = changes.changed() => if changed.is_err() { return },
            }
            let since = self.shared.clock.monotonic().saturating_duration_since(reviewed);
            tokio::time::sleep(BETWEEN_REVIEWS.saturating_sub(since)).await;
            // What changed meanwhile is looked at too.
            changes.mark_unchanged();
            let version = self.shared.table.version();
            self.review_all().await;
            reviewed = self.shared.clock.monotonic();
            if self.holds_nothing() {
                self.reviewer.reviewed(version);
            } else if round_began.is_some() {
                // What was let through before the round before this one began to be watched over by then at
                // the latest, and was looked at just now.
                self.reviewer.reviewed(at_round);
            }
            at_round = round_began.unwrap_or(at_round);
        }
    }

    /// Whether no request is on its way, on any worker, and no stream is open on this one.
    fn holds_nothing(&self) -> bool {
        self.shared.metrics.in_flight.is_none() && self.streams.is_empty()
    }

    fn sweep(&self) {
        for service in &self.view().services {
            service.sweep();
        }
    }

    /// Decides again on the open streams that may be decided otherwise by now.
    async fn review_all(&self) {
        let now = self.shared.clock.now();
        let with = Reviewed {
            settings: Arc::clone(&self.view().settings),
            deny: self.shared.deny.load_full(),
            freshness: self.shared.table.freshness(now),
        };
        let all = !self.reviewed.borrow().as_ref().is_some_and(|last| last.is_same(&with));
        *self.reviewed.borrow_mut() = Some(with);
        self.review(self.streams.review_all(), if all { Look::All } else { Look::Past }).await;
    }

    /// Decides again on these streams.
    async fn review(&self, review: Review<'_>, look: Look) {
        let mut review = review;
        loop {
            let now = self.shared.clock.now();
            let version = self.shared.table.version();
            let view = self.view();
            let deny = self.shared.deny.load_full();
            let more = review.advance(STREAMS_AT_ONCE, |stream| {
                let decided = stream.decided.get();
                if look == Look::Past && !decided.is_past(version, now) {
                    return Ok(decided);
                }
                match self.decide_again(stream, &view.settings, &deny, version, now) {
                    // It has only begun: the next round cuts it, where it is not over by then. An answer
                    // on its way would be a broken connection, and its client none the wiser.
                    Err(_denial) if look == Look::First => Ok(Decided { version: NEVER, ..decided }),
                    again => again.inspect_err(|denial| self.cells.cut(denial)),
                }
            });
            if !more {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn decide_again(
        &self,
        stream: &OpenStream,
        settings: &Settings,
        deny: &DenyList,
        version: u64,
        now: Timestamp,
    ) -> Result<Decided, Denial> {
        let path = canonicalize(stream.target.path()).map_err(|_fault| Code::AmbiguousPath)?;
        let host = stream.authority.as_ref().map(http::uri::Authority::as_str);
        let found = match settings.routes.find(host, &stream.method, &path) {
            Found::Route(found) => found,
            Found::NoRoute => return Err(Code::NoRoute.into()),
            Found::WrongMethod(_) => return Err(Code::MethodNotAllowed.into()),
            Found::Ambiguous(_) => return Err(Code::AmbiguousPath.into()),
        };
        let route = found.route.spec();
        // It reaches another service than the route does by now, or is what the route no longer allows.
        if *route.forward.upstream != *stream.upstream || (stream.websocket && !route.forward.websocket) {
            return Err(Code::NoRoute.into());
        }
        let sent = stream.decided.get().sent;
        let authenticated = again(self.registry(settings, deny), sent, route, now);
        let permit = decide(&found, authenticated.presented(), deny, now)?;
        Ok(Decided { sent, version, ends_at: ends_at(&permit, route) })
    }

    /// Where keys are looked up under this configuration.
    pub(super) fn registry<'a>(&'a self, settings: &'a Settings, deny: &'a DenyList) -> Registry<'a> {
        Registry { table: &self.shared.table, deny, prefix: &settings.token_prefix, on_stale: settings.on_stale }
    }
}

/// When a permit ends by the clock alone: with its key, or with the watching of its route.
pub(super) fn ends_at(permit: &Permit<'_>, route: &RouteSpec) -> Option<Timestamp> {
    match permit.kind() {
        PermitKind::Public => None,
        PermitKind::Key { .. } => permit.ends_at(),
        PermitKind::Shadow(_) => route.shadow.and_then(|shadow| shadow.until),
    }
}
