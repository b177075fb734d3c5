//! How many requests may be sent again: a share of all, and a few a second besides, so that retries
//! help against a fault and do not become a load of their own.

use std::cell::Cell;
use std::time::Instant;

use crate::proxy::settings::RetryBudget;

/// One retry, in what the budget is counted in.
const ONE: u64 = 100;
/// What can be saved up by requests.
const SAVED_MAX: u64 = 100 * ONE;

/// The budget of one worker for one upstream.
#[derive(Debug)]
pub(super) struct Budget {
    rules: RetryBudget,
    saved: Cell<u64>,
    second: Cell<Option<(Instant, u32)>>,
}

impl Budget {
    pub(super) const fn new(rules: RetryBudget) -> Self {
        Self { rules, saved: Cell::new(0), second: Cell::new(None) }
    }

    /// A request was made.
    pub(super) fn earn(&self) {
        self.saved.set((self.saved.get() + u64::from(self.rules.share)).min(SAVED_MAX));
    }

    /// Whether one may be sent again at `now`; it counts as sent.
    pub(super) fn spend(&self, now: Instant) -> bool {
        let (since, spent) = match self.second.get() {
            Some((since, spent)) if now.saturating_duration_since(since).as_secs() == 0 => (since, spent),
            Some(_) | None => (now, 0),
        };
        if spent < self.rules.per_second {
            self.second.set(Some((since, spent + 1)));
            return true;
        }
        match self.saved.get().checked_sub(ONE) {
            Some(left) => {
                self.saved.set(left);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, SystemClock};

    #[test]
    fn a_share_of_all_and_a_few_a_second() {
        let budget = Budget::new(RetryBudget { share: 20, per_second: 2 });
        let now = SystemClock::default().monotonic();
        let spent = |now| (0..200).filter(|_| budget.spend(now)).count();
        assert_eq!(spent(now), 2);
        (0..50).for_each(|_| budget.earn());
        assert_eq!(spent(now), 10);
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!(spent(now + Duration::from_secs(1)), 102);
        assert_eq!(spent(now + Duration::from_secs(1)), 0);
    }
}
