//! The canonical API, `/v1`: a file a resource.

pub(super) mod events;
pub(super) mod keys;
mod page;
mod shape;
pub(super) mod users;

pub use shape::{KeyShape, KeyWhole, LineageMember, Minted, Replacement, Revocation, UserShape, own_flags};
