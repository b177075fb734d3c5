//! Accepting connections: sockets, the accept loop, TLS, HTTP/1 and HTTP/2 framing, timers, drain.
//!
//! Knows nothing of keys: what a request means is the [`Handler`]'s business. A worker is one thread: it
//! [`bind`]s a socket of its own and runs [`serve`] on a local runtime of its own.

mod accept;
mod answer;
mod answering;
mod beginning;
mod bind;
mod cap;
mod connection;
mod credit;
mod drain;
mod flow;
mod handler;
mod http1;
mod metrics;
mod paced;
mod peer;
mod request_body;
mod settings;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod ticker;
mod trim;
mod upgrade;
mod watched;

#[cfg(test)]
mod tests;

pub use accept::{Listening, serve};
pub use answer::Refusal;
pub use bind::{BindFault, adopt, bind};
pub use cap::Connections;
pub use connection::WRITTEN_AHEAD_MAX;
pub use handler::{Handler, RefusedHead};
pub use http1::{Http1BodyFault, RequestRead, RequestsEnd, RequestsRead, read_requests};
pub use metrics::ListenMetrics;
pub use paced::{BodyFault, Paced};
pub use peer::{Peer, TlsInfo};
pub use request_body::{RequestBody, RequestBodyFault};
pub use settings::{Clients, Limits, Settings, Timeouts};
pub use upgrade::{ClientUpgrade, NotUpgraded, Stream};
