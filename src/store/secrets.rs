//! Whether an installation's secrets are those of a store, when there are several of them.

use super::{NumberedSecret, Store, StoreError};

/// Whether `given` are secrets of a store that knows `known`: at least one is, and none has the number of
/// another.
#[must_use]
pub fn belong_together(known: &[NumberedSecret], given: &[NumberedSecret]) -> bool {
    let contradicts = |one: &NumberedSecret| known.iter().any(|(number, print)| *number == one.0 && *print != one.1);
    given.iter().any(|one| known.contains(one)) && !given.iter().any(contradicts)
}

/// Holds the secrets of an installation, in any order, against those that `store` knows. A store that knows
/// none takes them as its own, and a newer one that comes beside a known one is taken too: whoever can give
/// a known one is trusted with its successor. One that was forgotten is not taken again.
///
/// # Errors
/// [`StoreError::Unfinished`] where it is no whole store; [`StoreError::WrongSecret`] where none is known, or one is another than the known one of its number;
/// when the store fails.
pub async fn check_secrets(store: &dyn Store, given: &[NumberedSecret]) -> Result<(), StoreError> {
    if let Some(part) = store.copies()
        && part.head().await?.copying.is_some()
    {
        return Err(StoreError::Unfinished { store: store.name().to_owned() });
    }
    let mut known = store.secrets().await?;
    let mut given = given.to_vec();
    given.sort_unstable();
    if let (true, Some(&(number, fingerprint))) = (known.is_empty(), given.first()) {
        store.check_secret(number, fingerprint).await?;
        known.push((number, fingerprint));
    }
    if !belong_together(&known, &given) {
        return Err(StoreError::WrongSecret { store: store.name().to_owned() });
    }
    let newest = known.iter().map(|&(number, _)| number).max();
    for (number, fingerprint) in given {
        if newest.is_none_or(|newest| number > newest) {
            store.add_secret(number, fingerprint).await?;
        }
    }
    Ok(())
}
