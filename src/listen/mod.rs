//! Accepting connections: sockets, the accept loop, TLS, HTTP/1 and HTTP/2 framing, timers, drain.
//!
//! Knows nothing of keys: what a request means is the [`Handler`]'s business.

mod handler;
mod paced;
mod peer;
mod settings;
mod ticker;

pub use handler::Handler;
pub use paced::{BodyFault, Paced};
pub use peer::{Peer, TlsInfo};
pub use settings::{Limits, Timeouts};
