//! What a route says about the fields of requests and answers, and what caches make of them.

mod caches;
mod cors;
mod fields;
