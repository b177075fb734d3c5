//! How many reads of the store a second all misses together may cost.

use parking_lot::Mutex;

use crate::clock::Timestamp;

/// A budget that is refilled by the second.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: u64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// What is left, in nanoseconds of refill.
    left: u64,
    at: Timestamp,
}

const SECOND: u64 = 1_000_000_000;

impl Budget {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: u64::from(per_second), bucket: Mutex::new(Bucket { left: SECOND, at: Timestamp::EPOCH }) }
    }

    /// Whether one more read is allowed now.
    pub(super) fn take(&self, now: Timestamp) -> bool {
        let Some(price) = SECOND.checked_div(self.per_second) else { return false };
        let mut bucket = self.bucket.lock();
        let gained = u64::try_from(now.since(bucket.at).as_nanos()).unwrap_or(u64::MAX);
        bucket.left = bucket.left.saturating_add(gained).min(SECOND);
        bucket.at = bucket.at.max(now);
        if bucket.left < price {
            return false;
        }
        bucket.left -= price;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_budget_refills_by_the_second_and_no_further() {
        let budget = Budget::new(4);
        let now = Timestamp::from_seconds(1_000);
        assert_eq!((0..10).filter(|_| budget.take(now)).count(), 4);
        let later = now.plus(Duration::from_secs(100));
        assert_eq!((0..10).filter(|_| budget.take(later)).count(), 4);
        assert!(!Budget::new(0).take(now));
    }
}
