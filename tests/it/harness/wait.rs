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

/// How much of something a long run asks for by this variable of the environment, or `usual`.
#[expect(clippy::disallowed_methods, reason = "long runs are asked for by the environment")]
pub(crate) fn number(variable: &str, usual: u64) -> u64 {
    let asked = std::env::var(variable).ok();
    asked.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
