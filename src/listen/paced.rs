//! A request's body that must make progress.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::credit::Credit;
use super::flow::Flow;
use super::request_body::RequestBodyFault;
use super::ticker::{Alarm, NEVER, Slot, Tick, Ticker};

pin_project! {
    /// A body that fails with [`BodyFault::TooSlow`] when its sender is too slow while somebody waits for it.
    ///
    /// Time counts only while a poll is pending: a slow reader is not the sender's fault. Waiting uses up
    /// credit, of which bytes that arrive give some back: a byte now and then does not hold a request open.
    #[derive(Debug)]
    pub struct Paced<B> {
        #[pin]
        body: B,
        credit: Credit,
        waiting_since: Option<Tick>,
        alarm: Option<Arc<Alarm>>,
        ticker: Rc<Ticker>,
        open: Option<OpenBody>,
    }
}

impl<B> Paced<B> {
    pub(super) const fn new(body: B, credit: Credit, ticker: Rc<Ticker>, open: Option<OpenBody>) -> Self {
        Self { body, credit, waiting_since: None, alarm: None, ticker, open }
    }
}

/// The body of an HTTP/1 request that is still to come: as long as this lives, the connection's next bytes are
/// no request.
#[derive(Debug)]
pub(super) struct OpenBody(Arc<Flow>);

impl OpenBody {
    pub(super) fn on_connection(flow: &Arc<Flow>) -> Self {
        flow.begin_body();
        Self(Arc::clone(flow))
    }
}

impl Drop for OpenBody {
    fn drop(&mut self) {
        self.0.end_body();
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let mut this = self.project();
        match this.body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => {
                let goes_on = matches!(&frame, Some(Ok(frame)) if frame.is_data()) && !this.body.is_end_stream();
                if !goes_on {
                    *this.open = None;
                }
                if let Some(alarm) = this.alarm {
                    alarm.set(Slot::Phase, NEVER);
                }
                if let Some(since) = this.waiting_since.take() {
                    let waited = this.ticker.coarse().now().saturating_sub(since);
                    let bytes = match &frame {
                        Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                        Some(Err(_)) | None => 0,
                    };
                    this.credit.spend(waited);
                    this.credit.earn(bytes);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyFault::Broken(error.into()))))
            }
            Poll::Pending => {
                // Most bodies have arrived with their head and never need one.
                let alarm = this.alarm.get_or_insert_with(|| this.ticker.watch());
                let coarse = this.ticker.coarse();
                if alarm.is_late(Slot::Phase, coarse.now()) {
                    return Poll::Ready(Some(Err(BodyFault::TooSlow)));
                }
                alarm.register(cx.waker());
                if this.waiting_since.is_none() {
                    *this.waiting_since = Some(coarse.now());
                    alarm.set(Slot::Phase, coarse.after(this.credit.left()));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a request's body did not arrive.
#[derive(Debug)]
pub enum BodyFault {
    /// The sender paused for longer than `body_idle`, or sent less than `rate_min` for as long: 408.
    TooSlow,
    /// The connection or its framing broke, or the client reset the stream.
    Broken(Box<dyn Error + Send + Sync>),
}

impl BodyFault {
    /// Whether its sender went away, or gave the request up.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::TooSlow => false,
            Self::Broken(error) => error.downcast_ref().is_some_and(RequestBodyFault::is_gone),
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSlow => f.write_str("the request's body came too slowly"),
            Self::Broken(_) => f.write_str("the request's body broke off"),
        }
    }
}

impl Error for BodyFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TooSlow => None,
            Self::Broken(error) => Some(&**error),
        }
    }
}
