//! Tokens: the secret text a caller sends, `kw_<environment>_<43 base62><6 base62>`.
//!
//! 256 bits from the operating system's generator, then the CRC-32 of everything before it. The
//! checksum refuses a typo without a look-up and makes secret scanners precise; it is no security.
//! A token never leaves this type except by [`Token::expose`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{EnvironmentId, TokenHash, is_assertion};
use crate::secret::Secret;

/// The most bytes a token of any shape may have.
pub const TOKEN_BYTES_MAX: usize = 4096;
const SECRET_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;
const SHOWN_DIGITS: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The word all of an installation's tokens begin with: 1 to 16 of `a-z 0-9`; `kw` by default.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenPrefix(Arc<str>);

impl TokenPrefix {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TokenPrefix {
    fn default() -> Self {
        Self("kw".into())
    }
}

/// Text that is no token prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no token prefix: expected 1 to 16 of a-z 0-9")]
pub struct PrefixFault(String);

impl FromStr for TokenPrefix {
    type Err = PrefixFault;

    fn from_str(text: &str) -> Result<Self, PrefixFault> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if (1..=16).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(Self(text.into()));
        }
        Err(PrefixFault(text.to_owned()))
    }
}

/// A token in clear.
#[derive(Clone)]
pub struct Token(Secret);

/// What a text that was sent as a credential looks like, before any look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// One of ours, with a right checksum, of this environment.
    Own(EnvironmentId),
    /// Shaped like one of ours, with a wrong checksum: refused without a look-up.
    Malformed,
    /// What tells an upstream who calls it: never a key, and refused without a look-up.
    Assertion,
    /// Anything else: an imported token, the JWT form, or garbage.
    Foreign,
}

/// What can be said of a text before any look-up, whatever keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One of ours, with a right checksum: known by its SHA-512 alone.
    Own,
    /// No key: like one of ours with a wrong checksum, or an assertion.
    NoKey,
    /// Anything else. Where it was imported it may be known by its SHA-256.
    Foreign,
}

impl Shape {
    /// The shape of `text` where tokens begin with `prefix`. Allocates nothing.
    #[must_use]
    pub fn of(text: &[u8], prefix: &TokenPrefix) -> Self {
        match Form::environment_and_checked(text, prefix) {
            Some((_, true)) => Self::Own,
            Some((_, false)) => Self::NoKey,
            None if is_assertion(text) => Self::NoKey,
            None => Self::Foreign,
        }
    }
}

impl Token {
    /// A new token of `environment` from 32 random bytes.
    #[must_use]
    pub fn mint(prefix: &TokenPrefix, environment: &EnvironmentId, random: [u8; 32]) -> Self {
        let random = Zeroizing::new(random);
        let mut text = Zeroizing::new(Vec::with_capacity(128));
        text.extend_from_slice(prefix.as_str().as_bytes());
        text.push(b'_');
        text.extend_from_slice(environment.as_str().as_bytes());
        text.push(b'_');
        text.extend_from_slice(&*base62_of_256_bits(random));
        let checksum = base62_of_32_bits(crc32fast::hash(&text));
        text.extend_from_slice(&checksum);
        Self(Secret::new(text.as_slice()))
    }

    /// A token that somebody else minted, as it was sent.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(Secret::new(text))
    }

    /// The token in clear, as text.
    #[must_use]
    pub fn expose(&self) -> &str {
        std::str::from_utf8(self.0.expose()).unwrap_or_default()
    }

    /// The hash under which it is stored.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.expose())
    }

    /// What may be shown of a token that was minted here: prefix, environment and the first six
    /// characters of the secret.
    #[must_use]
    pub fn shown_prefix(&self, prefix: &TokenPrefix, environment: &EnvironmentId) -> String {
        let start = prefix.as_str().len() + environment.as_str().len() + 2;
        let secret = self.expose().get(start..start + SHOWN_DIGITS).unwrap_or_default();
        format!("{}_{}_{secret}", prefix.as_str(), environment.as_str())
    }

    /// The last four characters, for masked lists.
    #[must_use]
    pub fn last_four(&self) -> &str {
        let text = self.expose();
        text.get(text.len().saturating_sub(4)..).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Form {
    /// What `text` looks like where tokens begin with `prefix`.
    #[must_use]
    pub fn of(text: &[u8], prefix: &TokenPrefix) -> Self {
        match Self::environment_and_checked(text, prefix) {
            None if is_assertion(text) => Self::Assertion,
            None => Self::Foreign,
            Some((_, false)) => Self::Malformed,
            Some((environment, true)) => environment.parse().map_or(Self::Foreign, Self::Own),
        }
    }

    /// The environment word and whether the checksum is right, of a text with the shape of ours.
    fn environment_and_checked<'t>(text: &'t [u8], prefix: &TokenPrefix) -> Option<(&'t str, bool)> {
        let rest = text.strip_prefix(prefix.as_str().as_bytes())?.strip_prefix(b"_")?;
        let at = rest.iter().position(|&byte| byte == b'_')?;
        let (environment, secret) = rest.split_at_checked(at)?;
        let secret = secret.strip_prefix(b"_")?;
        let word = (1..=16).contains(&environment.len())
            && environment.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        // To the end in any case, so that many bytes are looked at in one instruction.
        let digits = secret.iter().fold(true, |so_far, byte| so_far & byte.is_ascii_alphanumeric());
        if !word || secret.len() != SECRET_DIGITS + CHECKSUM_DIGITS || !digits {
            return None;
        }
        let (checked, checksum) = text.split_at_checked(text.len() - CHECKSUM_DIGITS)?;
        let environment = std::str::from_utf8(environment).ok()?;
        Some((environment, base62_of_32_bits(crc32fast::hash(checked)) == checksum))
    }
}

fn base62_of_256_bits(mut number: Zeroizing<[u8; 32]>) -> Zeroizing<[u8; SECRET_DIGITS]> {
    let mut text = Zeroizing::new([b'0'; SECRET_DIGITS]);
    for digit in text.iter_mut().rev() {
        let mut remainder = 0u16;
        for byte in number.iter_mut() {
            let value = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or_default();
            remainder = value % 62;
        }
        *digit = digit_of(u32::from(remainder));
    }
    text
}

fn base62_of_32_bits(mut number: u32) -> [u8; CHECKSUM_DIGITS] {
    let mut text = [b'0'; CHECKSUM_DIGITS];
    for digit in text.iter_mut().rev() {
        *digit = digit_of(number % 62);
        number /= 62;
    }
    text
}

fn digit_of(value: u32) -> u8 {
    usize::try_from(value).ok().and_then(|at| DIGITS.get(at)).copied().unwrap_or(b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kw() -> TokenPrefix {
        TokenPrefix::default()
    }

    #[test]
    fn a_token_has_the_documented_shape() {
        let token = Token::mint(&kw(), &EnvironmentId::live(), [0; 32]);
        // CRC-32 as in zlib: python3 -c 'import zlib; print(zlib.crc32(b"kw_live_" + b"0" * 43))'
        assert!(token.expose().starts_with(&format!("kw_live_{}", "0".repeat(43))));
        assert_eq!(token.expose().len(), 8 + 43 + 6);
        let largest = Token::mint(&kw(), &EnvironmentId::live(), [255; 32]);
        assert_eq!(largest.expose().len(), 8 + 43 + 6);
        assert_eq!(token.shown_prefix(&kw(), &EnvironmentId::live()), "kw_live_000000");
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    #[test]
    fn another_length_or_alphabet_is_foreign_and_not_malformed() {
        let token = Token::mint(&kw(), &EnvironmentId::live(), [7; 32]);
        let text = token.expose();
        assert_eq!(Form::of(text.as_bytes(), &kw()), Form::Own(EnvironmentId::live()));
        for foreign in [
            format!("{text}0"),
            text.get(1..).expect("ASCII").to_owned(),
            text.replace("kw_", "kx_"),
            format!("kw_live_{}", "-".repeat(49)),
            "kw_".to_owned(),
            String::new(),
        ] {
            assert_eq!(Form::of(foreign.as_bytes(), &kw()), Form::Foreign, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn one_changed_character_is_noticed(random in any::<[u8; 32]>(), at in 8usize..57, digit in 0u32..62) {
            let token = Token::mint(&kw(), &EnvironmentId::live(), random);
            let mut text = token.expose().as_bytes().to_vec();
            let changed = text[at] != digit_of(digit);
            text[at] = digit_of(digit);
            prop_assert_eq!(Shape::of(&text, &kw()), if changed { Shape::NoKey } else { Shape::Own });
        }

        #[test]
        fn two_tokens_differ_where_their_randomness_does(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let (one, other) = (Token::mint(&kw(), &EnvironmentId::live(), a), Token::mint(&kw(), &EnvironmentId::live(), b));
            prop_assert_eq!(one.hash() == other.hash(), a == b);
        }

        #[test]
        fn any_bytes_have_a_form(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let no_key = matches!(Form::of(&bytes, &kw()), Form::Malformed | Form::Assertion);
            prop_assert_eq!(no_key, Shape::of(&bytes, &kw()) == Shape::NoKey);
        }
    }
}
