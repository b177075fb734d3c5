//! What is signed: keys in JWT form, and assertions, by which an upstream can tell who calls it. And
//! the public keys by which others verify either.
//!
//! To the gateway itself a key in JWT form is a token like any other, known by the hash of its text: no
//! request is ever decided on what such a token says. An assertion is no key: it is signed by a key of its
//! own, is typed as what it is, and is refused where a key is asked for.

use std::fmt;

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{EnvironmentId, Key, KeyId, MintJwt, ProjectId, Record, RecordFlags, Token, UserId};
use crate::clock::Timestamp;
use crate::secret::{MasterSecrets, NoRandomness, NumberedMaster};

/// The media type of a key in JWT form, in its `typ`.
pub const KEY_JWT_TYPE: &str = "keyward-key+jwt";
/// The media type of an assertion, in its `typ`.
pub const ASSERTION_JWT_TYPE: &str = "keyward-assertion+jwt";
/// How long an assertion is good.
pub const ASSERTION_SECONDS: i64 = 60;
/// The most bytes of flags in an assertion: what holds more is told of in part, for a head that an upstream
/// refuses helps nobody.
const ASSERTION_FLAGS_BYTES_MAX: usize = 3072;
/// `{"typ":"keyward-assertion+jwt"` in base64url: how every assertion begins, and nothing else does. The
/// length is a multiple of three, so that what follows leaves it as it is.
const ASSERTION_HEAD: &[u8] = b"eyJ0eXAiOiJrZXl3YXJkLWFzc2VydGlvbitqd3Qi";
/// More than the claims of a key take, so that no part of them is left behind where a buffer grew.
const CLAIMS_BYTES: usize = 2048;

/// Whether `text` is an assertion, which is never a key: whoever was handed one must not get in with it.
#[must_use]
pub fn is_assertion(text: &[u8]) -> bool {
    text.starts_with(ASSERTION_HEAD)
}

/// The signing keys of an installation, derived from its master secrets: for each a pair for keys and a
/// pair for assertions.
pub struct Signers {
    issuer: Box<str>,
    /// The newest first, with the instant from which on it signs.
    pairs: Vec<(Timestamp, Pair)>,
    assertion_jwks: String,
    jwks: String,
}

struct Pair {
    keys: Signer,
    assertions: Signer,
}

impl Signers {
    /// Those of these secrets, for the store of this id. `issuer` is what they call themselves in `iss`.
    #[must_use]
    pub fn derive(secrets: &MasterSecrets, store: u128, issuer: &str) -> Self {
        let pair = |one: &NumberedMaster| {
            let seed = |purpose| one.secret.derive(store, purpose, "ed25519");
            let keys = Signer::of(&seed("jwt"), KEY_JWT_TYPE);
            let assertions = Signer::of(&seed("assertion"), ASSERTION_JWT_TYPE);
            (Timestamp::from_seconds(one.used_from_seconds), Pair { keys, assertions })
        };
        let pairs: Vec<(Timestamp, Pair)> = secrets.iter().map(pair).collect();
        let assertions = || pairs.iter().map(|(_, pair)| &pair.assertions.public);
        let keys = pairs.iter().map(|(_, pair)| &pair.keys.public);
        let (assertion_jwks, jwks) = (jwks_of(assertions()), jwks_of(keys.chain(assertions())));
        Self { issuer: issuer.into(), pairs, assertion_jwks, jwks }
    }

    /// The public keys of keys in JWT form and of assertions, as a JWK set (RFC 7517): for the management
    /// listener.
    #[must_use]
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// The public keys of assertions alone, as a JWK set: for whoever can reach the gateway.
    #[must_use]
    pub fn assertion_jwks(&self) -> &str {
        &self.assertion_jwks
    }

    /// What tells the upstream named `audience` that the key of `record` was let through at `now`: good for
    /// [`ASSERTION_SECONDS`], and not past the end of the key.
    #[must_use]
    pub fn assert(&self, record: &Record, audience: &str, now: Timestamp) -> String {
        let (flags, is_whole) = flags_of(record.flags());
        let end = now.seconds().saturating_add(ASSERTION_SECONDS);
        let key_id = record.id;
        let claims = AssertionClaims {
            iss: &self.issuer,
            sub: record.user_id().map_or_else(|| key_id.to_string(), ToString::to_string),
            aud: audience,
            iat: now.seconds(),
            exp: record.standing.ends_at().map_or(end, |ends_at| ends_at.seconds().min(end)),
            key_id,
            project: record.project(),
            environment: record.environment(),
            user: record.user_id(),
            flags,
            flags_in_part: !is_whole,
        };
        let text = self.in_use(now).assertions.sign(&claims);
        String::clone(&text)
    }

    fn in_use(&self, now: Timestamp) -> &Pair {
        let in_use = self.pairs.iter().find(|(from, _)| *from <= now);
        &in_use.or_else(|| self.pairs.last()).expect("there is at least one").1
    }
}

impl MintJwt for Signers {
    fn mint(&self, key: &Key) -> Result<Token, NoRandomness> {
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *random).map_err(|_opaque| NoRandomness)?;
        let mut rnd = Zeroizing::new([0; 43]);
        BASE64URL_NOPAD.encode_mut(&*random, &mut *rnd);
        let claims = KeyClaims {
            iss: &self.issuer,
            sub: key.user.as_ref().map_or_else(|| key.id.to_string(), ToString::to_string),
            jti: key.id,
            iat: key.created_at.seconds(),
            exp: key.expires_at.map(Timestamp::seconds),
            project: key.project.as_ref(),
            environment: &key.environment,
            rnd: std::str::from_utf8(&*rnd).expect("base64url is ASCII"),
        };
        Ok(Token::from_text(&self.in_use(key.created_at).keys.sign(&claims)))
    }
}

/// By whatever signs at that moment: the signing keys of a running gateway may be swapped.
impl MintJwt for ArcSwap<Signers> {
    fn mint(&self, key: &Key) -> Result<Token, NoRandomness> {
        self.load().mint(key)
    }
}

impl fmt::Debug for Signers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signers").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What a key in JWT form says.
#[derive(Serialize)]
struct KeyClaims<'a> {
    iss: &'a str,
    sub: String,
    jti: KeyId,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a ProjectId>,
    environment: &'a EnvironmentId,
    /// 256 random bits that are stored nowhere: without them, whoever has the store and the signing key could
    /// make the token again.
    rnd: &'a str,
}

/// What an assertion says.
#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'a str,
    sub: String,
    aud: &'a str,
    iat: i64,
    exp: i64,
    key_id: KeyId,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a ProjectId>,
    environment: &'a EnvironmentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a UserId>,
    flags: Vec<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    flags_in_part: bool,
}

/// The flags of an assertion, and whether they are all.
fn flags_of(flags: RecordFlags<'_>) -> (Vec<&str>, bool) {
    let (mut told, mut bytes, mut is_whole) = (Vec::new(), 0, true);
    for flag in flags.effective() {
        bytes += flag.as_str().len() + 3;
        if bytes > ASSERTION_FLAGS_BYTES_MAX {
            is_whole = false;
            break;
        }
        told.push(flag.as_str());
    }
    (told, is_whole)
}

/// One key that signs, for one type of JWT.
struct Signer {
    // Kept by AWS-LC, which wipes what it frees.
    pair: Ed25519KeyPair,
    public: PublicKey,
    /// The protected header, encoded.
    head: String,
}

impl Signer {
    fn of(seed: &[u8; 32], media_type: &str) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        let public = PublicKey::of(pair.public_key().as_ref());
        let head = Head { typ: media_type, alg: ALGORITHM, kid: &public.kid };
        let head = serde_json::to_vec(&head).expect("three texts are JSON");
        Self { pair, head: BASE64URL_NOPAD.encode(&head), public }
    }

    /// A JWS in compact form (RFC 7515).
    fn sign(&self, claims: &impl Serialize) -> Zeroizing<String> {
        let mut json = Zeroizing::new(Vec::with_capacity(CLAIMS_BYTES));
        serde_json::to_writer(&mut *json, claims).expect("texts and numbers are JSON");
        let mut text = Zeroizing::new(String::with_capacity(self.head.len() + json.len() * 4 / 3 + 96));
        text.push_str(&self.head);
        text.push('.');
        BASE64URL_NOPAD.encode_append(&json, &mut text);
        let signature = self.pair.sign(text.as_bytes());
        text.push('.');
        BASE64URL_NOPAD.encode_append(signature.as_ref(), &mut text);
        text
    }
}

/// The protected header. `typ` comes first: an assertion is known by how it begins.
#[derive(Serialize)]
struct Head<'a> {
    typ: &'a str,
    alg: &'a str,
    kid: &'a str,
}

/// RFC 8037's name, which every library knows.
const ALGORITHM: &str = "EdDSA";

/// A public key, as a JWK (RFC 8037).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PublicKey {
    kty: String,
    crv: String,
    x: String,
    #[serde(default)]
    kid: String,
    #[serde(rename = "use", default)]
    purpose: String,
    #[serde(default)]
    alg: String,
}

impl PublicKey {
    fn of(bytes: &[u8]) -> Self {
        let x = BASE64URL_NOPAD.encode(bytes);
        // The thumbprint of RFC 7638: it follows from the key, and so two keys never have one.
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let kid = BASE64URL_NOPAD.encode(&Sha256::digest(canonical));
        let text = str::to_owned;
        Self { kty: text("OKP"), crv: text("Ed25519"), x, kid, purpose: text("sig"), alg: text(ALGORITHM) }
    }
}

#[derive(Serialize)]
struct JwkSet<'a> {
    keys: Vec<&'a PublicKey>,
}

fn jwks_of<'a>(keys: impl Iterator<Item = &'a PublicKey>) -> String {
    serde_json::to_string(&JwkSet { keys: keys.collect() }).expect("texts are JSON")
}

/// Public keys of a JWK set that somebody gave. Of other kinds of keys nothing is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwks(Vec<PublicKey>);

/// Text that is no JWK set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no JWK set, which is a JSON object with a list of `keys`")]
pub struct NoJwks;

/// What a look at a signature found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// One of the keys made it, over this very text.
    Good,
    /// The key that is named did not make it over this text.
    Bad,
    /// None of the keys is the one that is named, or none is named.
    UnknownKey,
}

impl Jwks {
    /// Reads a JWK set, as [`Signers::jwks`] writes it.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &[u8]) -> Result<Self, NoJwks> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|_fault| NoJwks)?;
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value::<PublicKey>(key).ok());
        Ok(Self(keys.filter(|key| key.kty == "OKP" && key.crv == "Ed25519").collect()))
    }

    /// Whether one of these keys signed `jwt`. What the JWT says of algorithms is not asked: there is one.
    #[must_use]
    pub fn verify(&self, jwt: &JwtParts<'_>) -> Signature {
        let kid = jwt.head.get("kid").and_then(serde_json::Value::as_str);
        let Some(key) = self.0.iter().find(|key| Some(key.kid.as_str()) == kid) else { return Signature::UnknownKey };
        let Ok(bytes) = BASE64URL_NOPAD.decode(key.x.as_bytes()) else { return Signature::UnknownKey };
        match UnparsedPublicKey::new(&ED25519, bytes).verify(jwt.signed.as_bytes(), &jwt.signature) {
            Ok(()) => Signature::Good,
            Err(_unspecified) => Signature::Bad,
        }
    }
}

/// The parts of a JWT, for a look at it. Nothing is decided on them.
pub struct JwtParts<'t> {
    /// The protected header.
    pub head: serde_json::Map<String, serde_json::Value>,
    /// What it says.
    pub claims: serde_json::Map<String, serde_json::Value>,
    signed: &'t str,
    signature: Vec<u8>,
}

impl<'t> JwtParts<'t> {
    /// The parts of `text`; none if it is no signed JWT in compact form.
    #[must_use]
    pub fn of(text: &'t str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        let decoded = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map(Zeroizing::new).ok();
        let object = |part: &str| serde_json::from_slice(&decoded(part)?).ok();
        Some(Self { head: object(head)?, claims: object(claims)?, signed, signature: decoded(signature)?.to_vec() })
    }
}

impl fmt::Debug for JwtParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtParts").field("head", &self.head).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::key::{
        FlagSet, Form, Format, Grants, Rotation, Shape, Stamp, Standing, States, TOKEN_BYTES_MAX, TokenHash,
        TokenPrefix, UserStanding,
    };
    use crate::secret::MasterSecret;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const LATER: Timestamp = Timestamp::from_seconds(1_800_003_600);

    fn secrets() -> MasterSecrets {
        let numbered = |number: u32, used_from_seconds| {
            let secret = MasterSecret::parse(number.to_string().repeat(64).as_bytes()).expect("64 digits");
            NumberedMaster { number, secret, used_from_seconds }
        };
        MasterSecrets::of(vec![numbered(1, i64::MIN), numbered(2, LATER.seconds())]).expect("two")
    }

    fn signers() -> Signers {
        Signers::derive(&secrets(), 7, "https://api.example.com")
    }

    fn key() -> Key {
        let id = KeyId::mint(NOW, [7; 10]);
        Key {
            id,
            lineage: id.lineage(),
            hash: TokenHash::of(b""),
            format: Format::Jwt,
            shown_prefix: None,
            last_four: None,
            name: "a key".to_owned(),
            project: Some("acme".parse().expect("a project")),
            environment: EnvironmentId::live(),
            user: None,
            grants: Grants::Only(FlagSet::default()),
            props: BTreeMap::new(),
            may_grant: FlagSet::default(),
            operates_on: None,
            self_rotate: false,
            minted_by: None,
            states: States::default(),
            revoked_at: None,
            replaced_by: None,
            expires_at: None,
            grace_expires_at: None,
            rotation: Rotation::default(),
            created_at: NOW,
            updated_at: NOW,
            stamp: Stamp::default(),
        }
    }

    fn record_with(flags: FlagSet) -> Record {
        Record::of(&Key { grants: Grants::Only(flags), ..key() }, None)
    }

    fn record() -> Record {
        record_with(FlagSet::parse(["keyring.read", "jobs:write"]).expect("flags"))
    }

    fn parts(text: &str) -> JwtParts<'_> {
        JwtParts::of(text).expect("a JWT")
    }

    fn jwks(text: &str) -> Jwks {
        Jwks::parse(text.as_bytes()).expect("a JWK set")
    }

    #[test]
    fn a_key_says_whose_it_is_and_ends_with_the_key() {
        let signers = signers();
        let token = signers.mint(&key()).expect("randomness");
        let jwt = parts(token.expose());
        assert_eq!(jwt.head["typ"], "keyward-key+jwt");
        assert_eq!(jwt.head["alg"], "EdDSA");
        let id = key().id.to_string();
        let mut claims = Value::Object(jwt.claims.clone());
        let rnd = claims.as_object_mut().and_then(|claims| claims.remove("rnd")).expect("its randomness");
        assert_eq!(rnd.as_str().map(str::len), Some(43), "256 bits");
        assert_eq!(
            claims,
            json!({
                "iss": "https://api.example.com", "sub": id, "jti": id, "iat": NOW.seconds(),
                "project": "acme", "environment": "live",
            })
        );
        let owned = Key { user: Some("ann".parse().expect("a user")), expires_at: Some(LATER), ..key() };
        let token = signers.mint(&owned).expect("randomness");
        let claims = parts(token.expose()).claims;
        assert_eq!((&claims["sub"], &claims["exp"]), (&json!("ann"), &json!(LATER.seconds())));
    }

    #[test]
    fn nobody_can_make_a_token_again_from_what_is_stored() {
        let signers = signers();
        let (one, other) = (signers.mint(&key()).expect("randomness"), signers.mint(&key()).expect("randomness"));
        assert_ne!(one.hash(), other.hash());
    }

    #[test]
    fn a_key_is_a_token_that_any_header_can_carry() {
        let widest = Key {
            project: Some("p".repeat(64).parse().expect("a project")),
            environment: "e".repeat(16).parse().expect("an environment"),
            user: Some("u".repeat(128).parse().expect("a user")),
            expires_at: Some(Timestamp::MAX),
            ..key()
        };
        let signers = Signers::derive(&secrets(), 7, &"i".repeat(256));
        let token = signers.mint(&widest).expect("randomness");
        assert!(token.expose().len() < TOKEN_BYTES_MAX / 2, "{}", token.expose().len());
        assert!(token.expose().bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(Form::of(token.expose().as_bytes(), &TokenPrefix::default()), Form::Foreign);
        let claims = serde_json::to_vec(&Value::Object(parts(token.expose()).claims)).expect("JSON");
        assert!(claims.len() < CLAIMS_BYTES, "no part of it may be left behind where a buffer grew");
    }

    #[test]
    fn an_assertion_is_for_one_upstream_and_a_minute() {
        let text = signers().assert(&record(), "rings", NOW);
        let jwt = parts(&text);
        assert_eq!(jwt.head["typ"], "keyward-assertion+jwt");
        let id = key().id.to_string();
        assert_eq!(
            Value::Object(jwt.claims.clone()),
            json!({
                "iss": "https://api.example.com", "sub": id, "aud": "rings", "iat": NOW.seconds(),
                "exp": NOW.seconds() + 60, "key_id": id, "project": "acme", "environment": "live",
                "flags": ["jobs:write", "keyring.read"],
            })
        );
        let standing = Standing {
            states: States::default(),
            user: UserStanding::None,
            expires_at: Some(Timestamp::from_seconds(NOW.seconds() + 9)),
            grace_expires_at: None,
        };
        let ending = Record { standing, ..record() };
        let text = signers().assert(&ending, "rings", NOW);
        assert_eq!(parts(&text).claims["exp"], json!(NOW.seconds() + 9), "not past the key's own end");
    }

    #[test]
    fn an_assertion_fits_a_field_whatever_the_key_may_do() {
        let many = (0..256).map(|number| format!("{}.{number}", "f".repeat(60)));
        let many = FlagSet::parse(many).expect("flags");
        let text = signers().assert(&record_with(many), &"u".repeat(64), NOW);
        assert!(text.len() < 6 * 1024, "{}", text.len());
        assert_eq!(parts(&text).claims["flags_in_part"], json!(true));
    }

    #[test]
    fn an_assertion_is_never_a_key_and_a_key_never_an_assertion() {
        let signers = signers();
        let (token, assertion) = (signers.mint(&key()).expect("randomness"), signers.assert(&record(), "rings", NOW));
        let prefix = TokenPrefix::default();
        assert!(is_assertion(assertion.as_bytes()) && Shape::of(assertion.as_bytes(), &prefix) == Shape::NoKey);
        assert_eq!(Form::of(assertion.as_bytes(), &prefix), Form::Assertion);
        assert!(!is_assertion(token.expose().as_bytes()));
        let public = jwks(signers.assertion_jwks());
        assert_eq!(public.verify(&parts(&assertion)), Signature::Good);
        assert_eq!(public.verify(&parts(token.expose())), Signature::UnknownKey);
    }

    #[test]
    fn whoever_changes_a_claim_breaks_the_signature() {
        let signers = signers();
        let token = signers.mint(&key()).expect("randomness");
        let public = jwks(signers.jwks());
        assert_eq!(public.verify(&parts(token.expose())), Signature::Good);
        let (head, rest) = token.expose().split_once('.').expect("three parts");
        let (claims, signature) = rest.split_once('.').expect("three parts");
        let mut changed = parts(token.expose()).claims;
        changed.insert("project".to_owned(), json!("another"));
        let changed = BASE64URL_NOPAD.encode(&serde_json::to_vec(&changed).expect("JSON"));
        for text in [
            format!("{head}.{changed}.{signature}"),
            format!("{head}.{claims}."),
            format!("{head}.{claims}.{}", BASE64URL_NOPAD.encode(&[0; 64])),
        ] {
            assert_eq!(public.verify(&parts(&text)), Signature::Bad, "{text}");
        }
        let none = BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#);
        assert_eq!(public.verify(&parts(&format!("{none}.{claims}."))), Signature::UnknownKey);
    }

    #[test]
    fn keys_of_every_secret_are_public_and_the_newest_signs_from_its_time_on() {
        let signers = signers();
        let keys = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["keys"].as_array().map(Vec::len);
        assert_eq!((keys(signers.assertion_jwks()), keys(signers.jwks())), (Some(2), Some(4)));
        let kid = |text: &str| parts(text).head["kid"].clone();
        let at = |now| signers.assert(&record(), "rings", now);
        assert_eq!(kid(&at(NOW)), kid(&at(Timestamp::from_seconds(LATER.seconds() - 1))));
        assert_ne!(kid(&at(NOW)), kid(&at(LATER)));
        let minted = |created_at| signers.mint(&Key { created_at, ..key() }).expect("randomness");
        assert_ne!(kid(minted(NOW).expose()), kid(minted(LATER).expose()));
        let public = jwks(signers.jwks());
        for text in [at(NOW), at(LATER), minted(NOW).expose().to_owned(), minted(LATER).expose().to_owned()] {
            assert_eq!(public.verify(&parts(&text)), Signature::Good);
        }
    }

    #[test]
    fn another_store_has_other_keys() {
        let other = Signers::derive(&secrets(), 8, "https://api.example.com");
        assert_ne!(other.jwks(), signers().jwks());
        assert_eq!(signers().jwks(), signers().jwks());
    }

    #[test]
    fn a_key_is_named_as_rfc_7638_and_8037_have_it() {
        // RFC 8037, appendix A.3.
        let public = BASE64URL_NOPAD.decode(b"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").expect("base64url");
        assert_eq!(PublicKey::of(&public).kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn no_signing_key_is_shown() {
        assert_eq!(format!("{:?}", signers()), r#"Signers { issuer: "https://api.example.com", .. }"#);
    }
}
