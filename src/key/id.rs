//! Names of things: keys and lineages by UUIDv7, projects, environments and users by text that
//! their owners choose.
//!
//! Every text form here is printable ASCII without spaces, so that it can stand in a header field,
//! a URL and a log line as it is.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::clock::Timestamp;

/// Text that is no id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no {what}: expected {prefix} and 32 hexadecimal digits")]
pub struct IdFault {
    found: String,
    what: &'static str,
    prefix: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The id of something made at `now`: a UUIDv7 from 10 random bytes.
            #[must_use]
            pub fn mint(now: Timestamp, random: [u8; 10]) -> Self {
                let millis = u64::try_from(now.nanos() / 1_000_000).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128())
            }

            /// An id from its 128 bits.
            #[must_use]
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits.
            #[must_use]
            pub const fn bits(self) -> u128 {
                self.0
            }

            /// The text, written into `space`: what `Display` takes a string for, and several calls.
            pub fn write_into(self, space: &mut [u8; 36]) -> &[u8] {
                let (prefix, digits) = space.split_at_mut($prefix.len());
                prefix.copy_from_slice($prefix.as_bytes());
                Uuid::from_u128(self.0).simple().encode_lower(digits);
                space
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; 32];
                f.write_str($prefix)?;
                f.write_str(Uuid::from_u128(self.0).simple().encode_lower(&mut digits))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdFault;

            fn from_str(text: &str) -> Result<Self, IdFault> {
                text.strip_prefix($prefix)
                    .filter(|digits| digits.len() == 32)
                    .and_then(|digits| Uuid::try_parse(digits).ok())
                    .map(|uuid| Self(uuid.as_u128()))
                    .ok_or_else(|| IdFault { found: text.to_owned(), what: $what, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// The id of one key: `key_` and 32 hexadecimal digits. Ids made later sort later.
    KeyId, "key_", "key id"
);
uuid_id!(
    /// The id of a key and all that replaced it by rotation: `lin_` and the digits of its first key.
    LineageId, "lin_", "lineage id"
);

impl KeyId {
    /// The lineage that begins with this key.
    #[must_use]
    pub const fn lineage(self) -> LineageId {
        LineageId(self.0)
    }
}

/// A name that breaks the rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no {what}: expected {rule}")]
pub struct NameFault {
    found: String,
    what: &'static str,
    rule: &'static str,
}

impl NameFault {
    pub(super) fn new(found: &str, what: &'static str, rule: &'static str) -> Self {
        Self { found: found.to_owned(), what, rule }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $max:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameFault;

            fn from_str(text: &str) -> Result<Self, NameFault> {
                let allowed: fn(u8) -> bool = $allowed;
                if (1..=$max).contains(&text.len()) && text.bytes().all(allowed) {
                    return Ok(Self(text.into()));
                }
                Err(NameFault::new(text, $what, $rule))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A project that keys belong to. The name `all` is reserved and refused where a project is
    /// named by a caller; see [`ProjectId::is_reserved`].
    ProjectId, "project id", "1 to 64 of A-Z a-z 0-9 . _ -", 64,
    |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
);
text_id!(
    /// An environment that keys belong to, such as `live` or `test`.
    EnvironmentId, "environment", "1 to 16 of a-z 0-9", 16,
    |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()
);
text_id!(
    /// Who owns a key.
    UserId, "user id", "1 to 128 of A-Z a-z 0-9 . _ : @ + -", 128,
    |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'@' | b'+' | b'-')
);

impl ProjectId {
    /// Whether this is `all`, which stands for every project and names none.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        &*self.0 == "all"
    }
}

impl EnvironmentId {
    /// `live`, where nothing else is said.
    #[must_use]
    pub fn live() -> Self {
        Self("live".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_sorts_by_time() -> Result<(), IdFault> {
        let early = KeyId::mint(Timestamp::from_seconds(1), [255; 10]);
        let late = KeyId::mint(Timestamp::from_seconds(2), [0; 10]);
        assert!(early < late);
        assert_eq!(late.to_string().parse::<KeyId>()?, late);
        assert!(late.to_string().starts_with("key_"));
        assert!(late.lineage().to_string().starts_with("lin_"));
        assert!("key_12".parse::<KeyId>().is_err());
        assert!(late.to_string().parse::<LineageId>().is_err());
        Ok(())
    }

    #[test]
    fn a_name_with_a_control_character_is_refused() {
        assert!("acme\r\nx: y".parse::<ProjectId>().is_err());
        assert!("acme corp".parse::<UserId>().is_err());
        assert!("Live".parse::<EnvironmentId>().is_err());
        assert!("".parse::<ProjectId>().is_err());
        assert!("auth0|x".parse::<UserId>().is_err());
        assert!("ann@example.com".parse::<UserId>().is_ok());
    }
}
