//! The listener over real loopback sockets and real TLS.

mod drain;
mod harness;
mod http;
mod http1;
mod introduced;
mod slow;
mod tls;
