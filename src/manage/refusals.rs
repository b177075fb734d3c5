//! Refused attempts, counted in memory and written a second apart at most, so that however many
//! there are they cost the store next to nothing, and never stand before a change. Of one minute no more
//! are told apart than a few hundred, however often they are written meanwhile.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Caller, ManageError};
use crate::clock::Timestamp;
use crate::key::{Actor, Subject};
use crate::store::RefusalTally;

/// How far apart they are written.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many kinds of them are told apart in a minute by their address; beyond that by their actor.
const KINDS_MAX: usize = 256;
/// How many are told apart by their actor; beyond that they are the system's.
const ACTORS_MAX: usize = 1024;
const MINUTE: i64 = 60 * 1_000_000_000;

/// The address as it is told apart: of IPv6 the first 64 bits, for whoever has one has all below.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// What is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    minute: Timestamp,
    actor: String,
    from: Option<IpAddr>,
    operation: String,
    code: String,
}

impl Kind {
    fn of(tally: &RefusalTally) -> Self {
        Self {
            minute: tally.minute,
            actor: tally.actor.to_string(),
            from: tally.from,
            operation: tally.operation.clone(),
            code: tally.code.clone(),
        }
    }
}

#[derive(Debug, Default)]
struct Counted {
    tallies: HashMap<Kind, RefusalTally>,
    /// The newest minute of which there were any.
    minute: Option<Timestamp>,
    /// The kinds since that minute began, written or not: each is a row in the store.
    kinds: HashSet<Kind>,
    /// When they were last taken.
    taken: Option<Timestamp>,
}

impl Counted {
    fn add(&mut self, mut tally: RefusalTally) {
        if self.minute.is_none_or(|minute| minute < tally.minute) {
            self.minute = Some(tally.minute);
            self.kinds.clear();
        }
        // What could not be written is of minutes before, and counts too.
        let kinds = self.kinds.len().max(self.tallies.len());
        if kinds >= KINDS_MAX && !self.knows(&Kind::of(&tally)) {
            tally.from = None;
        }
        if kinds >= ACTORS_MAX && !self.knows(&Kind::of(&tally)) {
            tally.actor = Actor::System;
        }
        self.kinds.insert(Kind::of(&tally));
        if let Some(known) = self.tallies.get_mut(&Kind::of(&tally)) {
            known.count = known.count.saturating_add(tally.count);
            known.last_at = known.last_at.max(tally.last_at);
            known.subject = tally.subject;
        } else {
            self.tallies.insert(Kind::of(&tally), tally);
        }
    }

    fn knows(&self, kind: &Kind) -> bool {
        self.kinds.contains(kind) || self.tallies.contains_key(kind)
    }

    fn take(&mut self) -> Vec<RefusalTally> {
        std::mem::take(&mut self.tallies).into_values().collect()
    }
}

/// Refused attempts that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Counted>);

impl Refusals {
    /// Counts one at `now`. Answers what to write, where it is time to.
    pub(super) fn count(
        &self,
        caller: &Caller,
        operation: &'static str,
        subject: Option<Subject>,
        refused: &ManageError,
        now: Timestamp,
    ) -> Option<Vec<RefusalTally>> {
        let mut counted = self.0.lock();
        counted.add(RefusalTally {
            minute: Timestamp::from_nanos(now.nanos().div_euclid(MINUTE) * MINUTE),
            actor: caller.actor(),
            from: caller.address().map(network_of),
            operation: operation.to_owned(),
            code: refused.as_code().to_owned(),
            subject,
            count: 1,
            last_at: now,
        });
        if counted.taken.is_some_and(|taken| now.since(taken) < INTERVAL) {
            return None;
        }
        counted.taken = Some(now);
        Some(counted.take())
    }

    /// Takes all that are not written yet.
    pub(super) fn take(&self) -> Vec<RefusalTally> {
        self.0.lock().take()
    }

    /// Takes back what could not be written.
    pub(super) fn give_back(&self, tallies: Vec<RefusalTally>) {
        let mut counted = self.0.lock();
        tallies.into_iter().for_each(|tally| counted.add(tally));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyId;

    #[test]
    fn however_many_there_are_few_are_kept_and_all_are_counted() {
        let refusals = Refusals::default();
        let now = Timestamp::from_seconds(1_000_000);
        let refused = ManageError::LacksPermission { flag: "keyward.keys.create" };
        let mut written = 0;
        for number in 0..20_000_u32 {
            let from = IpAddr::from(number.to_be_bytes());
            let caller = Caller::Key { id: KeyId::from_bits(u128::from(number / 5)), from };
            let due = refusals.count(&caller, "create", None, &refused, now);
            written += due.into_iter().flatten().map(|tally| tally.count).sum::<u64>();
        }
        let kept = refusals.take();
        assert!(kept.len() <= ACTORS_MAX + 1, "{}", kept.len());
        assert_eq!(written + kept.iter().map(|tally| tally.count).sum::<u64>(), 20_000);
    }

    #[test]
    fn one_key_from_ever_new_networks_leaves_few_rows_of_a_minute() {
        let refusals = Refusals::default();
        let refused = ManageError::LacksPermission { flag: "keyward.keys.create" };
        let mut rows: HashMap<Timestamp, HashSet<Kind>> = HashMap::new();
        let mut counted = 0;
        let mut write = |due: Vec<RefusalTally>| {
            for tally in due {
                counted += tally.count;
                rows.entry(tally.minute).or_default().insert(Kind::of(&tally));
            }
        };
        for second in 0..120 {
            for network in 0..256_u128 {
                let from = Ipv6Addr::from_bits((second * 256 + network) << 64 | 1).into();
                let caller = Caller::Key { id: KeyId::from_bits(network % 5), from };
                let now = Timestamp::from_seconds(6000 + i64::try_from(second).expect("few"));
                write(refusals.count(&caller, "create", None, &refused, now).into_iter().flatten().collect());
            }
        }
        write(refusals.take());
        assert_eq!(counted, 120 * 256);
        assert_eq!(rows.len(), 2);
        for (minute, kinds) in rows {
            assert!(kinds.len() <= KINDS_MAX + 5, "{} rows of {minute}", kinds.len());
            assert!(kinds.iter().filter(|kind| kind.from.is_some()).count() == KINDS_MAX, "some are still told apart");
        }
    }

    #[test]
    fn they_are_due_a_second_apart() {
        let refusals = Refusals::default();
        let caller = Caller::Local { login: "ann".to_owned() };
        let refused = ManageError::BadIdempotencyKey;
        let count = |millis: u64| {
            let now = Timestamp::from_seconds(60).plus(Duration::from_millis(millis));
            refusals.count(&caller, "create", None, &refused, now).map(|due| due.iter().map(|tally| tally.count).sum())
        };
        assert_eq!(
            [count(0), count(1), count(999), count(1000), count(1001)],
            [Some(1_u64), None, None, Some(3), None]
        );
        refusals.give_back(refusals.take());
        assert_eq!(refusals.take().len(), 1);
    }
}
