//! Keeping the table like the store: load, follow, merge, remember across restarts; find what the
//! table lacks; write usage back.
//!
//! Called by `app`, on the management runtime. Nothing here is on the path of a request whose key
//! the table knows.

mod accept;
mod budget;
mod clocks;
#[cfg(test)]
mod fake;
mod follow;
mod loan;
mod metrics;
mod misses;
mod read;
mod reconcile;
mod remember;
mod report;
mod retell;
mod settings;
#[cfg(test)]
mod simulation;
mod start;
mod state;
#[cfg(test)]
mod tests;
mod usage;

pub use loan::StateLoan;
pub use metrics::SyncMetrics;
pub use report::StalePolicy;
pub use retell::{Reassert, Reasserted};
pub use settings::Settings;
pub use start::{Handle, Parts, Runner, Sync};
pub use state::{MacKey, StateError};
