//! How many unknown tokens one client may send: token buckets by address prefix, in a fixed amount
//! of memory. Asked only where a token is not known to work, so that it never stands before one that is.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

use super::client::ClientPrefix;
use crate::clock::Timestamp;

/// How many failed look-ups one client prefix may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureLimit {
    /// Tries a second, refilled. 0 for no limit.
    pub per_second: u32,
    /// Tries at once.
    pub burst: u32,
    /// How many leading bits of an IPv4 address make a client.
    pub prefix_v4: u8,
    /// How many leading bits of an IPv6 address make a client.
    pub prefix_v6: u8,
}

impl Default for FailureLimit {
    fn default() -> Self {
        Self { per_second: 50, burst: 500, prefix_v4: 32, prefix_v6: 56 }
    }
}

/// Buckets, in sets of a few that share a lock. A new client takes the place of the fullest bucket
/// of its set, which is the one whose loss forgives least.
#[derive(Debug)]
pub struct Failures {
    limit: FailureLimit,
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    client: Option<u128>,
    /// What is left, in nanoseconds of refill.
    left: u64,
    at: Timestamp,
}

const SETS: usize = 4096;
const WAYS: usize = 4;
const SECOND: u64 = 1_000_000_000;

impl Failures {
    /// Every client has its whole share.
    #[must_use]
    pub fn new(limit: FailureLimit) -> Self {
        Self {
            limit,
            // Without a limit nobody is counted.
            sets: (0..if limit.per_second == 0 { 0 } else { SETS }).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Takes one try from `client`'s share.
    ///
    /// # Errors
    /// When the share is used up: how long until there is one more.
    pub fn take(&self, client: IpAddr, now: Timestamp) -> Result<(), Duration> {
        if self.limit.per_second == 0 {
            return Ok(());
        }
        let price = SECOND / u64::from(self.limit.per_second);
        self.with_bucket(client, now, |left| {
            if *left >= price {
                *left -= price;
                Ok(())
            } else {
                Err(Duration::from_nanos(price - *left))
            }
        })
    }

    /// Gives a try back: it was no failure after all.
    pub fn give_back(&self, client: IpAddr, now: Timestamp) {
        if self.limit.per_second == 0 {
            return;
        }
        let (price, full) = (SECOND / u64::from(self.limit.per_second), self.full());
        self.with_bucket(client, now, |left| *left = left.saturating_add(price).min(full));
    }

    fn full(&self) -> u64 {
        (SECOND / u64::from(self.limit.per_second.max(1))).saturating_mul(u64::from(self.limit.burst.max(1)))
    }

    fn with_bucket<T>(&self, client: IpAddr, now: Timestamp, spend: impl FnOnce(&mut u64) -> T) -> T {
        let client = ClientPrefix { v4: self.limit.prefix_v4, v6: self.limit.prefix_v6 }.of(client);
        let full = self.full();
        let hash = self.hasher.hash_one(client);
        let at = usize::try_from(hash % (SETS as u64)).unwrap_or(0);
        let Some(set) = self.sets.get(at) else { return spend(&mut 0) };
        let mut set = set.lock();
        for bucket in &mut *set {
            let gained = u64::try_from(now.since(bucket.at).as_nanos()).unwrap_or(u64::MAX);
            bucket.left = bucket.left.saturating_add(gained).min(full);
            bucket.at = bucket.at.max(now);
        }
        let known = set.iter().position(|bucket| bucket.client == Some(client));
        let fullest = || (0..WAYS).max_by_key(|&way| set.get(way).map(|bucket| (bucket.client.is_none(), bucket.left)));
        let way = known.or_else(fullest).unwrap_or(0);
        let Some(bucket) = set.get_mut(way) else { return spend(&mut 0) };
        if bucket.client != Some(client) {
            *bucket = Bucket { client: Some(client), left: full, at: now };
        }
        spend(&mut bucket.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address of a test")
    }

    #[test]
    fn a_client_that_used_up_its_share_is_told_when_to_come_back_and_no_other_is_touched() {
        let failures = Failures::new(FailureLimit { per_second: 10, burst: 3, prefix_v4: 32, prefix_v6: 56 });
        let now = Timestamp::from_seconds(1_000);
        let noisy = address("192.0.2.1");
        for _ in 0..3 {
            assert_eq!(failures.take(noisy, now), Ok(()));
        }
        assert_eq!(failures.take(noisy, now), Err(Duration::from_millis(100)));
        assert_eq!(failures.take(address("192.0.2.2"), now), Ok(()));
        assert_eq!(failures.take(noisy, now.plus(Duration::from_millis(100))), Ok(()));
        assert!(failures.take(noisy, now.plus(Duration::from_millis(100))).is_err());
    }

    #[test]
    fn addresses_of_one_prefix_are_one_client_and_a_mapped_address_is_its_ipv4_self() {
        let failures = Failures::new(FailureLimit { per_second: 1, burst: 1, prefix_v4: 24, prefix_v6: 56 });
        let now = Timestamp::from_seconds(1_000);
        assert!(failures.take(address("192.0.2.1"), now).is_ok());
        assert!(failures.take(address("192.0.2.99"), now).is_err());
        assert!(failures.take(address("::ffff:192.0.2.5"), now).is_err());
        assert!(failures.take(address("2001:db8:0:100::1"), now).is_ok());
        assert!(failures.take(address("2001:db8:0:1ff::2"), now).is_err());
        assert!(failures.take(address("2001:db8:0:200::1"), now).is_ok());
    }

    #[test]
    fn many_clients_cost_no_more_memory_and_each_still_gets_a_try() {
        let failures = Failures::new(FailureLimit { per_second: 1, burst: 1, prefix_v4: 32, prefix_v6: 128 });
        let now = Timestamp::from_seconds(1_000);
        for client in 0..50_000_u32 {
            assert!(failures.take(IpAddr::V4(client.into()), now).is_ok());
        }
        assert_eq!(failures.sets.len(), SETS);
    }
}
