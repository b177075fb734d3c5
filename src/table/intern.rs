//! Values that many keys share, each kept once and named by a number.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::slab::Slab;

/// Numbers values. Reading by number takes no lock; values are never forgotten.
#[derive(Debug)]
pub(super) struct Interner<T> {
    numbers: Mutex<HashMap<T, u32>>,
    values: Slab<OnceLock<T>>,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// Room for this many values.
    pub(super) fn with_room_for(values: u64) -> Self {
        Self { numbers: Mutex::new(HashMap::new()), values: Slab::with_room_for(values) }
    }

    /// The number of `value`, which `make` makes where it is new; none if there is no room.
    pub(super) fn number<Q>(&self, value: &Q, make: impl FnOnce() -> T) -> Option<u32>
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut numbers = self.numbers.lock();
        if let Some(&number) = numbers.get(value) {
            return Some(number);
        }
        let number = u32::try_from(numbers.len()).ok()?;
        let owned = make();
        self.values.make(number)?.get_or_init(|| owned.clone());
        numbers.insert(owned, number);
        Some(number)
    }

    /// The number that `value` has, if it has one.
    pub(super) fn known<Q>(&self, value: &Q) -> Option<u32>
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.numbers.lock().get(value).copied()
    }

    /// The value of this number.
    pub(super) fn value(&self, number: u32) -> Option<&T> {
        self.values.get(number)?.get()
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.lock().len()
    }
}
