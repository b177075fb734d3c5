//! The canonical API, `/v1`: a file a resource.

pub(super) mod events;
pub(super) mod keys;
mod page;
mod shape;
pub(super) mod users;

pub use shape::{
    ChangedKey, KeyShape, KeyWhole, LineageMember, Minted, NewWebhookSecret, Replacement, Revocation, UserShape,
    own_flags,
};
