//! The management API: keys, users and their history over HTTP, for operators and their programs.
//!
//! It has no operations of its own: each endpoint reads what was sent, calls the manager, and shapes
//! the answer. Who may do what is decided there, on the rows themselves; here it is only found out
//! whose key it is. It never asks the table, and what is sent or answered is never logged.

mod account;
mod answer;
mod dialects;
mod endpoint;
mod guard;
mod handler;
mod input;
mod jwks;
mod metrics;
mod openapi;
mod operator;
mod problem;
mod router;
mod settings;
mod v1;

pub use guard::Guard;
pub use handler::{Admin, Applied, Applying, Parts};
pub use metrics::AdminMetrics;
pub use openapi::document as openapi_document;
pub use settings::{Settings, Surface};
pub use v1::{
    ChangedKey, ConfirmationShape, GatewayShape, KeyShape, KeyWhole, LineageMember, Minted, NewWebhookSecret,
    Replacement, Revocation, Routes, UserShape, own_flags,
};
