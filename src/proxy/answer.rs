//! The body of an answer on its way to the client, with the account that is settled at its end.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::account::Account;
use super::drain::Unread;
use super::metrics::{UpstreamCells, UpstreamError};
use super::streams::{OpenStream, Streams};
use super::upstream::{Connector, Lease};
use crate::policy::Code;
use crate::wire::Transfer;

/// The body of an answer.
#[derive(Debug)]
pub struct AnswerBody {
    content: Content,
    // Settled when the body is dropped, whatever became of it.
    account: Option<Box<Account>>,
}

/// What an answer consists of.
#[derive(Debug)]
pub(super) enum Content {
    /// Text of our own; none for no body.
    Own(Option<Bytes>),
    /// What an upstream sends.
    Relayed(Box<Relayed>),
}

/// The body of an upstream's response.
#[derive(Debug)]
pub(super) struct Relayed {
    body: Incoming,
    idle: Duration,
    /// By when all of it must be over.
    deadline: Option<Pin<Box<Sleep>>>,
    trailers: bool,
    poolable: bool,
    /// Held to the end of the body: a lease that is dropped closes its connection.
    lease: Option<Lease<Connector>>,
    upload: Rc<Transfer>,
    /// What is left of the request's body, to be read to an end if the answer is done before it.
    unread: Unread,
    cells: Arc<UpstreamCells>,
    streams: Rc<Streams>,
    timer: Option<Timer>,
    open: Option<Rc<OpenStream>>,
}

/// A coarse timer: it fires between one and two times `idle` after the last progress, and is not
/// touched by progress itself.
#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    progressed: bool,
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerFault {
    /// The upstream broke off.
    #[error("the upstream broke off its answer")]
    Upstream(#[source] hyper::Error),
    /// Request and answer together took too long.
    #[error("the request took longer than it may in all")]
    Total,
    /// The upstream paused for too long.
    #[error("the upstream paused its answer for too long")]
    Idle,
    /// What let the request through does so no longer.
    #[error("the key may no longer do this")]
    Cut,
}

impl Relayed {
    pub(super) fn new(
        body: Incoming,
        lease: Lease<Connector>,
        upload: Rc<Transfer>,
        unread: Unread,
        rules: RelayRules,
        cells: Arc<UpstreamCells>,
        streams: Rc<Streams>,
    ) -> Self {
        let RelayRules { idle, deadline, trailers, poolable } = rules;
        let mut relayed = Self {
            body,
            idle,
            deadline: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
            trailers,
            poolable,
            lease: Some(lease),
            upload,
            unread,
            cells,
            streams,
            timer: None,
            open: None,
        };
        if relayed.body.is_end_stream() {
            relayed.end();
        }
        relayed
    }

    /// The whole response was read: its connection can serve another request, if the request was
    /// written whole too.
    fn end(&mut self) {
        self.timer = None;
        if let Some(lease) = self.lease.take() {
            if self.poolable && self.upload.is_ended() {
                lease.give_back();
            } else {
                drop(lease);
            }
        }
        self.unread.drain();
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.idle;
        let timer =
            self.timer.get_or_insert_with(|| Timer { sleep: Box::pin(tokio::time::sleep(idle)), progressed: false });
        loop {
            if timer.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !std::mem::take(&mut timer.progressed) {
                return Poll::Ready(());
            }
            timer.sleep = Box::pin(tokio::time::sleep(idle));
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        account: Option<&mut Account>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        loop {
            if self.open.as_ref().is_some_and(|open| open.is_cut(cx)) {
                return Poll::Ready(Some(Err(self.broke(AnswerFault::Cut, None, account))));
            }
            if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                let error = Some(UpstreamError::TotalTimeout);
                return Poll::Ready(Some(Err(self.broke(AnswerFault::Total, error, account))));
            }
            return match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(timer) = &mut self.timer {
                        timer.progressed = true;
                    }
                    if frame.is_trailers() && !self.trailers {
                        continue;
                    }
                    // Nobody polls again after trailers.
                    if frame.is_trailers() || self.body.is_end_stream() {
                        self.end();
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Poll::Ready(None) => {
                    self.end();
                    Poll::Ready(None)
                }
                Poll::Ready(Some(Err(error))) => {
                    let fault = AnswerFault::Upstream(error);
                    Poll::Ready(Some(Err(self.broke(fault, Some(UpstreamError::BodyBroken), account))))
                }
                Poll::Pending => {
                    if self.open.is_none()
                        && let Some(account) = account.as_deref()
                        && let Some(open) = self.streams.open(account)
                    {
                        // Looked at from its beginning on: the table may have moved meanwhile.
                        self.open = Some(open);
                        continue;
                    }
                    if self.poll_idle(cx).is_ready() {
                        let error = Some(UpstreamError::BodyTimeout);
                        return Poll::Ready(Some(Err(self.broke(AnswerFault::Idle, error, account))));
                    }
                    Poll::Pending
                }
            };
        }
    }

    fn broke(
        &mut self,
        fault: AnswerFault,
        error: Option<UpstreamError>,
        account: Option<&mut Account>,
    ) -> AnswerFault {
        self.lease = None;
        self.timer = None;
        if let Some(error) = error {
            self.cells.failed(error);
        }
        if let Some(account) = account {
            account.broke_off(match fault {
                AnswerFault::Upstream(_) => Code::UpstreamBroken,
                AnswerFault::Idle | AnswerFault::Total => Code::UpstreamTimeout,
                AnswerFault::Cut => Code::InvalidKey,
            });
        }
        fault
    }
}

/// By what an upstream's body is relayed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RelayRules {
    /// How long it may pause.
    pub(super) idle: Duration,
    /// By when all of it must be over.
    pub(super) deadline: Option<tokio::time::Instant>,
    /// Whether trailers pass.
    pub(super) trailers: bool,
    /// Whether the connection may serve another request afterwards.
    pub(super) poolable: bool,
}

impl AnswerBody {
    pub(super) const fn new(content: Content, account: Box<Account>) -> Self {
        Self { content, account: Some(account) }
    }

    /// A body of none, whose account is settled elsewhere.
    pub(super) const fn none() -> Self {
        Self { content: Content::Own(None), account: None }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Content::Relayed(relayed) => relayed.poll(cx, this.account.as_deref_mut()),
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(account)) = (&frame, &mut this.account) {
            let length = frame.data_ref().map_or(0, Buf::remaining);
            account.sent = account.sent.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(text) => text.is_none(),
            Content::Relayed(relayed) => relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| u64::try_from(text.len()).unwrap_or(u64::MAX)))
            }
            Content::Relayed(relayed) => relayed.body.size_hint(),
        }
    }
}
