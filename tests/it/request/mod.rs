//! One request: what lets it through, what refuses it, and how it looks on either side.

mod answers;
mod cleartext;
mod forwarding;
mod framing;
mod identity;
mod quickstart;
mod series;
mod streaming;
mod tls;
