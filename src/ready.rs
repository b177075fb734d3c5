//! Whether this process can answer: its listeners are bound, its table answers, and it is not
//! draining. Read by the ops listener, written by who starts and stops things.

use std::sync::atomic::{AtomicBool, Ordering};

/// What stands between this process and answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unready {
    /// Some listener is not bound yet.
    Starting,
    /// It was asked to stop.
    Draining,
}

/// The process's own part of readiness. Whether the table answers is asked of the table.
#[derive(Debug, Default)]
pub struct Readiness {
    bound: AtomicBool,
    draining: AtomicBool,
}

impl Readiness {
    /// Every listener is bound.
    pub fn bound(&self) {
        self.bound.store(true, Ordering::Release);
    }

    /// A stop was asked for.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// What is missing, if anything is.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn check(&self) -> Result<(), Unready> {
        if self.draining.load(Ordering::Acquire) {
            Err(Unready::Draining)
        } else if self.bound.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(Unready::Starting)
        }
    }
}
