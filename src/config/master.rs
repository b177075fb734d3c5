//! The master secret: 32 random bytes, from a file only its owner can read or from
//! `KEYWARD_MASTER_SECRET`, and the secrets that are derived from it. It is never shown, not even
//! when it is wrong.

use std::fmt;
use std::path::Path;

use aws_lc_rs::hkdf;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use super::fault::Fault;
use super::{Config, private};
use crate::secret::{NoRandomness, Secret};
use crate::store::StoreId;

/// The environment variable that takes the file's place.
pub const MASTER_SECRET_VARIABLE: &str = "KEYWARD_MASTER_SECRET";
const SECRET_BYTES: usize = 32;

/// 32 bytes from which every other secret of an installation is derived.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterSecret(Zeroizing<[u8; SECRET_BYTES]>);

impl MasterSecret {
    /// A new one from the operating system's generator.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, NoRandomness> {
        crate::secret::random().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// Reads 64 hexadecimal digits or 43 of base64url. White space around them is left out.
    ///
    /// # Errors
    /// Anything else, a passphrase for instance. The error does not hold the text.
    pub fn parse(text: &[u8]) -> Result<Self, NoMasterSecret> {
        let text = text.trim_ascii();
        let bytes = match text.len() {
            64 => HEXLOWER_PERMISSIVE.decode(text).ok(),
            43 => BASE64URL_NOPAD.decode(text).ok(),
            44 => text.strip_suffix(b"=").and_then(|text| BASE64URL_NOPAD.decode(text).ok()),
            _ => None,
        };
        let bytes = Zeroizing::new(bytes.ok_or(NoMasterSecret { found: text.len() })?);
        <[u8; SECRET_BYTES]>::try_from(bytes.as_slice())
            .map(|bytes| Self(Zeroizing::new(bytes)))
            .map_err(|_other_length| NoMasterSecret { found: text.len() })
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
    pub fn derive(&self, store: StoreId, purpose: &str, subject: &str) -> Zeroizing<[u8; 32]> {
        self.expand(&store.0.to_be_bytes(), &format!("keyward/v1/{purpose}/{subject}"))
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

/// The master secret that `config` names: from the environment variable where it is set, else from
/// the file.
///
/// # Errors
/// A fault that names the variable or the file and says what is wrong and what to do: not there,
/// readable by others, no 32 bytes.
pub fn master_secret(config: &Config) -> Result<MasterSecret, Fault> {
    if let Some(text) = &config.environment.master_secret {
        return MasterSecret::parse(text.expose())
            .map_err(|fault| Fault::of_file(MASTER_SECRET_VARIABLE, "", fault.to_string()));
    }
    from_file(&config.master_file).map_err(|what| {
        let line = config.master_file_line;
        Fault::of_line(&config.path.display().to_string(), line, "secrets.master_file", what)
    })
}

fn from_file(path: &Path) -> Result<MasterSecret, String> {
    let remedy =
        format!("put it back, or make a new store with `keyward init`; {MASTER_SECRET_VARIABLE} takes its place");
    let text = private::read(path, &remedy)?;
    MasterSecret::parse(&text).map_err(|fault| format!("{}: {fault}", path.display()))
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
        let one = master.derive(StoreId(1), "snapshot", "");
        assert_eq!(one, MasterSecret::parse(HEX.as_bytes())?.derive(StoreId(1), "snapshot", ""));
        for other in [
            master.derive(StoreId(2), "snapshot", ""),
            master.derive(StoreId(1), "webhook", ""),
            master.derive(StoreId(1), "snapshot", "1"),
        ] {
            assert_ne!(one, other);
        }
        assert_ne!(master.fingerprint(), *one);
        assert_ne!(master.fingerprint(), *master.0);
        Ok(())
    }

    #[test]
    fn a_derived_secret_is_that_of_rfc_5869() -> Result<(), NoMasterSecret> {
        // python3: hmac.new(hmac.new((7).to_bytes(16,"big"), bytes.fromhex(HEX), "sha256").digest(),
        //                   b"keyward/v1/snapshot/x\x01", "sha256").hexdigest()
        let master = MasterSecret::parse(HEX.as_bytes())?;
        let derived = data_encoding::HEXLOWER.encode(&*master.derive(StoreId(7), "snapshot", "x"));
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
