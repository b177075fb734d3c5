//! The SHA-512 of a token: what is stored, and what is looked up.
//!
//! Unsalted, because a minted token has 256 bits of entropy: there is nothing to guess, and the
//! digest can be an index.

use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

/// SHA-512 of a token's exact bytes. Compared in constant time; not shown in Debug beyond four
/// bytes, for it tells two keys apart without being a credential.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 64]);

impl TokenHash {
    /// The hash of `token`.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(Sha512::digest(token).into())
    }

    /// What stands for `token` where it was imported by its SHA-256: that digest and 32 zero bytes.
    #[must_use]
    pub fn sha256_of(token: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(token).into())
    }

    /// What stands for a token of which only its SHA-256 is known.
    #[must_use]
    pub fn from_sha256(digest: [u8; 32]) -> Self {
        let mut bytes = [0; 64];
        bytes.split_at_mut(32).0.copy_from_slice(&digest);
        Self(bytes)
    }

    /// Whether this stands for a token by its SHA-256. No SHA-512 that anybody can make ends in 32
    /// zero bytes.
    #[must_use]
    pub fn is_sha256(&self) -> bool {
        *self.0.split_at(32).1 == [0; 32]
    }

    /// A hash from its 64 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// A hash from 128 hexadecimal digits of either case; none if `text` is anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The 64 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The first 32 bytes, by which the table is indexed.
    #[must_use]
    pub fn head(&self) -> [u8; 32] {
        let mut head = [0; 32];
        head.copy_from_slice(self.0.split_at(32).0);
        head
    }

    /// 128 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}..)", HEXLOWER.encode(self.0.split_at(4).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_sha_512_of_the_exact_bytes() {
        // FIPS 180-2, appendix C.1.
        let expected = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                        2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert_eq!(TokenHash::of(b"abc").to_hex(), expected);
        assert_eq!(TokenHash::from_hex(expected), Some(TokenHash::of(b"abc")));
        assert_eq!(TokenHash::from_hex(&expected.to_uppercase()), Some(TokenHash::of(b"abc")));
        assert_eq!(TokenHash::from_hex("ddaf"), None);
        assert_ne!(TokenHash::of(b"abc"), TokenHash::of(b"abd"));
    }

    #[test]
    fn a_sha_256_is_told_from_a_sha_512() {
        // FIPS 180-2, appendix B.1.
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hash = TokenHash::sha256_of(b"abc");
        assert_eq!(hash.to_hex(), format!("{digest}{}", "0".repeat(64)));
        assert!(hash.is_sha256() && !TokenHash::of(b"abc").is_sha256());
    }
}
