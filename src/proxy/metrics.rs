//! What the data plane counts: in cells that only one worker writes, summed when somebody scrapes.
//!
//! Labels come from closed sets: routes and upstreams of the configuration, codes, reasons, kinds.
//! Never a key, a path or an address of a client.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::in_flight::InFlight;
use super::upstream::{Standings, Told};
use crate::policy::{Code, Denial, Reason};

macro_rules! families {
    ($($(#[doc = $help:literal])+ $family:ident = $name:literal [$($label:literal),*];)+) => {
        $(
            $(#[doc = $help])+
            const $family: Family =
                Family { name: $name, help: concat!($($help),+), labels: &[$($label),*] };
        )+
        const FAMILIES: &[Family] = &[$($family),+];
    };
}

families! {
    /// Requests answered, by route, outcome and status class.
    REQUESTS = "keyward_requests_total" ["route", "outcome", "status_class"];
    /// Time from a request's head to the end of its answer, or until all of that is here to be sent, in seconds, by route.
    DURATION = "keyward_request_duration_seconds" ["route"];
    /// Requests that are being answered.
    IN_FLIGHT = "keyward_requests_in_flight" [];
    /// Requests refused or not answered by the upstream, and what would have been refused in shadow, by code and true reason.
    DENIALS = "keyward_denials_total" ["code", "reason"];
    /// Time from a request's head, or from the store's word about its key, to the head of its response, in seconds, by upstream.
    UPSTREAM_DURATION = "keyward_upstream_duration_seconds" ["upstream"];
    /// Requests that an upstream did not answer, or not to the end, by upstream and kind.
    UPSTREAM_ERRORS = "keyward_upstream_errors_total" ["upstream", "kind"];
    /// Requests sent again, or not because the budget was used up, by upstream and reason.
    UPSTREAM_RETRIES = "keyward_upstream_retries_total" ["upstream", "reason"];
    /// Connections made to an upstream.
    UPSTREAM_CONNECTIONS = "keyward_upstream_connections_total" ["upstream"];
    /// Connections to a target that are open, used or idle.
    UPSTREAM_OPEN = "keyward_upstream_open_connections" ["upstream", "target"];
    /// Requests that are at a target.
    UPSTREAM_ACTIVE = "keyward_upstream_requests_in_flight" ["upstream", "target"];
    /// Connections that lie idle in the pools, by target.
    UPSTREAM_IDLE = "keyward_upstream_idle_connections" ["upstream", "target"];
    /// Times that the name of a target could not be looked up. Its last addresses stay.
    UPSTREAM_LOOKUPS = "keyward_upstream_lookup_failures_total" ["upstream", "target"];
    /// Whether requests go to a target: 0 where it is ejected or its health checks fail.
    UPSTREAM_UP = "keyward_upstream_target_up" ["upstream", "target"];
    /// How often a target was passed over because requests failed there.
    UPSTREAM_EJECTIONS = "keyward_upstream_ejections_total" ["upstream", "target"];
    /// Health checks of a target, by result.
    UPSTREAM_CHECKS = "keyward_upstream_health_checks_total" ["upstream", "target", "result"];
    /// Tunnels and other streams cut because what let them through no longer does, by true reason.
    STREAMS_CUT = "keyward_streams_cut_total" ["reason"];
}

#[derive(Debug, Clone, Copy)]
struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A key let it through.
    Allowed,
    /// A public route let it through.
    Public,
    /// It would have been refused, on a route that only watches.
    Shadow,
    /// The gateway answered for itself, without a refusal.
    Answered,
    /// It was refused.
    Denied,
    /// The upstream did not answer.
    Failed,
    /// The client went away first.
    Abandoned,
    /// It was let through, and before its end what let it through no longer did.
    Cut,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Allowed,
        Self::Public,
        Self::Shadow,
        Self::Answered,
        Self::Denied,
        Self::Failed,
        Self::Abandoned,
        Self::Cut,
    ];

    /// The name in log and metric.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Public => "public",
            Self::Shadow => "shadow",
            Self::Answered => "answered",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Cut => "cut",
        }
    }
}

/// How an upstream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpstreamError {
    /// Every target was down.
    NoTarget,
    /// No connection.
    Unreachable,
    /// The gateway had no file or memory left for a connection.
    Exhausted,
    /// No connection in time.
    ConnectTimeout,
    /// No head of a response in time.
    HeadTimeout,
    /// The connection ended before the head of a response.
    Broken,
    /// The body of a response broke off.
    BodyBroken,
    /// The body of a response paused for too long.
    BodyTimeout,
    /// Request and response together took too long.
    TotalTimeout,
}

impl UpstreamError {
    const ALL: [Self; 9] = [
        Self::NoTarget,
        Self::Unreachable,
        Self::Exhausted,
        Self::ConnectTimeout,
        Self::HeadTimeout,
        Self::Broken,
        Self::BodyBroken,
        Self::BodyTimeout,
        Self::TotalTimeout,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NoTarget => "no_target",
            Self::Unreachable => "unreachable",
            Self::Exhausted => "exhausted",
            Self::ConnectTimeout => "connect_timeout",
            Self::HeadTimeout => "head_timeout",
            Self::Broken => "broken",
            Self::BodyBroken => "body_broken",
            Self::BodyTimeout => "body_timeout",
            Self::TotalTimeout => "total_timeout",
        }
    }
}

/// Why a request was sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// The connection it went out on was at its end. No budget is spent on it.
    Stale,
    /// Another target is tried.
    Target,
    /// A fresh connection broke before any answer.
    Broken,
    /// The service said that it refused the request unprocessed.
    Refused,
    /// It was not, because the budget was used up.
    OverBudget,
}

impl Retry {
    const ALL: [Self; 5] = [Self::Stale, Self::Target, Self::Broken, Self::Refused, Self::OverBudget];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale_connection",
            Self::Target => "other_target",
            Self::Broken => "broken_connection",
            Self::Refused => "refused_stream",
            Self::OverBudget => "over_budget",
        }
    }
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds of the histograms, in microseconds.
const BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// A number that one worker alone writes: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Durations {
    buckets: [Cell; BOUNDS.len()],
    count: Cell,
    sum_micros: Cell,
}

impl Durations {
    fn observe(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = BOUNDS.iter().position(|bound| micros <= *bound).and_then(|at| self.buckets.get(at)) {
            bucket.add(1);
        }
        self.count.add(1);
        self.sum_micros.add(micros);
    }
}

/// What one worker counts of one route.
#[derive(Debug, Default)]
pub(super) struct RouteCells {
    requests: [[Cell; CLASSES.len()]; Outcome::ALL.len()],
    duration: Durations,
}

impl RouteCells {
    pub(super) fn answered(&self, outcome: Outcome, status: u16, took: Duration) {
        let class = usize::from((status / 100).clamp(1, 5)).saturating_sub(1);
        let row = Outcome::ALL.iter().position(|other| *other == outcome).and_then(|at| self.requests.get(at));
        if let Some(cell) = row.and_then(|row| row.get(class)) {
            cell.add(1);
        }
        self.duration.observe(took);
    }
}

/// What one worker counts of one upstream.
#[derive(Debug, Default)]
pub(super) struct UpstreamCells {
    duration: Durations,
    errors: [Cell; UpstreamError::ALL.len()],
    retries: [Cell; Retry::ALL.len()],
    connections: Cell,
}

impl UpstreamCells {
    pub(super) fn answered(&self, took: Duration) {
        self.duration.observe(took);
    }

    pub(super) fn retried(&self, retry: Retry) {
        let at = Retry::ALL.iter().position(|other| *other == retry);
        if let Some(cell) = at.and_then(|at| self.retries.get(at)) {
            cell.add(1);
        }
    }

    pub(super) fn connected(&self) {
        self.connections.add(1);
    }

    pub(super) fn failed(&self, error: UpstreamError) {
        let at = UpstreamError::ALL.iter().position(|other| *other == error);
        if let Some(cell) = at.and_then(|at| self.errors.get(at)) {
            cell.add(1);
        }
    }
}

/// What one worker counts of one target.
#[derive(Debug, Default)]
pub(super) struct PoolCells {
    /// Connections that are open.
    pub(super) open: Cell,
    /// Those of them that lie idle.
    pub(super) idle: Cell,
    /// Requests that are there.
    pub(super) active: Cell,
    /// Times that its name could not be looked up.
    pub(super) lookups_failed: Cell,
}

/// Upstream and target.
type TargetName = (Arc<str>, Arc<str>);
type ByName<T> = Mutex<BTreeMap<Arc<str>, Arc<T>>>;

/// What one worker counts.
#[derive(Debug)]
pub(super) struct WorkerCells {
    routes: ByName<RouteCells>,
    upstreams: ByName<UpstreamCells>,
    pools: Mutex<BTreeMap<TargetName, Arc<PoolCells>>>,
    denials: Box<[Cell]>,
    streams_cut: Box<[Cell]>,
}

impl WorkerCells {
    fn new() -> Self {
        Self {
            routes: Mutex::default(),
            upstreams: Mutex::default(),
            pools: Mutex::default(),
            denials: by_reason(),
            streams_cut: by_reason(),
        }
    }

    /// The cells of the route of this name. Locks: for when the configuration changes.
    pub(super) fn route(&self, name: &str) -> Arc<RouteCells> {
        named(&self.routes, name)
    }

    /// The cells of the upstream of this name. Locks: for when the configuration changes.
    pub(super) fn upstream(&self, name: &str) -> Arc<UpstreamCells> {
        named(&self.upstreams, name)
    }

    /// The cells of this target. Locks: for when the configuration changes.
    pub(super) fn pool(&self, upstream: &str, target: &str) -> Arc<PoolCells> {
        Arc::clone(self.pools.lock().entry((upstream.into(), target.into())).or_default())
    }

    /// Counts a refusal.
    pub(super) fn denied(&self, denial: &Denial) {
        count_reason(&self.denials, denial);
    }

    /// Counts a stream that is cut.
    pub(super) fn cut(&self, denial: &Denial) {
        count_reason(&self.streams_cut, denial);
    }
}

/// A cell of each reason, by its number.
fn by_reason() -> Box<[Cell]> {
    (0..Reason::COUNT).map(|_| Cell::default()).collect()
}

fn count_reason(cells: &[Cell], denial: &Denial) {
    if let Some(cell) = cells.get(denial.reason.number()) {
        cell.add(1);
    }
}

fn named<T: Default>(cells: &ByName<T>, name: &str) -> Arc<T> {
    let mut cells = cells.lock();
    if let Some(known) = cells.get(name) {
        return Arc::clone(known);
    }
    let fresh = Arc::new(T::default());
    cells.insert(name.into(), Arc::clone(&fresh));
    fresh
}

/// Every code with every reason it may have: its own name, or where the table of reasons tells more, one of those.
static REASONS: LazyLock<Vec<(Code, Reason)>> = LazyLock::new(|| {
    let says_all = |code: &&Code| Reason::ALL.iter().all(|reason| reason.code() != **code);
    let plain = Code::ALL.iter().filter(says_all).map(|code| (*code, Reason::AsCoded(*code)));
    plain.chain(Reason::ALL.iter().map(|reason| (reason.code(), *reason))).collect()
});

/// Whether an open stream can be cut for this. What is wrong with a request was wrong when it came.
fn can_cut(code: Code, reason: Reason) -> bool {
    let says_more = !matches!(reason, Reason::AsCoded(_) | Reason::Malformed);
    let of_its_own =
        [Code::MissingKey, Code::NotReady, Code::StaleKeys, Code::MethodNotAllowed, Code::NoRoute, Code::AmbiguousPath];
    says_more || of_its_own.contains(&code)
}

/// What the data plane counts, over all workers.
#[derive(Debug, Clone)]
pub struct Metrics {
    workers: Arc<Mutex<Vec<Arc<WorkerCells>>>>,
    descriptions: Arc<Vec<Desc>>,
    /// How the targets of upstreams stand, which all workers and whoever scrapes ask for.
    pub(super) standings: Arc<Standings>,
    pub(super) in_flight: Arc<InFlight>,
}

impl Metrics {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// When a name or label breaks the rules of the exposition format, which a test rules out.
    pub fn new() -> prometheus::Result<Self> {
        let describe = |family: &Family| {
            let labels = family.labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(family.name.to_owned(), family.help.trim().to_owned(), labels, Default::default())
        };
        let descriptions = FAMILIES.iter().map(describe).collect::<prometheus::Result<Vec<_>>>()?;
        Ok(Self {
            workers: Arc::default(),
            descriptions: Arc::new(descriptions),
            standings: Arc::default(),
            in_flight: Arc::default(),
        })
    }

    /// Adds these to what is scraped.
    ///
    /// # Errors
    /// When something of the same name is registered already.
    pub fn register(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.clone()))
    }

    /// The names and help texts of all that is counted here.
    pub fn catalogue() -> impl Iterator<Item = (&'static str, &'static str)> {
        FAMILIES.iter().map(|family| (family.name, family.help.trim()))
    }

    /// Cells for one more worker.
    pub(super) fn worker(&self) -> Arc<WorkerCells> {
        let cells = Arc::new(WorkerCells::new());
        self.workers.lock().push(Arc::clone(&cells));
        cells
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let workers = self.workers.lock().clone();
        let mut sums = Sums { targets: self.standings.told(), in_flight: self.in_flight.total(), ..Sums::default() };
        for worker in &workers {
            sums.add(worker);
        }
        sums.families()
    }
}

#[derive(Debug, Default, Clone)]
struct DurationSum {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum_micros: u64,
}

impl DurationSum {
    fn add(&mut self, cells: &Durations) {
        for (sum, cell) in self.buckets.iter_mut().zip(&cells.buckets) {
            *sum += cell.read();
        }
        self.count += cells.count.read();
        self.sum_micros += cells.sum_micros.read();
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct PoolSum {
    open: u64,
    idle: u64,
    active: u64,
    lookups_failed: u64,
}

impl PoolSum {
    fn add(&mut self, cells: &PoolCells) {
        self.open += cells.open.read();
        self.idle += cells.idle.read();
        self.active += cells.active.read();
        self.lookups_failed += cells.lookups_failed.read();
    }
}

/// The cells of all workers, summed by label values.
#[derive(Debug, Default)]
struct Sums {
    requests: BTreeMap<(Arc<str>, &'static str, &'static str), u64>,
    durations: BTreeMap<Arc<str>, DurationSum>,
    in_flight: usize,
    denials: BTreeMap<(&'static str, &'static str), u64>,
    upstream_durations: BTreeMap<Arc<str>, DurationSum>,
    upstream_errors: BTreeMap<(Arc<str>, &'static str), u64>,
    upstream_retries: BTreeMap<(Arc<str>, &'static str), u64>,
    upstream_connections: BTreeMap<Arc<str>, u64>,
    pools: BTreeMap<TargetName, PoolSum>,
    targets: Vec<(TargetName, Told)>,
    streams_cut: BTreeMap<&'static str, u64>,
}

impl Sums {
    fn add(&mut self, worker: &WorkerCells) {
        for (route, cells) in worker.routes.lock().iter() {
            for (outcome, row) in Outcome::ALL.iter().zip(&cells.requests) {
                for (class, cell) in CLASSES.iter().zip(row) {
                    let value = cell.read();
                    if value > 0 {
                        *self.requests.entry((Arc::clone(route), outcome.as_str(), class)).or_default() += value;
                    }
                }
            }
            self.durations.entry(Arc::clone(route)).or_default().add(&cells.duration);
        }
        for (upstream, cells) in worker.upstreams.lock().iter() {
            self.upstream_durations.entry(Arc::clone(upstream)).or_default().add(&cells.duration);
            for (retry, cell) in Retry::ALL.iter().zip(&cells.retries) {
                *self.upstream_retries.entry((Arc::clone(upstream), retry.as_str())).or_default() += cell.read();
            }
            *self.upstream_connections.entry(Arc::clone(upstream)).or_default() += cells.connections.read();
            for (kind, cell) in UpstreamError::ALL.iter().zip(&cells.errors) {
                *self.upstream_errors.entry((Arc::clone(upstream), kind.as_str())).or_default() += cell.read();
            }
        }
        for (target, cells) in worker.pools.lock().iter() {
            self.pools.entry(target.clone()).or_default().add(cells);
        }
        let count = |cells: &[Cell], reason: Reason| cells.get(reason.number()).map_or(0, Cell::read);
        for (code, reason) in REASONS.iter() {
            let denied = count(&worker.denials, *reason);
            *self.denials.entry((code.as_str(), reason.as_str())).or_default() += denied;
            if can_cut(*code, *reason) {
                *self.streams_cut.entry(reason.as_str()).or_default() += count(&worker.streams_cut, *reason);
            }
        }
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut families = vec![
            family(
                REQUESTS,
                MetricType::COUNTER,
                self.requests
                    .iter()
                    .map(|((route, outcome, class), value)| counter(REQUESTS, &[route, outcome, class], *value)),
            ),
            family(DURATION, MetricType::HISTOGRAM, histograms(DURATION, &self.durations)),
            family(
                IN_FLIGHT,
                MetricType::GAUGE,
                [gauge(IN_FLIGHT, &[], u64::try_from(self.in_flight).unwrap_or(u64::MAX))],
            ),
            family(
                DENIALS,
                MetricType::COUNTER,
                self.denials.iter().map(|((code, reason), value)| counter(DENIALS, &[code, reason], *value)),
            ),
            family(UPSTREAM_DURATION, MetricType::HISTOGRAM, histograms(UPSTREAM_DURATION, &self.upstream_durations)),
            family(
                UPSTREAM_ERRORS,
                MetricType::COUNTER,
                self.upstream_errors
                    .iter()
                    .map(|((upstream, kind), value)| counter(UPSTREAM_ERRORS, &[upstream, kind], *value)),
            ),
            family(
                UPSTREAM_RETRIES,
                MetricType::COUNTER,
                self.upstream_retries
                    .iter()
                    .map(|((upstream, reason), value)| counter(UPSTREAM_RETRIES, &[upstream, reason], *value)),
            ),
            family(
                UPSTREAM_CONNECTIONS,
                MetricType::COUNTER,
                self.upstream_connections
                    .iter()
                    .map(|(upstream, value)| counter(UPSTREAM_CONNECTIONS, &[upstream], *value)),
            ),
            self.pool_family(UPSTREAM_OPEN, MetricType::GAUGE, |pool| pool.open),
            self.pool_family(UPSTREAM_ACTIVE, MetricType::GAUGE, |pool| pool.active),
            self.pool_family(UPSTREAM_IDLE, MetricType::GAUGE, |pool| pool.idle),
            self.pool_family(UPSTREAM_LOOKUPS, MetricType::COUNTER, |pool| pool.lookups_failed),
            family(
                UPSTREAM_UP,
                MetricType::GAUGE,
                self.targets
                    .iter()
                    .map(|((upstream, target), told)| gauge(UPSTREAM_UP, &[upstream, target], u64::from(told.up))),
            ),
            family(
                UPSTREAM_EJECTIONS,
                MetricType::COUNTER,
                self.targets
                    .iter()
                    .map(|((upstream, target), told)| counter(UPSTREAM_EJECTIONS, &[upstream, target], told.ejections)),
            ),
            family(
                UPSTREAM_CHECKS,
                MetricType::COUNTER,
                self.targets.iter().flat_map(|((upstream, target), told)| {
                    [("good", told.checks_good), ("bad", told.checks_bad)]
                        .map(|(result, value)| counter(UPSTREAM_CHECKS, &[upstream, target, result], value))
                }),
            ),
            family(
                STREAMS_CUT,
                MetricType::COUNTER,
                self.streams_cut.iter().map(|(reason, value)| counter(STREAMS_CUT, &[reason], *value)),
            ),
        ];
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

impl Sums {
    fn pool_family(&self, of: Family, kind: MetricType, value: impl Fn(&PoolSum) -> u64) -> MetricFamily {
        let metric = if kind == MetricType::COUNTER { counter } else { gauge };
        let one = |((upstream, target), pool): (&TargetName, &PoolSum)| metric(of, &[upstream, target], value(pool));
        family(of, kind, self.pools.iter().map(one))
    }
}

fn family(family: Family, kind: MetricType, metrics: impl IntoIterator<Item = Metric>) -> MetricFamily {
    let mut built = MetricFamily::default();
    built.set_name(family.name.to_owned());
    built.set_help(family.help.trim().to_owned());
    built.set_field_type(kind);
    built.set_metric(metrics.into_iter().collect());
    built
}

fn labels(family: Family, values: &[&str]) -> Vec<LabelPair> {
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    family.labels.iter().zip(values).map(pair).collect()
}

/// Exact up to 2^53, which no counter here reaches.
#[expect(clippy::cast_precision_loss, reason = "the exposition format counts in floating point")]
const fn float(value: u64) -> f64 {
    value as f64
}

fn counter(family: Family, values: &[&str], value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(float(value));
    let mut metric = Metric::from_label(labels(family, values));
    metric.set_counter(counter);
    metric
}

fn gauge(family: Family, values: &[&str], value: u64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(float(value));
    let mut metric = Metric::from_label(labels(family, values));
    metric.set_gauge(gauge);
    metric
}

fn histograms(family: Family, sums: &BTreeMap<Arc<str>, DurationSum>) -> Vec<Metric> {
    let one = |(name, sum): (&Arc<str>, &DurationSum)| {
        let mut cumulative = 0;
        let bucket = |(bound, count): (&u64, &u64)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(float(*bound) / 1e6);
            bucket.set_cumulative_count(cumulative);
            bucket
        };
        let buckets = BOUNDS.iter().zip(&sum.buckets).map(bucket).collect();
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(sum.count);
        histogram.set_sample_sum(float(sum.sum_micros) / 1e6);
        let mut metric = Metric::from_label(labels(family, &[name]));
        metric.set_histogram(histogram);
        metric
    };
    sums.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cells_of_all_workers_are_summed_on_a_scrape() -> Result<(), Box<dyn std::error::Error>> {
        let metrics = Metrics::new()?;
        let registry = prometheus::Registry::new();
        metrics.register(&registry)?;
        for _ in 0..2 {
            let worker = metrics.worker();
            worker.route("ring-read").answered(Outcome::Allowed, 204, Duration::from_millis(3));
            worker.denied(&Denial::from(Reason::Revoked));
            worker.upstream("rings").answered(Duration::from_millis(700));
            worker.upstream("rings").retried(Retry::Stale);
            worker.upstream("rings").failed(UpstreamError::Broken);
            worker.pool("rings", "127.0.0.1:9000").idle.set(4);
            worker.pool("rings", "127.0.0.1:9000").open.set(5);
            let own = metrics.in_flight.join();
            assert!(own.begin(9) && own.begin(9) && own.begin(9));
            own.end(9);
        }
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather())?;
        for line in [
            r#"keyward_requests_total{route="ring-read",outcome="allowed",status_class="2xx"} 2"#,
            r#"keyward_request_duration_seconds_bucket{route="ring-read",le="0.0025"} 0"#,
            r#"keyward_request_duration_seconds_bucket{route="ring-read",le="0.005"} 2"#,
            r#"keyward_request_duration_seconds_bucket{route="ring-read",le="+Inf"} 2"#,
            r#"keyward_denials_total{code="invalid_key",reason="revoked"} 2"#,
            r#"keyward_denials_total{code="missing_key",reason="missing_key"} 0"#,
            r#"keyward_upstream_errors_total{upstream="rings",kind="broken"} 2"#,
            r#"keyward_upstream_retries_total{upstream="rings",reason="stale_connection"} 2"#,
            r#"keyward_upstream_idle_connections{upstream="rings",target="127.0.0.1:9000"} 8"#,
            r#"keyward_upstream_open_connections{upstream="rings",target="127.0.0.1:9000"} 10"#,
            r#"keyward_upstream_requests_in_flight{upstream="rings",target="127.0.0.1:9000"} 0"#,
            "keyward_requests_in_flight 4",
            "# HELP keyward_requests_total Requests answered, by route, outcome and status class.",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing of\n{text}");
        }
        Ok(())
    }
    #[test]
    fn no_series_is_there_for_what_cannot_be() {
        for (code, reason) in REASONS.iter() {
            let has_reasons = Reason::ALL.iter().any(|other| other.code() == *code);
            assert_eq!(has_reasons, !matches!(reason, Reason::AsCoded(_)), "{code:?} {reason:?}");
        }
        assert!(!can_cut(Code::InvalidKey, Reason::Malformed) && can_cut(Code::InvalidKey, Reason::Revoked));
        assert!(!can_cut(Code::BadRequest, Reason::AsCoded(Code::BadRequest)));
    }
}
