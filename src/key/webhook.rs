//! The secrets by which a receiver knows that an announcement is ours: one for each lineage and
//! version, derived when it is needed and stored nowhere. Signatures are those of Standard Webhooks.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::{LineageId, Rotation};
use crate::clock::Timestamp;
use crate::secret::{MasterSecrets, NumberedMaster, Secret};

/// Derives webhook secrets from the master secrets. Clones are one: what replaces the secrets of one replaces
/// those of all.
#[derive(Clone)]
pub struct WebhookSecrets(Arc<ArcSwap<Masters>>);

struct Masters {
    secrets: MasterSecrets,
    store: u128,
}

impl Masters {
    fn derive(&self, master: &NumberedMaster, lineage: LineageId, version: u32) -> WebhookSecret {
        WebhookSecret(master.secret.derive(self.store, "webhook", &subject(lineage, version)))
    }
}

impl WebhookSecrets {
    /// Those of these master secrets, for the store of this id.
    #[must_use]
    pub fn derive(secrets: &MasterSecrets, store: u128) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Masters { secrets: secrets.clone(), store })))
    }

    /// Derives from the master secrets of `other` from now on.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// What a receiver of this lineage is told at `now`: what the master secret makes that is in use then.
    #[must_use]
    pub fn newest(&self, lineage: LineageId, version: u32, now: Timestamp) -> WebhookSecret {
        let masters = self.0.load();
        masters.derive(masters.secrets.in_use(now.seconds()), lineage, version)
    }

    /// All that something sent at `now` is signed with, the newest first. Also what the other master secrets
    /// make: for receivers that were told theirs before the master secret was changed, or by a gateway that
    /// uses the next one already.
    #[must_use]
    pub fn signing(&self, lineage: LineageId, rotation: &Rotation, now: Timestamp) -> Vec<WebhookSecret> {
        let before = rotation.secret_version.checked_sub(1).filter(|version| *version > 0);
        let before = before.filter(|_| rotation.old_secret_until.is_some_and(|until| now < until));
        let masters = self.0.load();
        let in_use = masters.secrets.in_use(now.seconds());
        let others = masters.secrets.iter().filter(|one| one.number != in_use.number);
        let all: Vec<_> = std::iter::once(in_use).chain(others).collect();
        let derive = |version: u32| all.iter().map(move |master| (*master, version));
        let pairs = derive(rotation.secret_version).chain(before.into_iter().flat_map(derive));
        pairs.map(|(master, version)| masters.derive(master, lineage, version)).collect()
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
    use crate::secret::MasterSecret;

    fn master(number: u32, used_from_seconds: i64) -> NumberedMaster {
        let text = format!("{number:02x}").repeat(32);
        NumberedMaster { number, secret: MasterSecret::parse(text.as_bytes()).expect("a secret"), used_from_seconds }
    }

    fn secrets(masters: Vec<NumberedMaster>) -> WebhookSecrets {
        WebhookSecrets::derive(&MasterSecrets::of(masters).expect("some"), 7)
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
        let secrets = secrets(vec![master(1, 0)]);
        let lineage = LineageId::from_bits(7);
        let end = Timestamp::from_seconds(1000);
        let newest = |version| secrets.newest(lineage, version, end);
        let rotation = Rotation { secret_version: 2, old_secret_until: Some(end), ..Rotation::default() };
        let both = secrets.signing(lineage, &rotation, Timestamp::from_seconds(999));
        assert_eq!(both, [newest(2), newest(1)]);
        assert_ne!(both[0], both[1]);
        assert_eq!(secrets.signing(lineage, &rotation, end), [newest(2)]);
        assert_eq!(secrets.signing(lineage, &Rotation::default(), end), [newest(1)]);
    }

    #[test]
    fn every_master_secret_signs_and_the_one_in_use_is_told() {
        let (lineage, rotation) = (LineageId::from_bits(7), Rotation::default());
        let at = Timestamp::from_seconds;
        let alone = |number| secrets(vec![master(number, 0)]).newest(lineage, 1, at(0));
        let both = secrets(vec![master(1, 0), master(2, 100)]);
        assert_eq!([99, 100].map(|now| both.newest(lineage, 1, at(now))), [alone(1), alone(2)]);
        assert_eq!(both.signing(lineage, &rotation, at(99)), [alone(1), alone(2)]);
        assert_eq!(both.signing(lineage, &rotation, at(100)), [alone(2), alone(1)]);
    }

    #[test]
    fn what_replaces_the_master_secrets_of_one_does_so_for_its_clones() {
        let (lineage, now) = (LineageId::from_bits(7), Timestamp::EPOCH);
        let (held, new) = (secrets(vec![master(1, 0)]), secrets(vec![master(2, 0)]));
        let clone = held.clone();
        assert_ne!(clone.newest(lineage, 1, now), new.newest(lineage, 1, now));
        held.replace(&new);
        assert_eq!(clone.newest(lineage, 1, now), new.newest(lineage, 1, now));
    }
}
