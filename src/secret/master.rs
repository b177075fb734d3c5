//! Master secrets: 32 random bytes each, numbered, and what is derived from them. They are never shown,
//! not even when they are wrong.
//!
//! An installation has one, or several while one takes another's place: the newest that is in use makes
//! what is made from now on, and what the others made stays good as long as they are there.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hkdf;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use super::{NoRandomness, Secret};

const SECRET_BYTES: usize = 32;

/// 32 bytes from which every other secret of an installation is derived.
#[derive(Clone)]
pub struct MasterSecret(Zeroizing<[u8; SECRET_BYTES]>);

impl MasterSecret {
    /// A new one from the operating system's generator.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut *bytes).map_err(|_opaque| NoRandomness)?;
        Ok(Self(bytes))
    }

    /// Reads 64 hexadecimal digits or 43 of base64url. White space around them is left out.
    ///
    /// # Errors
    /// Anything else, a passphrase for instance. The error does not hold the text.
    pub fn parse(text: &[u8]) -> Result<Self, NoMasterSecret> {
        let text = text.trim_ascii();
        let fault = || NoMasterSecret { found: text.len() };
        let (encoding, digits) = match text.len() {
            64 => (HEXLOWER_PERMISSIVE, text),
            43 => (BASE64URL_NOPAD, text),
            44 => (BASE64URL_NOPAD, text.strip_suffix(b"=").ok_or_else(fault)?),
            _ => return Err(fault()),
        };
        // Decoded in place: no copy of it is left behind.
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        match encoding.decode_len(digits.len()) {
            Ok(SECRET_BYTES) => encoding.decode_mut(digits, &mut *bytes).map_err(|_partial| fault())?,
            Ok(_) | Err(_) => return Err(fault()),
        };
        Ok(Self(bytes))
    }

    /// The text that [`MasterSecret::parse`] reads, for the file that `keyward init` writes.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        let text = Zeroizing::new(HEXLOWER_PERMISSIVE.encode(&*self.0));
        Secret::new(text.as_bytes())
    }

    /// The secret of one purpose and subject: HKDF-SHA-256 with the store's id as salt and
    /// `keyward/v1/<purpose>/<subject>` as info, so that two stores, purposes or subjects share none.
    #[must_use]
    pub fn derive(&self, store: u128, purpose: &str, subject: &str) -> Zeroizing<[u8; 32]> {
        self.expand(&store.to_be_bytes(), &format!("keyward/v1/{purpose}/{subject}"))
    }

    /// What the store keeps, to notice another master secret. Tells nothing about the secret itself.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        *self.expand(&[], "keyward/v1/fingerprint/")
    }

    fn expand(&self, salt: &[u8], info: &str) -> Zeroizing<[u8; 32]> {
        let mut derived = Zeroizing::new([0; 32]);
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&*self.0);
        root.expand(&[info.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|derivation| derivation.fill(&mut *derived))
            .expect("HKDF-SHA-256 gives 32 bytes from any salt and info");
        derived
    }
}

impl PartialEq for MasterSecret {
    fn eq(&self, other: &Self) -> bool {
        // What is compared tells nothing, however long the comparison takes.
        self.fingerprint() == other.fingerprint()
    }
}

impl Eq for MasterSecret {}

impl fmt::Debug for MasterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterSecret(..)")
    }
}

/// Text that is no master secret. Says how long it was, and nothing else of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "found {found} characters that are no 32 bytes, expected 64 hexadecimal digits or 43 of base64url \
     (no passphrase): make one with `openssl rand -hex 32` or `keyward init`"
)]
pub struct NoMasterSecret {
    found: usize,
}

/// One of an installation's master secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedMaster {
    /// Its number, from 1. The one that comes after it has a greater one.
    pub number: u32,
    /// The secret.
    pub secret: MasterSecret,
    /// From when on it makes what is made anew, in seconds since 1970. What it made is good before, too: so
    /// every gateway of a fleet can know it before one of them uses it.
    pub used_from_seconds: i64,
}

/// All master secrets of an installation. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterSecrets {
    newest: NumberedMaster,
    /// The others, the newest first.
    others: Arc<[NumberedMaster]>,
}

impl MasterSecrets {
    /// One secret, the first.
    #[must_use]
    pub fn first(secret: MasterSecret) -> Self {
        Self { newest: NumberedMaster { number: 1, secret, used_from_seconds: i64::MIN }, others: Arc::new([]) }
    }

    /// Several; none where there is none, or two have one number.
    #[must_use]
    pub fn of(mut secrets: Vec<NumberedMaster>) -> Option<Self> {
        secrets.sort_by_key(|one| std::cmp::Reverse(one.number));
        if !secrets.is_sorted_by(|one, next| one.number > next.number) || secrets.is_empty() {
            return None;
        }
        let newest = secrets.remove(0);
        Some(Self { newest, others: secrets.into() })
    }

    /// These, and another that comes after them.
    #[must_use]
    pub fn with(&self, secret: MasterSecret, used_from_seconds: i64) -> Self {
        let newest = NumberedMaster { number: self.newest.number.saturating_add(1), secret, used_from_seconds };
        Self { newest, others: self.iter().cloned().collect() }
    }

    /// These, but for the one of this number; none where nothing would be left.
    #[must_use]
    pub fn without(&self, number: u32) -> Option<Self> {
        Self::of(self.iter().filter(|one| one.number != number).cloned().collect())
    }

    /// Each of them, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = &NumberedMaster> {
        std::iter::once(&self.newest).chain(self.others.iter())
    }

    /// The newest, whether or not it is in use yet.
    #[must_use]
    pub const fn newest(&self) -> &NumberedMaster {
        &self.newest
    }

    /// The oldest.
    #[must_use]
    pub fn oldest(&self) -> &NumberedMaster {
        self.others.last().unwrap_or(&self.newest)
    }

    /// The one that makes what is made at `now_seconds`: the newest whose time has come, else the oldest.
    #[must_use]
    pub fn in_use(&self, now_seconds: i64) -> &NumberedMaster {
        self.iter().find(|one| one.used_from_seconds <= now_seconds).unwrap_or_else(|| self.oldest())
    }

    /// The one of this number.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Option<&NumberedMaster> {
        self.iter().find(|one| one.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

    #[test]
    fn a_secret_is_read_from_hex_and_from_base64url() -> Result<(), NoMasterSecret> {
        let from_hex = MasterSecret::parse(format!("{HEX}\n").as_bytes())?;
        let text = BASE64URL_NOPAD.encode(&*from_hex.0);
        assert_eq!(MasterSecret::parse(text.as_bytes())?, from_hex);
        assert_eq!(MasterSecret::parse(format!("{text}=").as_bytes())?, from_hex);
        assert_eq!(MasterSecret::parse(from_hex.to_text().expose())?, from_hex);
        Ok(())
    }

    #[test]
    fn a_passphrase_is_refused_and_not_shown() {
        let fault = MasterSecret::parse(b"correct horse battery staple").expect_err("a passphrase").to_string();
        assert_eq!(
            fault,
            "found 28 characters that are no 32 bytes, expected 64 hexadecimal digits or 43 of base64url \
             (no passphrase): make one with `openssl rand -hex 32` or `keyward init`"
        );
        assert!(MasterSecret::parse(b"").is_err());
        assert!(MasterSecret::parse("g".repeat(64).as_bytes()).is_err());
    }

    #[test]
    fn derived_secrets_differ_by_store_purpose_and_subject_and_stay_the_same() -> Result<(), NoMasterSecret> {
        let master = MasterSecret::parse(HEX.as_bytes())?;
        let one = master.derive(1, "snapshot", "");
        assert_eq!(one, MasterSecret::parse(HEX.as_bytes())?.derive(1, "snapshot", ""));
        for other in
            [master.derive(2, "snapshot", ""), master.derive(1, "webhook", ""), master.derive(1, "snapshot", "1")]
        {
            assert_ne!(one, other);
        }
        assert_ne!(master.fingerprint(), *one);
        assert_ne!(master.fingerprint(), *master.0);
        Ok(())
    }

    #[test]
    fn the_newest_secret_makes_what_is_made_once_its_time_has_come() {
        let numbered = |number, used_from_seconds| NumberedMaster {
            number,
            secret: MasterSecret::generate().expect("randomness"),
            used_from_seconds,
        };
        let secrets = MasterSecrets::of(vec![numbered(1, i64::MIN), numbered(3, 100), numbered(2, 50)]).expect("three");
        assert_eq!(secrets.iter().map(|one| one.number).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(secrets.newest().number, 3);
        assert_eq!([49, 50, 99, 100].map(|now| secrets.in_use(now).number), [1, 2, 2, 3]);
        let only_later = MasterSecrets::of(vec![numbered(2, 50)]).expect("one");
        assert_eq!(only_later.in_use(0).number, 2, "better one before its time than none");
        assert_eq!(secrets.with(MasterSecret::generate().expect("randomness"), 0).newest().number, 4);
        let left = secrets.without(2).expect("two").iter().map(|one| one.number).collect::<Vec<_>>();
        assert_eq!((left, only_later.without(2)), (vec![3, 1], None));
        assert_eq!(MasterSecrets::of(vec![numbered(1, 0), numbered(1, 0)]), None);
        assert_eq!(MasterSecrets::of(vec![]), None);
    }

    #[test]
    fn a_derived_secret_is_that_of_rfc_5869() -> Result<(), NoMasterSecret> {
        // python3: hmac.new(hmac.new((7).to_bytes(16,"big"), bytes.fromhex(HEX), "sha256").digest(),
        //                   b"keyward/v1/snapshot/x\x01", "sha256").hexdigest()
        let master = MasterSecret::parse(HEX.as_bytes())?;
        let derived = data_encoding::HEXLOWER.encode(&*master.derive(7, "snapshot", "x"));
        assert_eq!(derived, "6a61c8fb57be2ffdfc3a2f8b09b9f6db05d00fbf3f049bab0d092cbc1fc03976");
        Ok(())
    }

    #[test]
    fn a_secret_is_not_shown() -> Result<(), NoMasterSecret> {
        let master = MasterSecret::parse(HEX.as_bytes())?;
        assert_eq!(format!("{master:?} {:?}", master.to_text()), "MasterSecret(..) Secret(..)");
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = MasterSecret::parse(&bytes);
        }
    }
}
