//! The one place that changes keys and users.
//!
//! Every change is planned by a pure function on rows read inside the store's transaction, and
//! held against one rule of who may do what there; the command line, the management API and due rotations
//! all come through here.

mod api;
mod check;
mod error;
#[cfg(test)]
mod escalation;
mod gateways;
mod import;
mod manager;
mod may;
mod mint;
#[cfg(test)]
mod model;
mod once;
mod own;
mod plan;
mod refusals;
mod revoke;
mod staged;
#[cfg(test)]
mod tests;
mod told;
mod webhook;

pub use api::{
    Activity, Answered, Authenticated, Caller, Changed, Created, Expiry, GRACE_DEFAULT, GRACE_MAX, GRACE_OF_SELF_MIN,
    ImportOptions, Imported, ImportedKey, ImportedSecret, KeyChange, KeyList, KeyView, NewKey, OwnChange,
    PROP_NAME_MAX, PROPS_BYTES_MAX, PROPS_MAX, ROTATION_DAYS_MAX, RevokeScope, Revoked, Rotated, UserChange,
    UserDeleted, UserPatch, UserSet,
};
pub use error::{ManageError, RowCause, RowFault};
pub use gateways::{Confirmation, FleetView, GatewayState, GatewayView};
pub use manager::{KEYS_PER_USER_MAX, LiveUsage, Manager};
pub use once::{IDEMPOTENCY_KEY_MAX, IDEMPOTENCY_KEY_MIN, Once, TOKEN_KEPT};
pub use own::OWN_NAME_DEFAULT;
pub use plan::USAGE_SETTLED;
pub use revoke::REVOKED_AT_ONCE_MAX;
pub use staged::IMPORTED_AT_ONCE_MAX;
pub use webhook::{OLD_WEBHOOK_SECRET_KEPT, WebhookSecretRotated, Webhooks};
