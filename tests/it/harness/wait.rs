//! Waiting on a condition, and measuring how long something took.

use std::str::FromStr;
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

/// How many times something is done: `usual` times, or as often as this variable of the long runs
/// says (`make soak`).
#[expect(clippy::disallowed_methods, reason = "the one place where the tests read the environment")]
pub(crate) fn times<N: FromStr>(variable: &str, usual: N) -> N {
    let asked = std::env::var(variable).ok();
    asked.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
