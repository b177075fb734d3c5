//! How far behind the store the table may be, and what then happens.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;

/// What happens once the table has gone too long without contact to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStale {
    /// Go on answering from what is known.
    #[default]
    Serve,
    /// Refuse with 503.
    Deny,
}

/// How the table stands towards the store at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing was loaded yet: no request can be decided.
    Empty,
    /// In contact, or out of it for no longer than is tolerated.
    Fresh,
    /// Out of contact for longer than `max_staleness`.
    Stale,
}

/// When the store was last heard of. Values only: whoever talks to the store tells.
#[derive(Debug)]
pub(super) struct Contact {
    ready: AtomicBool,
    last: AtomicI64,
    lost_at: AtomicI64,
    /// Set by the follower from the monotonic clock: a wall clock that was set back, and so stands
    /// still, must not keep a table fresh.
    overdue: AtomicBool,
    max_staleness_nanos: AtomicU64,
}

const NOT_LOST: i64 = i64::MIN;
const NEVER: i64 = i64::MIN;

impl Contact {
    pub(super) const fn none() -> Self {
        Self {
            ready: AtomicBool::new(false),
            last: AtomicI64::new(NEVER),
            lost_at: AtomicI64::new(NOT_LOST),
            overdue: AtomicBool::new(false),
            max_staleness_nanos: AtomicU64::new(u64::MAX),
        }
    }

    pub(super) fn set_max_staleness(&self, span: Duration) {
        self.max_staleness_nanos.store(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn made(&self, now: Timestamp) {
        self.last.fetch_max(now.nanos(), Ordering::Relaxed);
        self.lost_at.store(NOT_LOST, Ordering::Relaxed);
        self.overdue.store(false, Ordering::Relaxed);
    }

    /// The first loss counts; later ones do not move it. Whether this was the first.
    pub(super) fn lost(&self, now: Timestamp) -> bool {
        self.lost_at.compare_exchange(NOT_LOST, now.nanos(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(super) fn lost_at(&self) -> Option<Timestamp> {
        let nanos = self.lost_at.load(Ordering::Relaxed);
        (nanos != NOT_LOST).then(|| Timestamp::from_nanos(nanos))
    }

    pub(super) fn last(&self) -> Option<Timestamp> {
        let nanos = self.last.load(Ordering::Relaxed);
        (nanos != NEVER).then(|| Timestamp::from_nanos(nanos))
    }

    pub(super) fn set_overdue(&self, overdue: bool) {
        self.overdue.store(overdue, Ordering::Relaxed);
    }

    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn freshness(&self, now: Timestamp) -> Freshness {
        if !self.is_ready() {
            return Freshness::Empty;
        }
        let tolerated = Duration::from_nanos(self.max_staleness_nanos.load(Ordering::Relaxed));
        let silent = self.last().is_none_or(|last| now.since(last) > tolerated);
        if silent || self.overdue.load(Ordering::Relaxed) { Freshness::Stale } else { Freshness::Fresh }
    }
}
