//! What lasts: WebSockets, streams of events, uploads. Each is cut within a second of the moment when
//! it is no longer permitted, and told so where its protocol can.

mod cut;
mod frames;
mod peers;
mod sockets;
