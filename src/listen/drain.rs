//! The end of a worker: open requests are finished, then cut at a deadline.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;

use super::metrics::ListenMetrics;
use super::peer::Worker;

/// Tells every connection to end and waits until all have, and until `limit` has passed; then cuts the rest,
/// of which tunnels get a moment to say goodbye.
///
/// HTTP/2 sends GOAWAY and finishes its streams. HTTP/1 says `Connection: close` in every answer from now on. One
/// that is idle gets a tenth of `limit` for another request, to which it can be told: whoever closes an idle
/// connection unannounced may cross a request on its way, which is lost.
pub(super) async fn drain(worker: &Worker, open: &mut JoinSet<()>, limit: Duration, metrics: &ListenMetrics) {
    worker.idle_until.set(worker.ticker.coarse().after(limit / IDLE_SHARE));
    worker.ticker.ring_all();
    let finished = async {
        while let Some(ended) = open.join_next().await {
            if ended.is_err_and(|error| error.is_panic()) {
                metrics.panics.inc();
            }
        }
        no_tasks(worker).await;
    };
    if tokio::time::timeout(limit, finished).await.is_err() {
        worker.overdue.send_replace(true);
        // Said or not, that was the time for it.
        let _late = tokio::time::timeout(GOODBYE, no_tasks(worker)).await;
        open.shutdown().await;
        let mut tasks = worker.tasks.take();
        tasks.shutdown().await;
    }
    // Streams end by themselves once their connection has: let them run.
    for _turn in 0..TURNS {
        if worker.streams.get() == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Ends when no tunnel is left, nor anything else that outlives its request.
async fn no_tasks(worker: &Worker) {
    poll_fn(|cx| {
        let mut tasks = worker.tasks.borrow_mut();
        while let Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {}
        if tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// How long tunnels have to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// The part of the drain that idle connections get.
const IDLE_SHARE: u32 = 10;
/// How often what was cut gets to run before it is left behind.
const TURNS: u32 = 1_000;
