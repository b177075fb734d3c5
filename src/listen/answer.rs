//! Answers: the handler's, and the few that a listener gives by itself.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::metrics::ListenMetrics;
use super::stream::OpenRequest;
use crate::policy::Code;
use crate::secret;
use crate::wire::{IdSource, PROBLEM_JSON, Problem, RequestId};

pin_project! {
    /// The body of an answer; the request is open until it is dropped.
    pub(super) struct Answer<B> {
        #[pin]
        kind: Kind<B>,
        open: OpenRequest,
        metrics: Rc<ListenMetrics>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Handler { #[pin] body: B },
        Own { text: Option<Bytes> },
    }
}

impl<B> Answer<B> {
    pub(super) fn of_handler(answer: Response<B>, open: OpenRequest, metrics: Rc<ListenMetrics>) -> Response<Self> {
        answer.map(|body| Self { kind: Kind::Handler { body }, open, metrics })
    }

    pub(super) fn own(answer: Response<Bytes>, open: OpenRequest, metrics: Rc<ListenMetrics>) -> Response<Self> {
        answer.map(|text| Self { kind: Kind::Own { text: Some(text) }, open, metrics })
    }
}

impl<B> Body for Answer<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        this.open.on_wanted();
        let polled = match this.kind.project() {
            KindProjection::Own { text } => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            KindProjection::Handler { body } => {
                let Ok(polled) = catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))) else {
                    this.metrics.panics.inc();
                    return Poll::Ready(Some(Err("the answer's body broke off".into())));
                };
                polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        };
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            this.open.on_given();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own { text } => text.is_none(),
            Kind::Handler { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own { text } => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Handler { body } => body.size_hint(),
        }
    }
}

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// What a listener refuses by itself, before or in place of the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// What came is not HTTP.
    BadRequest,
    /// A head that is larger, or has more fields, than allowed.
    HeadTooLarge,
    /// A target that is longer than allowed.
    TargetTooLong,
    /// A head that did not come to its end in time.
    HeadTooSlow,
    /// One connection too many.
    Overloaded,
    /// A fault of this program.
    Internal,
}

/// A refusal as the bytes of an HTTP/1 answer.
#[derive(Debug, Clone)]
pub(super) struct RawRefusal {
    pub(super) refusal: Refusal,
    pub(super) request_id: RequestId,
    pub(super) text: Bytes,
}

impl Refusal {
    /// What it is called, and what is told of it, as of the refusals behind the listener.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::BadRequest => Code::BadRequest,
            Self::HeadTooLarge => Code::HeadTooLarge,
            Self::TargetTooLong => Code::TargetTooLong,
            Self::HeadTooSlow => Code::RequestTimeout,
            Self::Overloaded => Code::Overloaded,
            Self::Internal => Code::Internal,
        }
    }

    /// The status of its answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn body(self) -> (Bytes, RequestId) {
        // These are rare: a source of its own for each costs less than keeping one.
        let id = RequestId::fresh(&IdSource::new(secret::random().unwrap_or_default()));
        let code = self.code();
        let problem = Problem {
            status: code.status(),
            code: code.as_str(),
            title: code.title(),
            detail: code.detail(),
            request_id: id.as_str(),
        };
        (problem.to_json(), id)
    }

    /// As an answer to a request, and the id in it; on HTTP/1 it ends the connection.
    pub(super) fn answer(self, http1: bool) -> (Response<Bytes>, RequestId) {
        let (body, id) = self.body();
        let mut answer = Response::new(body);
        *answer.status_mut() = self.status();
        let fields = answer.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.insert("x-request-id", id.value().clone());
        if let Some(seconds) = self.code().retry_after_seconds() {
            fields.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if http1 {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        (answer, id)
    }

    /// As the bytes of an HTTP/1 answer, for where there is no request to answer.
    pub(super) fn raw(self) -> RawRefusal {
        let (body, request_id) = self.body();
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or_default();
        let retry = self.code().retry_after_seconds();
        let retry = retry.map_or_else(String::new, |seconds| format!("retry-after: {seconds}\r\n"));
        let head = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: {PROBLEM_JSON}\r\ncache-control: no-store\r\nx-request-id: {}\r\n\
             {retry}connection: close\r\ncontent-length: {}\r\n\r\n",
            status.as_u16(),
            request_id.as_str(),
            body.len()
        );
        let text = [head.as_bytes(), &body].concat().into();
        RawRefusal { refusal: self, request_id, text }
    }
}
