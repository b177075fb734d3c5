//! Memory that is free, given back to the system.
//!
//! The allocator gives back what has been free for a second, but looks for it only when a page of its own
//! becomes free. Where a crowd has gone, or come to rest, that may be in an hour. So such a page is made, and
//! let go of, a little more than a second after connections have let memory go.

use std::hint::black_box;
use std::time::Duration;

use tokio::sync::Notify;

/// Looks after the free memory of one worker.
#[derive(Debug, Default)]
pub(super) struct Trim {
    freed: Notify,
}

impl Trim {
    /// A connection has let memory go.
    pub(super) fn freed(&self) {
        self.freed.notify_one();
    }

    /// Gives back what is free, for ever. While nothing is let go of, nothing is done.
    pub(super) async fn run(&self) {
        loop {
            self.freed.notified().await;
            tokio::time::sleep(FREE_FOR).await;
            // Never written to: it costs a few microseconds.
            drop(black_box(Vec::<u8>::with_capacity(PAGE_BYTES)));
        }
    }
}

/// The allocator's `purge_delay`, a second, and some.
const FREE_FOR: Duration = Duration::from_millis(1_100);
/// So large that it is a page of its own.
const PAGE_BYTES: usize = 1024 * 1024;
