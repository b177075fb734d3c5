//! Keyward: a reverse proxy that lets only authorized API keys through.
//!
//! The house has floors, and a module imports lower floors only:
//!
//! ```text
//! 7 cli
//! 6 app                       build, bind, start, drain
//! 5 config                    TOML -> checked settings
//! 4 proxy | ops | admin | rotation      the data plane | metrics, health | the management plane | due rotations
//! 3 sync | listen | manage    change feed -> table | accept, TLS, drain | changes to keys
//! 2 policy | store | table    decide | where keys live | where keys are looked up
//! 1 key | wire | tls          what a key is | header hygiene, bodies | certificates
//! 0 background | clock | secret | report | ready | telemetry
//! ```

pub mod background;
pub mod clock;
pub mod ready;
pub mod report;
pub mod secret;
pub mod telemetry;

pub mod key;
pub mod tls;
pub mod wire;

pub mod policy;
pub mod store;
pub mod table;

pub mod listen;
pub mod manage;
pub mod sync;

pub mod admin;
pub mod ops;
pub mod proxy;
pub mod rotation;

pub mod config;

pub mod app;

pub mod cli;
