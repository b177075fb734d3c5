//! What a store keeps of the gateways that follow it: each process and how far it says that it has come.
//! A revision is known to be in force everywhere when every one of them has said so. Uses no revisions
//! and writes to no key.
//!
//! Nobody is left out for being silent: who cannot be heard may still be serving. A process leaves by
//! saying so when it has ended, by being replaced by the next that holds its state folder, or by an
//! operator who says that it is gone.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Answer, Cursor};
use crate::clock::Timestamp;

/// Names a gateway as long as its state folder exists: `gw_` and 32 hexadecimal digits, which are kept
/// without that beginning.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayId(String);

impl GatewayId {
    /// The digits.
    #[must_use]
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gw_{}", self.0)
    }
}

impl fmt::Debug for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no gateway's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a gateway's id: gw_ and 32 hexadecimal digits, as `keyward gateways` shows it")]
pub struct NotAGateway;

impl FromStr for GatewayId {
    type Err = NotAGateway;

    /// With its beginning or without it.
    fn from_str(text: &str) -> Result<Self, NotAGateway> {
        let digits = text.strip_prefix("gw_").unwrap_or(text);
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 32 && digits.bytes().all(is_hex) { Ok(Self(digits.to_owned())) } else { Err(NotAGateway) }
    }
}

impl Serialize for GatewayId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// 128 random bits that name one process of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = NotAGateway;

    fn from_str(text: &str) -> Result<Self, NotAGateway> {
        let GatewayId(digits) = text.parse()?;
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_no_digits| NotAGateway)
    }
}

impl Serialize for Incarnation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a gateway does once it has gone too long without its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenStale {
    /// Some of what it knows, it goes on letting through.
    Serves,
    /// It refuses everything that wants a key.
    Denies,
}

/// What a process of a gateway says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayReport {
    /// The gateway.
    pub gateway: GatewayId,
    /// The process.
    pub incarnation: Incarnation,
    /// Which of the reports of this process: a later one has a greater number.
    pub sequence: u64,
    /// Up to where requests are decided by what the store says, on all workers, also after a restart
    /// without the store; and of which history.
    pub applied: Cursor,
    /// Up to where streams that are no longer permitted were cut, on all workers.
    pub streams_cut: u64,
    /// What it does once it is stale.
    pub when_stale: WhenStale,
    /// How long after it last reached its store it is stale.
    pub max_staleness: Duration,
    /// The program's version.
    pub version: String,
    /// The machine's name.
    pub host: String,
    /// The process's number there.
    pub pid: u32,
    /// When it started, by its own clock.
    pub started_at: Timestamp,
}

/// A process of a gateway, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// What it said last.
    pub report: GatewayReport,
    /// When, by the store's clock.
    pub last_seen: Timestamp,
    /// Whether what it applied is of the history that the store has now.
    pub is_of_this_history: bool,
    /// When the first revision was committed that it has not confirmed; none where it has confirmed all
    /// there are, or that is not known any more.
    pub behind_since: Option<Timestamp>,
}

/// The most that is added to a gateway's own `max_staleness` before its silence counts: between its last
/// report and the last time it reached its store there may lie a few seconds.
const SILENCE_ADDED_MAX: Duration = Duration::from_secs(5);

impl Gateway {
    /// Up to which revision it has confirmed; none where it follows another history.
    #[must_use]
    pub fn confirmed(&self) -> Option<u64> {
        self.is_of_this_history.then(|| self.report.applied.revision.min(self.report.streams_cut))
    }

    /// Whether it refuses everything by now, because it was silent for longer than it may go without
    /// its store: then it need not be waited for.
    #[must_use]
    pub fn denies_all(&self, now: Timestamp) -> bool {
        let most = self.report.max_staleness;
        let most = most.saturating_add(most.min(SILENCE_ADDED_MAX));
        match self.report.when_stale {
            WhenStale::Serves => false,
            WhenStale::Denies => now.since(self.last_seen) > most,
        }
    }
}

/// All that is known of gateways, of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fleet {
    /// Every process, by gateway and start.
    pub gateways: Vec<Gateway>,
    /// The newest revision.
    pub newest: Cursor,
    /// The store's clock.
    pub now: Timestamp,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// It takes the place of the one before.
    Known,
    /// The process was not known, or no longer: it is from now on.
    New,
}

/// The part of a store that knows its gateways. Its writes wait for no mutation's sake, and each is done
/// in one short transaction.
pub trait FleetStore: Send + Sync {
    /// Takes up a process, in place of all others of its gateway but those of `beside`. Only for whoever
    /// holds the gateway's state folder and knows that those alone still run.
    fn register(&self, report: GatewayReport, beside: Vec<Incarnation>) -> Answer<'_, ()>;

    /// Notes what a process says. One that comes late changes nothing but that it was heard. A process
    /// that is not known is taken up.
    fn report(&self, report: GatewayReport) -> Answer<'_, Reported>;

    /// Forgets processes that have ended.
    fn leave(&self, ended: Vec<Incarnation>) -> Answer<'_, ()>;

    /// Forgets all processes of a gateway, because somebody says that it is gone. How many there were.
    fn forget(&self, gateway: GatewayId) -> Answer<'_, usize>;

    /// Every process.
    fn gateways(&self) -> Answer<'_, Fleet>;
}
