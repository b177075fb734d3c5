//! Tokens in JWT form, as whoever holds the signing key makes them.

use std::fmt;

use super::{Key, Token};
use crate::secret::NoRandomness;

/// Signs keys in JWT form.
pub trait MintJwt: Send + Sync + fmt::Debug {
    /// A new token of `key`, whose hash and shown ends are not known yet and must not be read. Two
    /// calls for the same key make two different tokens.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    fn mint(&self, key: &Key) -> Result<Token, NoRandomness>;
}
