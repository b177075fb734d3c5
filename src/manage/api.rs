//! What is asked of the manager, and what it answers: plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::key::{
    Actor, EnvironmentId, FlagSet, Format, Grants, Key, KeyId, OperatorScope, ProjectId, Status, Token, TokenHash,
    User, UserId,
};
use crate::secret::Secret;
use crate::store::{Committed, Damaged, GATEWAY_LOGIN, KeyUsage};

/// The grace of a rotation where nothing is said: 60 minutes.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// The longest grace a rotation may give: 43,200 minutes, which is 30 days.
pub const GRACE_MAX: Duration = Duration::from_secs(43_200 * 60);
/// The shortest grace of a key that rotates itself: 5 minutes.
pub const GRACE_OF_SELF_MIN: Duration = Duration::from_secs(5 * 60);
/// The most entries of a key's props.
pub const PROPS_MAX: usize = 64;
/// The most characters of a prop's name.
pub const PROP_NAME_MAX: usize = 64;
/// The most bytes of a key's props, names and values together.
pub const PROPS_BYTES_MAX: usize = 4096;
/// The longest rotation interval, in days.
pub const ROTATION_DAYS_MAX: u32 = 3650;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody at the command line who holds the master secret, and so is trusted with everything.
    Local {
        /// The login name, for the audit log.
        login: String,
    },
    /// The holder of this key. What it may do is read with the rows it wants to change.
    Key {
        /// The key.
        id: KeyId,
        /// The address it asks from, for the audit log.
        from: IpAddr,
    },
}

impl Caller {
    /// The key that asks, if a key does.
    #[must_use]
    pub const fn key(&self) -> Option<KeyId> {
        match self {
            Self::Local { .. } => None,
            Self::Key { id, .. } => Some(*id),
        }
    }

    /// Whether a gateway asks, which tells a restored store again what it has forgotten.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        matches!(self, Self::Local { login } if login == GATEWAY_LOGIN)
    }

    /// The address it asks from; none at the command line.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Local { .. } => None,
            Self::Key { from, .. } => Some(*from),
        }
    }

    /// The caller as events name it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self {
            Self::Local { login } => Actor::Local(login.clone()),
            Self::Key { id, .. } => Actor::Key(*id),
        }
    }
}

/// When a key ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Not by itself.
    #[default]
    Never,
    /// At this instant.
    At(Timestamp),
    /// So long after the change is committed.
    In(Duration),
}

/// A key to mint.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What people call it: 1 to 200 characters, no control characters.
    pub name: String,
    /// Its project; none only for operators of all projects.
    pub project: Option<ProjectId>,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Its user, who must exist.
    pub user: Option<UserId>,
    /// What it may do.
    pub grants: Grants,
    /// Free text by name: at most 64 entries and 4 KiB.
    pub props: BTreeMap<String, String>,
    /// Which flags it may grant: operators only.
    pub may_grant: FlagSet,
    /// Which keys it may manage: exactly where it is an operator.
    pub operates_on: Option<OperatorScope>,
    /// Whether it may rotate itself.
    pub self_rotate: bool,
    /// How its token is made.
    pub format: Format,
    /// When it ends.
    pub expires: Expiry,
    /// Days between rotations, 1 to 3,650.
    pub rotation_interval_days: Option<u32>,
    /// Where to announce rotations: an `https` address. Lets the key rotate itself.
    pub rotation_webhook_url: Option<String>,
}

impl NewKey {
    /// A key of `project` in `live` that grants nothing and never expires.
    #[must_use]
    pub fn named(name: &str, project: Option<ProjectId>) -> Self {
        Self {
            name: name.to_owned(),
            project,
            environment: EnvironmentId::live(),
            user: None,
            grants: Grants::Only(FlagSet::default()),
            props: BTreeMap::new(),
            may_grant: FlagSet::default(),
            operates_on: None,
            self_rotate: false,
            format: Format::Opaque,
            expires: Expiry::Never,
            rotation_interval_days: None,
            rotation_webhook_url: None,
        }
    }
}

/// What to change of a key. None leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct KeyChange {
    /// Another name.
    pub name: Option<String>,
    /// On or off.
    pub active: Option<Activity>,
    /// Other flags.
    pub grants: Option<Grants>,
    /// Other props, in place of all there were.
    pub props: Option<BTreeMap<String, String>>,
    /// Another end.
    pub expires: Option<Expiry>,
    /// Another environment.
    pub environment: Option<EnvironmentId>,
    /// Another rotation interval in days, or `Some(None)` for none.
    pub rotation_interval_days: Option<Option<u32>>,
    /// Another address to announce rotations at, or `Some(None)` for none.
    pub rotation_webhook_url: Option<Option<String>>,
    /// Other flags that it may grant.
    pub may_grant: Option<FlagSet>,
    /// Other keys that it may manage, or `Some(None)` for none.
    pub operates_on: Option<Option<OperatorScope>>,
}

/// Whether a key or user is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Switched on.
    Active,
    /// Switched off, until it is switched on again.
    Disabled,
}

/// How far a revocation reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RevokeScope {
    /// That key.
    #[default]
    Key,
    /// That key, all it replaced and all that replaced it.
    Lineage,
    /// That key and all keys it minted, directly or through others.
    Descendants,
}

/// The credential of a key to import.
#[derive(Debug, Clone)]
pub enum ImportedSecret {
    /// The token in clear: 1 to 4,096 bytes of `!` to `~`. Hashed, and not kept.
    Token(Token),
    /// The SHA-512 of the token, or what stands for it where only its SHA-256 is known: see
    /// [`TokenHash::from_sha256`].
    Hash(TokenHash),
}

/// A key to import.
#[derive(Debug, Clone)]
pub struct ImportedKey {
    /// Where in the caller's file it stands, from 1: what faults name.
    pub line: usize,
    /// Its credential.
    pub secret: ImportedSecret,
    /// What people call it.
    pub name: String,
    /// Its project.
    pub project: ProjectId,
    /// Its environment.
    pub environment: EnvironmentId,
    /// Its user, who must exist.
    pub user: Option<UserId>,
    /// What it may do.
    pub grants: Grants,
    /// Free text by name.
    pub props: BTreeMap<String, String>,
    /// When it ends.
    pub expires: Expiry,
}

/// How to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// Check everything against the store, and write nothing.
    pub dry_run: bool,
    /// Take tokens of an estimated entropy under 112 bits too.
    pub allow_weak: bool,
}

/// A user as it shall be.
#[derive(Debug, Clone)]
pub struct UserChange {
    /// Its id.
    pub id: UserId,
    /// Its project, or none.
    pub project: Option<ProjectId>,
    /// What its keys may do at most.
    pub flags: FlagSet,
    /// Whether its keys work.
    pub active: Activity,
}

/// What to change of a user, who is made if it is not there. None leaves a field as it is; a new
/// user works, holds no flags and belongs to the project that its maker manages, if that is one, where nothing
/// else is said.
#[derive(Debug, Clone)]
pub struct UserPatch {
    /// Its id.
    pub id: UserId,
    /// Another project, or `Some(None)` for none.
    pub project: Option<Option<ProjectId>>,
    /// Other flags.
    pub flags: Option<FlagSet>,
    /// Whether its keys work.
    pub active: Option<Activity>,
}

impl From<UserChange> for UserPatch {
    fn from(UserChange { id, project, flags, active }: UserChange) -> Self {
        Self { id, project: Some(project), flags: Some(flags), active: Some(active) }
    }
}

/// What a user changes of a key of its own. None leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct OwnChange {
    /// Another name.
    pub name: Option<String>,
    /// On or off.
    pub active: Option<Activity>,
}

/// Whose token it is that an operation is asked with.
#[derive(Debug, Clone)]
pub enum Authenticated {
    /// The token of this key, which works.
    Live(Box<KeyView>),
    /// The token of a key that does not work.
    NotLive {
        /// Which key.
        id: KeyId,
        /// Its status.
        status: Status,
    },
    /// Nobody's.
    Unknown,
}

/// What came of a request that is done once.
#[derive(Debug)]
pub enum Answered<T> {
    /// It was done now.
    First {
        /// What was done.
        outcome: T,
        /// The answer, which is kept.
        answer: Vec<u8>,
    },
    /// It was done before, and this was the answer then.
    Again {
        /// The answer.
        answer: Vec<u8>,
        /// The revision of what was done.
        revision: u64,
    },
}

/// A key that was minted.
#[derive(Debug, Clone)]
pub struct Created {
    /// The key.
    pub key: Key,
    /// Its user.
    pub user: Option<User>,
    /// Its token: shown once, and stored nowhere.
    pub token: Token,
    /// What the receiver of its webhook verifies with, `whsec_…`, where it has one.
    pub webhook_secret: Option<Secret>,
    /// The commit.
    pub committed: Committed,
}

/// A key that was changed, or was so already.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The key as it is now.
    pub key: Key,
    /// Its user.
    pub user: Option<User>,
    /// What the receiver of its webhook verifies with, `whsec_…`, where one was set.
    pub webhook_secret: Option<Secret>,
    /// The commit.
    pub committed: Committed,
}

/// A key that was replaced.
#[derive(Debug, Clone)]
pub struct Rotated {
    /// The replaced key, in grace or superseded.
    pub old: Key,
    /// The key that replaces it.
    pub new: Key,
    /// The new key's token: shown once, and stored nowhere.
    pub token: Token,
    /// What had replaced it before and was never used: it is revoked now.
    pub revoked: Option<KeyId>,
    /// The commit.
    pub committed: Committed,
}

/// Keys that were revoked.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// The keys that this call revoked: none of those that were so already.
    pub keys: Vec<Key>,
    /// What the named key minted or was replaced by, and is not revoked: of a thousand of each at most.
    /// Read after the commit, and empty where that read failed or nobody asked.
    pub related: Vec<KeyId>,
    /// How many keys the revocation would have reached that the caller may not manage.
    pub out_of_reach: usize,
    /// The commit.
    pub committed: Committed,
}

/// Keys that were imported, or would be.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The keys, in the order of the rows.
    pub keys: Vec<Key>,
    /// The commit; none of a dry run.
    pub committed: Option<Committed>,
}

/// A user that was made or changed, or was so already.
#[derive(Debug, Clone)]
pub struct UserSet {
    /// The user as it is now.
    pub user: User,
    /// Whether it is new.
    pub created: bool,
    /// The commit.
    pub committed: Committed,
}

/// A user that was deleted.
#[derive(Debug, Clone)]
pub struct UserDeleted {
    /// The user.
    pub user: User,
    /// Its keys that were revoked with it.
    pub keys: Vec<Key>,
    /// The commit.
    pub committed: Committed,
}

/// A key as it is read: with its user, its usage, and its status at the store's clock.
#[derive(Debug, Clone)]
pub struct KeyView {
    /// The key.
    pub key: Key,
    /// Its user.
    pub user: Option<User>,
    /// How much it was used; none where never.
    pub usage: Option<KeyUsage>,
    /// Its status.
    pub status: Status,
}

/// Keys that were listed, as [`crate::store::KeyPage`].
#[derive(Debug, Clone, Default)]
pub struct KeyList {
    /// The keys, newest first.
    pub keys: Vec<KeyView>,
    /// Rows that may belong here and cannot be read, with why.
    pub damaged: Vec<(Damaged, String)>,
    /// Where there may be more: the key after which to go on.
    pub next: Option<KeyId>,
}
