//! The proof that a request was let through. Only [`super::decide`] makes one, and forwarding
//! takes it by value: forwarding without a decision does not compile.

use super::denial::Denial;
use crate::clock::Timestamp;
use crate::key::{Record, Status};

/// A request may pass. Cannot be made outside of the decision, nor copied.
#[derive(Debug)]
#[must_use = "a permit is made to be forwarded with"]
pub struct Permit<'r> {
    route: usize,
    kind: PermitKind<'r>,
}

/// As what a request passes.
#[derive(Debug)]
pub enum PermitKind<'r> {
    /// The route asks for no key. No identity fields; a credential is stripped.
    Public,
    /// The key may. Identity fields are set.
    Key {
        /// The key. Lent: a copy of it would count up and down what it shares with others, for each request.
        record: &'r Record,
        /// How it stands: active or in grace.
        status: Status,
    },
    /// It would have been refused, but the route only watches for now: the credential stays, and
    /// no identity fields are set.
    Shadow(Denial),
}

impl<'r> Permit<'r> {
    pub(super) const fn new(route: usize, kind: PermitKind<'r>) -> Self {
        Self { route, kind }
    }

    /// The index of the route.
    #[must_use]
    pub const fn route(&self) -> usize {
        self.route
    }

    /// As what the request passes.
    #[must_use]
    pub const fn kind(&self) -> &PermitKind<'r> {
        &self.kind
    }

    /// The key, where one was decided on.
    #[must_use]
    pub const fn record(&self) -> Option<&'r Record> {
        match &self.kind {
            PermitKind::Key { record, .. } => Some(record),
            PermitKind::Public | PermitKind::Shadow(_) => None,
        }
    }

    /// How the key stands: active or in grace.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        match &self.kind {
            PermitKind::Key { status, .. } => Some(*status),
            PermitKind::Public | PermitKind::Shadow(_) => None,
        }
    }

    /// When the key stops working by the clock alone.
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        self.record().and_then(|record| record.standing.ends_at())
    }

    /// What would have been refused on a route that only watches.
    #[must_use]
    pub const fn shadow(&self) -> Option<&Denial> {
        match &self.kind {
            PermitKind::Shadow(denial) => Some(denial),
            PermitKind::Public | PermitKind::Key { .. } => None,
        }
    }
}
