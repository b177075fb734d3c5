//! HTTP/1 from clients, by a codec of our own on httparse.
//!
//! hyper's server costs a third of what a refused request takes, and a seventh of one that is passed on: bodies go
//! through channels, an answer through a buffer of its own, and what one request leaves behind is made anew for the
//! next. Here one task reads a head, calls the handler and writes its answer, and whoever wants a body reads it from
//! the connection. What that was worth, and what holds it, is in
//! docs/decisions/0115.
//!
//! A request's path: [`head`] says what a request is and where it ends, [`incoming`] reads, [`connection`] goes from
//! one step to the next, [`outgoing`] frames and writes the answer. Whatever cannot be told, or is left behind a
//! message, ends the connection.

mod connection;
#[cfg(test)]
mod corpus;
mod date;
mod head;
mod incoming;
mod outgoing;
mod request;

pub(super) use connection::Http1;
pub(super) use date::Date;
pub use incoming::Http1BodyFault;
pub(super) use incoming::{EMPTY_BYTES_MAX, Http1Body};
pub use request::{RequestRead, RequestsEnd, RequestsRead, read_requests};
