//! One connection, from step to step: a head, the handler, its answer, and what is left of the request.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;

use super::head::Head;
use super::incoming::{Http1Body, Incoming, NoHead, Rest};
use super::outgoing::{Asked, Framing, Outgoing, WrongLength};
use crate::listen::answer::{RawRefusal, Refusal};
use crate::listen::flow::{Flow, Phase};
use crate::listen::peer::Worker;
use crate::listen::request_body::RequestBody;
use crate::listen::settings::Settings;
use crate::listen::ticker::Slot;
use crate::listen::upgrade::ClientUpgrade;
use crate::listen::watched::Watched;
use crate::wire::RequestId;

pin_project! {
    /// A connection and the requests on it, one after the other. Ends when it is closed or handed over.
    pub(in crate::listen) struct Http1<S, F, B> {
        serve: S,
        flow: Arc<Flow>,
        worker: Rc<Worker>,
        settings: Arc<Settings>,
        encrypted: bool,
        incoming: Rc<RefCell<Incoming>>,
        outgoing: Outgoing,
        // The handler at work, then the body of its answer.
        #[pin]
        handling: Option<F>,
        #[pin]
        body: Option<B>,
        state: State,
        asked: Asked,
        framing: Framing,
        // Whether the answer says where it ends, and does not just end with the connection.
        delimited: bool,
        // Whether another request may follow the present one.
        keep: bool,
        leaving: bool,
        // Whom the connection goes to behind a 101.
        upgrade: Option<oneshot::Sender<Watched>>,
        // What the next request is read into; its map is empty.
        request: Request<()>,
        refused: Option<(Refusal, RequestId)>,
    }

    impl<S, F, B> PinnedDrop for Http1<S, F, B> {
        fn drop(this: Pin<&mut Self>) {
            this.into_parts();
        }
    }
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Read a head.
    Head,
    /// Wait for the handler.
    Handling,
    /// Write its answer.
    Answering,
    /// See the request's body to its end.
    Settling,
    /// Hand the connection over, once the answer is written.
    Switching,
    /// Write what is left, and close.
    Last,
    /// Write what is left of an answer that broke off, and close so that it does not look whole.
    Broken,
    /// Say that this was all.
    Closing,
}

impl<S, F, B> Http1<S, F, B> {
    /// `ahead` was read already.
    pub(in crate::listen) fn new(
        io: Watched,
        ahead: BytesMut,
        flow: Arc<Flow>,
        worker: Rc<Worker>,
        settings: Arc<Settings>,
        encrypted: bool,
        serve: S,
    ) -> Self {
        Self {
            serve,
            flow,
            worker,
            settings,
            encrypted,
            incoming: Rc::new(RefCell::new(Incoming::new(io, ahead))),
            outgoing: Outgoing::default(),
            handling: None,
            body: None,
            state: State::Head,
            asked: Asked { version: Version::HTTP_11, head_only: false, trailers: false },
            framing: Framing::None,
            delimited: true,
            keep: true,
            leaving: false,
            upgrade: None,
            request: Request::default(),
            refused: None,
        }
    }

    /// Takes no further request than the present one.
    pub(in crate::listen) fn leave(self: Pin<&mut Self>) {
        *self.project().leaving = true;
    }

    /// What was refused because it could not be read, once.
    pub(in crate::listen) fn take_refused(self: Pin<&mut Self>) -> Option<(Refusal, RequestId)> {
        self.project().refused.take()
    }

    /// The connection and what was read ahead; none where it was handed over. Whoever still reads a body learns that
    /// there is no more of it.
    pub(in crate::listen) fn into_parts(self: Pin<&mut Self>) -> Option<(Watched, Bytes)> {
        let this = self.project();
        let mut incoming = this.incoming.try_borrow_mut().ok()?;
        // What an answer's length or its chunks show, the connection has to where it alone delimits one.
        if !*this.delimited && matches!(this.state, State::Answering | State::Broken) {
            incoming.break_on_close();
            this.flow.leave_at_once();
        }
        incoming.take()
    }
}

impl<S, F, B> Future for Http1<S, F, B>
where
    S: Fn(Request<RequestBody>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self;
        let mut requests = 0;
        loop {
            // Ready with what comes next, or with none at the end.
            let next = match this.as_mut().project().state {
                State::Head if requests == REQUESTS_AT_A_TURN => {
                    // Others have a turn, too, before whoever sends one request behind the other. Not by a wake-up
                    // alone: by this sockets are looked at first.
                    ready!(pin!(tokio::task::yield_now()).poll(cx));
                    requests = 0;
                    continue;
                }
                State::Head => {
                    requests += 1;
                    ready!(this.as_mut().poll_head(cx))
                }
                State::Handling => ready!(this.as_mut().poll_handler(cx)),
                State::Answering => ready!(this.as_mut().poll_answer(cx)),
                State::Settling => ready!(this.as_mut().poll_settle(cx)),
                State::Switching => {
                    if ready!(this.as_mut().poll_write(cx)) {
                        this.as_mut().hand_over();
                    }
                    None
                }
                State::Last => ready!(this.as_mut().poll_write(cx)).then_some(State::Closing),
                State::Broken => {
                    let is_written = ready!(this.as_mut().poll_write(cx));
                    (is_written && this.delimited).then_some(State::Closing)
                }
                State::Closing => {
                    ready!(this.as_mut().poll_close(cx));
                    None
                }
            };
            let Some(next) = next else { return Poll::Ready(()) };
            if matches!(next, State::Last | State::Broken | State::Closing) {
                this.flow.close();
            }
            *this.as_mut().project().state = next;
        }
    }
}

impl<S, F, B> Http1<S, F, B>
where
    S: Fn(Request<RequestBody>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes>,
{
    fn poll_head(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<State>> {
        let mut this = self.project();
        let mut incoming = this.incoming.borrow_mut();
        if *this.leaving && !incoming.has_begun() {
            return Poll::Ready(Some(State::Closing));
        }
        let polled = incoming.poll_head(cx, this.request, &this.settings.limits);
        if polled.is_pending() && !incoming.has_begun() {
            // Empty lines alone.
            this.flow.begins_nothing();
        }
        let head = match ready!(polled) {
            Ok(head) => head,
            Err(NoHead::Gone) => return Poll::Ready((!incoming.has_begun()).then_some(State::Closing)),
            Err(NoHead::Refused(refusal)) => {
                let RawRefusal { refusal, request_id, text } = refusal.raw();
                this.outgoing.add_raw(&text);
                *this.refused = Some((refusal, request_id));
                // Whatever comes after what could not be read is not read any more.
                this.flow.leave_unread();
                return Poll::Ready(Some(State::Last));
            }
        };
        let Head { decoder, keep, expects, upgrades, trailers } = head;
        let request = std::mem::take(this.request);
        *this.keep = keep;
        *this.asked = Asked { version: request.version(), head_only: *request.method() == Method::HEAD, trailers };
        let body = if !decoder.is_over() {
            incoming.expect_body(decoder, expects);
            RequestBody::of_http1(Http1Body::new(Rc::clone(this.incoming)))
        } else if upgrades {
            let (sender, upgrade) = ClientUpgrade::new();
            *this.upgrade = Some(sender);
            RequestBody::upgrading(upgrade)
        } else {
            RequestBody::empty()
        };
        drop(incoming);
        let handling = (this.serve)(request.map(|()| body));
        this.handling.set(Some(handling));
        Poll::Ready(Some(State::Handling))
    }

    fn poll_handler(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<State>> {
        let mut this = self.project();
        let Some(handling) = this.handling.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let Poll::Ready(answer) = handling.poll(cx) else {
            let mut incoming = this.incoming.borrow_mut();
            let is_broken = matches!(incoming.poll_interim(cx), Poll::Ready(Err(_)));
            let is_gone = is_broken || incoming.poll_gone(cx).is_ready();
            return if is_gone { Poll::Ready(None) } else { Poll::Pending };
        };
        this.handling.set(None);
        let (mut head, body) = answer.into_parts();
        let upgrade = this.upgrade.take();
        let is_held = Rc::strong_count(this.incoming) > 1;
        let mut incoming = this.incoming.borrow_mut();
        let is_unasked = incoming.expect_no_interim();
        // What nobody reads is read over where it is here, and otherwise ends the connection, as its client is told.
        let is_left = !is_held && incoming.rest(is_held, cx) == Rest::Left;
        drop(incoming);
        *this.keep &= !(*this.leaving || is_unasked || is_left || this.flow.is_late(Slot::Age));
        let size = body.size_hint().exact();
        let Worker { date, ticker, .. } = &**this.worker;
        *this.framing = this.outgoing.add_head(&head, *this.asked, size, this.keep, (date, ticker));
        *this.delimited = !matches!(this.framing, Framing::UntilEnd);
        // Now, and not with the next request: they hold a part of the service's buffer.
        head.headers.clear();
        *this.request.headers_mut() = std::mem::take(&mut head.headers);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            *this.upgrade = upgrade;
            return Poll::Ready(Some(State::Switching));
        }
        let is_over = matches!(this.framing, Framing::None | Framing::Length(0));
        this.body.set((!is_over).then_some(body));
        Poll::Ready(Some(State::Answering))
    }

    fn poll_answer(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<State>> {
        loop {
            let Ok(waits) = self.as_mut().fill(cx) else {
                self.project().body.set(None);
                return Poll::Ready(Some(State::Broken));
            };
            let this = self.as_mut().project();
            let mut incoming = this.incoming.borrow_mut();
            let written = incoming.poll_send(this.outgoing, cx);
            if matches!(written, Poll::Ready(Err(_))) {
                return Poll::Ready(None);
            }
            if this.body.is_none() {
                ready!(written).ok();
                this.flow.answered();
                return Poll::Ready(Some(State::Settling));
            }
            if waits && written.is_ready() {
                this.outgoing.lighten();
            }
            if waits || written.is_pending() {
                // Who has gone is not waited for, nor written for.
                return incoming.poll_gone(cx).map(|()| None);
            }
        }
    }

    /// Takes what there is of the answer's body, as long as there is room. Whether more of it has to be waited for.
    fn fill(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Result<bool, BrokeOff> {
        let mut this = self.project();
        while !this.outgoing.is_full() {
            let Some(mut body) = this.body.as_mut().as_pin_mut() else { break };
            let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else { return Ok(true) };
            let trailers = match frame {
                Some(Err(_broke_off)) => return Err(BrokeOff),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.outgoing.add_data(data, this.framing)?;
                        if matches!(this.framing, Framing::Length(0)) {
                            // All that was promised: whether more ends it or not, it is not waited for.
                            if !body.is_end_stream() {
                                drop(body.poll_frame(cx));
                            }
                        } else if !body.is_end_stream() {
                            continue;
                        }
                        None
                    }
                    Err(frame) => frame.into_trailers().ok(),
                },
                None => None,
            };
            this.body.set(None);
            this.outgoing.end(std::mem::replace(this.framing, Framing::None), trailers.as_ref())?;
        }
        Ok(false)
    }

    fn poll_settle(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<State>> {
        let this = self.project();
        let is_held = Rc::strong_count(this.incoming) > 1;
        let mut incoming = this.incoming.borrow_mut();
        let keep = match incoming.rest(is_held, cx) {
            Rest::None => {
                this.flow.leave_at_once();
                *this.keep && !*this.leaving
            }
            Rest::Read => return Poll::Pending,
            Rest::Left => {
                this.flow.leave_unread();
                false
            }
        };
        if !keep {
            // To close over what was not read would take back what the client has yet to read.
            let is_gone = incoming.poll_gone(cx).is_ready();
            if !is_gone && incoming.has_begun() {
                this.flow.leave_unread();
            }
            return Poll::Ready(Some(State::Closing));
        }
        incoming.skip_empty_lines();
        if incoming.has_begun() && this.flow.phase() == Phase::Idle {
            this.flow.enter(Phase::Head);
        }
        Poll::Ready(Some(State::Head))
    }

    /// Whether everything was written. Otherwise the connection broke.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let this = self.project();
        this.incoming.borrow_mut().poll_send(this.outgoing, cx).map(|written| written.is_ok())
    }

    /// Gives the connection to whoever waits for it, if that is somebody still.
    fn hand_over(self: Pin<&mut Self>) {
        let this = self.project();
        if let Some(waiting) = this.upgrade.take().filter(|waiting| !waiting.is_closed())
            && let Some((mut io, ahead)) = this.incoming.borrow_mut().take()
        {
            io.put_back(ahead);
            drop(waiting.send(io));
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let mut incoming = this.incoming.borrow_mut();
        // Where the other side has ended, to close says the same; not so over TLS.
        if incoming.has_ended() && !*this.encrypted { Poll::Ready(()) } else { incoming.poll_shutdown(cx) }
    }
}

/// What was written of an answer cannot be ended.
struct BrokeOff;

impl From<WrongLength> for BrokeOff {
    fn from(_: WrongLength) -> Self {
        Self
    }
}

/// So many are answered, where they are here already, before other connections have their turn.
const REQUESTS_AT_A_TURN: u32 = 16;
