//! The records themselves: a key and a user, as the store keeps them. Never the token.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    EnvironmentId, FlagSet, KeyId, LineageId, NameFault, ProjectId, Standing, States, Status, TokenHash, UserId,
    UserStanding,
};
use crate::clock::Timestamp;

/// The most flags one key or user may be granted.
pub const FLAGS_PER_KEY_MAX: usize = 256;
const KEY_NAME_MAX: usize = 200;

/// Where in the store's history a row was last written. Ordered: a later change is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct Stamp {
    /// The commit-ordered change number; the first change is 1.
    pub revision: u64,
    /// The place within the revision, from 0.
    pub ordinal: u32,
}

/// How a key's token is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `kw_<environment>_…`, minted here.
    Opaque,
    /// A signed JWT, minted here.
    Jwt,
    /// Minted elsewhere, and imported by text or by hash.
    Imported,
}

impl Format {
    /// The name in store and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::Jwt => "jwt",
            Self::Imported => "imported",
        }
    }
}

/// What a key may do, before its user's own limits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Grants {
    /// These flags and no others, capped by the user's where there is a user.
    Only(FlagSet),
    /// The user's flags, now and later. Without a user this grants nothing.
    Inherit,
}

/// Which keys an operator may manage. None stands for all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct OperatorScope {
    /// Keys of this project, or of every one.
    pub project: Option<ProjectId>,
    /// Keys of this environment, or of every one.
    pub environment: Option<EnvironmentId>,
}

/// A rotation that has been due for this long is overdue.
pub const ROTATION_OVERDUE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// When a key should be replaced, and who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Days between rotations, from 1.
    pub interval_days: Option<u32>,
    /// When the next one is due.
    pub next_at: Option<Timestamp>,
    /// Where to announce it.
    pub webhook_url: Option<String>,
    /// The version of the lineage's webhook secret, from 1.
    pub secret_version: u32,
    /// Until when what is announced is signed with the version before that one too.
    pub old_secret_until: Option<Timestamp>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { interval_days: None, next_at: None, webhook_url: None, secret_version: 1, old_secret_until: None }
    }
}

/// How far a key's next rotation is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationState {
    /// None is planned.
    None,
    /// It lies ahead.
    Ahead,
    /// It is due.
    Due,
    /// It has been due for [`ROTATION_OVERDUE_AFTER`] or longer.
    Overdue,
}

impl Rotation {
    /// How far the next rotation is off at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> RotationState {
        match self.next_at {
            None => RotationState::None,
            Some(next) if now < next => RotationState::Ahead,
            Some(next) if now < next.plus(ROTATION_OVERDUE_AFTER) => RotationState::Due,
            Some(_) => RotationState::Overdue,
        }
    }
}

/// A key: everything about it but its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// The key it descends from by rotation; its own id where it is the first.
    pub lineage: LineageId,
    /// SHA-512 of its token. Never changes.
    pub hash: TokenHash,
    /// How its token is made.
    pub format: Format,
    /// What may be shown of the token's beginning; none for an imported hash.
    pub shown_prefix: Option<String>,
    /// The token's last four characters; none for an imported hash.
    pub last_four: Option<String>,
    /// What people call it. See [`check_key_name`].
    pub name: String,
    /// The project it belongs to; none only for operators of all projects.
    pub project: Option<ProjectId>,
    /// The environment it belongs to.
    pub environment: EnvironmentId,
    /// Who owns it.
    pub user: Option<UserId>,
    /// What it may do.
    pub grants: Grants,
    /// Free text by name, for its owners.
    pub props: BTreeMap<String, String>,
    /// Which flags it may grant to others: operators only.
    pub may_grant: FlagSet,
    /// Which keys it may manage: operators only.
    pub operates_on: Option<OperatorScope>,
    /// Whether it may rotate itself.
    pub self_rotate: bool,
    /// The key that minted it.
    pub minted_by: Option<KeyId>,
    /// What is true of it at every time.
    pub states: States,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The key that replaced it.
    pub replaced_by: Option<KeyId>,
    /// From this instant on it is refused.
    pub expires_at: Option<Timestamp>,
    /// It was replaced, and from this instant on it is refused.
    pub grace_expires_at: Option<Timestamp>,
    /// When it should be replaced.
    pub rotation: Rotation,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The change that last wrote it.
    pub stamp: Stamp,
}

impl Key {
    /// All that the key's status follows from, given its user as read with it.
    #[must_use]
    pub fn standing(&self, user: Option<&User>) -> Standing {
        let user = match (&self.user, user) {
            (None, _) => UserStanding::None,
            (Some(_), Some(user)) if user.is_usable() => UserStanding::Active,
            (Some(_), _) => UserStanding::Disabled,
        };
        Standing { states: self.states, user, expires_at: self.expires_at, grace_expires_at: self.grace_expires_at }
    }

    /// The status at `now`, with no deny list.
    #[must_use]
    pub fn status(&self, user: Option<&User>, now: Timestamp) -> Status {
        self.standing(user).status(false, now)
    }

    /// Whether the key grants the concrete flag `required`, its user's limits included.
    #[must_use]
    pub fn holds(&self, user: Option<&User>, required: &str) -> bool {
        let user = match (&self.user, user) {
            (Some(_), None) => return false,
            (None, _) => None,
            (Some(_), user) => user,
        };
        match (&self.grants, user) {
            (Grants::Only(flags), None) => flags.grants(required),
            (Grants::Only(flags), Some(user)) => flags.grants(required) && user.flags.grants(required),
            (Grants::Inherit, Some(user)) => user.flags.grants(required),
            (Grants::Inherit, None) => false,
        }
    }

    /// Whether the key may rotate itself: where it is so made, and where its rotations are announced
    /// to a webhook, whose receiver has no other key to ask with.
    #[must_use]
    pub const fn rotates_itself(&self) -> bool {
        self.self_rotate || self.rotation.webhook_url.is_some()
    }

    /// Whether the key holds flags below the reserved segment, and so may manage keys.
    #[must_use]
    pub fn is_operator(&self, user: Option<&User>) -> bool {
        match &self.grants {
            Grants::Only(flags) => flags.holds_reserved(),
            Grants::Inherit => user.is_some_and(|user| user.flags.holds_reserved()),
        }
    }
}

/// Who owns keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id, never used again once deleted.
    pub id: UserId,
    /// The project it belongs to, or none.
    pub project: Option<ProjectId>,
    /// What its keys may do at most.
    pub flags: FlagSet,
    /// Whether its keys work.
    pub active: bool,
    /// Whether it was deleted, and its keys revoked with it.
    pub deleted: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The change that last wrote it.
    pub stamp: Stamp,
}

impl User {
    /// Whether keys of this user can work.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.active && !self.deleted
    }
}

/// Whether `name` can name a key: 1 to 200 characters, no control characters.
///
/// # Errors
/// When it cannot.
pub fn check_key_name(name: &str) -> Result<(), NameFault> {
    if (1..=KEY_NAME_MAX).contains(&name.chars().count()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(NameFault::new(name, "key name", "1 to 200 characters, none of them a control character"))
}
