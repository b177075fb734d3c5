//! The key set in memory: what requests are looked up in.
//!
//! The whole set, by hash: buckets of slot numbers by digest, and in the slots the digest's first
//! 32 bytes with the fields of the key, as atomics, so that a key costs less than 200 bytes. The
//! fields of a slot are written only under the write guard of its map shard and read only under
//! its read guard: a look-up sees a row whole or not at all. No guard outlives a call.
//!
//! Look-ups are pure: they take time as an argument, and never await, log or read a clock. What is
//! true at every time (revoked, superseded, deleted) is never taken back by a later row.
#![deny(clippy::wildcard_enum_match_arm)]

mod compare;
mod content;
mod head;
mod intern;
mod load;
mod map;
mod miss;
mod reviews;
mod row;
mod shared;
mod slab;
mod slot;
mod staleness;
#[cfg(test)]
mod tests;
mod usage;

pub use compare::{Difference, repair_stamp};
pub use head::Head;
pub use load::{Few, Lane, Load, LoadRefused, Merged};
pub use miss::{BoxFuture, MissAnswer, MissResolver, Resolving};
pub use reviews::Reviewer;
pub use row::{KeyRef, KeyRow, Row, UserRow};
pub use shared::{Applied, Conflict, NotBrought, Table};
pub use staleness::{Freshness, OnStale};
pub use usage::Used;
