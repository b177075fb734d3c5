//! The digest's first 32 bytes, by which keys are found.

use std::fmt;
use std::hash::{Hash, Hasher};

use data_encoding::HEXLOWER;
use subtle::ConstantTimeEq;

use crate::key::TokenHash;

/// The first 32 bytes of a token's hash. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Head([u8; 32]);

impl Head {
    /// The head from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn of_words(words: [u64; 4]) -> Self {
        let mut bytes = [0; 32];
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        Self(bytes)
    }

    pub(super) fn words(&self) -> impl Iterator<Item = u64> {
        self.0.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
    }

    /// The first byte: in which of 256 parts of the table the key is. The bytes are as good as any hash of
    /// them, and hashing them again would cost more than the look-up.
    pub(super) const fn shard(&self) -> u8 {
        let [first, ..] = self.0;
        first
    }

    /// Others of the first bytes, by which it is found in that part.
    pub(super) const fn tag(&self) -> u32 {
        let [_, _, _, _, a, b, c, d, ..] = self.0;
        u32::from_le_bytes([a, b, c, d])
    }
}

impl From<&TokenHash> for Head {
    fn from(hash: &TokenHash) -> Self {
        Self(hash.head())
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        // Four words, not 32 bytes: the barriers that keep this in constant time cost something each.
        let (mine, theirs) = (self.words(), other.words());
        mine.zip(theirs).fold(0, |differs, (a, b)| differs | (a ^ b)).ct_eq(&0).into()
    }
}

impl Eq for Head {}

impl Hash for Head {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.words().next().unwrap_or(0));
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({}..)", HEXLOWER.encode(self.0.split_at(4).0))
    }
}
