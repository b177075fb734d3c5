//! The secrets by which a receiver knows that an announcement is ours: one for each lineage and
//! version, derived when it is needed and stored nowhere. Signatures are those of Standard Webhooks.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::{LineageId, Rotation};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// Derives the secret of a subject, for this purpose alone, from a master secret.
pub type DeriveSecret = Arc<dyn Fn(&str) -> Zeroizing<[u8; 32]> + Send + Sync>;

/// Derives webhook secrets.
#[derive(Clone)]
pub struct WebhookSecrets {
    newest: DeriveSecret,
    /// Those of master secrets that are on their way out.
    older: Vec<DeriveSecret>,
}

impl WebhookSecrets {
    /// Secrets that `newest` derives. What `older` derive is signed with beside them, for receivers
    /// that were told theirs before the master secret was changed.
    #[must_use]
    pub const fn new(newest: DeriveSecret, older: Vec<DeriveSecret>) -> Self {
        Self { newest, older }
    }

    /// What a receiver of this lineage is told.
    #[must_use]
    pub fn newest(&self, lineage: LineageId, version: u32) -> WebhookSecret {
        WebhookSecret((self.newest)(&subject(lineage, version)))
    }

    /// All that something sent at `now` is signed with, the newest first.
    #[must_use]
    pub fn signing(&self, lineage: LineageId, rotation: &Rotation, now: Timestamp) -> Vec<WebhookSecret> {
        let before = rotation.secret_version.checked_sub(1).filter(|version| *version > 0);
        let before = before.filter(|_| rotation.old_secret_until.is_some_and(|until| now < until));
        let derive = |version: u32| {
            let masters = std::iter::once(&self.newest).chain(&self.older);
            masters.map(move |derive| WebhookSecret(derive(&subject(lineage, version))))
        };
        derive(rotation.secret_version).chain(before.into_iter().flat_map(derive)).collect()
    }
}

impl fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecrets(..)")
    }
}

fn subject(lineage: LineageId, version: u32) -> String {
    format!("{lineage}/{version}")
}

/// The secret that a receiver and this gateway share.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Zeroizing<[u8; 32]>);

impl WebhookSecret {
    /// The text that a receiver's library takes: `whsec_` and base64.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        let text = Zeroizing::new(format!("whsec_{}", *Zeroizing::new(BASE64.encode(&*self.0))));
        Secret::new(text.as_bytes())
    }

    /// One signature of a message, `v1,…`.
    #[must_use]
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let mut signed = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &*self.0));
        signed.update(format!("{id}.{}.", at.seconds()).as_bytes());
        signed.update(body);
        format!("v1,{}", BASE64.encode(signed.sign().as_ref()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(master: u8) -> DeriveSecret {
        Arc::new(move |subject: &str| {
            let mut bytes = [master; 32];
            bytes.iter_mut().zip(subject.bytes().rev()).for_each(|(byte, of)| *byte ^= of);
            Zeroizing::new(bytes)
        })
    }

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the Standard Webhooks reference libraries.
        let key = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAAAAA=").expect("base64");
        let secret = WebhookSecret(Zeroizing::new(key.try_into().expect("32 bytes")));
        let signed = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            Timestamp::from_seconds(1_614_265_330),
            b"{\"test\": 2432232314}",
        );
        // python3: base64.b64encode(hmac.new(base64.b64decode("MfKQ…="), b"msg_….1614265330.{…}", "sha256").digest())
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(secret.to_text().expose(), b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAAAAA=");
        assert_eq!(format!("{secret:?}"), "WebhookSecret(..)");
    }

    #[test]
    fn the_version_before_signs_beside_the_newest_until_its_end() {
        let secrets = WebhookSecrets::new(derive(1), vec![]);
        let lineage = LineageId::from_bits(7);
        let end = Timestamp::from_seconds(1000);
        let rotation = Rotation { secret_version: 2, old_secret_until: Some(end), ..Rotation::default() };
        let both = secrets.signing(lineage, &rotation, Timestamp::from_seconds(999));
        assert_eq!(both, [secrets.newest(lineage, 2), secrets.newest(lineage, 1)]);
        assert_ne!(both[0], both[1]);
        assert_eq!(secrets.signing(lineage, &rotation, end), [secrets.newest(lineage, 2)]);
        assert_eq!(secrets.signing(lineage, &Rotation::default(), end), [secrets.newest(lineage, 1)]);
    }

    #[test]
    fn a_master_secret_on_its_way_out_signs_too() {
        let (old, new) = (WebhookSecrets::new(derive(1), vec![]), WebhookSecrets::new(derive(2), vec![derive(1)]));
        let (lineage, rotation) = (LineageId::from_bits(7), Rotation::default());
        let both = new.signing(lineage, &rotation, Timestamp::EPOCH);
        assert_eq!(both, [new.newest(lineage, 1), old.newest(lineage, 1)]);
    }
}
