//! Accepting connections: sockets, the accept loop, TLS, HTTP/1 and HTTP/2 framing, timers, drain.
//!
//! Knows nothing of keys: what a request means is the [`Handler`]'s business.

mod settings;

pub use settings::{Limits, Timeouts};
