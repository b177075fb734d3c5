//! The listener's end of the management API: gives each request an id, hands it to its endpoint, and
//! finishes the answer.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{self, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{Request, Response, Version};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use http_body_util::channel::{Channel, Sender};
use tower_service::Service;

use super::account::{Account, Context};
use super::guard::Guard;
use super::metrics::AdminMetrics;
use super::problem::{Code, Refusal};
use super::router;
use super::settings::{Settings, Surface};
use super::v1::Routes;
use crate::clock::Clock;
use crate::key::{Signers, TokenPrefix};
use crate::listen::{Handler, Peer, RequestBody, RequestBodyFault};
use crate::manage::Manager;
use crate::policy::DenyList;
use crate::secret::{self, NoRandomness};
use crate::wire::{IdSource, RequestId};

/// Whether a revision was applied, once that is known.
pub type Applying<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// What tells when this gateway decides by a revision.
pub trait Applied: Send + Sync + fmt::Debug {
    /// Waits until requests here are decided by `revision` or a later one: true; or until `at_most` has
    /// passed: false.
    fn wait(&self, revision: u64, at_most: Duration) -> Applying<'_>;
}

/// What the endpoints work with. Shared by all listeners of the management API.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What changes and reads keys.
    pub manager: Manager,
    /// What tokens begin with.
    pub prefix: TokenPrefix,
    /// What bad credentials may cost.
    pub guard: Arc<Guard>,
    /// Keys that are refused whatever the store says.
    pub deny: Arc<ArcSwap<DenyList>>,
    /// What keys in JWT form and assertions are signed with.
    pub signers: Arc<ArcSwap<Signers>>,
    /// The gateway's routes.
    pub routes: Arc<dyn Routes>,
    /// When a change is in force here.
    pub applied: Arc<dyn Applied>,
    /// What the configuration says.
    pub settings: Arc<ArcSwap<Settings>>,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: AdminMetrics,
}

/// Answers the requests of one listener.
#[derive(Debug)]
pub struct Admin {
    parts: Arc<Parts>,
    surface: Surface,
    router: Router,
    ids: IdSource,
}

impl Admin {
    /// The endpoints of `surface`.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn new(parts: Parts, surface: Surface) -> Result<Self, NoRandomness> {
        let parts = Arc::new(parts);
        let router = router::router(surface, Arc::clone(&parts));
        Ok(Self { parts, surface, router, ids: IdSource::new(secret::random()?) })
    }
}

impl Handler for Admin {
    type Body = Body;

    async fn handle(self: Rc<Self>, request: Request<RequestBody>, peer: Rc<Peer>) -> Response<Body> {
        let context = Context { from: peer.address.ip(), surface: self.surface, noted: Arc::default() };
        let version = request.version();
        let mut account = Account {
            context: context.clone(),
            surface: self.surface,
            clock: Arc::clone(&self.parts.clock),
            metrics: self.parts.metrics.clone(),
            started: self.parts.clock.monotonic(),
            method: request.method().clone(),
            request_id: RequestId::fresh(&self.ids),
            status: None,
            code: None,
        };
        let mut router = self.router.clone();
        let (mut head, body) = request.into_parts();
        head.extensions.insert(context);
        let answer = if body.is_end_stream() {
            router.call(Request::from_parts(head, Body::empty())).await
        } else {
            let (sender, sent) = Channel::new(1);
            let wanted = Arc::new(AtomicBool::new(false));
            let sent = Body::new(Sent { body: sent, wanted: Arc::clone(&wanted) });
            let called = router.call(Request::from_parts(head, sent));
            let (mut called, mut read) = (pin!(called), pin!(read(body, sender, &wanted)));
            tokio::select! {
                biased;
                answer = &mut called => answer,
                () = &mut read => called.await,
            }
        };
        let Ok(answer) = answer;
        let answer = finished(answer, &mut account, version);
        account.answered(answer.status());
        answer
    }
}

/// A body as the router gets it: its own could be sent to another thread, what is read of a connection could not.
struct Sent {
    body: Channel<Bytes, RequestBodyFault>,
    /// Whether anybody has asked for it.
    wanted: Arc<AtomicBool>,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = RequestBodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyFault>>> {
        let this = self.get_mut();
        this.wanted.store(true, Ordering::Relaxed);
        Pin::new(&mut this.body).poll_frame(cx)
    }
}

/// Reads a body for the router, from when it is `wanted`: a caller who is refused is not asked for it. Polled whenever
/// the router was.
async fn read(body: RequestBody, mut sender: Sender<Bytes, RequestBodyFault>, wanted: &AtomicBool) {
    poll_fn(|_cx| if wanted.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if sender.send(frame).await.is_err() {
                    // Nobody wants more of it.
                    return;
                }
            }
            Err(fault) => return sender.abort(fault),
        }
    }
}

fn finished(mut answer: Response<Body>, account: &mut Account, version: Version) -> Response<Body> {
    if let Some(refusal) = answer.extensions_mut().remove::<Refusal>() {
        account.code = Some(refusal.code.as_str());
        let body = refusal.to_json(&account.request_id);
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        if refusal.leaves_body() && version != Version::HTTP_2 {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if account.method != http::Method::HEAD {
            *answer.body_mut() = Body::from(body);
        }
    } else if answer.status().is_server_error() {
        account.code = Some(Code::Internal.as_str());
    }
    let fields = answer.headers_mut();
    // An answer may hold a token, and what it tells of keys is of this moment.
    fields.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    fields.insert(REQUEST_ID, account.request_id.value().clone());
    answer
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
