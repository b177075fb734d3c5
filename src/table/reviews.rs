//! How far those who hold streams open have looked at them again.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// What all reviewers have done.
#[derive(Debug)]
pub(super) struct Reviews {
    /// Up to which version each has, by its number.
    of_each: Mutex<BTreeMap<u64, u64>>,
    of_all: watch::Sender<u64>,
}

impl Default for Reviews {
    fn default() -> Self {
        Self { of_each: Mutex::default(), of_all: watch::Sender::new(EVERY_VERSION) }
    }
}

/// Where nobody holds a stream, none is left to be looked at.
const EVERY_VERSION: u64 = u64::MAX;

impl Reviews {
    pub(super) fn join(self: &Arc<Self>, version: u64) -> Reviewer {
        let mut of_each = self.of_each.lock();
        let number = of_each.last_key_value().map_or(0, |(number, _)| number + 1);
        of_each.insert(number, version);
        self.tell(&of_each);
        drop(of_each);
        Reviewer { reviews: Arc::clone(self), number }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.of_all.subscribe()
    }

    fn tell(&self, of_each: &BTreeMap<u64, u64>) {
        let least = of_each.values().copied().min().unwrap_or(EVERY_VERSION);
        self.of_all.send_if_modified(|of_all| {
            let moves = *of_all != least;
            *of_all = least;
            moves
        });
    }
}

/// One who holds streams open. Gone when it is dropped, and its streams must be gone by then.
#[derive(Debug)]
pub struct Reviewer {
    reviews: Arc<Reviews>,
    number: u64,
}

impl Reviewer {
    /// Every stream that was let through by an older version than this was decided on again by this one or
    /// a newer, and cut where it is not permitted any more.
    pub fn reviewed(&self, version: u64) {
        let mut of_each = self.reviews.of_each.lock();
        if let Some(known) = of_each.get_mut(&self.number)
            && *known < version
        {
            *known = version;
            self.reviews.tell(&of_each);
        }
    }
}

impl Drop for Reviewer {
    fn drop(&mut self) {
        let mut of_each = self.reviews.of_each.lock();
        of_each.remove(&self.number);
        self.reviews.tell(&of_each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_counts_and_who_is_gone_does_not() {
        let reviews = Arc::new(Reviews::default());
        let of_all = reviews.subscribe();
        assert_eq!(*of_all.borrow(), EVERY_VERSION);
        let (one, other) = (reviews.join(3), reviews.join(3));
        one.reviewed(7);
        assert_eq!(*of_all.borrow(), 3, "the other has not looked yet");
        other.reviewed(5);
        other.reviewed(4);
        assert_eq!(*of_all.borrow(), 5, "it does not go back");
        let late = reviews.join(9);
        drop(other);
        assert_eq!(*of_all.borrow(), 7);
        drop((one, late));
        assert_eq!(*of_all.borrow(), EVERY_VERSION);
    }
}
