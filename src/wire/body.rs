//! A request's body on its way to an upstream: limited, counted, and honest about how it ended.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::fields::strip_trailers;

/// How far a request's body has come. Shared between the body, which another task polls, and the
/// one who answers the request.
#[derive(Debug, Default)]
pub struct Transfer {
    bytes: Cell<u64>,
    ended: Cell<bool>,
    waiting: Cell<bool>,
    fault: RefCell<Option<InboundFault>>,
}

impl Transfer {
    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// So many more bytes have passed that were no request's body, such as those of a tunnel.
    pub fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
    }

    /// Whether the whole body has been handed on.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// Whether the last to be waited for was the sender, and not the one who reads.
    #[must_use]
    pub fn is_waiting_for_sender(&self) -> bool {
        self.waiting.get()
    }

    /// Whether the body broke off, and nobody has asked why.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.fault.borrow().is_some()
    }

    /// Why the body broke off, if it did. Given out once.
    #[must_use]
    pub fn take_fault(&self) -> Option<InboundFault> {
        self.fault.borrow_mut().take()
    }

    /// Says that there is no body, or that all of it has passed.
    pub fn end(&self) {
        self.ended.set(true);
    }
}

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
pub enum InboundFault {
    /// It is larger than the route allows.
    #[error("the request's body is larger than {limit} bytes")]
    TooLarge {
        /// What the route allows.
        limit: u64,
    },
    /// Its sender failed: too slow, bad framing, gone.
    #[error("the request's body broke off")]
    Sender(#[source] Box<dyn Error + Send + Sync>),
}

/// What the reader of a broken body is told; the reason is in the [`Transfer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request's body broke off")]
pub struct BrokenOff;

pin_project! {
    /// A request's body with its limit. Trailers pass only where asked for.
    #[derive(Debug)]
    pub struct Inbound<B> {
        #[pin]
        body: B,
        limit: u64,
        trailers: bool,
        whole: bool,
        transfer: Rc<Transfer>,
    }
}

impl<B: Body> Inbound<B> {
    /// `body`, at most `limit` bytes of it; trailers pass only if `trailers`.
    pub fn new(body: B, limit: u64, trailers: bool, transfer: Rc<Transfer>) -> Self {
        if body.is_end_stream() {
            transfer.end();
        }
        Self { body, limit, trailers, whole: false, transfer }
    }
}

impl<B> Body for Inbound<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut this = self.project();
        if *this.whole {
            return Poll::Ready(None);
        }
        loop {
            let frame = match this.body.as_mut().poll_frame(cx) {
                Poll::Pending => {
                    this.transfer.waiting.set(true);
                    return Poll::Pending;
                }
                Poll::Ready(frame) => frame,
            };
            this.transfer.waiting.set(false);
            return Poll::Ready(match frame {
                None => {
                    this.transfer.end();
                    None
                }
                Some(Err(error)) => {
                    *this.transfer.fault.borrow_mut() = Some(InboundFault::Sender(error.into()));
                    Some(Err(BrokenOff))
                }
                Some(Ok(frame)) => {
                    if frame.is_trailers() && !*this.trailers {
                        continue;
                    }
                    let frame = match frame.into_trailers() {
                        Ok(mut trailers) => {
                            strip_trailers(&mut trailers);
                            Frame::trailers(trailers)
                        }
                        Err(frame) => frame,
                    };
                    let length = frame.data_ref().map_or(0, Buf::remaining);
                    let total = this.transfer.bytes().saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
                    if total > *this.limit {
                        *this.transfer.fault.borrow_mut() = Some(InboundFault::TooLarge { limit: *this.limit });
                        return Poll::Ready(Some(Err(BrokenOff)));
                    }
                    this.transfer.bytes.set(total);
                    if this.body.is_end_stream() {
                        this.transfer.end();
                    } else if !*this.trailers && this.body.size_hint().exact() == Some(0) {
                        // All that its length tells of. HTTP/2 may say that it ends in a frame of its own, which
                        // nobody has to wait for.
                        *this.whole = true;
                        this.transfer.end();
                    }
                    Some(Ok(frame))
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http_body_util::{BodyExt, Full};

    type Frames = Vec<Result<Frame<Bytes>, std::io::Error>>;

    fn inbound(
        frames: Frames,
        limit: u64,
        trailers: bool,
    ) -> (impl Body<Data = Bytes, Error = BrokenOff>, Rc<Transfer>) {
        struct Ready(std::vec::IntoIter<Result<Frame<Bytes>, std::io::Error>>);
        impl Body for Ready {
            type Data = Bytes;
            type Error = std::io::Error;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
                Poll::Ready(self.0.next())
            }
        }
        let transfer = Rc::new(Transfer::default());
        (Inbound::new(Ready(frames.into_iter()), limit, trailers, Rc::clone(&transfer)), transfer)
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, std::io::Error> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn trailers() -> Result<Frame<Bytes>, std::io::Error> {
        Ok(Frame::trailers(HeaderMap::new()))
    }

    #[tokio::test]
    async fn a_body_within_its_limit_passes_whole_and_is_counted() {
        let (body, transfer) = inbound(vec![data("abc"), data("de")], 5, false);
        let whole = body.collect().await.expect("within the limit").to_bytes();
        assert_eq!(&whole[..], b"abcde");
        assert_eq!(transfer.bytes(), 5);
        assert!(transfer.is_ended() && transfer.take_fault().is_none());
    }

    #[tokio::test]
    async fn a_body_over_its_limit_breaks_off_before_the_byte_too_many() {
        let (body, transfer) = inbound(vec![data("abc"), data("def")], 5, false);
        assert!(body.collect().await.is_err());
        assert!(!transfer.is_ended());
        assert!(matches!(transfer.take_fault(), Some(InboundFault::TooLarge { limit: 5 })));
    }

    #[tokio::test]
    async fn trailers_pass_only_where_asked_for() {
        let (body, _) = inbound(vec![data("a"), trailers()], 5, false);
        assert!(body.collect().await.expect("whole").trailers().is_none());
        let (body, _) = inbound(vec![data("a"), trailers()], 5, true);
        assert!(body.collect().await.expect("whole").trailers().is_some());
    }

    #[tokio::test]
    async fn a_senders_fault_is_kept_for_the_one_who_answers() {
        let (body, transfer) = inbound(vec![data("a"), Err(std::io::Error::other("bad chunk"))], 5, false);
        assert!(body.collect().await.is_err());
        assert!(matches!(transfer.take_fault(), Some(InboundFault::Sender(_))));
        assert!(transfer.take_fault().is_none());
    }

    /// So many bytes, then nothing that would say that it has ended.
    struct Endless(u64);

    impl Body for Endless {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            if self.0 == 0 {
                return Poll::Pending;
            }
            self.0 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0)
        }
    }

    #[test]
    fn a_body_ends_with_its_last_byte_where_its_length_is_known() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for trailers in [false, true] {
            let transfer = Rc::new(Transfer::default());
            let mut body = Inbound::new(Endless(2), 5, trailers, Rc::clone(&transfer));
            for length in 1..=2 {
                assert!(!transfer.is_ended() && !body.is_end_stream(), "after {} bytes", length - 1);
                assert!(matches!(Pin::new(&mut body).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
            }
            // Where trailers pass, they may be still to come.
            assert_eq!((transfer.is_ended(), body.is_end_stream()), (!trailers, !trailers));
            assert_eq!(Pin::new(&mut body).poll_frame(&mut cx).is_ready(), !trailers);
            assert_eq!(transfer.is_waiting_for_sender(), trailers);
        }
        // What is said to be empty is asked for its end: there may be something after all.
        let transfer = Rc::new(Transfer::default());
        let mut body = Inbound::new(Endless(0), 5, false, Rc::clone(&transfer));
        assert!(!transfer.is_ended() && Pin::new(&mut body).poll_frame(&mut cx).is_pending());
    }

    #[test]
    fn an_empty_body_has_ended_from_the_start() {
        let transfer = Rc::new(Transfer::default());
        let _body = Inbound::new(Full::<Bytes>::default(), 0, false, Rc::clone(&transfer));
        assert!(transfer.is_ended());
    }
}
