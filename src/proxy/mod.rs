//! The data plane: one request from its head to its answer.

mod settings;

pub use settings::{FailureLimit, Network, Settings, Target, Upstream};
