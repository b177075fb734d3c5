//! The one place that changes keys and users.
//!
//! Every change is planned by a pure function on rows read inside the store's transaction, and
//! held against one rule of who may do what there; the command line, the management API and due rotations
//! all come through here.

mod api;
mod check;
mod error;
mod import;
mod manager;
mod may;
#[cfg(test)]
mod model;
mod plan;
#[cfg(test)]
mod tests;
mod told;
mod webhook;

pub use api::{
    Activity, Caller, Changed, Created, Expiry, GRACE_DEFAULT, GRACE_MAX, GRACE_OF_SELF_MIN, ImportOptions, Imported,
    ImportedKey, ImportedSecret, KeyChange, KeyView, NewKey, PROPS_BYTES_MAX, PROPS_MAX, ROTATION_DAYS_MAX,
    RevokeScope, Revoked, Rotated, UserChange, UserDeleted, UserSet,
};
pub use error::{ManageError, RowCause, RowFault};
pub use manager::Manager;
pub use webhook::{OLD_WEBHOOK_SECRET_KEPT, WebhookSecretRotated, Webhooks};
