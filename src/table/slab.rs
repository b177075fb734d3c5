//! Append-only storage by number: places that never move and are never freed one by one.

use std::sync::OnceLock;

/// Chunks that are made when first needed, each at most a sixteenth of what was there before: a
/// small key set costs little, and a large one wastes little.
pub(super) struct Slab<T> {
    chunks: Box<[OnceLock<Box<[T]>>]>,
}

/// The places of the first sixteen chunks together.
const FIRST_BITS: u32 = 9;
/// So many chunks, as a power of two, are made before their size doubles.
const STEP_BITS: u32 = 4;

/// No slab has more: these hold every number that there is.
const CHUNKS_MAX: usize = ((u32::BITS - FIRST_BITS + 1) << STEP_BITS) as usize + 1;

impl<T: Default> Slab<T> {
    /// Room for at least `places` places, none of them made yet.
    pub(super) fn with_room_for(places: u64) -> Self {
        let (last, ..) = place(u32::try_from(places).unwrap_or(u32::MAX));
        // Written at once: a key set has several of these, and tests make many.
        let mut chunks = Vec::from(Box::new([const { OnceLock::new() }; CHUNKS_MAX]) as Box<[_]>);
        chunks.truncate(last + 1);
        Self { chunks: chunks.into() }
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
    let doublings = u32::try_from(chunk >> STEP_BITS).unwrap_or(u32::MAX);
    1_u64.checked_shl(FIRST_BITS - STEP_BITS + doublings).unwrap_or(u64::MAX)
}

fn place(number: u32) -> (usize, usize, usize) {
    let (chunk, at, size) = place_of(u64::from(number));
    // On a machine of 16-bit addresses nothing would be found, which refuses.
    let fit = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    (fit(chunk), fit(at), fit(size))
}

/// The chunk of a place, where in it, and how large that chunk is. As in a floating-point number,
/// the upper bits of the place, counted from its highest, name the chunk.
const fn place_of(number: u64) -> (u64, u64, u64) {
    let shifted = number + (1 << FIRST_BITS);
    let doublings = shifted.ilog2() - FIRST_BITS;
    let size_bits = FIRST_BITS - STEP_BITS + doublings;
    let step = (shifted >> size_bits) - (1 << STEP_BITS);
    (((doublings as u64) << STEP_BITS) + step, shifted & ((1 << size_bits) - 1), 1 << size_bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn every_number_has_a_place_of_its_own_and_little_is_made_in_vain() {
        let slab = Slab::<AtomicU32>::with_room_for(400_000);
        assert!(slab.get(0).is_none());
        for number in 0..400_000 {
            let place = slab.make(number).expect("there is room");
            assert_eq!(place.swap(number + 1, Ordering::Relaxed), 0, "{number} was taken");
        }
        let mut made = 0;
        for (first, places) in slab.chunks() {
            made += places.len();
            for (at, place) in (0_u32..).zip(places) {
                let held = place.load(Ordering::Relaxed);
                assert!(held == 0 || held == first + at + 1);
            }
        }
        assert!((400_000..425_000).contains(&made), "{made}");
        assert!(slab.make(u32::MAX).is_none());
    }
}
