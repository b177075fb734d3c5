//! How patient and how large a listener is.

use std::time::Duration;

use crate::wire::{ClientPrefix, Network};

/// How long a connection may take for each step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the first byte of a fresh connection.
    pub first_byte: Duration,
    /// For the whole TLS handshake.
    pub handshake: Duration,
    /// For the whole head of a request, from its first byte on.
    pub head: Duration,
    /// Between two reads of a request's body.
    pub body_idle: Duration,
    /// Between two requests on one connection.
    pub idle: Duration,
    /// For a connection as a whole, after which it is closed once idle.
    pub connection_age: Duration,
    /// After a stop was asked for, until open requests are cut.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(15),
            body_idle: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            connection_age: Duration::from_secs(3600),
            drain: Duration::from_secs(30),
        }
    }
}

/// How much a listener takes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, over all workers. 0: half the limit of open files.
    pub connections: usize,
    /// Streams of one HTTP/2 connection at a time.
    pub http2_streams: u32,
    /// Bytes of a request's head, target included.
    pub head_bytes: usize,
    /// Bytes of a request's target.
    pub target_bytes: usize,
    /// Fields of a request.
    pub fields: usize,
    /// Bytes a second of a request's body, or of an answer that the client takes, that keep either going once
    /// `body_idle` is used up. 0: any byte does.
    pub rate_min: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 0,
            http2_streams: 100,
            head_bytes: 32 * 1024,
            target_bytes: 8 * 1024,
            fields: 100,
            rate_min: 240,
        }
    }
}

/// What one listener is told. A connection keeps what was in force when it was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// How patient it is.
    pub timeouts: Timeouts,
    /// How much it takes on.
    pub limits: Limits,
    /// Connections from here begin with a PROXY header, which says whom they are for. None: nobody's do.
    pub proxy_protocol: Vec<Network>,
    /// How much it takes on of one client.
    pub clients: Clients,
}

/// How much a listener takes on of one client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clients {
    /// Connections at a time, over all workers. 0: as many as of all clients together.
    pub connections_max: usize,
    /// Which addresses are one client.
    pub prefix: ClientPrefix,
    /// Who speaks for many clients, and is not counted.
    pub trusted: Vec<Network>,
}
