//! What a store keeps of its own history being replaced: which restored backups an operator has accepted.
//!
//! Gateways refuse for good what they know as ended, also when a restored backup says otherwise, and tell
//! the store so. An acceptance says that the backup is meant: it takes back what gateways told, begins a
//! new history, and each gateway that has not seen it yet takes the store as it is, once.

use super::Answer;
use crate::clock::Timestamp;
use crate::key::{Actor, Subject};

/// The login under which gateways tell a restored store again what ended. Nobody else's.
pub const GATEWAY_LOGIN: &str = "gateway";

/// 128 random bits that name an acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcceptanceId(pub u128);

/// A restored backup that an operator accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    /// Its id.
    pub id: AcceptanceId,
    /// The revision that it made.
    pub revision: u64,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// Who did it.
    pub actor: Actor,
}

/// What gateways told a restored store again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retold {
    /// The revision by which they did.
    pub revision: u64,
    /// The key that they revoked, or the user that they deleted.
    pub subject: Subject,
}

/// The part of a store that knows of its own restores.
pub trait HistoryStore: Send + Sync {
    /// Every acceptance, oldest first.
    fn acceptances(&self) -> Answer<'_, Vec<Acceptance>>;

    /// What gateways told this store again after `after` and after the newest acceptance, oldest first: keys
    /// that are still revoked, users that are still deleted, by nobody else since.
    fn retold(&self, after: u64) -> Answer<'_, Vec<Retold>>;

    /// Takes the store's history for the right one: takes back what [`HistoryStore::retold`] tells, and begins a
    /// new history that no gateway knows. What was taken back, and the acceptance.
    fn accept(&self, actor: Actor, after: u64) -> Answer<'_, (Acceptance, Vec<Retold>)>;
}
