//! Upstreams: which target a request goes to, over which connection, and when it may be sent again.
//!
//! A request is sent again only if it provably was not processed: none of it was written, or it is
//! idempotent without a body and the *pooled* connection it went out on died before a single byte
//! of an answer. The second attempt uses a fresh connection, so a pool full of dead connections
//! cannot use it up.

mod http1;
mod link;
mod pool;

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response};

pub(crate) use http1::{Http1, Http1Link};
pub(crate) use link::{ClientBody, Dial, Link, Source, Upload};
pub(crate) use pool::{Lease, Pool};

use super::settings::Upstream;
use crate::wire::Transfer;
use link::Lost;
use pool::DialFault;

/// One service as one worker sees it.
#[derive(Debug)]
pub(crate) struct Service<D: Dial> {
    /// Its settings.
    pub(crate) upstream: Upstream,
    pools: Vec<Rc<Pool<D>>>,
    turn: Cell<usize>,
}

/// A response's head, and the connection that its body comes over.
pub(crate) struct Exchange<D: Dial> {
    pub(crate) response: Response<<D::Link as Link>::Body>,
    pub(crate) lease: Lease<D>,
    /// How often the request was sent again.
    pub(crate) retries: u32,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No target could be connected to.
    Unreachable(Box<dyn Error + Send + Sync>),
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// The request was sent, and no head of a response came in time.
    HeadTimeout,
    /// The connection ended before the head of a response, or what came was no HTTP.
    Broken(Box<dyn Error + Send + Sync>),
}

impl<D: Dial> Service<D> {
    pub(crate) const fn new(upstream: Upstream, pools: Vec<Rc<Pool<D>>>) -> Self {
        Self { upstream, pools, turn: Cell::new(0) }
    }

    /// Host and port of the first target, for the `Host` of requests that name none.
    pub(crate) fn target_name(&self) -> &str {
        self.upstream.targets.first().map_or("", |target| target.authority.as_str())
    }

    /// Lets go of idle connections that have died or grown too old.
    pub(crate) fn sweep(&self) {
        for pool in &self.pools {
            pool.sweep(&self.upstream);
        }
    }

    /// Sends `request`. `transfer` tells how far its body has come.
    pub(crate) async fn send(&self, request: Request<Upload>, transfer: &Transfer) -> Result<Exchange<D>, Failure> {
        let replayable = is_idempotent(request.method()) && transfer.is_ended() && transfer.bytes() == 0;
        let mut request = request;
        let mut retries = 0;
        let mut last = Failure::Unreachable("the upstream has no target".into());
        for pool in self.in_turn() {
            while let Some(mut lease) = pool.idle_lease(&self.upstream) {
                let copy = replayable.then(|| copy_of(&request));
                match self.exchange(&mut lease.link, request, transfer).await {
                    Ok(response) => return Ok(Exchange { response, lease, retries }),
                    Err(ExchangeFault::TimedOut) => return Err(Failure::HeadTimeout),
                    Err(ExchangeFault::Lost(Lost { untouched: Some(back), .. })) => {
                        request = *back;
                    }
                    Err(ExchangeFault::Lost(Lost { answered, cause, .. })) => {
                        let (Some(again), false) = (copy, answered) else { return Err(Failure::Broken(cause)) };
                        request = again;
                        retries += 1;
                        break;
                    }
                }
            }
            let mut lease = match pool.fresh_lease(&self.upstream).await {
                Ok(lease) => lease,
                Err(DialFault::Refused(error)) => {
                    last = Failure::Unreachable(error.into());
                    continue;
                }
                Err(DialFault::TimedOut) => {
                    last = Failure::ConnectTimeout;
                    continue;
                }
            };
            match self.exchange(&mut lease.link, request, transfer).await {
                Ok(response) => return Ok(Exchange { response, lease, retries }),
                Err(ExchangeFault::TimedOut) => return Err(Failure::HeadTimeout),
                Err(ExchangeFault::Lost(Lost { untouched: Some(back), cause, .. })) => {
                    request = *back;
                    last = Failure::Broken(cause);
                }
                Err(ExchangeFault::Lost(lost)) => return Err(Failure::Broken(lost.cause)),
            }
        }
        Err(last)
    }

    /// The pools, beginning with the one whose turn it is; those that could not be connected to a
    /// moment ago come last.
    fn in_turn(&self) -> impl Iterator<Item = &Rc<Pool<D>>> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let (before, from) = self.pools.split_at(turn.checked_rem(self.pools.len()).unwrap_or(0));
        let rotated = || from.iter().chain(before);
        // Looked at once, so that a target that fails meanwhile is not tried twice.
        let ejected = |at: usize, pool: &Rc<Pool<D>>| at < 64 && pool.is_ejected() && self.pools.len() > 1;
        let passed_over =
            rotated().enumerate().fold(0u64, |set, (at, pool)| if ejected(at, pool) { set | 1 << at } else { set });
        let of = move |wanted: bool| {
            let is_passed_over = move |at: usize| at < 64 && passed_over & (1 << at) != 0;
            rotated().enumerate().filter(move |(at, _)| is_passed_over(*at) == wanted).map(|(_, pool)| pool)
        };
        of(false).chain(of(true))
    }

    async fn exchange(
        &self,
        link: &mut D::Link,
        request: Request<Upload>,
        transfer: &Transfer,
    ) -> Result<Response<<D::Link as Link>::Body>, ExchangeFault> {
        tokio::select! {
            biased;
            answer = link.exchange(request) => answer.map_err(ExchangeFault::Lost),
            () = silence(self.upstream.head_timeout, transfer) => Err(ExchangeFault::TimedOut),
        }
    }
}

enum ExchangeFault {
    Lost(Lost),
    TimedOut,
}

/// Ends when the upstream has had `limit` since the whole request was with it, or since it last took
/// something of the body. Never because the client is slow: that is the body's own timer.
async fn silence(limit: Duration, transfer: &Transfer) {
    loop {
        let seen = (transfer.bytes(), transfer.is_ended());
        tokio::time::sleep(limit).await;
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

/// The same request again. Only for one without a body.
fn copy_of(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
