//! Which target is next.

use std::cell::Cell;

use super::standing::{Millis, Standing};
use crate::proxy::settings::Balance;

/// What is known of one target when one is chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'s> {
    pub(super) standing: &'s Standing,
    /// Requests that are there now.
    pub(super) active: usize,
}

/// Chooses in turn, or by load.
#[derive(Debug)]
pub(super) struct Chooser {
    balance: Balance,
    slow_start: std::time::Duration,
    turn: Cell<usize>,
}

impl Chooser {
    pub(super) const fn new(balance: Balance, slow_start: std::time::Duration) -> Self {
        Self { balance, slow_start, turn: Cell::new(0) }
    }

    /// The index of the next target of `count`, but none of `tried`. One that checks found
    /// down is never chosen. One that is ejected is chosen only where nothing else is left: with all
    /// ejected it is better to try than to refuse.
    pub(super) fn next<'s>(
        &self,
        count: usize,
        of: impl Fn(usize) -> Option<Candidate<'s>>,
        tried: &[usize],
        now: impl Fn() -> Millis,
    ) -> Option<usize> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let mut best: Option<(u64, usize)> = None;
        let (mut held_back, mut ejected) = (None, None);
        for step in 0..count {
            let at = turn.wrapping_add(step).checked_rem(count)?;
            if tried.contains(&at) {
                continue;
            }
            let Candidate { standing, active } = of(at)?;
            let share = if standing.is_untroubled() {
                256
            } else if standing.is_down() {
                continue;
            } else if standing.is_ejected(now()) {
                ejected = ejected.or(Some(at));
                continue;
            } else {
                standing.share(now(), self.slow_start)
            };
            match self.balance {
                // Of each 256 turns one that comes back takes its share.
                Balance::RoundRobin if share == 256 || spread(turn) < share => return Some(at),
                Balance::RoundRobin => held_back = held_back.or(Some(at)),
                Balance::LeastRequests => {
                    let load =
                        (u64::try_from(active).unwrap_or(u64::MAX).saturating_add(1)).saturating_mul(256) / share;
                    if best.is_none_or(|(least, _)| load < least) {
                        best = Some((load, at));
                    }
                }
            }
        }
        best.map(|(_, at)| at).or(held_back).or(ejected)
    }
}

/// A number below 256, evenly spread over turns.
fn spread(turn: usize) -> u64 {
    let turn = u64::try_from(turn).unwrap_or(0);
    turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::settings::{Ejection, HealthCheck, Probe};

    const CHECK: HealthCheck = HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        healthy_after: 1,
        unhealthy_after: 1,
    };

    fn counted(chooser: &Chooser, standings: &[Standing], load: &[usize], turns: usize) -> Vec<usize> {
        let mut counts = vec![0; standings.len()];
        let of = |at: usize| Some(Candidate { standing: standings.get(at)?, active: load[at] });
        for _ in 0..turns {
            if let Some(at) = chooser.next(standings.len(), of, &[], || 1001) {
                counts[at] += 1;
            }
        }
        counts
    }

    fn three() -> Vec<Standing> {
        (0..3).map(|_| Standing::default()).collect()
    }

    #[test]
    fn each_has_its_turn() {
        let chooser = Chooser::new(Balance::RoundRobin, Duration::ZERO);
        assert_eq!(counted(&chooser, &three(), &[9, 0, 0], 300), [100, 100, 100]);
    }

    #[test]
    fn what_was_tried_is_not_chosen_again_however_many_there_are() {
        let standings: Vec<Standing> = (0..1_000).map(|_| Standing::default()).collect();
        let tried: Vec<usize> = (0..1_000).filter(|at| *at != 777).collect();
        let of = |at: usize| Some(Candidate { standing: standings.get(at)?, active: 0 });
        for balance in [Balance::RoundRobin, Balance::LeastRequests] {
            let chooser = Chooser::new(balance, Duration::ZERO);
            assert_eq!(chooser.next(standings.len(), of, &tried, || 1), Some(777));
        }
    }

    #[test]
    fn the_least_busy_is_next_and_equals_take_turns() {
        let chooser = Chooser::new(Balance::LeastRequests, Duration::ZERO);
        assert_eq!(counted(&chooser, &three(), &[2, 1, 2], 10), [0, 10, 0]);
        assert_eq!(counted(&chooser, &three(), &[1, 1, 1], 30), [10, 10, 10]);
    }

    #[test]
    fn an_ejected_target_is_passed_over_unless_all_are() {
        let (chooser, standings) = (Chooser::new(Balance::RoundRobin, Duration::ZERO), three());
        standings[0].eject(&Ejection::DEFAULT, 1000);
        assert_eq!(counted(&chooser, &standings, &[0; 3], 30)[0], 0);
        standings[1].eject(&Ejection::DEFAULT, 1000);
        standings[2].eject(&Ejection::DEFAULT, 1000);
        assert_eq!(counted(&chooser, &standings, &[0; 3], 30), [10, 10, 10]);
    }

    #[test]
    fn a_target_that_is_down_is_never_chosen() {
        let (chooser, standings) = (Chooser::new(Balance::RoundRobin, Duration::ZERO), three());
        standings[0].checked(&CHECK, false, 1);
        standings[1].checked(&CHECK, false, 1);
        assert_eq!(counted(&chooser, &standings, &[0; 3], 30), [0, 0, 30]);
        standings[2].checked(&CHECK, false, 1);
        assert_eq!(counted(&chooser, &standings, &[0; 3], 30), [0, 0, 0]);
    }

    #[test]
    fn a_target_that_came_back_begins_with_a_part_of_its_share() {
        for balance in [Balance::RoundRobin, Balance::LeastRequests] {
            let (chooser, standings) = (Chooser::new(balance, Duration::from_secs(2)), three());
            standings[0].checked(&CHECK, false, 1);
            standings[0].checked(&CHECK, true, 1);
            // Half of the slow start is over.
            let counts = counted(&chooser, &standings, &[1; 3], 3000);
            assert!(counts[0] < 600, "{balance:?} {counts:?}");
        }
    }
}
