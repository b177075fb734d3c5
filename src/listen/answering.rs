//! One request at its handler, and what becomes of the handler's answer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;

use super::answer::{Answer, Refusal};
use super::connection::HttpConnection;
use super::flow::Protocol;
use super::handler::Handler;
use super::request_body::RequestBody;
use super::settings::Limits;
use super::stream::{Caught, OpenRequest, Panicked};

pin_project! {
    /// Ready with the answer to a request. A panic of the handler is a 500.
    ///
    /// Not an async fn: that would keep what it is made of beside what it becomes, and a request is copied into each.
    pub(super) struct Answering<H: Handler, F> {
        #[pin]
        work: Work<F>,
        connection: Rc<HttpConnection<H>>,
        // Until it is the answer's.
        open: Option<OpenRequest>,
        protocol: Protocol,
    }
}

pin_project! {
    #[project = WorkProjection]
    enum Work<F> {
        Handler { #[pin] handled: Caught<F> },
        // The handler hears of it, and has nothing to do.
        Refused { answer: Response<Bytes> },
    }
}

impl<H: Handler> HttpConnection<H> {
    /// Hands one request to the handler. Inlined, it is written where it stays; returned, it would be copied there, and
    /// it is 2 KiB.
    #[inline(always)]
    pub(super) fn answer(
        self: &Rc<Self>,
        request: Request<RequestBody>,
        open: OpenRequest,
        protocol: Protocol,
    ) -> Answering<H, impl Future<Output = Response<H::Body>> + use<H>> {
        let connection = Rc::clone(self);
        if let Some(refusal) = refusal(&request, &self.settings.limits) {
            let (answer, request_id) = refusal.answer(protocol == Protocol::Http1);
            self.tell_refused(refusal, &request_id, Some(&request));
            return Answering { work: Work::Refused { answer }, connection, open: Some(open), protocol };
        }
        let (handler, peer) = (Rc::clone(&self.handler), Rc::clone(&self.peer));
        Answering {
            work: Work::Handler { handled: Caught::new(handler.handle(request, peer)) },
            connection,
            open: Some(open),
            protocol,
        }
    }
}

impl<H, F> Future for Answering<H, F>
where
    H: Handler,
    F: Future<Output = Response<H::Body>>,
{
    type Output = Response<Answer<H::Body>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let http1 = *this.protocol == Protocol::Http1;
        let handled = match this.work.project() {
            WorkProjection::Handler { handled } => ready!(handled.poll(cx)).map_err(|Panicked| {
                this.connection.metrics.panics.inc();
                let (answer, request_id) = Refusal::Internal.answer(http1);
                tracing::error!(request_id = request_id.as_str(), "a request ended by a panic");
                answer
            }),
            WorkProjection::Refused { answer } => Err(std::mem::take(answer)),
        };
        // It is polled once more by nobody.
        let Some(open) = this.open.take() else { return Poll::Pending };
        let metrics = Rc::clone(&this.connection.metrics);
        let mut answer = match handled {
            Ok(answer) => Answer::of_handler(answer, open, metrics),
            Err(answer) => Answer::own(answer, open, metrics),
        };
        if http1 && this.connection.worker.stopping.get() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Said and not just done: a client that knows sends no request into a closing connection.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(answer)
    }
}

/// What is refused before the handler sees it.
fn refusal(request: &Request<RequestBody>, limits: &Limits) -> Option<Refusal> {
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.target_bytes {
        return Some(Refusal::TargetTooLong);
    }
    (request.headers().len() > limits.fields).then_some(Refusal::HeadTooLarge)
}
