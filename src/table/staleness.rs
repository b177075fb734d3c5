//! How far behind the store the table may be, and what then happens.

/// What happens once the table has gone too long without contact to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStale {
    /// Go on answering from what is known.
    #[default]
    Serve,
    /// Refuse with 503.
    Deny,
}

/// How the table stands towards the store at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing was loaded yet: no request can be decided.
    Empty,
    /// In contact, or out of it for no longer than is tolerated.
    Fresh,
    /// Out of contact for longer than `max_staleness`.
    Stale,
}
