//! Announcing rotations: keys that are due, that expire soon, and that were replaced or revoked are told
//! of at the URL that their owner named, by thin signed messages that hold no token.
//!
//! Changes no key itself: whoever receives an announcement rotates the key. Every gateway may run
//! this; what one of them sends, the others leave alone (`store::RotationStore`).

mod message;
mod metrics;
mod outbound;
mod rotator;
mod schedule;
mod settings;
#[cfg(test)]
mod tests;

pub use metrics::RotationMetrics;
pub use outbound::{Outbound, Post, PostFault, Receipt, Resolve, SystemResolver};
pub use rotator::{Parts, Rotator};
pub use settings::Settings;
