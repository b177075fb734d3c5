//! Append-only storage by number: places that never move and are never freed one by one.

use std::sync::OnceLock;

/// Chunks that are made when first needed. The first are small, so that a small key set costs
/// little; from [`LARGE`] places on they have one size, so that a large one wastes little.
pub(super) struct Slab<T> {
    chunks: Box<[OnceLock<Box<[T]>>]>,
}

const SMALL_BITS: u32 = 10;
const LARGE_BITS: u32 = 16;
const SMALL: u64 = 1 << SMALL_BITS;
const LARGE: u64 = 1 << LARGE_BITS;

impl<T: Default> Slab<T> {
    /// Room for at least `places` places, none of them made yet.
    pub(super) fn with_room_for(places: u64) -> Self {
        let chunks = u64::from(LARGE_BITS - SMALL_BITS) + 2 + places / LARGE;
        Self { chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }

    /// The place of this number, if it was made.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (chunk, at, _size) = place(number);
        self.chunks.get(chunk)?.get()?.get(at)
    }

    /// The place of this number, made if need be; none if there is no room for it.
    pub(super) fn make(&self, number: u32) -> Option<&T> {
        let (chunk, at, size) = place(number);
        self.chunks.get(chunk)?.get_or_init(|| (0..size).map(|_| T::default()).collect()).get(at)
    }

    /// The chunks that were made, each with the number of its first place.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (u32, &[T])> {
        let mut next: u32 = 0;
        self.chunks.iter().enumerate().filter_map(move |(at, chunk)| {
            let first = next;
            next = next.saturating_add(u32::try_from(chunk_size(at)).unwrap_or(u32::MAX));
            chunk.get().map(|places| (first, &**places))
        })
    }
}

impl<T> std::fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slab")
            .field("chunks", &self.chunks.iter().filter(|chunk| chunk.get().is_some()).count())
            .finish()
    }
}

fn chunk_size(chunk: usize) -> u64 {
    let doublings = u32::try_from(chunk).unwrap_or(u32::MAX).min(LARGE_BITS - SMALL_BITS);
    SMALL << doublings
}

/// The chunk of a place, where in it, and how large that chunk is.
fn place(number: u32) -> (usize, usize, usize) {
    let shifted = u64::from(number) + SMALL;
    let (chunk, at, size) = if shifted < 2 * LARGE {
        let bits = shifted.ilog2();
        (u64::from(bits - SMALL_BITS), shifted - (1 << bits), 1 << bits)
    } else {
        let beyond = shifted - 2 * LARGE;
        (u64::from(LARGE_BITS - SMALL_BITS) + 1 + beyond / LARGE, beyond % LARGE, LARGE)
    };
    // On a machine of 16-bit addresses nothing would be found, which refuses.
    let fit = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    (fit(chunk), fit(at), fit(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let slab = Slab::<AtomicU32>::with_room_for(400_000);
        assert!(slab.get(0).is_none());
        for number in 0..400_000 {
            let place = slab.make(number).expect("there is room");
            assert_eq!(place.swap(number + 1, Ordering::Relaxed), 0, "{number} was taken");
        }
        for (first, places) in slab.chunks() {
            for (at, place) in (0_u32..).zip(places) {
                let held = place.load(Ordering::Relaxed);
                assert!(held == 0 || held == first + at + 1);
            }
        }
        assert!(slab.make(u32::MAX).is_none());
    }
}
