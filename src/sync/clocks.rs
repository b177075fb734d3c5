//! How far this gateway's clock is from the store's. Both decide when a key ends: the store's when that is
//! promised, the gateway's when it is done.

use std::time::Duration;

use super::metrics::{Alarm, SyncMetrics};
use crate::clock::Timestamp;

/// Both clocks, as far as they were heard of.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// What the store's read last.
    store: Timestamp,
    are_apart: bool,
}

/// Clocks that somebody keeps right are no further apart; certificates, tokens and webhooks are taken with as much
/// leeway.
const APART: Duration = Duration::from_secs(5);
/// Once they were further apart, they are together again below this.
const TOGETHER: Duration = Duration::from_secs(2);

impl Clocks {
    /// Takes note of what the store's clock read between two moments of this gateway's, for as long as which nobody
    /// knows more.
    pub(super) fn heard(&mut self, (asked, answered): (Timestamp, Timestamp), store: Timestamp, metrics: &SyncMetrics) {
        self.store = store;
        let (ahead, behind) = (asked.since(store), store.since(answered));
        metrics.ahead_of_store.set(ahead.as_secs_f64() - behind.as_secs_f64());
        let apart = ahead.max(behind);
        if !self.are_apart && apart > APART {
            self.are_apart = true;
            metrics.alarm(Alarm::Clock, 1);
            tracing::error!(
                ahead_seconds = ahead.as_secs(),
                behind_seconds = behind.as_secs(),
                "this gateway's clock and the store's are apart: keys end too early or too late here by as much"
            );
        } else if self.are_apart && apart < TOGETHER {
            self.are_apart = false;
            tracing::info!("this gateway's clock and the store's are together again");
        }
    }

    /// What both clocks have reached, where the gateway's is at `now`: what cannot be undone waits for both.
    pub(super) fn both_reached(&self, now: Timestamp) -> Timestamp {
        now.min(self.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_an_alarm_once_and_what_an_answer_took_is_no_part_of_it() {
        let (mut clocks, metrics) = (Clocks::default(), SyncMetrics::new());
        let at = Timestamp::from_seconds;
        for (asked, answered, store, ahead, alarms) in [
            (100, 102, 101, 0.0, 0),
            (105, 105, 100, 5.0, 0),
            (106, 107, 100, 6.0, 1),
            (100, 200, 100, 0.0, 1),
            (100, 101, 110, -9.0, 2),
            (100, 101, 105, -4.0, 2),
            (100, 101, 108, -7.0, 2),
        ] {
            clocks.heard((at(asked), at(answered)), at(store), &metrics);
            let shown = metrics.ahead_of_store.get();
            assert!((shown - ahead).abs() < 1e-6 && metrics.alarms_of(Alarm::Clock) == alarms, "{shown} at {store}");
        }
        assert_eq!((clocks.both_reached(at(90)), clocks.both_reached(at(200))), (at(90), at(108)));
    }
}
