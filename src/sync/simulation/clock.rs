//! A gateway's clocks: the wall clock may be wrong and be set, the monotonic one only goes on.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::{Clock, ManualClock, Timestamp};

#[derive(Debug)]
pub(super) struct SimClock {
    /// What the machine's wall clock reads.
    wall: AtomicI64,
    /// What was read of it last: never less is handed out.
    floor: AtomicI64,
    monotonic: ManualClock,
}

impl SimClock {
    pub(super) fn at(wall: Timestamp) -> Self {
        Self {
            wall: AtomicI64::new(wall.nanos()),
            floor: AtomicI64::new(i64::MIN),
            monotonic: ManualClock::at(Timestamp::EPOCH),
        }
    }

    pub(super) fn pass(&self, span: Duration) {
        let wall = Timestamp::from_nanos(self.wall.load(Ordering::SeqCst)).plus(span);
        self.wall.store(wall.nanos(), Ordering::SeqCst);
        self.monotonic.advance(span);
    }

    /// Somebody sets the wall clock.
    pub(super) fn set_off(&self, by_minutes: i8) {
        self.wall.fetch_add(i64::from(by_minutes) * 60_000_000_000, Ordering::SeqCst);
    }

    /// A new process knows no more of what was read than its state folder tells.
    pub(super) fn restart(&self) {
        self.floor.store(i64::MIN, Ordering::SeqCst);
    }

    pub(super) fn raise_to(&self, floor: Timestamp) {
        self.floor.fetch_max(floor.nanos(), Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let wall = self.wall.load(Ordering::SeqCst);
        Timestamp::from_nanos(wall.max(self.floor.fetch_max(wall, Ordering::SeqCst)))
    }

    fn monotonic(&self) -> Instant {
        self.monotonic.monotonic()
    }
}
