//! A request that shall be done once, however often it is sent: the caller chooses a key for it, the
//! answer is kept in the transaction of what it did, and whoever sends the same again gets it again.
//!
//! An answer may hold a token, so it is kept encrypted under a key that follows from the caller's
//! own Idempotency-Key, of which the store has a digest only; and where it does hold one, for fifteen
//! minutes only.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Caller, ManageError};
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::secret::NoRandomness;
use crate::store::{Keep, Kept, ONCE_KEPT, OnceKey};

/// The shortest Idempotency-Key: what is kept is as secret as the key is long.
pub const IDEMPOTENCY_KEY_MIN: usize = 16;
/// The longest Idempotency-Key.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;
/// How long an answer that holds a token is kept.
pub const TOKEN_KEPT: Duration = Duration::from_secs(15 * 60);

const SEALING_KEY_BYTES: usize = 32;

/// A request that shall be done once.
#[derive(Clone)]
pub struct Once {
    pub(super) key: OnceKey,
    request: [u8; 32],
    sealing: Arc<Zeroizing<[u8; SEALING_KEY_BYTES]>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once(..)")
    }
}

impl Once {
    /// The request of `caller` with this method, path and body, under the key it chose. The path is
    /// the operation's own, with the ids in it; the body is its exact bytes.
    ///
    /// # Errors
    /// When `idempotency_key` is not 16 to 255 printable ASCII characters.
    pub fn new(
        caller: &Caller,
        method: &str,
        path: &str,
        idempotency_key: &[u8],
        body: &[u8],
    ) -> Result<Self, ManageError> {
        let length = IDEMPOTENCY_KEY_MIN..=IDEMPOTENCY_KEY_MAX;
        if !length.contains(&idempotency_key.len()) || !idempotency_key.iter().all(|byte| (b' '..=b'~').contains(byte))
        {
            return Err(ManageError::BadIdempotencyKey);
        }
        let asked = digest([caller.actor().to_string().as_bytes(), method.as_bytes(), path.as_bytes()]);
        let salt = Salt::new(HKDF_SHA256, &asked);
        let secret = salt.extract(idempotency_key);
        Ok(Self {
            key: OnceKey(*expanded(&secret, b"keyward/v1/once/name")),
            request: Sha256::digest(body).into(),
            sealing: Arc::new(expanded(&secret, b"keyward/v1/once/seal")),
        })
    }

    /// What was answered before, given what is kept of it.
    pub(super) fn replay(&self, kept: &Kept) -> Result<Vec<u8>, ManageError> {
        if kept.request != self.request {
            return Err(ManageError::IdempotencyConflict);
        }
        let gone = || ManageError::TokenAlreadyIssued { id: kept.key };
        let sealed = kept.sealed.as_deref().ok_or_else(gone)?;
        // What cannot be opened is not this caller's, and is as good as forgotten.
        self.open(sealed).ok_or_else(gone)
    }

    /// What to keep of `answer`, which tells the token of `key` where there is one.
    pub(super) fn keep(&self, answer: &[u8], key: Option<KeyId>, now: Timestamp) -> Result<Keep, NoRandomness> {
        let until = now.plus(if key.is_some() { TOKEN_KEPT } else { ONCE_KEPT });
        Ok(Keep { once: self.key, request: self.request, key, sealed: self.seal(answer)?, until })
    }

    fn cipher(&self) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.sealing[..]).ok()
    }

    /// A random nonce, then the sealed answer.
    fn seal(&self, answer: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let cipher = self.cipher().ok_or(NoRandomness)?;
        let mut text = answer.to_vec();
        let nonce =
            cipher.seal_in_place_append_tag(Aad::from(self.key.0), &mut text).map_err(|_opaque| NoRandomness)?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let length = self.cipher()?.open_in_place(nonce, Aad::from(self.key.0), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

/// SHA-256 of `parts`, each after its length, so that no two lists of parts are one text.
fn digest<const N: usize>(parts: [&[u8]; N]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// The length of what is derived.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        SEALING_KEY_BYTES
    }
}

fn expanded(secret: &aws_lc_rs::hkdf::Prk, purpose: &[u8]) -> Zeroizing<[u8; SEALING_KEY_BYTES]> {
    let mut derived = Zeroizing::new([0; SEALING_KEY_BYTES]);
    let filled = secret.expand(&[purpose], Length).and_then(|key| key.fill(&mut derived[..]));
    filled.expect("32 bytes are within what HKDF gives");
    derived
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u128) -> Caller {
        Caller::Key { id: KeyId::from_bits(number), from: [127, 0, 0, 1].into() }
    }

    fn once(key: &[u8], body: &[u8]) -> Once {
        Once::new(&caller(1), "POST", "/v1/api-keys", key, body).expect("a good key")
    }

    const KEY: &[u8] = b"0123456789abcdef";

    fn kept(keep: Keep) -> Kept {
        Kept { request: keep.request, key: keep.key, revision: 1, sealed: Some(keep.sealed) }
    }

    #[test]
    fn a_kept_answer_is_opened_by_the_same_request_alone() {
        let first = once(KEY, b"{}");
        let keep = first.keep(b"the token", Some(KeyId::from_bits(7)), Timestamp::EPOCH).expect("randomness");
        assert_eq!(keep.until, Timestamp::EPOCH.plus(TOKEN_KEPT));
        assert!(!String::from_utf8_lossy(&keep.sealed).contains("token"));
        let kept = kept(keep);
        assert_eq!(once(KEY, b"{}").replay(&kept).expect("the same"), b"the token");
        assert!(matches!(once(KEY, b"{ }").replay(&kept), Err(ManageError::IdempotencyConflict)));
        let forgotten = Kept { sealed: None, ..kept.clone() };
        assert!(matches!(first.replay(&forgotten), Err(ManageError::TokenAlreadyIssued { id: Some(_) })));
        assert!(once(b"0123456789abcdeg", b"{}").replay(&kept).is_err(), "another key opens nothing");
        let mut torn = kept.clone();
        torn.sealed.as_mut().expect("it is there")[20] ^= 1;
        assert!(first.replay(&torn).is_err());
    }

    #[test]
    fn the_same_answer_is_never_sealed_alike() {
        let once = once(KEY, b"{}");
        let seal = || once.seal(b"the token").expect("randomness");
        assert_ne!(seal(), seal());
    }

    #[test]
    fn another_caller_method_or_path_is_another_request() {
        let named = |number, method, path| Once::new(&caller(number), method, path, KEY, b"").expect("good").key;
        let first = named(1, "POST", "/a");
        for other in [named(2, "POST", "/a"), named(1, "PUT", "/a"), named(1, "POST", "/b"), named(1, "POS", "T/a")] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_key_that_could_be_guessed_is_refused() {
        for key in [&b"0123456789abcde"[..], b"", &[b'a'; 256], "0123456789abcdé".as_bytes(), b"0123456789abcdef\n"] {
            let refused = Once::new(&caller(1), "POST", "/", key, b"");
            assert!(matches!(refused, Err(ManageError::BadIdempotencyKey)));
        }
    }
}
