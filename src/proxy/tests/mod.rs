//! The data plane as a whole: raw bytes through a gateway to an upstream that the test plays.

mod bodies;
mod harness;
mod identity;
mod pooling;
mod refusals;
mod tunnels;
