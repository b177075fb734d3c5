//! What the table is told: the part of a key or user that requests are decided on.

use super::head::Head;
use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, FlagSet, Grants, Key, KeyId, LineageId, ProjectId, Stamp, States, TokenHash, User, UserId,
};

/// A changed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A key.
    Key(Box<KeyRow>),
    /// A user.
    User(UserRow),
}

impl Row {
    /// The change that wrote the row.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Key(key) => key.stamp,
            Self::User(user) => user.stamp,
        }
    }
}

/// A key as the table needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The first 32 bytes of its hash.
    pub head: Head,
    /// Its id.
    pub id: KeyId,
    /// Its lineage.
    pub lineage: LineageId,
    /// What is true of it at every time.
    pub states: States,
    /// Its project.
    pub project: Option<ProjectId>,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Its user.
    pub user: Option<UserId>,
    /// What it may do.
    pub grants: Grants,
    /// From this instant on it is refused.
    pub expires_at: Option<Timestamp>,
    /// It was replaced, and from this instant on it is refused.
    pub grace_expires_at: Option<Timestamp>,
    /// The change that last wrote it.
    pub stamp: Stamp,
}

impl From<Key> for KeyRow {
    fn from(key: Key) -> Self {
        Self {
            head: Head::from(&key.hash),
            id: key.id,
            lineage: key.lineage,
            states: key.states,
            project: key.project,
            environment: key.environment,
            user: key.user,
            grants: key.grants,
            expires_at: key.expires_at,
            grace_expires_at: key.grace_expires_at,
            stamp: key.stamp,
        }
    }
}

impl KeyRow {
    /// A row for a key of which nothing else can be told: it is refused.
    #[must_use]
    pub fn refused(id: KeyId, hash: &TokenHash, stamp: Stamp) -> Self {
        Self {
            head: Head::from(hash),
            id,
            lineage: id.lineage(),
            states: States { disabled: true, ..States::default() },
            project: None,
            environment: EnvironmentId::live(),
            user: None,
            grants: Grants::Only(FlagSet::default()),
            expires_at: None,
            grace_expires_at: None,
            stamp,
        }
    }

    /// The same, borrowed.
    #[must_use]
    pub fn view(&self) -> KeyRef<'_> {
        KeyRef {
            head: self.head,
            id: self.id,
            lineage: self.lineage,
            states: self.states,
            project: self.project.as_ref(),
            environment: &self.environment,
            user: self.user.as_ref(),
            flags: match &self.grants {
                Grants::Only(flags) => Some(flags),
                Grants::Inherit => None,
            },
            expires_at: self.expires_at,
            grace_expires_at: self.grace_expires_at,
            stamp: self.stamp,
        }
    }
}

/// A key whose texts lie elsewhere, so that a million can be read without a copy of each.
#[derive(Debug, Clone, Copy)]
pub struct KeyRef<'a> {
    /// The first 32 bytes of its hash.
    pub head: Head,
    /// Its id.
    pub id: KeyId,
    /// Its lineage.
    pub lineage: LineageId,
    /// What is true of it at every time.
    pub states: States,
    /// Its project.
    pub project: Option<&'a ProjectId>,
    /// Its environment.
    pub environment: &'a EnvironmentId,
    /// Its user.
    pub user: Option<&'a UserId>,
    /// What it may do; none where it inherits.
    pub flags: Option<&'a FlagSet>,
    /// From this instant on it is refused.
    pub expires_at: Option<Timestamp>,
    /// It was replaced, and from this instant on it is refused.
    pub grace_expires_at: Option<Timestamp>,
    /// The change that last wrote it.
    pub stamp: Stamp,
}

/// What stays true of a key whatever a row of it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) states: States,
    pub(super) grace_expires_at: Option<Timestamp>,
}

impl KeyRef<'_> {
    /// What is true of the key once this row was taken over in the place of what was known.
    pub(super) fn over(&self, states: States, grace_expires_at: Option<Timestamp>) -> Kept {
        let said = self.states;
        Kept {
            states: States {
                revoked: said.revoked || states.revoked,
                disabled: said.disabled,
                superseded: said.superseded || states.superseded,
            },
            // No operation lengthens a grace: a row that does is of a history that lacks the rotation.
            grace_expires_at: self.grace_expires_at.into_iter().chain(grace_expires_at).min(),
        }
    }

    /// Whether this row says that a key goes on of which `kept` is true. One that says that the key has ended
    /// contradicts no earlier end.
    pub(super) fn takes_back(&self, kept: Kept) -> bool {
        let said = self.states;
        let takes_back_end = kept.states.is_terminal() || kept.grace_expires_at != self.grace_expires_at;
        (kept.states.revoked && !said.revoked) || (!said.is_terminal() && takes_back_end)
    }

    /// The same, owned.
    #[must_use]
    pub fn to_row(&self) -> KeyRow {
        KeyRow {
            head: self.head,
            id: self.id,
            lineage: self.lineage,
            states: self.states,
            project: self.project.cloned(),
            environment: self.environment.clone(),
            user: self.user.cloned(),
            grants: self.flags.map_or(Grants::Inherit, |flags| Grants::Only(flags.clone())),
            expires_at: self.expires_at,
            grace_expires_at: self.grace_expires_at,
            stamp: self.stamp,
        }
    }
}

/// A user as the table needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Its id.
    pub id: UserId,
    /// What its keys may do at most.
    pub flags: FlagSet,
    /// Whether its keys work.
    pub active: bool,
    /// Whether it was deleted.
    pub deleted: bool,
    /// The change that last wrote it.
    pub stamp: Stamp,
}

impl UserRow {
    /// A row for a user of which nothing else can be told: its keys are refused.
    #[must_use]
    pub fn refused(id: UserId, stamp: Stamp) -> Self {
        Self { id, flags: FlagSet::default(), active: false, deleted: false, stamp }
    }
}

impl From<User> for UserRow {
    fn from(user: User) -> Self {
        Self { id: user.id, flags: user.flags, active: user.active, deleted: user.deleted, stamp: user.stamp }
    }
}
