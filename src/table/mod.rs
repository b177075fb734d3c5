//! The key set in memory: what requests are looked up in.
#![deny(clippy::wildcard_enum_match_arm)]

mod staleness;

pub use staleness::{Freshness, OnStale};
