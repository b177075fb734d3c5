//! How targets stand: what checks and requests have found out about them. Shared by all workers
//! through a few atomic numbers, so that what one has met with the others need not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::proxy::settings::{Ejection, HealthCheck};

/// A time in milliseconds on the clock of [`Standings`]; 0 is never.
pub(crate) type Millis = u64;

const UNCHECKED: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// One target of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    checked: AtomicU8,
    /// Checks in a row that say otherwise than `checked`.
    otherwise: AtomicU32,
    next_check: AtomicU64,
    failures: AtomicU32,
    /// Ejections in a row.
    level: AtomicU32,
    ejected_until: AtomicU64,
    recovered_at: AtomicU64,
    ejections: AtomicU64,
    checks_good: AtomicU64,
    checks_bad: AtomicU64,
}

/// What is told of a target to whoever scrapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// Whether requests go there.
    pub(crate) up: bool,
    pub(crate) ejections: u64,
    pub(crate) checks_good: u64,
    pub(crate) checks_bad: u64,
}

impl Standing {
    /// Whether the last checks found it down.
    pub(super) fn is_down(&self) -> bool {
        self.checked.load(Relaxed) == DOWN
    }

    /// Whether there is nothing to say against it, by a look that costs no clock.
    pub(super) fn is_untroubled(&self) -> bool {
        self.ejected_until.load(Relaxed) == 0 && self.recovered_at.load(Relaxed) == 0 && !self.is_down()
    }

    /// Whether it is passed over at `now` for what requests met there.
    pub(super) fn is_ejected(&self, now: Millis) -> bool {
        let until = self.ejected_until.load(Relaxed);
        if until == 0 || now < until {
            return until != 0;
        }
        if self.ejected_until.compare_exchange(until, 0, Relaxed, Relaxed).is_ok() {
            self.recovered_at.store(now, Relaxed);
        }
        false
    }

    /// How much of its share it gets at `now`, in 256ths, where it comes back over `slow_start`.
    pub(super) fn share(&self, now: Millis, slow_start: Duration) -> u64 {
        let recovered = self.recovered_at.load(Relaxed);
        if recovered == 0 {
            return 256;
        }
        let span = millis(slow_start);
        let since = now.saturating_sub(recovered);
        if since >= span {
            self.recovered_at.store(0, Relaxed);
            return 256;
        }
        (since * 256 / span).max(16)
    }

    /// An exchange went well.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.level.load(Relaxed) != 0 {
            self.level.store(0, Relaxed);
        }
    }

    /// An exchange failed; whether the target is to be ejected for it. `at_once`: it could not even be
    /// connected to.
    pub(super) fn failed(&self, rules: &Ejection, at_once: bool) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        at_once || failures >= rules.failures
    }

    /// Passes it over from `now` on, for longer each time in a row.
    pub(super) fn eject(&self, rules: &Ejection, now: Millis) {
        // Of many who find out at once, one counts.
        if self.ejected_until.load(Relaxed) > now {
            return;
        }
        let level = self.level.fetch_add(1, Relaxed).min(20);
        let span = millis(rules.base).saturating_mul(1 << level).min(millis(rules.max));
        self.ejected_until.store(now.saturating_add(span).max(1), Relaxed);
        self.failures.store(0, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
    }

    /// Whether a check is due at `now`, and whoever asks is the one to make it.
    pub(super) fn claims_check(&self, rules: &HealthCheck, now: Millis) -> bool {
        let next = self.next_check.load(Relaxed);
        let after = now.saturating_add(millis(rules.interval));
        now >= next && self.next_check.compare_exchange(next, after, Relaxed, Relaxed).is_ok()
    }

    /// A check was made. Whether it changed how the target stands.
    pub(super) fn checked(&self, rules: &HealthCheck, good: bool, now: Millis) -> bool {
        if good { &self.checks_good } else { &self.checks_bad }.fetch_add(1, Relaxed);
        let (before, says) = (self.checked.load(Relaxed), if good { UP } else { DOWN });
        if says == before || (before == UNCHECKED && good) {
            self.otherwise.store(0, Relaxed);
            self.checked.store(says, Relaxed);
            return false;
        }
        let needed = if good { rules.healthy_after } else { rules.unhealthy_after };
        if self.otherwise.fetch_add(1, Relaxed).saturating_add(1) < needed {
            return false;
        }
        self.otherwise.store(0, Relaxed);
        self.checked.store(says, Relaxed);
        if good {
            self.recovered_at.store(now, Relaxed);
            // What is checked to be well is not passed over for what was before.
            self.ejected_until.store(0, Relaxed);
        }
        true
    }

    /// Nobody checks it any more.
    fn forget_checks(&self) {
        self.checked.store(UNCHECKED, Relaxed);
        self.otherwise.store(0, Relaxed);
    }

    fn told(&self, now: Millis) -> Told {
        Told {
            up: !self.is_down() && self.ejected_until.load(Relaxed) <= now,
            ejections: self.ejections.load(Relaxed),
            checks_good: self.checks_good.load(Relaxed),
            checks_bad: self.checks_bad.load(Relaxed),
        }
    }
}

fn millis(span: Duration) -> Millis {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Upstream and target.
type Name = (Arc<str>, Arc<str>);

/// All targets of all upstreams, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    origin: OnceLock<Instant>,
    /// The latest time that was asked for, for those who scrape and have no clock.
    latest: AtomicU64,
    targets: Mutex<BTreeMap<Name, Arc<Standing>>>,
}

impl Standings {
    /// `now` on the clock that all standings are told in.
    pub(crate) fn millis(&self, now: Instant) -> Millis {
        let origin = *self.origin.get_or_init(|| now);
        let millis = millis(now.saturating_duration_since(origin)).saturating_add(1);
        self.latest.fetch_max(millis, Relaxed);
        millis
    }

    /// The standing of one target; `checked` tells whether it is checked from now on. Locks: for when
    /// the configuration changes.
    pub(crate) fn of(&self, upstream: &str, target: &str, checked: bool) -> Arc<Standing> {
        let mut targets = self.targets.lock();
        let standing = Arc::clone(targets.entry((upstream.into(), target.into())).or_default());
        if !checked {
            standing.forget_checks();
        }
        standing
    }

    /// Forgets the targets that `is_configured` does not know.
    pub(crate) fn retain(&self, is_configured: impl Fn(&str, &str) -> bool) {
        self.targets.lock().retain(|(upstream, target), _| is_configured(upstream, target));
    }

    /// How each stands.
    pub(crate) fn told(&self) -> Vec<(Name, Told)> {
        let now = self.latest.load(Relaxed);
        self.targets.lock().iter().map(|(name, standing)| (name.clone(), standing.told(now))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::settings::Probe;

    const EJECTION: Ejection =
        Ejection { failures: 3, base: Duration::from_millis(100), max: Duration::from_millis(350), share_max: 50 };

    fn check() -> HealthCheck {
        HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(100),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let standing = Standing::default();
        assert!(!standing.failed(&EJECTION, false) && !standing.failed(&EJECTION, false));
        standing.succeeded();
        assert!(!standing.failed(&EJECTION, false) && !standing.failed(&EJECTION, false));
        assert!(standing.failed(&EJECTION, false));
        assert!(Standing::default().failed(&EJECTION, true));
    }

    #[test]
    fn each_ejection_in_a_row_lasts_twice_as_long_up_to_the_most() {
        let standing = Standing::default();
        let mut now = 1;
        for span in [100, 200, 350, 350] {
            standing.eject(&EJECTION, now);
            assert!(standing.is_ejected(now + span - 1), "{span}");
            now += span;
            assert!(!standing.is_ejected(now), "{span}");
        }
        standing.succeeded();
        standing.eject(&EJECTION, now);
        assert!(!standing.is_ejected(now + 100));
        assert_eq!(standing.told(now).ejections, 5);
    }

    #[test]
    fn checks_in_a_row_turn_a_target() {
        let (standing, rules) = (Standing::default(), check());
        let check = |good| standing.checked(&rules, good, 1);
        assert!(!check(true) && !check(false) && !check(false) && !check(true));
        assert!(!check(false) && !check(false) && check(false));
        assert!(standing.is_down());
        assert!(!check(true) && !check(false) && !check(true));
        assert!(standing.is_down());
        assert!(check(true));
        assert!(!standing.is_down());
    }

    #[test]
    fn one_of_those_who_ask_makes_a_check() {
        let (standing, rules) = (Standing::default(), check());
        assert!(standing.claims_check(&rules, 1) && !standing.claims_check(&rules, 1));
        assert!(!standing.claims_check(&rules, 100) && standing.claims_check(&rules, 101));
    }

    #[test]
    fn a_target_that_came_back_gets_more_and_more() {
        let standing = Standing::default();
        let span = Duration::from_millis(1000);
        standing.eject(&EJECTION, 1);
        assert!(!standing.is_ejected(101));
        let shares = [101, 351, 601, 1101].map(|now| standing.share(now, span));
        assert_eq!(shares, [16, 64, 128, 256]);
        assert!(standing.is_untroubled());
    }
}
