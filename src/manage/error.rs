//! Why the manager refuses: one line each with what, what was found and the remedy, and a code
//! that never changes.

use std::fmt;
use std::time::Duration;

use crate::key::{KeyId, Status, UserId};
use crate::secret::NoRandomness;
use crate::store::{GatewayId, StoreError};

/// Why a change or a read was refused. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ManageError {
    /// A value breaks a rule.
    #[error("{field}: {cause}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it, and what is expected.
        cause: String,
    },
    /// A value is one that there could be, and not beside another, what is stored, what is configured or the
    /// time.
    #[error("{field}: {cause}")]
    Conflicting {
        /// Which field.
        field: &'static str,
        /// What it conflicts with, and the remedy.
        cause: String,
    },
    /// Tokens of this format are not minted by this program.
    #[error("format: {format:?} is not available; use \"opaque\"")]
    FormatNotAvailable {
        /// Which format.
        format: &'static str,
    },
    /// There is no such key, or none that this caller may know of.
    #[error("no key {id}; `keyward keys list` shows those that exist")]
    KeyNotFound {
        /// Which key.
        id: KeyId,
    },
    /// There is no such user, or none that this caller may know of.
    #[error("no user {id:?}; make it first with `keyward users set`")]
    UserNotFound {
        /// Which user.
        id: UserId,
    },
    /// A list shall go on from what it cannot have ended with.
    #[error("cursor: it is of no page of this list; begin again without one")]
    BadCursor,
    /// There is no such gateway.
    #[error("no gateway {id}; `keyward gateways` shows those that are known")]
    GatewayNotFound {
        /// Which gateway.
        id: GatewayId,
    },
    /// The store keeps no list of its gateways.
    #[error("the store {store} does not know its gateways")]
    GatewaysNotKnown {
        /// Which store.
        store: String,
    },
    /// There is no such revision yet.
    #[error("no revision {found} yet; the newest is {newest}")]
    RevisionNotFound {
        /// What was asked for.
        found: u64,
        /// The newest there is.
        newest: u64,
    },
    /// The user was deleted, and its id is not used again.
    #[error("user {id:?} was deleted, and a deleted user's id is never used again; choose another")]
    UserDeleted {
        /// Which user.
        id: UserId,
    },
    /// The key is revoked, which nothing undoes.
    #[error("key {id} is revoked, which is for good; create another")]
    KeyRevoked {
        /// Which key.
        id: KeyId,
    },
    /// A key of this status cannot be rotated.
    #[error("key {id} is {}, and only a key that works can be rotated; {}", status.as_str(), instead(*status))]
    NotRotatable {
        /// Which key.
        id: KeyId,
        /// Its status.
        status: Status,
    },
    /// The key was replaced already.
    #[error("key {id} was already rotated to {successor}; rotate that one")]
    AlreadyRotated {
        /// Which key.
        id: KeyId,
        /// What replaced it.
        successor: KeyId,
    },
    /// The key was replaced so lately that its successor may be in use without the store knowing.
    #[error(
        "key {id} was rotated to {successor} {} s ago, and whether that one is in use is known only after {} s; \
         repeat the request then, or rotate that one",
        since.as_secs(),
        settled.as_secs()
    )]
    RotationUnsettled {
        /// Which key.
        id: KeyId,
        /// What replaced it.
        successor: KeyId,
        /// How long ago.
        since: Duration,
        /// When it will be known.
        settled: Duration,
    },
    /// A key's own user may not do this with it.
    #[error("the calling key may not do this for its user: {cause}")]
    NotOneself {
        /// Why not.
        cause: &'static str,
    },
    /// The user has as many keys as it may have.
    #[error("user {id:?} has {max} keys, which is as many as one user may have; delete one first")]
    TooManyKeys {
        /// Which user.
        id: UserId,
        /// How many it may have.
        max: usize,
    },
    /// A user makes keys for itself again and again.
    #[error("user {id:?} has made {max} keys for itself within a day; wait, or let an operator make one")]
    MadeTooOften {
        /// Which user.
        id: UserId,
        /// How many it may make.
        max: usize,
    },
    /// A user changes one of its keys again and again.
    #[error("the user of key {id} has changed it {max} times within a day; wait, or let an operator change it")]
    ChangedTooOften {
        /// Which key.
        id: KeyId,
        /// How often it may.
        max: usize,
    },
    /// A key rotates itself again and again.
    #[error("key {id} has rotated itself {max} times within a day; wait, or let an operator rotate it")]
    RotatedTooOften {
        /// Which key.
        id: KeyId,
        /// How often it may.
        max: usize,
    },
    /// The Idempotency-Key is no such key.
    #[error("Idempotency-Key: expected 16 to 255 printable ASCII characters")]
    BadIdempotencyKey,
    /// The Idempotency-Key was sent with another request before.
    #[error("this Idempotency-Key was used for another request; choose a new one for a new request")]
    IdempotencyConflict,
    /// The request was done before, and its answer is not kept any more.
    #[error(
        "this request was done before{} and its answer is no longer kept; the key was not made again",
        id.map(|id| format!(" and made {id},")).unwrap_or_default()
    )]
    TokenAlreadyIssued {
        /// The key that it made.
        id: Option<KeyId>,
    },
    /// The caller's own key does not work.
    #[error("the calling key is {}", status.map_or("unknown", Status::as_str))]
    CallerNotLive {
        /// Its status, where it is known at all.
        status: Option<Status>,
    },
    /// The caller lacks the permission.
    #[error("the calling key lacks {flag}")]
    LacksPermission {
        /// The flag it lacks.
        flag: &'static str,
    },
    /// The result would hold a flag that the caller may not grant.
    #[error("the calling key may not grant {flag}; its may_grant does not cover it")]
    MayNotGrant {
        /// The first such flag.
        flag: String,
    },
    /// The result would lie outside of what the caller manages.
    #[error("{field}: the calling key does not manage {found}")]
    OutOfScope {
        /// Which field says so.
        field: &'static str,
        /// What lies outside.
        found: String,
    },
    /// The token is stored already.
    #[error("the token is already stored as {existing}")]
    DuplicateToken {
        /// The key that has it.
        existing: KeyId,
    },
    /// Rows of an import are refused, and so nothing was imported.
    #[error("nothing was imported: {}", Faults(.0))]
    Import(Vec<RowFault>),
    /// Nothing is announced here.
    #[error("rotation_webhook_url: no webhooks are sent; set [admin] public_url, where receivers rotate their keys")]
    WebhooksNotAvailable,
    /// The operating system gave no randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is wrong with one row of an import.
#[derive(Debug, Clone)]
pub struct RowFault {
    /// The row's line, as the caller numbered it.
    pub line: usize,
    /// What is wrong.
    pub cause: RowCause,
}

/// Why a row of an import is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RowCause {
    /// The token is too short or of too few characters to be a secret.
    #[error("the token has about {bits} bits of entropy, under 112; re-issue it, or import it with --allow-weak")]
    Weak {
        /// The estimate.
        bits: u32,
    },
    /// An earlier row has the same token.
    #[error("the same token as on line {first}")]
    Repeated {
        /// The earlier row's line.
        first: usize,
    },
    /// The token is stored already.
    #[error("the token is already stored{}", existing.map(|id| format!(" as {id}")).unwrap_or_default())]
    Stored {
        /// The key that has it, where the caller may know of it.
        existing: Option<KeyId>,
    },
    /// The row breaks a rule that every key is held to.
    #[error(transparent)]
    Refused(Box<ManageError>),
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.cause)
    }
}

/// The first fault, and how many more there are: one line.
struct Faults<'a>(&'a [RowFault]);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no rows"),
            [only] => write!(f, "{only}"),
            [first, more @ ..] => write!(f, "{first} (and {} more rows)", more.len()),
        }
    }
}

/// What to do where a key of this status cannot be rotated.
const fn instead(status: Status) -> &'static str {
    match status {
        Status::Disabled => "enable it first",
        Status::UserDisabled => "enable its user first",
        _ => "create another",
    }
}

impl ManageError {
    /// Whether the attempt was refused, and not merely failed.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        !matches!(self, Self::NoRandomness(_) | Self::Store(_))
    }

    /// The code in bodies, logs and tests. Never changes.
    #[must_use]
    pub const fn as_code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid_field",
            Self::Conflicting { .. } => "conflicting_field",
            Self::FormatNotAvailable { .. } => "format_not_available",
            Self::KeyNotFound { .. } => "not_found",
            Self::UserNotFound { .. } => "user_not_found",
            Self::BadCursor => "invalid_cursor",
            Self::GatewayNotFound { .. } => "gateway_not_found",
            Self::GatewaysNotKnown { .. } => "gateways_not_known",
            Self::RevisionNotFound { .. } => "revision_not_found",
            Self::UserDeleted { .. } => "user_deleted",
            Self::KeyRevoked { .. } => "key_revoked",
            Self::NotRotatable { .. } => "not_rotatable",
            Self::AlreadyRotated { .. } => "already_rotated",
            Self::RotationUnsettled { .. } => "rotation_unsettled",
            Self::NotOneself { .. } => "not_oneself",
            Self::TooManyKeys { .. } => "too_many_keys",
            Self::MadeTooOften { .. } => "made_too_often",
            Self::ChangedTooOften { .. } => "changed_too_often",
            Self::RotatedTooOften { .. } => "rotated_too_often",
            Self::BadIdempotencyKey => "bad_idempotency_key",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::TokenAlreadyIssued { .. } => "token_already_issued",
            Self::CallerNotLive { .. } => "caller_not_live",
            Self::LacksPermission { .. } => "lacks_permission",
            Self::MayNotGrant { .. } => "may_not_grant",
            Self::OutOfScope { .. } => "out_of_scope",
            Self::DuplicateToken { .. } => "duplicate_token",
            Self::Import(_) => "import_refused",
            Self::WebhooksNotAvailable => "webhooks_not_available",
            Self::NoRandomness(_) => "no_randomness",
            Self::Store(_) => "store_failed",
        }
    }
}
