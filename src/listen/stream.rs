//! Open requests, and the streams of HTTP/2 among them.
//!
//! On HTTP/2 a client that grants no window holds its answer open though the connection moves. A stream
//! whose answer has been waiting to be sent for as long as a body may pause is reset.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;

use super::flow::Flow;
use super::metrics::ListenMetrics;
use super::peer::Worker;
use super::ticker::{Alarm, NEVER, Slot};

/// One open request; ends it when dropped.
pub(super) struct OpenRequest {
    flow: Arc<Flow>,
    stream: Option<Rc<Stream>>,
}

impl OpenRequest {
    /// Begins a request on an HTTP/1 connection.
    pub(super) fn on_connection(flow: &Arc<Flow>, has_body: bool) -> Self {
        flow.begin(has_body);
        Self { flow: Arc::clone(flow), stream: None }
    }

    /// Begins a request on an HTTP/2 connection.
    pub(super) fn on_stream(flow: &Arc<Flow>, streams: &Streams) -> Self {
        flow.begin(false);
        let stream = Rc::new(Stream::default());
        streams.next.set(Some(Rc::clone(&stream)));
        Self { flow: Arc::clone(flow), stream: Some(stream) }
    }

    /// A part of the answer was asked for: whatever was given before is on its way.
    pub(super) fn on_wanted(&self) {
        if let Some(stream) = &self.stream {
            stream.waiting.set(false);
        }
    }

    /// A part of the answer was given.
    pub(super) fn on_given(&self) {
        if let Some(stream) = &self.stream {
            stream.waiting.set(true);
            stream.given.set(stream.given.get().wrapping_add(1));
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.flow.end();
    }
}

/// What a stream's answer and its task know of each other.
#[derive(Debug, Default)]
struct Stream {
    /// Whether a part was given and no further one asked for.
    waiting: Cell<bool>,
    /// How many parts were given.
    given: Cell<u32>,
}

/// Runs the streams of one HTTP/2 connection on its worker.
#[derive(Clone)]
pub(super) struct Streams {
    worker: Rc<Worker>,
    /// hyper calls the service and then hands over the stream's task in one go: this is passed between.
    next: Rc<Cell<Option<Rc<Stream>>>>,
    stalled_after: Duration,
    metrics: Rc<ListenMetrics>,
}

impl Streams {
    pub(super) fn new(worker: Rc<Worker>, stalled_after: Duration, metrics: Rc<ListenMetrics>) -> Self {
        Self { worker, next: Rc::default(), stalled_after, metrics }
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let stream = self.next.take().unwrap_or_default();
        let open = StreamCount::new(Rc::clone(&self.worker));
        // In a box, where it stays: a task is moved nine times from here to its end, and this is some 4 KiB of it.
        let future = Box::pin(future);
        let task = StreamTask { future, stream, streams: self.clone(), stall: None, _open: open };
        // Ends with its connection: hyper drops the request when the connection is gone, and a drain
        // counts what is left.
        drop(tokio::task::spawn_local(task));
    }
}

pin_project! {
    struct StreamTask<F> {
        #[pin]
        future: F,
        stream: Rc<Stream>,
        streams: Streams,
        stall: Option<Stall>,
        _open: StreamCount,
    }
}

/// The alarm of an answer that waits to be sent, and which part that is.
struct Stall {
    alarm: Arc<Alarm>,
    given: u32,
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !this.stream.waiting.get() {
            if let Some(stall) = this.stall {
                stall.alarm.set(Slot::Phase, NEVER);
            }
            return Poll::Pending;
        }
        let ticker = &this.streams.worker.ticker;
        let given = this.stream.given.get();
        let stall = this.stall.get_or_insert_with(|| Stall { alarm: ticker.watch(), given });
        if stall.alarm.is_late(Slot::Phase, ticker.coarse().now()) && stall.given == given {
            this.streams.metrics.timeouts.with_label_values(&["stream"]).inc();
            return Poll::Ready(());
        }
        stall.alarm.register(cx.waker());
        if stall.given != given || !stall.alarm.is_set(Slot::Phase) {
            stall.given = given;
            stall.alarm.set(Slot::Phase, ticker.coarse().after(this.streams.stalled_after));
        }
        Poll::Pending
    }
}

struct StreamCount(Rc<Worker>);

impl StreamCount {
    fn new(worker: Rc<Worker>) -> Self {
        worker.streams.set(worker.streams.get() + 1);
        Self(worker)
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

pin_project! {
    /// A future whose panic is an error.
    pub(super) struct Caught<F> {
        #[pin]
        future: F,
    }
}

/// A future panicked. It must not be polled again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked;

impl<F> Caught<F> {
    pub(super) const fn new(future: F) -> Self {
        Self { future }
    }

    /// The future itself.
    pub(super) const fn future_mut(&mut self) -> &mut F {
        &mut self.future
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.poll(cx)));
        match polled {
            Ok(polled) => Poll::Ready(Ok(ready!(polled))),
            Err(_payload) => Poll::Ready(Err(Panicked)),
        }
    }
}
