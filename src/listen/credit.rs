//! How much longer the other side may take: patience that waiting uses up and bytes give back.
//!
//! A limit of pauses alone is kept by a byte before each of its ends. Credit is never more than at the
//! start, so neither does a fast beginning pay for a slow rest.

use std::time::Duration;

use super::ticker::Tick;

/// The patience with one body, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credit {
    left: Tick,
    most: Tick,
    /// Bytes a second; none where any byte restores it whole.
    rate: Option<u32>,
}

impl Credit {
    /// Patience for a pause of `most`, which `rate_min` bytes a second keep up. 0: any byte does.
    pub(super) fn new(most: Duration, rate_min: u32) -> Self {
        let most = Tick::try_from(most.as_millis()).unwrap_or(Tick::MAX).max(1);
        Self { left: most, most, rate: (rate_min > 0).then_some(rate_min) }
    }

    /// How long a pause may be now.
    pub(super) const fn left(&self) -> Duration {
        Duration::from_millis(self.left)
    }

    /// So many milliseconds were waited.
    pub(super) const fn spend(&mut self, waited: Tick) {
        self.left = self.left.saturating_sub(waited);
    }

    /// So many bytes came.
    pub(super) fn earn(&mut self, bytes: usize) {
        let earned = match self.rate {
            None if bytes == 0 => 0,
            None => self.most,
            Some(rate) => Tick::try_from(bytes).unwrap_or(Tick::MAX).saturating_mul(1000) / Tick::from(rate),
        };
        self.left = self.left.saturating_add(earned).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credit(rate_min: u32) -> Credit {
        Credit::new(Duration::from_secs(30), rate_min)
    }

    #[test]
    fn a_byte_now_and_then_buys_next_to_nothing() {
        let mut it = credit(240);
        it.spend(29_000);
        it.earn(1);
        assert_eq!(it.left(), Duration::from_millis(1_004));
    }

    #[test]
    fn the_least_rate_can_be_kept_for_ever() {
        let mut it = credit(240);
        for _ in 0..1_000 {
            it.spend(10_000);
            it.earn(2_400);
        }
        assert_eq!(it.left(), Duration::from_secs(30));
    }

    #[test]
    fn a_fast_beginning_pays_for_no_slow_rest() {
        let mut it = credit(240);
        it.earn(1 << 30);
        assert_eq!(it.left(), Duration::from_secs(30));
    }

    #[test]
    fn without_a_rate_any_byte_counts_in_full() {
        let mut it = credit(0);
        it.spend(29_000);
        it.earn(0);
        assert_eq!(it.left(), Duration::from_secs(1));
        it.earn(1);
        assert_eq!(it.left(), Duration::from_secs(30));
    }
}
