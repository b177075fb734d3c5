//! How many requests are in flight. Each worker counts its own, where no other writes: one number for all of them
//! would be taken from core to core by every request.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use arc_swap::ArcSwap;

/// The requests of all workers.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    counts: ArcSwap<Vec<Arc<Count>>>,
    workers: AtomicUsize,
    /// How many workers have more than their share of what may be in flight. While none has, all together are
    /// within it, and nobody needs to add up.
    ahead: AtomicUsize,
}

/// In a pair of cache lines of its own, for they are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicUsize);

/// The requests of one worker.
#[derive(Debug)]
pub(super) struct OwnInFlight {
    all: Arc<InFlight>,
    own: Arc<Count>,
    is_ahead: Cell<bool>,
}

impl InFlight {
    /// One more worker.
    pub(super) fn join(self: &Arc<Self>) -> OwnInFlight {
        let own = Arc::<Count>::default();
        self.counts.rcu(|counts| counts.iter().chain([&own]).map(Arc::clone).collect::<Vec<_>>());
        self.workers.fetch_add(1, Ordering::SeqCst);
        OwnInFlight { all: Arc::clone(self), own, is_ahead: Cell::new(false) }
    }

    /// How many there are.
    pub(super) fn total(&self) -> usize {
        self.counts.load().iter().map(|count| count.0.load(Ordering::Acquire)).sum()
    }

    /// Whether there is none that could have been decided by less than what the caller has seen of the key set: who
    /// begins unseen by this sees as much.
    pub(super) fn is_none(&self) -> bool {
        fence(Ordering::SeqCst);
        self.total() == 0
    }
}

impl OwnInFlight {
    /// One more. Whether there are, with it, at most `max` over all workers; of some that begin at one moment on
    /// different workers all may be told that there are more.
    pub(super) fn begin(&self, max: usize) -> bool {
        self.set(self.own.0.load(Ordering::Relaxed) + 1, max);
        // What is read from here on is newer than what was read by whoever has not seen this request.
        fence(Ordering::SeqCst);
        self.all.ahead.load(Ordering::Relaxed) == 0 || self.all.total() <= max
    }

    /// One less.
    pub(super) fn end(&self, max: usize) {
        self.set(self.own.0.load(Ordering::Relaxed).saturating_sub(1), max);
    }

    fn set(&self, own: usize, max: usize) {
        self.own.0.store(own, Ordering::Release);
        let is_ahead = own.saturating_mul(self.all.workers.load(Ordering::Relaxed)) > max;
        if self.is_ahead.replace(is_ahead) == is_ahead {
            return;
        }
        if is_ahead {
            self.all.ahead.fetch_add(1, Ordering::Relaxed);
        } else {
            self.all.ahead.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn one_worker_may_have_what_the_others_leave() {
        let all = Arc::<InFlight>::default();
        let (one, other) = (all.join(), all.join());
        assert!((0..7).all(|_| one.begin(8)) && other.begin(8));
        assert!(!one.begin(8) && !other.begin(8), "the two that are refused are in flight, too");
        assert_eq!(all.total(), 10);
        (0..8).for_each(|_| one.end(8));
        other.end(8);
        assert!(!all.is_none() && one.begin(8));
        one.end(8);
        other.end(8);
        assert!(all.is_none());
        assert_eq!(all.ahead.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn where_less_is_allowed_than_there_are_it_counts_at_once() {
        let all = Arc::<InFlight>::default();
        let (one, other) = (all.join(), all.join());
        assert!(one.begin(100) && one.begin(100) && other.begin(100));
        assert!(!other.begin(2) && !one.begin(2));
        assert!(one.begin(100) && other.begin(100));
    }

    #[test]
    fn never_more_are_let_in_than_may_be() {
        const MAX: usize = 5;
        let (all, inside) = (Arc::<InFlight>::default(), AtomicUsize::new(0));
        let let_in = thread::scope(|scope| {
            let work = || {
                let own = all.join();
                let mut let_in = 0_u32;
                for round in 0..20_000 {
                    let few = (0..round % 4).filter(|_| own.begin(MAX)).count();
                    assert!(inside.fetch_add(few, Ordering::SeqCst) + few <= MAX);
                    let_in += u32::from(few > 0);
                    inside.fetch_sub(few, Ordering::SeqCst);
                    (0..round % 4).for_each(|_| own.end(MAX));
                }
                let_in
            };
            let threads = [scope.spawn(work), scope.spawn(work), scope.spawn(work)];
            threads.map(|thread| thread.join().expect("a count"))
        });
        assert!(let_in.iter().all(|let_in| *let_in > 1_000), "{let_in:?}");
        assert!(all.is_none());
    }
}
