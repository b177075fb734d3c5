//! Many gateways on one PostgreSQL database: a real server, started by each test for itself.

mod encrypted;
mod fleet;
mod moving;
mod outage;
mod pooled;
mod setup;
