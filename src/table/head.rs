//! The digest's first 32 bytes, by which keys are found.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

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

    fn words(&self) -> impl Iterator<Item = u64> {
        self.0.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
    }

    /// The last byte.
    pub(super) const fn last(&self) -> u8 {
        let [.., last] = self.0;
        last
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
        let mut first = [0; 8];
        first.copy_from_slice(self.0.split_at(8).0);
        state.write_u64(u64::from_le_bytes(first));
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({}..)", HEXLOWER.encode(self.0.split_at(4).0))
    }
}

/// Passes the first eight bytes of a digest through: they are as good as any hash of them, and
/// hashing them again costs more than the look-up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PassThrough;

impl BuildHasher for PassThrough {
    type Hasher = FirstBytes;

    fn build_hasher(&self) -> FirstBytes {
        FirstBytes(0)
    }
}

/// See [`PassThrough`].
#[derive(Debug)]
pub(super) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only heads are hashed, and they call `write_u64`; anything else still hashes, badly.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
