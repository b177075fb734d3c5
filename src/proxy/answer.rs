//! The body of an answer on its way to the client, with the account that is settled at its end.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::account::Account;
use super::drain::Unread;
use super::forward::code_of;
use super::frames::Messages;
use super::idle::Idle;
use super::metrics::{Outcome, UpstreamCells, UpstreamError};
use super::streams::{Held, OpenStream, Streams};
use super::upstream::{AnyBody, BodyFault, Connector, Lease};
use crate::policy::{Code, Denial};
use crate::report::Chain;
use crate::wire::{Transfer, strip_trailers};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

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
    /// None once it is watched over: then the stream has it.
    body: Option<AnyBody>,
    rules: RelayRules,
    /// By when all of it must be over.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Held to the end of the body: a lease that is dropped closes its connection.
    lease: Option<Lease<Connector>>,
    upload: Rc<Transfer>,
    /// What is left of the request's body, to be read to an end if the answer is done before it.
    unread: Unread,
    cells: Arc<UpstreamCells>,
    streams: Rc<Streams>,
    idle: Idle,
    messages: Messages,
    passed: usize,
    pieces: usize,
    /// What of the request had passed when the timer was last looked at.
    uploaded: u64,
    over: bool,
    /// How it broke off, where its reader has not been told.
    fault: Option<BodyFault>,
    open: Option<Rc<OpenStream>>,
}

/// An answer of which so much has passed, head and all, is watched over though it never had to wait: the listener
/// asks for no more of what its client does not take once it has 64 KiB of it,
pub(super) const UNWATCHED_BYTES_MAX: usize = 32 * 1024;
/// or 16 pieces.
const UNWATCHED_PIECES_MAX: usize = 15;

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerFault {
    /// The upstream broke off.
    #[error("the upstream broke off its answer")]
    Upstream(#[source] BodyFault),
    /// Request and answer together took too long.
    #[error("the request took longer than it may in all")]
    Total,
    /// The upstream paused for too long.
    #[error("the upstream paused its answer for too long")]
    Idle,
    /// What let the request through does so no longer.
    #[error("the key may no longer do this")]
    Cut(#[source] h2::Error),
}

/// What there still is of the request while its answer is relayed.
pub(super) struct RequestLeft {
    /// How far its body has come.
    pub(super) upload: Rc<Transfer>,
    /// What nobody has read of it.
    pub(super) unread: Unread,
}

impl Relayed {
    pub(super) fn new(
        body: AnyBody,
        lease: Lease<Connector>,
        request: RequestLeft,
        rules: RelayRules,
        cells: Arc<UpstreamCells>,
        watch: Watch,
    ) -> Self {
        let Watch { streams, open } = watch;
        let mut relayed = Self {
            body: Some(body),
            rules,
            deadline: rules.deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
            lease: Some(lease),
            upload: request.upload,
            unread: request.unread,
            cells,
            streams,
            idle: Idle::new(rules.idle),
            messages: Messages::default(),
            passed: 0,
            pieces: 0,
            uploaded: 0,
            over: false,
            fault: None,
            open,
        };
        if relayed.is_at_end() {
            relayed.end();
        } else if relayed.open.is_some() {
            // It was watched over while it waited for its answer; a cut closes the connection from now on.
            relayed.watch(None);
        }
        relayed
    }

    /// The whole response was read: its connection can serve another request, if the request was
    /// written whole too.
    fn end(&mut self) {
        self.over = true;
        self.idle.stop();
        if let Some(lease) = self.take_lease() {
            if self.rules.poolable && self.upload.is_ended() {
                lease.give_back();
            } else {
                drop(lease);
            }
        }
        self.unread.drain();
    }

    /// Whether its reader may ask for no more of it.
    const fn may_stall(&self) -> bool {
        self.rules.stalls || self.passed > UNWATCHED_BYTES_MAX || self.pieces >= UNWATCHED_PIECES_MAX
    }

    fn take_lease(&mut self) -> Option<Lease<Connector>> {
        self.lease.take().or_else(|| self.open.as_ref().and_then(|open| open.release()))
    }

    /// Has the answer watched over from now on.
    fn watch(&mut self, account: Option<&Account>) -> bool {
        if self.open.is_none() {
            self.open = account.and_then(|account| self.streams.open(account));
        }
        if let Some(open) = &self.open
            && let Some(body) = self.body.take()
        {
            open.hold(Held { lease: self.lease.take(), body: Some(body), upload: self.unread.source() });
        }
        self.open.is_some()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match (&mut self.body, &self.open) {
            (Some(body), _) => Pin::new(body).poll_frame(cx),
            (None, Some(open)) => open.poll_frame(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    /// Whether the body has come to its end by itself.
    fn is_at_end(&self) -> bool {
        match (&self.body, &self.open) {
            (Some(body), _) => body.is_end_stream(),
            (None, Some(open)) => open.is_end_stream(),
            (None, None) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.open) {
            (Some(body), _) => body.size_hint(),
            (None, Some(open)) => open.size_hint(),
            (None, None) => SizeHint::with_exact(0),
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        account: Option<&mut Account>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let mut account = account;
        if let Some(fault) = self.fault.take() {
            let fault = AnswerFault::Upstream(fault);
            return Poll::Ready(Some(Err(self.broke(fault, UpstreamError::BodyBroken, account))));
        }
        loop {
            if let Some(denial) = self.open.as_ref().and_then(|open| open.poll_cut(cx)) {
                return Poll::Ready(Some(self.cut(denial, account)));
            }
            if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Some(Err(self.broke(AnswerFault::Total, UpstreamError::TotalTimeout, account))));
            }
            return match self.poll_body(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle.progressed();
                    if frame.is_trailers() && !self.rules.trailers {
                        continue;
                    }
                    self.pieces += 1;
                    if let Some(data) = frame.data_ref() {
                        self.passed = self.passed.saturating_add(data.len());
                        if self.rules.farewell {
                            self.messages.pass(data);
                        }
                    }
                    // Nobody polls again after trailers.
                    if frame.is_trailers() || self.is_at_end() {
                        self.end();
                    } else if self.open.is_none() && self.may_stall() {
                        self.watch(account.as_deref());
                    }
                    Poll::Ready(Some(Ok(match frame.into_trailers() {
                        Ok(mut trailers) => {
                            strip_trailers(&mut trailers);
                            Frame::trailers(trailers)
                        }
                        Err(frame) => frame,
                    })))
                }
                Poll::Ready(None) => {
                    self.end();
                    Poll::Ready(None)
                }
                Poll::Ready(Some(Err(fault))) => {
                    // Told in the next turn: HTTP/2, told at once, gives up what it has not written yet, and the
                    // client would see neither status nor what came before the break.
                    self.fault = Some(fault);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => {
                    if self.open.is_none() && self.watch(account.as_deref_mut().map(|account| &*account)) {
                        continue;
                    }
                    if self.rules.both_ways && self.upload.bytes() != self.uploaded {
                        self.uploaded = self.upload.bytes();
                        self.idle.progressed();
                    }
                    if self.idle.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let told = self.farewell(Code::UpstreamTimeout, Code::UpstreamTimeout.grpc_status());
                    let fault = self.broke(AnswerFault::Idle, UpstreamError::BodyTimeout, account);
                    Poll::Ready(Some(told.ok_or(fault)))
                }
            };
        }
    }

    /// Ends the answer here and now. gRPC over HTTP/2 is told why, where a message has just ended.
    fn cut(&mut self, denial: Denial, account: Option<&mut Account>) -> Result<Frame<Bytes>, AnswerFault> {
        let told = self.farewell(denial.code, denial.grpc_status_of_cut());
        self.break_off();
        if let Some(account) = account {
            account.cut(denial);
        }
        told.ok_or_else(|| AnswerFault::Cut(h2::Reason::CANCEL.into()))
    }

    /// The trailers by which gRPC says how a call ended, where they can be understood.
    fn farewell(&self, code: Code, status: u8) -> Option<Frame<Bytes>> {
        (self.rules.farewell && self.messages.is_between()).then(|| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
            trailers.insert("grpc-message", HeaderValue::from_static(code.as_str()));
            Frame::trailers(trailers)
        })
    }

    /// Lets go of the upstream, in both directions.
    fn break_off(&mut self) {
        self.over = true;
        self.idle.stop();
        drop(self.take_lease());
        self.body = None;
        drop(self.unread.take());
    }

    fn broke(&mut self, fault: AnswerFault, error: UpstreamError, account: Option<&mut Account>) -> AnswerFault {
        self.break_off();
        // A body that broke off breaks the exchange too, and then is the reason for it.
        if let Some(of_request) = self.upload.take_fault() {
            if let (Some(account), Some(code)) = (account, code_of(&of_request)) {
                account.refused(&code.into(), Outcome::Denied);
            }
            return fault;
        }
        self.cells.failed(error);
        if let Some(account) = account {
            account.upstream_error = Some(Chain(&fault).to_string().into());
            account.broke_off(match fault {
                AnswerFault::Upstream(_) => Code::UpstreamBroken,
                AnswerFault::Idle | AnswerFault::Total => Code::UpstreamTimeout,
                AnswerFault::Cut(_) => Code::InvalidKey,
            });
        }
        fault
    }
}

/// By whom an answer is watched over, and whether it is already.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) streams: Rc<Streams>,
    pub(super) open: Option<Rc<OpenStream>>,
}

/// By what an upstream's body is relayed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RelayRules {
    /// How long it may pause.
    pub(super) idle: Duration,
    /// Whether that is only while the request pauses too.
    pub(super) both_ways: bool,
    /// By when all of it must be over.
    pub(super) deadline: Option<tokio::time::Instant>,
    /// Whether trailers pass.
    pub(super) trailers: bool,
    /// Whether its reader may take a part and then ask for no more for as long as it likes: on HTTP/2, where
    /// hyper waits for the client's window, and behind a large head.
    pub(super) stalls: bool,
    /// Whether the connection may serve another request afterwards.
    pub(super) poolable: bool,
    /// Whether it is gRPC over HTTP/2, which can be told at any message's end that it is over.
    pub(super) farewell: bool,
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
            Content::Relayed(relayed) => relayed.over || relayed.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| u64::try_from(text.len()).unwrap_or(u64::MAX)))
            }
            Content::Relayed(relayed) => relayed.size_hint(),
        }
    }
}
