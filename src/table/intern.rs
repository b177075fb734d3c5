//! Values that many keys share, each kept once and named by a number.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::slab::Slab;

/// Numbers values by what they are known by, which mostly is themselves. Reading by number takes no
/// lock; values are never forgotten.
#[derive(Debug)]
pub(super) struct Interner<K, V = K> {
    numbers: Mutex<HashMap<K, u32>>,
    values: Slab<OnceLock<V>>,
}

impl<K: Eq + Hash, V> Interner<K, V> {
    /// Room for this many values.
    pub(super) fn with_room_for(values: u64) -> Self {
        Self { numbers: Mutex::new(HashMap::new()), values: Slab::with_room_for(values) }
    }

    /// The number of `key`, with whose value `make` returns it where it is new; none if there is no
    /// room.
    pub(super) fn number<Q>(&self, key: &Q, make: impl FnOnce() -> Option<(K, V)>) -> Option<u32>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut numbers = self.numbers.lock();
        if let Some(&number) = numbers.get(key) {
            return Some(number);
        }
        let number = u32::try_from(numbers.len()).ok()?;
        let (owned, value) = make()?;
        self.values.make(number)?.get_or_init(|| value);
        numbers.insert(owned, number);
        Some(number)
    }

    /// The number that `key` has, if it has one.
    pub(super) fn known<Q>(&self, key: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.numbers.lock().get(key).copied()
    }

    /// The value of this number.
    pub(super) fn value(&self, number: u32) -> Option<&V> {
        self.values.get(number)?.get()
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.lock().len()
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// The number of `value`; none if there is no room.
    pub(super) fn number_of(&self, value: &T) -> Option<u32> {
        self.number(value, || Some((value.clone(), value.clone())))
    }
}
