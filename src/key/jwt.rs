//! Keys in JWT form: who can mint their tokens.

use std::fmt;

use super::{Key, Token};
use crate::secret::NoRandomness;

/// Mints the tokens of keys in JWT form. Implemented by whoever holds the signing key.
pub trait MintJwt: Send + Sync + fmt::Debug {
    /// A new token for `key`, which is whole but for its hash and what is shown of its token: those follow
    /// from the token. Two tokens of one key differ.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    fn mint(&self, key: &Key) -> Result<Token, NoRandomness>;
}
