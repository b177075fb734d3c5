//! The data plane: one request from its head to its answer.
//!
//! A request is one straight line, in [`Gateway`]: the gate, the route, the key, the decision, the
//! fields, the upstream. Nothing is forwarded without a [`Permit`](crate::policy::Permit), which
//! only the decision makes. This module never touches the store: keys come from the table, and what
//! the table does not know is asked for through a trait.

mod account;
mod answer;
mod assertion;
mod authenticate;
mod cors;
mod drain;
mod forward;
mod frames;
mod gate;
mod handle;
mod handshake;
mod headers;
mod idle;
mod in_flight;
mod jwks;
mod metrics;
mod refusal;
mod refused_head;
mod settings;
mod streams;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstream;
mod worker;

pub use crate::wire::Network;
pub use answer::{AnswerBody, AnswerFault};
pub use handle::Gateway;
pub use metrics::Metrics;
pub use settings::{Balance, Ejection, HealthCheck, Probe, RetryBudget, Settings, Speaks, Target, Upstream};
pub use upstream::{AnswerEnd, AnswerRead, read_answer};
pub use worker::Shared;
