//! A timer for what may pause, but not for too long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

/// A coarse timer: it fires between one and two times its span after the last progress, and is not
/// touched by progress itself.
#[derive(Debug)]
pub(super) struct Idle {
    span: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    progressed: bool,
}

impl Idle {
    /// One that begins to run when it is first polled.
    pub(super) const fn new(span: Duration) -> Self {
        Self { span, sleep: None, progressed: false }
    }

    /// Something moved.
    pub(super) const fn progressed(&mut self) {
        self.progressed = self.sleep.is_some();
    }

    /// Lets go of the timer.
    pub(super) fn stop(&mut self) {
        self.sleep = None;
    }

    /// Ready when nothing has moved for the span.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let span = self.span;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(span)));
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !std::mem::take(&mut self.progressed) {
                return Poll::Ready(());
            }
            *sleep = Box::pin(tokio::time::sleep(span));
        }
    }
}
