//! Answers and tunnels that last: what let them through is asked again whenever the answer may have
//! changed, and what is no longer permitted is cut.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use http::Method;
use http::uri::{Authority, PathAndQuery};
use tokio::sync::Notify;

use super::account::{Account, Decided};
use crate::clock::Timestamp;

/// The open streams of one worker.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: RefCell<Vec<Weak<OpenStream>>>,
    /// A stream was opened that has to be looked at.
    pub(super) opened: Notify,
}

/// One stream, and what it was decided by.
#[derive(Debug)]
pub(super) struct OpenStream {
    pub(super) method: Method,
    pub(super) authority: Option<Authority>,
    pub(super) target: PathAndQuery,
    pub(super) decided: Cell<Decided>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Streams {
    /// Watches over the stream of this account from now on; none where nothing was decided.
    pub(super) fn open(&self, account: &Account) -> Option<Rc<OpenStream>> {
        let stream = Rc::new(OpenStream {
            method: account.method.clone(),
            authority: account.authority.clone(),
            target: account.target.clone()?,
            decided: Cell::new(account.decided?),
            cut: Cell::new(false),
            waker: RefCell::default(),
        });
        self.open.borrow_mut().push(Rc::downgrade(&stream));
        self.opened.notify_one();
        Some(stream)
    }

    /// Asks `permitted` of every open stream that is `due`, and cuts those it denies. How many.
    pub(super) fn review(
        &self,
        due: impl Fn(&Decided) -> bool,
        permitted: impl Fn(&OpenStream) -> Option<Decided>,
    ) -> u64 {
        let mut cut = 0;
        self.open.borrow_mut().retain(|stream| {
            let Some(stream) = stream.upgrade() else { return false };
            if !due(&stream.decided.get()) {
                return true;
            }
            match permitted(&stream) {
                Some(again) => {
                    stream.decided.set(again);
                    true
                }
                None => {
                    stream.cut();
                    cut += 1;
                    false
                }
            }
        });
        cut
    }

    /// Whether nothing is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }
}

impl Decided {
    /// Whether the clock or the table has moved past it.
    pub(super) fn is_past(&self, version: u64, now: Timestamp) -> bool {
        self.version != version || self.ends_at.is_some_and(|end| now >= end)
    }
}

impl OpenStream {
    fn cut(&self) {
        self.cut.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether it was cut. If not, `cx` is woken when it is.
    pub(super) fn is_cut(&self, cx: &Context<'_>) -> bool {
        if self.cut.get() {
            return true;
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }

    /// Ends when it is cut.
    pub(super) async fn until_cut(&self) {
        poll_fn(|cx| if self.is_cut(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}
