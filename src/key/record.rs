//! What the table knows of a key: all that a request is decided on, and no more.
//!
//! Names, props and history stay in the store.

use std::sync::Arc;

use super::{EnvironmentId, FlagSet, Grant, Grants, Key, KeyId, LineageId, ProjectId, Standing, User, UserId};

/// A key as the table hands it out: cheap to clone, consistent in itself.
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
    /// Its project; none for operators of all projects.
    pub project: Option<ProjectId>,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Its user.
    pub user: Option<UserId>,
    /// What it may do.
    pub flags: RecordFlags,
    /// The table's own handle, for usage counters.
    pub slot: u32,
}

impl Record {
    /// The record of `key`, given its user as read with it: for a decision outside the table.
    #[must_use]
    pub fn of(key: &Key, user: Option<&User>) -> Self {
        let user_flags = || Arc::new(user.map(|user| user.flags.clone()).unwrap_or_default());
        let flags = match (&key.grants, &key.user) {
            (Grants::Only(flags), None) => RecordFlags::Own(Arc::new(flags.clone())),
            (Grants::Only(flags), Some(_)) => RecordFlags::Both { key: Arc::new(flags.clone()), user: user_flags() },
            (Grants::Inherit, None) => RecordFlags::Own(Arc::default()),
            (Grants::Inherit, Some(_)) => RecordFlags::Inherited(user_flags()),
        };
        Self {
            id: key.id,
            lineage: key.lineage,
            hash_head: key.hash.head(),
            standing: key.standing(user),
            project: key.project.clone(),
            environment: key.environment.clone(),
            user: key.user.clone(),
            flags,
            slot: u32::MAX,
        }
    }
}

/// What a key may do, with its user's flags beside it.
#[derive(Debug, Clone)]
pub enum RecordFlags {
    /// A key without a user, or whose user caps nothing: its own flags.
    Own(Arc<FlagSet>),
    /// A key with a user: a requirement is met where both grant it.
    Both {
        /// The key's own flags.
        key: Arc<FlagSet>,
        /// Its user's flags.
        user: Arc<FlagSet>,
    },
    /// A key that inherits: its user's flags.
    Inherited(Arc<FlagSet>),
}

impl RecordFlags {
    /// Whether the requirement, given as concrete segments, is met.
    #[must_use]
    pub fn meets<'a>(&self, required: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
        match self {
            Self::Own(flags) | Self::Inherited(flags) => flags.meets(required),
            Self::Both { key, user } => key.meets(required) && user.meets(required),
        }
    }

    /// What the key grants in the end. Of a key with a user: what either grants and the other covers, so that
    /// never more is said than holds.
    #[must_use]
    pub fn effective(&self) -> Vec<&Grant> {
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
    pub fn holds_reserved(&self) -> bool {
        match self {
            Self::Own(flags) | Self::Inherited(flags) | Self::Both { key: flags, .. } => flags.holds_reserved(),
        }
    }
}
