//! What a key is: its token, hash, flags, owner and status. Pure: nothing here awaits, logs, reads
//! a clock or draws randomness; time and random bytes are arguments.
#![deny(clippy::wildcard_enum_match_arm)]

mod event;
mod flag;
mod hash;
mod held;
mod id;
mod jwt;
mod mint;
mod record;
mod row;
mod status;
mod token;
mod webhook;

pub use event::{Actor, Event, EventKind, Subject};
pub use flag::{FlagFault, FlagSet, Grant, RESERVED_SEGMENT, SEGMENTS_MAX, is_segment};
pub use hash::TokenHash;
pub use held::Held;
pub use id::{EnvironmentId, IdFault, KeyId, LineageId, NameFault, ProjectId, UserId};
pub use jwt::{
    ASSERTION_JWT_TYPE, ASSERTION_SECONDS, Jwks, JwtParts, KEY_JWT_TYPE, NoJwks, Signature, Signers, is_assertion,
};
pub use mint::MintJwt;
pub use record::{KeyCore, Label, Record, RecordFlags, UserCore};
pub use row::{
    FLAGS_PER_KEY_MAX, Format, Grants, Key, OperatorScope, ROTATION_OVERDUE_AFTER, Rotation, RotationState, Stamp,
    User, check_key_name,
};
pub use status::{Standing, States, Status, UserStanding};
pub use token::{Form, PrefixFault, Shape, TOKEN_BYTES_MAX, Token, TokenPrefix};
pub use webhook::{WebhookSecret, WebhookSecrets};
