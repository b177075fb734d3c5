//! What a store keeps for announcing rotations: which dates and events are not announced yet, what is
//! still to be sent, and who is sending it. Uses no revisions and writes to no key.
//!
//! Any number of gateways ask at once. What is found unannounced is taken on once, whoever comes first;
//! what is to be sent is leased to one of them at a time, and a lease ends by itself.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::Answer;
use crate::clock::Timestamp;
use crate::key::{Key, KeyId, LineageId, Stamp, User};

/// The id of one announcement: the same however often it is sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(u128);

impl DeliveryId {
    /// The id of an announcement made at `now`: a UUIDv7 from 10 random bytes.
    #[must_use]
    pub fn mint(now: Timestamp, random: [u8; 10]) -> Self {
        Self(KeyId::mint(now, random).bits())
    }

    /// An id from its 128 bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The 128 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "msg_{}", Uuid::from_u128(self.0).simple())
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A rotation came due.
    RotationDue,
    /// A key will expire.
    Expiring,
    /// A key was replaced.
    Rotated,
    /// A key was revoked.
    Revoked,
}

impl NoticeKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::RotationDue, Self::Expiring, Self::Rotated, Self::Revoked];

    /// The name in store, announcement and log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RotationDue => "api_key.rotation_due",
            Self::Expiring => "api_key.expiring",
            Self::Rotated => "api_key.rotated",
            Self::Revoked => "api_key.revoked",
        }
    }
}

impl std::str::FromStr for NoticeKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(())
    }
}

/// Something to announce.
#[derive(Debug, Clone)]
pub struct Notice {
    /// What.
    pub kind: NoticeKind,
    /// Of which key, as it stands.
    pub key: Key,
    /// Which of its dates: when the rotation is due, when it expires, when it happened.
    pub at: Timestamp,
}

/// What is not announced yet, all of one moment.
#[derive(Debug, Clone, Default)]
pub struct Unannounced {
    /// Of live keys that have a URL: dates that have come. Of events that were not read yet: what
    /// happened to keys that have a URL. At most as many as were asked for of each.
    pub notices: Vec<Notice>,
    /// Up to where events were read before, and are now.
    pub read: (Stamp, Stamp),
    /// Whether there may be more.
    pub more: bool,
    /// The store's clock.
    pub now: Timestamp,
}

/// An announcement to take on.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// The key.
    pub key: KeyId,
    /// Its lineage.
    pub lineage: LineageId,
    /// What is announced.
    pub kind: NoticeKind,
    /// Which date.
    pub at: Timestamp,
    /// The receiver's host, by which the work is shared out.
    pub host: String,
    /// What is sent. Never a token or secret.
    pub body: String,
}

/// What becomes of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is still to be sent, perhaps again.
    Pending,
    /// The receiver took it.
    Delivered,
    /// The receiver said that it wants no more.
    Gone,
    /// It was tried as often as it ever is.
    GivenUp,
    /// It is of no use any more: the key was rotated, or has no URL.
    Moot,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Delivered, Self::Gone, Self::GivenUp, Self::Moot];

    /// The name in the store and in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Gone => "gone",
            Self::GivenUp => "given_up",
            Self::Moot => "moot",
        }
    }
}

impl std::str::FromStr for DeliveryState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// An announcement and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// The key.
    pub key: KeyId,
    /// Its lineage.
    pub lineage: LineageId,
    /// What is announced.
    pub kind: NoticeKind,
    /// Which date.
    pub at: Timestamp,
    /// What is sent.
    pub body: String,
    /// When it was taken on.
    pub created_at: Timestamp,
    /// How often it was tried and has failed.
    pub attempts: u32,
    /// When it is tried next, or was last where it is finished.
    pub next_attempt_at: Timestamp,
    /// How it stands.
    pub state: DeliveryState,
    /// What the last attempt came to, in words; empty before the first.
    pub told: String,
}

/// An announcement that is leased to whoever asked, with its key of that moment.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The announcement.
    pub delivery: Delivery,
    /// The key as it stands, with the newest webhook secret of its lineage.
    pub key: Key,
    /// Its user.
    pub user: Option<User>,
}

/// Which announcements to lease.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Who asks: a random number of the process.
    pub owner: u128,
    /// For how long.
    pub lease: Duration,
    /// At most so many.
    pub limit: usize,
    /// At most so many to one host at a time, whoever sends them, so that a receiver that hangs
    /// holds up its own and nobody else's.
    pub per_host: usize,
    /// At most so many of one project's keys at a time, likewise. Projects take turns.
    pub per_project: usize,
}

/// What an attempt came to.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which announcement.
    pub id: DeliveryId,
    /// Who had leased it.
    pub owner: u128,
    /// How it stands now.
    pub state: DeliveryState,
    /// When it is tried again, where it is pending.
    pub next_attempt_at: Timestamp,
    /// What the attempt came to, in words.
    pub told: String,
}

/// How rotations and announcements stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RotationCounts {
    /// Live keys whose rotation is due, the overdue ones included.
    pub due: u64,
    /// Those that have been for [`ROTATION_OVERDUE_AFTER`](crate::key::ROTATION_OVERDUE_AFTER).
    pub overdue: u64,
    /// Announcements that are still to be sent.
    pub pending: u64,
    /// When the oldest of those was taken on.
    pub oldest_pending: Option<Timestamp>,
    /// The store's clock.
    pub now: Timestamp,
}

/// The part of a store that announcements are kept in.
pub trait RotationStore: Send + Sync {
    /// What is not announced yet: rotations that are due, keys that expire within `expiring`, and
    /// rotations and revocations after what was read. About `limit` of each at most.
    fn unannounced(&self, expiring: Duration, limit: usize) -> Answer<'_, Unannounced>;

    /// Takes announcements on. Those of a date that is announced already are left out; those of events
    /// are where somebody else has read on from `read.0` before. Answers how many were taken on.
    fn announce(&self, deliveries: Vec<NewDelivery>, read: (Stamp, Stamp)) -> Answer<'_, usize>;

    /// Leases announcements whose time has come and that nobody else has leased: a project's first before
    /// any project's second, those of the same place oldest first.
    fn claim(&self, claim: Claim) -> Answer<'_, Vec<Claimed>>;

    /// Notes what an attempt came to. An attempt that failed counts only where its lease is still held;
    /// one that ended the matter ends it whoever holds it, unless it is ended.
    fn settle(&self, settlement: Settlement) -> Answer<'_, ()>;

    /// How rotations and announcements stand.
    fn rotation_counts(&self) -> Answer<'_, RotationCounts>;

    /// The announcements of a lineage, newest first.
    fn deliveries(&self, lineage: LineageId, limit: usize) -> Answer<'_, Vec<Delivery>>;

    /// Forgets announcements that were finished before `before`. Answers how many.
    fn forget_deliveries(&self, before: Timestamp) -> Answer<'_, usize>;
}
