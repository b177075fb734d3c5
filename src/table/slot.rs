//! The fields of one key. Each by itself is atomic only because that needs no `unsafe`: they are
//! written under the write guard of the key's map shard and read under its read guard.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use subtle::ConstantTimeEq;

use super::head::Head;
use crate::clock::Timestamp;
use crate::key::{KeyId, Stamp, States};

/// What every look-up needs: one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    head: [AtomicU64; 4],
    id: [AtomicU64; 2],
    expires_at: AtomicI64,
    bits: AtomicU32,
    label: AtomicU32,
}

/// What few look-ups need, those of keys with a user, a grace or a predecessor.
#[derive(Debug, Default)]
#[repr(align(32))]
pub(super) struct Rest {
    revision: AtomicU64,
    grace_expires_at: AtomicI64,
    ordinal: AtomicU32,
    lineage: AtomicU32,
    user: AtomicU32,
}

/// A slot as it was at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub(super) id: KeyId,
    pub(super) states: States,
    pub(super) expires_at: Option<Timestamp>,
    /// The number of what the key shares with others.
    pub(super) label: u32,
    pub(super) grace_expires_at: Option<Timestamp>,
    /// The number of its lineage, where that is not its own.
    pub(super) lineage: Option<u32>,
    /// The number of its user.
    pub(super) user: Option<u32>,
}

const REVOKED: u32 = 1;
const DISABLED: u32 = 2;
const SUPERSEDED: u32 = 4;
const EXPIRES: u32 = 8;
const IN_GRACE: u32 = 16;
const HAS_LINEAGE: u32 = 32;
const HAS_USER: u32 = 64;
/// The head was written, and will not change.
const PRESENT: u32 = 128;

impl Slot {
    /// Makes this the slot of the key of `head`. It is never that of another.
    pub(super) fn set_head(&self, head: &Head) {
        for (word, value) in self.head.iter().zip(head.words()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Whether it is the slot of the key of `head`. In constant time.
    pub(super) fn is_of(&self, head: &Head) -> bool {
        // Four words, not 32 bytes: the barriers that keep this in constant time cost something each.
        let mine = self.head.iter().map(|word| word.load(Ordering::Relaxed));
        mine.zip(head.words()).fold(0, |differs, (a, b)| differs | (a ^ b)).ct_eq(&0).into()
    }

    /// The head, where there is a key. Needs no guard.
    pub(super) fn head(&self) -> Option<Head> {
        self.is_present().then(|| Head::of_words(self.head.each_ref().map(|word| word.load(Ordering::Relaxed))))
    }

    /// The id, where there is a key. Needs no guard.
    pub(super) fn id(&self) -> Option<KeyId> {
        self.is_present().then(|| KeyId::from_bits(wide(&self.id)))
    }

    fn is_present(&self) -> bool {
        self.bits.load(Ordering::Acquire) & PRESENT != 0
    }

    pub(super) fn states(&self) -> States {
        states_of(self.bits.load(Ordering::Relaxed))
    }

    /// The number of the label.
    pub(super) fn label(&self) -> u32 {
        self.label.load(Ordering::Relaxed)
    }

    /// Makes the terminal states of `states` true here too. Whether anything had to change: what is revoked has
    /// ended already, in whatever other way it had too.
    pub(super) fn keep_terminal(&self, states: States) -> bool {
        let bits = self.bits.load(Ordering::Relaxed);
        if bits & REVOKED != 0 {
            return false;
        }
        let kept = bits | (bits_of(states) & (REVOKED | SUPERSEDED));
        self.bits.store(kept, Ordering::Relaxed);
        kept != bits
    }

    /// Makes the grace end at `end` at the latest. Whether anything had to change, which where it has ended is
    /// nothing.
    pub(super) fn keep_grace(&self, rest: &Rest, end: Timestamp) -> bool {
        let bits = self.bits.load(Ordering::Relaxed);
        if bits & (REVOKED | SUPERSEDED) != 0 {
            return false;
        }
        if bits & IN_GRACE != 0 && time(&rest.grace_expires_at) <= end {
            return false;
        }
        rest.grace_expires_at.store(end.nanos(), Ordering::Relaxed);
        self.bits.store(bits | IN_GRACE, Ordering::Release);
        true
    }

    /// When its grace ends, where it is in grace; `rest` is its own.
    pub(super) fn grace(&self, rest: &Rest) -> Option<Timestamp> {
        (self.bits.load(Ordering::Relaxed) & IN_GRACE != 0).then(|| time(&rest.grace_expires_at))
    }

    /// All fields, where there is a key; `rest` is asked for only where it says something.
    pub(super) fn read<'a>(&self, rest: impl FnOnce() -> Option<&'a Rest>) -> Option<Fields> {
        let bits = self.bits.load(Ordering::Relaxed);
        if bits & PRESENT == 0 {
            return None;
        }
        let rest = if bits & (IN_GRACE | HAS_LINEAGE | HAS_USER) == 0 { None } else { Some(rest()?) };
        let of_rest = |which: u32| rest.filter(|_| bits & which != 0);
        Some(Fields {
            id: KeyId::from_bits(wide(&self.id)),
            states: states_of(bits),
            expires_at: (bits & EXPIRES != 0).then(|| time(&self.expires_at)),
            label: self.label.load(Ordering::Relaxed),
            grace_expires_at: of_rest(IN_GRACE).map(|rest| time(&rest.grace_expires_at)),
            lineage: of_rest(HAS_LINEAGE).map(|rest| rest.lineage.load(Ordering::Relaxed)),
            user: of_rest(HAS_USER).map(|rest| rest.user.load(Ordering::Relaxed)),
        })
    }

    /// Writes all fields. The head must be set.
    pub(super) fn write(&self, rest: &Rest, fields: &Fields, stamp: Stamp) {
        let mut bits = bits_of(fields.states) | PRESENT;
        if let Some(end) = fields.expires_at {
            bits |= EXPIRES;
            self.expires_at.store(end.nanos(), Ordering::Relaxed);
        }
        if let Some(end) = fields.grace_expires_at {
            bits |= IN_GRACE;
            rest.grace_expires_at.store(end.nanos(), Ordering::Relaxed);
        }
        if let Some(lineage) = fields.lineage {
            bits |= HAS_LINEAGE;
            rest.lineage.store(lineage, Ordering::Relaxed);
        }
        if let Some(user) = fields.user {
            bits |= HAS_USER;
            rest.user.store(user, Ordering::Relaxed);
        }
        rest.revision.store(stamp.revision, Ordering::Relaxed);
        rest.ordinal.store(stamp.ordinal, Ordering::Relaxed);
        store_wide(&self.id, fields.id.bits());
        self.label.store(fields.label, Ordering::Relaxed);
        // Whoever sees without a guard that a key is here sees its head and id too.
        self.bits.store(bits, Ordering::Release);
    }
}

impl Rest {
    /// The change that last wrote the key.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp { revision: self.revision.load(Ordering::Relaxed), ordinal: self.ordinal.load(Ordering::Relaxed) }
    }
}

fn wide(halves: &[AtomicU64; 2]) -> u128 {
    let [high, low] = halves;
    (u128::from(high.load(Ordering::Relaxed)) << 64) | u128::from(low.load(Ordering::Relaxed))
}

fn store_wide(halves: &[AtomicU64; 2], bits: u128) {
    let [high, low] = halves;
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    high.store(half(bits >> 64), Ordering::Relaxed);
    low.store(half(bits), Ordering::Relaxed);
}

fn time(nanos: &AtomicI64) -> Timestamp {
    Timestamp::from_nanos(nanos.load(Ordering::Relaxed))
}

const fn states_of(bits: u32) -> States {
    States { revoked: bits & REVOKED != 0, disabled: bits & DISABLED != 0, superseded: bits & SUPERSEDED != 0 }
}

const fn bits_of(states: States) -> u32 {
    let mut bits = 0;
    if states.revoked {
        bits |= REVOKED;
    }
    if states.disabled {
        bits |= DISABLED;
    }
    if states.superseded {
        bits |= SUPERSEDED;
    }
    bits
}
