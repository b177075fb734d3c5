//! What bad credentials may cost: each is a read of the store, so that one client may try only so many.
//!
//! A token that worked here lately is never held up, whoever else sends from its address; any other takes
//! from the share of its client's prefix, and gives back what it took if it works.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::key::TokenHash;
use crate::wire::{FailureLimit, Failures};

/// How many tokens that worked are remembered.
const KNOWN_MAX: u64 = 10_000;
/// How long a token is remembered that is not used.
const KNOWN_FOR: Duration = Duration::from_secs(60 * 60);

/// Lets credentials be looked up, or not. Shared by all listeners of the management API.
#[derive(Debug)]
pub struct Guard {
    failures: Failures,
    /// By the beginning of the token's hash. It says nothing of what a token may do, nor that it still works.
    known: moka::sync::Cache<[u8; 32], ()>,
}

/// One look-up that is let through.
#[derive(Debug)]
#[must_use = "what came of it is to be told"]
pub(super) struct Attempt<'a> {
    guard: &'a Guard,
    head: [u8; 32],
    client: IpAddr,
    now: Timestamp,
    is_known: bool,
}

impl Guard {
    /// Every client has its whole share.
    #[must_use]
    pub fn new(limit: FailureLimit) -> Self {
        let known = moka::sync::Cache::builder().max_capacity(KNOWN_MAX).time_to_idle(KNOWN_FOR).build();
        Self { failures: Failures::new(limit), known }
    }

    /// Lets `client` have a token looked up.
    ///
    /// # Errors
    /// When it has used up its share: how long until there is one more.
    pub(super) fn admit(&self, token: &TokenHash, client: IpAddr, now: Timestamp) -> Result<Attempt<'_>, Duration> {
        let head = token.head();
        let is_known = self.known.get(&head).is_some();
        if !is_known {
            self.failures.take(client, now)?;
        }
        Ok(Attempt { guard: self, head, client, now, is_known })
    }
}

impl Attempt<'_> {
    /// The token works.
    pub(super) fn worked(self) {
        if !self.is_known {
            self.guard.failures.give_back(self.client, self.now);
            self.guard.known.insert(self.head, ());
        }
    }

    /// It does not.
    pub(super) fn failed(self) {
        self.guard.known.invalidate(&self.head);
    }

    /// Whether it works could not be found out.
    pub(super) fn broke_off(self) {
        if !self.is_known {
            self.guard.failures.give_back(self.client, self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> TokenHash {
        TokenHash::of(&[number])
    }

    #[test]
    fn a_client_that_tries_too_much_waits_and_a_token_that_worked_does_not() {
        let guard = Guard::new(FailureLimit { per_second: 1, burst: 3, ..FailureLimit::default() });
        let (client, now) = (IpAddr::from([192, 0, 2, 1]), Timestamp::from_seconds(1000));
        let admit = |number, client| guard.admit(&hash(number), client, now);
        admit(1, client).expect("its first").worked();
        for number in 2..5 {
            admit(number, client).expect("what worked took nothing of its share").failed();
        }
        assert_eq!(admit(5, client).expect_err("it has tried too much"), Duration::from_secs(1));
        admit(1, client).expect("it is known to work").worked();
        let other = IpAddr::from([192, 0, 2, 2]);
        admit(5, other).expect("another client").broke_off();
        // Once it works no more, it is like any other.
        admit(1, client).expect("it was known to work").failed();
        assert!(admit(1, client).is_err());
        for number in 2..5 {
            admit(number, other).expect("what broke off took nothing of its share").failed();
        }
        assert!(admit(5, other).is_err());
    }
}
