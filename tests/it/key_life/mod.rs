//! What becomes of a key while the gateway runs, changed by another process.

mod deny_list;
mod expiry;
mod revocation;
mod rotation;
mod secrecy;
mod usage;
mod user;
