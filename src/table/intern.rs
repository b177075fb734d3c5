//! Values that many keys share, each kept once and named by a number.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::slab::Slab;

/// Numbers values that are never forgotten. Reading by number takes no lock.
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

/// Values that are shared for a while, each kept once, named by a number, and forgotten when its last
/// user is gone. A number is then another's.
#[derive(Debug)]
pub(super) struct Counted<T>(Mutex<Counts<T>>);

#[derive(Debug)]
struct Counts<T> {
    numbers: HashMap<T, u32>,
    /// By number: how many use the value, and the value while any does.
    uses: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T: Clone + Eq + Hash> Counted<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Counts { numbers: HashMap::new(), uses: Vec::new(), free: Vec::new() }))
    }

    /// One more use of `value`: its number, and the value that is kept. `make` makes what is kept, and
    /// `begin` is told the number before anybody else may have it, where it was not used before.
    pub(super) fn take<Q>(&self, value: &Q, make: impl FnOnce() -> T, begin: impl FnOnce(u32)) -> Option<(u32, T)>
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let counts = &mut *self.0.lock();
        if let Some(&number) = counts.numbers.get(value) {
            let (uses, kept) = counts.uses.get_mut(index(number))?;
            *uses += 1;
            return Some((number, kept.clone()?));
        }
        let number = match counts.free.pop() {
            Some(number) => number,
            None => {
                counts.uses.push((0, None));
                u32::try_from(counts.uses.len() - 1).ok()?
            }
        };
        let value = make();
        *counts.uses.get_mut(index(number))? = (1, Some(value.clone()));
        counts.numbers.insert(value.clone(), number);
        begin(number);
        Some((number, value))
    }

    /// So many more uses of the value of this number, which is in use.
    pub(super) fn take_more(&self, number: u32, more: u32) {
        if let Some((uses, _kept)) = self.0.lock().uses.get_mut(index(number)) {
            *uses = uses.saturating_add(more);
        }
    }

    /// So many uses less. The value, if no more are left: `end` is told before the number may be another's.
    pub(super) fn give_back(&self, number: u32, fewer: u32, end: impl FnOnce()) -> Option<T> {
        let counts = &mut *self.0.lock();
        let (uses, kept) = counts.uses.get_mut(index(number))?;
        *uses = uses.saturating_sub(fewer);
        if *uses > 0 {
            return None;
        }
        let value = kept.take()?;
        counts.numbers.remove(&value);
        end();
        counts.free.push(number);
        Some(value)
    }

    /// How many values there is or was a place for.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.0.lock().uses.len()
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
