//! What the table knows of a key: all that a request is decided on, and no more. Handed to it as a
//! [`KeyCore`], and out of it as a [`Record`].
//!
//! Names, props and history stay in the store.

use std::sync::{Arc, LazyLock};

use super::{
    EnvironmentId, FlagSet, Grant, Grants, Held, Key, KeyId, LineageId, ProjectId, Stamp, Standing, States, TokenHash,
    User, UserId,
};
use crate::clock::Timestamp;

/// What a key shares with many others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label {
    /// The project; none for operators of all projects.
    pub project: Option<ProjectId>,
    /// The environment.
    pub environment: EnvironmentId,
    /// What the key may do; none where it inherits.
    pub flags: Option<Arc<FlagSet>>,
}

/// The part of a key that requests are decided on, as it is read from a store by the million: what many keys
/// share is kept once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCore {
    /// Its id.
    pub id: KeyId,
    /// Its lineage.
    pub lineage: LineageId,
    /// SHA-512 of its token.
    pub hash: TokenHash,
    /// Its project, environment and flags.
    pub label: Arc<Label>,
    /// Its user.
    pub user: Option<UserId>,
    /// What is true of it at every time.
    pub states: States,
    /// From this instant on it is refused.
    pub expires_at: Option<Timestamp>,
    /// It was replaced, and from this instant on it is refused.
    pub grace_expires_at: Option<Timestamp>,
    /// The change that last wrote it.
    pub stamp: Stamp,
}

impl From<Key> for KeyCore {
    fn from(key: Key) -> Self {
        let flags = match key.grants {
            Grants::Only(flags) => Some(Arc::new(flags)),
            Grants::Inherit => None,
        };
        Self {
            id: key.id,
            lineage: key.lineage,
            hash: key.hash,
            label: Arc::new(Label { project: key.project, environment: key.environment, flags }),
            user: key.user,
            states: key.states,
            expires_at: key.expires_at,
            grace_expires_at: key.grace_expires_at,
            stamp: key.stamp,
        }
    }
}

/// The part of a user that requests of its keys are decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCore {
    /// Its id.
    pub id: UserId,
    /// What its keys may do at most.
    pub flags: Arc<FlagSet>,
    /// Whether its keys work.
    pub active: bool,
    /// It is gone for good.
    pub deleted: bool,
    /// The change that last wrote it.
    pub stamp: Stamp,
}

impl UserCore {
    /// Whether its keys may work.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.active && !self.deleted
    }

    /// A user of whom nothing is known but that keys are its own: they are refused.
    #[must_use]
    pub fn unknown(id: UserId) -> Self {
        Self { id, flags: Arc::default(), active: false, deleted: false, stamp: Stamp::default() }
    }
}

/// A key as the table hands it out: consistent in itself.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its id.
    pub id: KeyId,
    /// Its lineage.
    pub lineage: LineageId,
    /// The first 32 bytes of its hash, by which a deny list may name it.
    pub hash_head: [u8; 32],
    /// All that its status follows from, its user's standing included.
    pub standing: Standing,
    /// Its project, environment and own flags.
    pub label: Held<Label>,
    /// Its user.
    pub user: Option<Held<UserCore>>,
    /// The table's own handle, for usage counters.
    pub slot: u32,
}

impl Record {
    /// The record of `key`, given its user as read with it: for a decision outside the table.
    #[must_use]
    pub fn of(key: &Key, user: Option<&User>) -> Self {
        let flags = match &key.grants {
            Grants::Only(flags) => Some(Arc::new(flags.clone())),
            Grants::Inherit => None,
        };
        let label = Label { project: key.project.clone(), environment: key.environment.clone(), flags };
        let of_user = |id: &UserId| match user {
            Some(User { flags, active, deleted, stamp, .. }) => UserCore {
                id: id.clone(),
                flags: Arc::new(flags.clone()),
                active: *active,
                deleted: *deleted,
                stamp: *stamp,
            },
            None => UserCore::unknown(id.clone()),
        };
        Self {
            id: key.id,
            lineage: key.lineage,
            hash_head: key.hash.head(),
            standing: key.standing(user),
            label: label.into(),
            user: key.user.as_ref().map(|id| of_user(id).into()),
            slot: u32::MAX,
        }
    }

    /// Its project; none for operators of all projects.
    #[must_use]
    pub fn project(&self) -> Option<&ProjectId> {
        self.label.project.as_ref()
    }

    /// Its environment.
    #[must_use]
    pub fn environment(&self) -> &EnvironmentId {
        &self.label.environment
    }

    /// Whose it is.
    #[must_use]
    pub fn user_id(&self) -> Option<&UserId> {
        self.user.as_ref().map(|user| &user.id)
    }

    /// What it may do.
    #[must_use]
    pub fn flags(&self) -> RecordFlags<'_> {
        match (&self.label.flags, &self.user) {
            (Some(own), None) => RecordFlags::Own(own),
            (Some(own), Some(user)) => RecordFlags::Both { key: own, user: &user.flags },
            (None, None) => RecordFlags::Own(&NOTHING),
            (None, Some(user)) => RecordFlags::Inherited(&user.flags),
        }
    }
}

/// What a key may do that inherits from nobody.
static NOTHING: LazyLock<FlagSet> = LazyLock::new(FlagSet::default);

/// What a key may do, with its user's flags beside it.
#[derive(Debug, Clone, Copy)]
pub enum RecordFlags<'r> {
    /// A key without a user: its own flags.
    Own(&'r FlagSet),
    /// A key with a user: a requirement is met where both grant it.
    Both {
        /// The key's own flags.
        key: &'r FlagSet,
        /// Its user's flags.
        user: &'r FlagSet,
    },
    /// A key that inherits: its user's flags.
    Inherited(&'r FlagSet),
}

impl<'r> RecordFlags<'r> {
    /// Whether the requirement, given as concrete segments, is met.
    #[must_use]
    pub fn meets<'a>(self, required: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
        match self {
            Self::Own(flags) | Self::Inherited(flags) => flags.meets(required),
            Self::Both { key, user } => key.meets(required) && user.meets(required),
        }
    }

    /// What the key grants in the end. Of a key with a user: what either grants and the other covers, so that
    /// never more is said than holds.
    #[must_use]
    pub fn effective(self) -> Vec<&'r Grant> {
        match self {
            Self::Own(flags) | Self::Inherited(flags) => flags.iter().collect(),
            Self::Both { key, user } => {
                let keys = key.iter().filter(|flag| user.covers(flag));
                let only_users = |flag: &&Grant| key.covers(flag) && !key.iter().any(|own| own == *flag);
                keys.chain(user.iter().filter(only_users)).collect()
            }
        }
    }

    /// Whether the key is an operator's.
    #[must_use]
    pub fn holds_reserved(self) -> bool {
        match self {
            Self::Own(flags) | Self::Inherited(flags) | Self::Both { key: flags, .. } => flags.holds_reserved(),
        }
    }
}
