//! The canonical API, `/v1`: a file a resource.

pub(super) mod events;
pub(super) mod gateways;
pub(super) mod keys;
mod page;
pub(super) mod refusals;
mod shape;
pub(super) mod users;
pub(super) mod verify;

pub use gateways::{ConfirmationShape, GatewayShape};
pub use shape::{
    ChangedKey, KeyShape, KeyWhole, LineageMember, Minted, NewWebhookSecret, Replacement, Revocation, UserShape,
    own_flags,
};
pub use verify::Routes;
