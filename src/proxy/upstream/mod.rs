//! Upstreams: which target a request goes to, over which connection, and when it may be sent again.
//!
//! A request is sent again only if it provably was not processed: none of it was written; or the other
//! side said so, by a `GOAWAY` or `REFUSED_STREAM` of HTTP/2, and none of its body was read; or it is
//! idempotent without a body and its connection died before a single byte of an answer. The next
//! attempt then uses a fresh connection, so a pool full of dead connections cannot use it up. What
//! happened on a connection that had been idle costs nothing of the retry budget; the rest does.

mod balance;
mod budget;
mod connect;
mod health;
mod http1;
mod http2;
mod link;
mod pool;
mod resolve;
mod standing;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response};
use tokio::sync::Notify;

pub(crate) use connect::{AnyBody, AnyLink, BodyFault, Connector};
pub use http1::{AnswerEnd, AnswerRead, read_answer};
pub(crate) use link::{Added, Asked, ClientBody, Dial, Link, Source, Upload};
pub(crate) use pool::{Lease, Pool};
pub(crate) use standing::{Standings, Told};

use super::metrics::{Retry, UpstreamCells};
use super::settings::Upstream;
use crate::clock::Clock;
use crate::wire::Transfer;
use balance::{Candidate, Chooser};
use budget::Budget;
use link::{LinkState, Lost, Word};
use pool::{DialFault, Dialled};

/// One service as one worker sees it.
#[derive(Debug)]
pub(crate) struct Service<D: Dial> {
    /// Its settings.
    pub(crate) upstream: Upstream,
    /// What the first target is called, for the `Host` of requests that name none.
    pub(crate) target_name: Option<HeaderValue>,
    pools: Vec<Rc<Pool<D>>>,
    chooser: Chooser,
    budget: Budget,
    standings: Arc<Standings>,
    clock: Arc<dyn Clock>,
    cells: Arc<UpstreamCells>,
    /// Notified some times a second.
    rounds: Rc<Notify>,
}

/// A response's head, and the connection that its body comes over.
pub(crate) struct Exchange<D: Dial> {
    pub(crate) response: Response<<D::Link as Link>::Body>,
    pub(crate) lease: Lease<D>,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Checks found every target down.
    NoTarget,
    /// No target could be connected to.
    Unreachable(Box<dyn Error + Send + Sync>),
    /// The gateway has nothing left to connect with.
    Exhausted(Box<dyn Error + Send + Sync>),
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// The request was sent, and no head of a response came in time.
    HeadTimeout,
    /// Request and response together took too long.
    TotalTimeout,
    /// The connection ended before the head of a response, or what came was no HTTP.
    Broken(Box<dyn Error + Send + Sync>),
}

/// What became of a request at one target.
enum Tried<D: Dial> {
    Answered(Exchange<D>),
    /// Not processed: another target may have it.
    Back(Box<Asked>, Failure),
    /// It may have been processed.
    Failed(Failure),
}

impl<D: Dial> Service<D> {
    pub(crate) fn new(
        upstream: Upstream,
        pools: Vec<Rc<Pool<D>>>,
        standings: Arc<Standings>,
        clock: Arc<dyn Clock>,
        cells: Arc<UpstreamCells>,
        rounds: Rc<Notify>,
    ) -> Self {
        let chooser = Chooser::new(upstream.balance, upstream.slow_start);
        let budget = Budget::new(upstream.retries);
        let target_name = upstream.targets.first().and_then(|target| HeaderValue::from_str(target.host_field()).ok());
        Self { upstream, target_name, pools, chooser, budget, standings, clock, cells, rounds }
    }

    /// Lets go of idle connections that have died or grown too old, and begins the checks that are due.
    pub(crate) fn sweep(&self) {
        let now = self.standings.millis(self.clock.monotonic());
        for pool in &self.pools {
            pool.sweep(&self.upstream);
            let Some(rules) = &self.upstream.health else { continue };
            if !pool.standing.claims_check(rules, now) {
                continue;
            }
            let (checked, upstream, rules) = (Rc::downgrade(pool), self.upstream.clone(), rules.clone());
            let (standings, clock) = (Arc::clone(&self.standings), Arc::clone(&self.clock));
            pool.spawn(async move {
                let Some(pool) = checked.upgrade() else { return };
                let Some(well) = health::is_well(&pool, &upstream, &rules).await else { return };
                let now = standings.millis(clock.monotonic());
                if pool.standing.checked(&rules, well, now) {
                    let target = pool.target().authority.as_str();
                    if well {
                        tracing::info!(target, "health checks find the target well again");
                    } else {
                        tracing::warn!(target, "health checks find the target down");
                    }
                }
            });
        }
    }

    /// Sends `request`, `now` where that is known. `transfer` tells how far its body has come. `http1`: nothing else
    /// will do.
    pub(crate) async fn send(
        &self,
        request: Box<Asked>,
        transfer: &Transfer,
        http1: bool,
        now: Option<std::time::Instant>,
    ) -> Result<Exchange<D>, Failure> {
        self.budget.earn();
        let mut request = request;
        let mut tried = Vec::new();
        let mut last = None;
        // The clock is asked again only where time may have passed.
        let mut now = now;
        while let Some((at, pool)) = self.next(&tried) {
            if last.is_some() && !self.may_retry(Retry::Target) {
                break;
            }
            match self.try_target(pool, request, transfer, http1, now.take()).await {
                Tried::Answered(exchange) => {
                    pool.standing.succeeded();
                    return Ok(exchange);
                }
                Tried::Back(back, failure) => {
                    self.note(pool, &failure, transfer);
                    request = back;
                    last = Some(failure);
                    tried.push(at);
                }
                Tried::Failed(failure) => {
                    self.note(pool, &failure, transfer);
                    return Err(failure);
                }
            }
        }
        Err(last.unwrap_or(Failure::NoTarget))
    }

    fn next(&self, tried: &[usize]) -> Option<(usize, &Rc<Pool<D>>)> {
        let of = |at: usize| {
            let pool = self.pools.get(at)?;
            Some(Candidate { standing: &pool.standing, active: pool.active() })
        };
        let at = self.chooser.next(self.pools.len(), of, tried, || self.standings.millis(self.clock.monotonic()))?;
        Some((at, self.pools.get(at)?))
    }

    fn may_retry(&self, retry: Retry) -> bool {
        let may = self.budget.spend(self.clock.monotonic());
        self.cells.retried(if may { retry } else { Retry::OverBudget });
        may
    }

    /// Counts a failure against a target, unless it is the client's.
    fn note(&self, pool: &Pool<D>, failure: &Failure, transfer: &Transfer) {
        let unconnected = match failure {
            Failure::Unreachable(_) | Failure::ConnectTimeout => true,
            Failure::HeadTimeout | Failure::Broken(_) => false,
            Failure::NoTarget | Failure::TotalTimeout | Failure::Exhausted(_) => return,
        };
        let rules = &self.upstream.ejection;
        if transfer.is_broken() || !pool.standing.failed(rules, unconnected) || self.pools.len() < 2 {
            return;
        }
        let now = self.standings.millis(self.clock.monotonic());
        let ejected = self.pools.iter().filter(|pool| pool.standing.is_ejected(now)).count();
        let share = usize::try_from(rules.share_max).unwrap_or(100);
        let most = (self.pools.len() * share / 100).max(usize::from(share > 0)).min(self.pools.len() - 1);
        if ejected < most && !pool.standing.is_ejected(now) {
            pool.standing.eject(rules, now);
            tracing::warn!(target = %pool.target().authority, "the target fails and is passed over for a while");
        }
    }

    async fn try_target(
        &self,
        pool: &Rc<Pool<D>>,
        request: Box<Asked>,
        transfer: &Transfer,
        http1: bool,
        now: Option<std::time::Instant>,
    ) -> Tried<D> {
        let replayable = is_idempotent(request.request.method()) && transfer.is_ended() && transfer.bytes() == 0;
        let mut request = request;
        let (mut use_pool, mut said_no, mut now) = (true, 0, now);
        loop {
            let now = now.take().unwrap_or_else(|| self.clock.monotonic());
            let pooled = if use_pool { pool.pooled(&self.upstream, http1, now) } else { None };
            let reused = pooled.is_some();
            let mut lease = match pooled {
                Some(lease) => lease,
                // On the heap while it lasts: with a handshake in it, it is larger than all the rest of a request.
                None => match Box::pin(pool.fresh(&self.upstream, http1)).await {
                    Ok(Dialled { lease, anew }) => {
                        if anew {
                            self.cells.connected();
                        }
                        lease
                    }
                    Err(DialFault::Refused(error)) => {
                        return Tried::Back(request, Failure::Unreachable(error.into()));
                    }
                    // Another target could be connected to no better.
                    Err(DialFault::Exhausted(error)) => return Tried::Failed(Failure::Exhausted(error.into())),
                    Err(DialFault::TimedOut) => return Tried::Back(request, Failure::ConnectTimeout),
                },
            };
            if reused && lease.rested && !replayable {
                // What cannot be sent twice waits for news of the connection that are here already.
                tokio::task::yield_now().await;
                if lease.link.state() == LinkState::Closed {
                    continue;
                }
            }
            // Others' word that a request was not processed exists on shared connections alone.
            let shared = lease.link.is_multiplexed();
            let copy = shared.then(|| copy_of(&request));
            let mut lost = match self.exchange(&mut lease.link, request, transfer).await {
                Ok(response) => return Tried::Answered(Exchange { response, lease }),
                Err(ExchangeFault::TimedOut) => return Tried::Failed(Failure::HeadTimeout),
                Err(ExchangeFault::Lost(lost)) => lost,
            };
            if transfer.is_broken() {
                // There is nothing whole to send again.
                return Tried::Failed(Failure::Broken(lost.cause));
            }
            // What has its connection to itself comes back from it whole.
            let copy = copy.or_else(|| lost.written.take().filter(|_| replayable));
            let copy = copy.filter(|_| transfer.bytes() == 0);
            match (lost, copy) {
                (Lost { untouched: Some(back), .. }, _) if reused => request = back,
                // Others may have used up a shared connection before this one got to it.
                (Lost { untouched: Some(back), .. }, _) if shared && said_no < REFUSALS_MAX => {
                    request = back;
                    said_no += 1;
                }
                (Lost { untouched: Some(back), cause, .. }, _) => return Tried::Back(back, Failure::Broken(cause)),
                (Lost { word: Word::Silent, .. }, Some(copy)) if reused && replayable => {
                    self.cells.retried(Retry::Stale);
                    request = again(copy);
                    use_pool = false;
                }
                (Lost { word: Word::Silent, cause, .. }, Some(copy)) if replayable && said_no == 0 => {
                    if !self.may_retry(Retry::Broken) {
                        return Tried::Failed(Failure::Broken(cause));
                    }
                    request = again(copy);
                    use_pool = false;
                    said_no += 1;
                }
                // That connection is closed to new requests, so this ends.
                (Lost { word: Word::GoingAway, .. }, Some(copy)) if said_no < REFUSALS_MAX => {
                    self.cells.retried(Retry::Stale);
                    request = again(copy);
                    said_no += 1;
                }
                (Lost { word: Word::Refused, cause, .. }, Some(copy)) => {
                    if said_no >= REFUSALS_MAX || !self.may_retry(Retry::Refused) {
                        return Tried::Failed(Failure::Broken(cause));
                    }
                    request = again(copy);
                    said_no += 1;
                }
                (Lost { cause, .. }, _) => return Tried::Failed(Failure::Broken(cause)),
            }
        }
    }

    async fn exchange(
        &self,
        link: &mut D::Link,
        request: Box<Asked>,
        transfer: &Transfer,
    ) -> Result<Response<<D::Link as Link>::Body>, ExchangeFault> {
        tokio::select! {
            biased;
            answer = link.exchange(request) => answer.map_err(ExchangeFault::Lost),
            () = silence(self.upstream.head_timeout, transfer, &self.rounds) => Err(ExchangeFault::TimedOut),
        }
    }
}

/// How often one target may say that it did not process a request.
const REFUSALS_MAX: u32 = 4;

/// Longer than the rounds are apart, however busy the worker is.
pub(crate) const LONG: Duration = Duration::from_secs(5);

enum ExchangeFault {
    Lost(Lost),
    TimedOut,
}

/// Ends when the upstream has had `limit` since the whole request was with it, or since it last took
/// something of the body. Never because the client is slow: that is the body's own timer.
///
/// Nearly every answer is here before the next of the `rounds`, and a timer for each would be made in vain: one that
/// is long begins only with it, and ends that much later.
async fn silence(limit: Duration, transfer: &Transfer, rounds: &Notify) {
    if limit >= LONG {
        rounds.notified().await;
    }
    loop {
        let seen = (transfer.bytes(), transfer.is_ended());
        Box::pin(tokio::time::sleep(limit)).await;
        let moved = seen != (transfer.bytes(), transfer.is_ended());
        let with_client = !transfer.is_ended() && transfer.is_waiting_for_sender();
        if !moved && !with_client {
            return;
        }
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS].contains(method)
}

/// The same request once more, as far as its body is the same for both: see [`again`].
fn copy_of(asked: &Asked) -> Box<Asked> {
    let request = &asked.request;
    let mut copy = Request::new(request.body().kept());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Box::new(Asked { request: copy, added: asked.added.clone() })
}

/// Takes the body away from where the request was sent before.
fn again(mut copy: Box<Asked>) -> Box<Asked> {
    let body = copy.request.body().again();
    *copy.request.body_mut() = body;
    copy
}
