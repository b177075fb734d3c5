//! Change under way: configuration, certificates, and the end of a process.

mod bad_start;
mod certificate;
mod config;
mod damaged;
mod drain;
mod under_load;
