//! Many gateways on one PostgreSQL database: a real server, started by each test for itself.

mod commits;
mod crashes;
mod encrypted;
mod fleet;
mod moving;
mod nodes;
mod outage;
mod partitions;
mod pooled;
mod promotion;
mod revocations;
mod setup;
mod state;
