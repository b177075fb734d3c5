//! A value that many threads share, held without a count that they would all write to.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::Guard;

/// A shared value as it was when it was looked up. Counting who has it would take that count from core to core with
/// every request, so it is held by a note of this thread's own; a thread has few of these, so keep none for long.
pub struct Held<T>(Guard<Arc<T>>);

impl<T> Held<T> {
    /// The same value, for keeping.
    #[must_use]
    pub fn kept(held: &Self) -> Arc<T> {
        Arc::clone(&held.0)
    }
}

impl<T> From<Guard<Arc<T>>> for Held<T> {
    fn from(guard: Guard<Arc<T>>) -> Self {
        Self(guard)
    }
}

impl<T> From<Arc<T>> for Held<T> {
    fn from(shared: Arc<T>) -> Self {
        Self(Guard::from_inner(shared))
    }
}

impl<T> From<T> for Held<T> {
    fn from(value: T) -> Self {
        Arc::new(value).into()
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self::kept(self).into()
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        T::fmt(self, f)
    }
}
