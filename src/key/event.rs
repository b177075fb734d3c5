//! Events: one committed change to a key or user each. The audit log and the change feed are the
//! same table of these.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{KeyId, Stamp, UserId};
use crate::clock::Timestamp;

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $kind:ident = $text:literal,)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventKind { $($(#[$doc])* $kind,)* }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name in store, API and output.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $text,)* }
            }
        }
    };
}

event_kinds! {
    /// A key was minted.
    KeyCreated = "key.created",
    /// A key minted elsewhere was taken in.
    KeyImported = "key.imported",
    /// A key's name, flags, props, expiry, environment or rotation changed.
    KeyUpdated = "key.updated",
    /// A key was switched off.
    KeyDisabled = "key.disabled",
    /// A key was switched on again.
    KeyEnabled = "key.enabled",
    /// A key was replaced by another; it may still be in grace.
    KeyRotated = "key.rotated",
    /// A key was revoked for good.
    KeyRevoked = "key.revoked",
    /// A user was made.
    UserCreated = "user.created",
    /// A user's flags, project or activity changed.
    UserUpdated = "user.updated",
    /// A user was deleted, and its keys revoked.
    UserDeleted = "user.deleted",
}

impl FromStr for EventKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or(())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// An operator's or a caller's own key.
    Key(KeyId),
    /// Somebody at the command line with the master secret, under this login name.
    Local(String),
    /// The gateway itself.
    System,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "{id}"),
            Self::Local(login) => write!(f, "local:{login}"),
            Self::System => f.write_str("system"),
        }
    }
}

impl FromStr for Actor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "system" {
            return Ok(Self::System);
        }
        match text.strip_prefix("local:") {
            Some(login) => Ok(Self::Local(login.to_owned())),
            None => text.parse().map(Self::Key).map_err(|_no_id| ()),
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What it was done to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A key.
    Key(KeyId),
    /// A user.
    User(UserId),
}

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its place in the history.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// When it was committed, by the store's clock.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// Who did it.
    pub actor: Actor,
    /// The address it was asked from; none at the command line.
    pub from: Option<IpAddr>,
    /// What it was done to.
    pub subject: Subject,
    /// What changed, field by field, as text. Never a token, hash or secret.
    pub changes: BTreeMap<String, String>,
}
