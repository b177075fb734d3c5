//! How much each key was used since this was last written back: counted on the request path, where
//! it may not cost a lock, and drained by the flush.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use super::slab::Slab;
use crate::clock::Timestamp;
use crate::key::KeyId;

/// The use of one key since the last drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The key.
    pub key: KeyId,
    /// The table's handle, for giving it back.
    pub slot: u32,
    /// When last.
    pub last_used_at: Timestamp,
    /// How often.
    pub count: u64,
}

#[derive(Debug, Default)]
struct Counter {
    last_used_at: AtomicI64,
    count: AtomicU32,
}

/// Counters by slot number. Slot numbers stay with their keys when the table is swapped, so the
/// counters outlive every reload.
#[derive(Debug)]
pub(super) struct Usage {
    counters: Slab<Counter>,
    /// One flag for each [`GROUP`] counters, so that a drain need not read a million of them.
    touched: Slab<AtomicBool>,
}

const GROUP: u32 = 256;

impl Usage {
    pub(super) fn with_room_for(keys: u64) -> Self {
        Self { counters: Slab::with_room_for(keys), touched: Slab::with_room_for(keys / u64::from(GROUP) + 1) }
    }

    /// Makes the counter of a new slot, so that using it never allocates.
    pub(super) fn make(&self, slot: u32) {
        self.counters.make(slot);
        self.touched.make(slot / GROUP);
    }

    pub(super) fn add(&self, slot: u32, last_used_at: Timestamp, count: u32) {
        let (Some(counter), Some(touched)) = (self.counters.get(slot), self.touched.get(slot / GROUP)) else {
            return;
        };
        counter.last_used_at.fetch_max(last_used_at.nanos(), Ordering::Relaxed);
        // Wrapping would lose counts; a key used four thousand million times between two flushes
        // is counted as that many.
        if counter.count.fetch_add(count, Ordering::SeqCst).checked_add(count).is_none() {
            counter.count.store(u32::MAX, Ordering::Relaxed);
        }
        // One order of count and flag for all: a drain that took the flag sees the count, or
        // this sees the flag taken.
        if !touched.load(Ordering::SeqCst) {
            touched.store(true, Ordering::SeqCst);
        }
    }

    /// Whether it was ever used since the process began, drained or not.
    pub(super) fn was_used(&self, slot: u32) -> bool {
        self.counters.get(slot).is_some_and(|counter| counter.last_used_at.load(Ordering::Relaxed) != 0)
    }

    /// Takes all counts. `key` names the key of a slot; slots without one are dropped.
    pub(super) fn drain(&self, now: Timestamp, key: impl Fn(u32) -> Option<KeyId>) -> Vec<Used> {
        let mut drained = Vec::new();
        for (first, flags) in self.touched.chunks() {
            for (at, touched) in (first..).zip(flags) {
                if !touched.swap(false, Ordering::SeqCst) {
                    continue;
                }
                for slot in (at * GROUP)..(at * GROUP).saturating_add(GROUP) {
                    let Some(counter) = self.counters.get(slot) else { continue };
                    let count = counter.count.swap(0, Ordering::SeqCst);
                    if count == 0 {
                        continue;
                    }
                    let last_used_at = Timestamp::from_nanos(counter.last_used_at.load(Ordering::Relaxed)).min(now);
                    if let Some(key) = key(slot) {
                        drained.push(Used { key, slot, last_used_at, count: u64::from(count) });
                    }
                }
            }
        }
        // One order for all gateways, so that their batches cannot lock each other out.
        drained.sort_unstable_by_key(|used| used.key);
        drained
    }
}
