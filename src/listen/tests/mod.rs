//! The listener over real loopback sockets and real TLS.

mod drain;
mod harness;
mod http;
mod slow;
mod tls;
