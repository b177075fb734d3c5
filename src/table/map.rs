//! Keys by digest: the numbers of slots in buckets of one cache line, and the slots hold the digests.
//!
//! Numbers of eight keys lie in a line with 32 bits of each digest beside them. So a look-up reads two lines
//! that no cache holds, where the key set is large: the bucket, and the slot that it names. A key costs some
//! 8 to 16 bytes here, and its digest is kept once. Nothing is ever taken out.

use parking_lot::RwLock;

use super::head::Head;
use super::slab::Slab;
use super::slot::Slot;

/// Many small shards, one for each value of a head's first byte: when one grows, or one of its keys changes, few
/// look-ups wait, and not for long.
const SHARDS: usize = 256;
/// Of so many places in a bucket, so many are used before a shard grows.
const PLACES: usize = 8;
const USED_MAX: usize = 6;

/// Slots, found by digest. What a slot holds is written and read under the guard of its shard.
pub(super) struct Map {
    shards: Box<[Guarded]>,
    slots: Slab<Slot>,
}

/// Whether a key was here before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    Known,
    New,
}

/// In a line of its own: what changes one shard shall not slow the look-ups of its neighbours.
#[repr(align(64))]
struct Guarded(RwLock<Shard>);

impl Guarded {
    const fn empty() -> Self {
        Self(RwLock::new(Shard { buckets: Vec::new(), used: 0 }))
    }
}

struct Shard {
    buckets: Vec<Bucket>,
    used: usize,
}

/// A cache line of places, those that are used before those that are not.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Bucket([Place; PLACES]);

/// Where a key is found: 32 bits of its digest, and the number of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    tag: u32,
    number: u32,
}

/// Slots have smaller numbers.
const FREE: Place = Place { tag: 0, number: u32::MAX };

impl Shard {
    /// The bucket in which the search for a tag begins: by its upper bits, so that it is at hand when the shard
    /// grows without a look into the slots.
    fn home(&self, tag: u32) -> usize {
        let at = (u64::from(tag) * u64::try_from(self.buckets.len()).unwrap_or(u64::MAX)) >> u32::BITS;
        usize::try_from(at).unwrap_or(0)
    }

    /// The buckets in which a tag may be, in the order of the search.
    fn search(&self, tag: u32) -> impl Iterator<Item = &Bucket> {
        let (before, from) = self.buckets.split_at_checked(self.home(tag)).unwrap_or_default();
        from.iter().chain(before)
    }

    /// The number of the slot with this tag of which `is_it` is true.
    fn find(&self, tag: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        for Bucket(places) in self.search(tag) {
            for place in places {
                if *place == FREE {
                    return None;
                }
                if place.tag == tag && is_it(place.number) {
                    return Some(place.number);
                }
            }
        }
        None
    }

    fn insert(&mut self, place: Place) {
        if self.used >= self.buckets.len() * USED_MAX {
            self.grow();
        }
        self.put(place);
        self.used += 1;
    }

    fn put(&mut self, place: Place) {
        let home = self.home(place.tag);
        let (before, from) = self.buckets.split_at_mut(home);
        let mut places = from.iter_mut().chain(before).flat_map(|Bucket(places)| places);
        if let Some(free) = places.find(|place| **place == FREE) {
            *free = place;
        }
    }

    fn grow(&mut self) {
        let buckets = vec![Bucket([FREE; PLACES]); (self.buckets.len() * 2).max(1)];
        let old = std::mem::replace(&mut self.buckets, buckets);
        for place in old.iter().flat_map(|Bucket(places)| places).filter(|place| **place != FREE) {
            self.put(*place);
        }
    }
}

impl Map {
    pub(super) fn with_room_for(keys: u64) -> Self {
        Self { shards: Box::new([const { Guarded::empty() }; SHARDS]), slots: Slab::with_room_for(keys) }
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
        let shard = self.shard(head)?.read();
        let number = shard.find(head.tag(), |number| self.is_at(number, head))?;
        self.slots.get(number).map(|slot| read(number, slot))
    }

    /// Runs `write` on the key's number and slot, under the write guard; none if it is not known.
    pub(super) fn change<T>(&self, head: &Head, write: impl FnOnce(u32, &Slot) -> T) -> Option<T> {
        let shard = self.shard(head)?.write();
        let number = shard.find(head.tag(), |number| self.is_at(number, head))?;
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
        let mut shard = self.shard(head)?.write();
        if let Some(number) = shard.find(head.tag(), |number| self.is_at(number, head)) {
            return self.slots.get(number).map(|slot| write(Was::Known, number, slot));
        }
        let number = place();
        let slot = self.slots.make(number)?;
        slot.set_head(head);
        let written = write(Was::New, number, slot);
        shard.insert(Place { tag: head.tag(), number });
        Some(written)
    }

    /// The heads of all keys, in the order of their numbers. No guard is held.
    pub(super) fn heads(&self) -> impl Iterator<Item = Head> {
        self.slots.chunks().flat_map(|(_first, slots)| slots.iter().filter_map(Slot::head))
    }

    fn shard(&self, head: &Head) -> Option<&RwLock<Shard>> {
        self.shards.get(usize::from(head.shard())).map(|Guarded(shard)| shard)
    }

    fn is_at(&self, number: u32, head: &Head) -> bool {
        self.slots.get(number).is_some_and(|slot| slot.is_of(head))
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("slots", &self.slots).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head whose tag is `tag`, in the shard of number 0.
    fn head(tag: u32, rest: u32) -> Head {
        let mut bytes = [0; 32];
        bytes[4..8].copy_from_slice(&tag.to_le_bytes());
        bytes[8..12].copy_from_slice(&rest.to_le_bytes());
        Head::from_bytes(bytes)
    }

    #[test]
    fn keys_are_found_however_many_share_a_bucket_or_a_tag() {
        let map = Map::with_room_for(100_000);
        // The last bucket runs over into the first.
        let tags = [0, 1, u32::MAX, u32::MAX - 1, 1 << 31];
        let heads: Vec<Head> = (0..2_000).map(|n| head(tags[n as usize % tags.len()], n)).collect();
        for (number, at) in (0..).zip(&heads) {
            assert_eq!(map.read(at, |number, _| number), None);
            assert_eq!(map.put(at, || number, |was, number, _| (was, number)), Some((Was::New, number)));
        }
        for (number, at) in (0..).zip(&heads) {
            assert_eq!(map.read(at, |number, _| number), Some(number));
            assert_eq!(map.put(at, || u32::MAX, |was, number, _| (was, number)), Some((Was::Known, number)));
        }
        assert_eq!(map.read(&head(7, 7), |number, _| number), None);
    }

    #[test]
    fn a_bucket_is_one_cache_line_and_no_more() {
        assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (64, 64));
    }
}
