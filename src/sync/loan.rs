//! Lending the state folder to the process that is to take this one's place, and having it back
//! where that came to nothing.
//!
//! The lock belongs to the open file and not to a process, so both may hold it: neither a third
//! process nor a crash of one of the two gets in between.

use std::fs::File;
use std::io;

use tokio::sync::{mpsc, oneshot};

/// Lends the state folder of a [`Runner`](super::Runner) that runs.
#[derive(Debug, Clone)]
pub struct StateLoan {
    asks: mpsc::UnboundedSender<Ask>,
}

/// What is asked of the follower.
#[derive(Debug)]
pub(super) enum Ask {
    Lend(oneshot::Sender<io::Result<File>>),
    TakeBack,
    Give,
}

/// Whose the state folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// Ours to write.
    Ours,
    /// Another process may write it, and we have it back should that one fail.
    Lent,
    /// Another process's for good.
    Given,
}

impl StateLoan {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Ask>) {
        let (asks, asked) = mpsc::unbounded_channel();
        (Self { asks }, asked)
    }

    /// Writes down what is applied and then nothing more; the lock for another process to hold too.
    /// Until [`take_back`](Self::take_back) or [`give`](Self::give) what the store says goes on being
    /// enforced here, but is not reported as applied. Blocks.
    ///
    /// # Errors
    /// When something could not be written down, or nothing runs any more.
    pub fn lend(&self) -> io::Result<File> {
        let (reply, replied) = oneshot::channel();
        let gone = || io::Error::other("the thread that follows the store has ended");
        self.asks.send(Ask::Lend(reply)).map_err(|_gone| gone())?;
        replied.blocking_recv().map_err(|_gone| gone())?
    }

    /// The other process is gone: what it wrote is read, and writing goes on here.
    pub fn take_back(&self) {
        // Nobody is there to write any more once the follower has ended.
        self.asks.send(Ask::TakeBack).ok();
    }

    /// The other process keeps it. What is applied here is reported at once from now on: the other
    /// remembers it.
    pub fn give(&self) {
        self.asks.send(Ask::Give).ok();
    }
}
