//! Keys by digest: a dashmap of nothing but slot numbers, whose slots hold the digests.
//!
//! The bits of the digest are the hash, by which dashmap's shards are asked directly: its own
//! hasher could not reach them. So a key costs five bytes here, and its digest is kept once.

use dashmap::{DashMap, SharedValue};

use super::head::Head;
use super::slab::Slab;
use super::slot::Slot;

/// Many small shards: a rehash, or a change of one of them, stops few look-ups and not for long.
const SHARDS: usize = 256;

/// Slots, found by digest. What a slot holds is written and read under the guard of its shard.
#[derive(Debug)]
pub(super) struct Map {
    numbers: DashMap<u32, ()>,
    slots: Slab<Slot>,
}

/// Whether a key was here before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    Known,
    New,
}

impl Map {
    pub(super) fn with_room_for(keys: u64) -> Self {
        Self { numbers: DashMap::with_shard_amount(SHARDS), slots: Slab::with_room_for(keys) }
    }

    /// Makes the slot of this number, so that no guard is held while memory is asked for.
    pub(super) fn make_room(&self, number: u32) {
        self.slots.make(number);
    }

    /// The slot of this number, if it was made. No guard is held: see which methods need none.
    pub(super) fn slot(&self, number: u32) -> Option<&Slot> {
        self.slots.get(number)
    }

    /// Runs `read` on the key's number and slot, under the read guard; none if it is not known.
    pub(super) fn read<T>(&self, head: &Head, read: impl FnOnce(u32, &Slot) -> T) -> Option<T> {
        let shard = self.numbers.shards().get(self.shard_of(head))?.read();
        let &(number, _) = shard.get(head.hash(), |&(number, _)| self.is_at(number, head))?;
        self.slots.get(number).map(|slot| read(number, slot))
    }

    /// Runs `write` on the key's number and slot, under the write guard; none if it is not known.
    pub(super) fn change<T>(&self, head: &Head, write: impl FnOnce(u32, &Slot) -> T) -> Option<T> {
        let shard = self.numbers.shards().get(self.shard_of(head))?.write();
        let &(number, _) = shard.get(head.hash(), |&(number, _)| self.is_at(number, head))?;
        self.slots.get(number).map(|slot| write(number, slot))
    }

    /// Runs `write` on the key's number and slot, under the write guard; where it is not known, on
    /// the slot of the number that `place` gives it. None if there is no room.
    pub(super) fn put<T>(
        &self,
        head: &Head,
        place: impl FnOnce() -> u32,
        write: impl FnOnce(Was, u32, &Slot) -> T,
    ) -> Option<T> {
        let mut shard = self.numbers.shards().get(self.shard_of(head))?.write();
        if let Some(&(number, _)) = shard.get(head.hash(), |&(number, _)| self.is_at(number, head)) {
            return self.slots.get(number).map(|slot| write(Was::Known, number, slot));
        }
        let number = place();
        let slot = self.slots.make(number)?;
        slot.set_head(head);
        let written = write(Was::New, number, slot);
        let hash_of = |&(number, _): &(u32, SharedValue<()>)| self.slots.get(number).map_or(0, Slot::hash);
        shard.insert_entry(head.hash(), (number, SharedValue::new(())), hash_of);
        Some(written)
    }

    /// The heads of all keys, in the order of their numbers. No guard is held.
    pub(super) fn heads(&self) -> impl Iterator<Item = Head> {
        self.slots.chunks().flat_map(|(_first, slots)| slots.iter().filter_map(Slot::head))
    }

    fn shard_of(&self, head: &Head) -> usize {
        self.numbers.determine_shard(head.shard_bits())
    }

    fn is_at(&self, number: u32, head: &Head) -> bool {
        self.slots.get(number).is_some_and(|slot| slot.is_of(head))
    }
}
