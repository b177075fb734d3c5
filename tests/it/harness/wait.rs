//! Waiting on a condition, and measuring how long something took.

use std::thread;
use std::time::{Duration, Instant};

use keyward::clock::{Clock, SystemClock};

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Looks until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !condition() {
        assert!(watch.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Time since a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(SystemClock::default().monotonic())
    }

    pub(crate) fn elapsed(self) -> Duration {
        SystemClock::default().monotonic() - self.0
    }
}

/// How many times something is done: `short` times, or as often as this variable of the long runs
/// says (`make soak`).
#[expect(clippy::disallowed_methods, reason = "the one place where the tests read the environment")]
pub(crate) fn times(variable: &str, short: usize) -> usize {
    std::env::var(variable).map_or(short, |times| times.parse().expect("a number"))
}
