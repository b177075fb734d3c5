//! One whole key set: the map, the slots, and the values they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::head::{Head, PassThrough};
use super::intern::Interner;
use super::row::{KeyRef, UserRow};
use super::slab::Slab;
use super::usage::Usage;
use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, FlagSet, KeyId, LineageId, ProjectId, Record, RecordFlags, Stamp, Standing, States, UserId,
    UserStanding,
};

/// More keys than fit in memory.
const KEYS_MAX: u64 = 1 << 28;
const FLAG_SETS_MAX: u64 = 1 << 24;
const PROJECTS_MAX: u64 = 1 << 24;
const ENVIRONMENTS_MAX: u64 = 1 << 20;
/// Many small shards: a rehash, or a walk over one of them, stops few look-ups and not for long.
const SHARDS: usize = 256;
/// A walk over all keys takes so many over the map, each for the keys whose last byte begins alike:
/// time that nobody waits for, against a copy of all heads in memory.
const WALKS: usize = 16;
const WALK_BITS: u32 = 4;

/// The fields of one key, written under the write guard of its map shard and read under its read
/// guard; each by itself is atomic only because that needs no `unsafe`. 64 bytes.
#[derive(Debug, Default)]
struct Slot {
    id: [AtomicU64; 2],
    revision: AtomicU64,
    expires_at: AtomicI64,
    grace_expires_at: AtomicI64,
    ordinal: AtomicU32,
    /// Number + 1; 0 where it is the key's own, which it is of every key that replaced none.
    lineage: AtomicU32,
    /// Number + 1; 0 for none.
    project: AtomicU32,
    /// Number + 1; 0 for none.
    user: AtomicU32,
    /// Number of the flag set; of no meaning where the key inherits.
    flags: AtomicU32,
    /// What is true or false of the key, and above it the number of its environment.
    bits: AtomicU32,
}

/// The state of one user, by the number of its id. One change of it changes all its keys.
#[derive(Debug, Default)]
struct UserSlot {
    /// Known, active, deleted, and the number of the flag set in the upper half: one value, so
    /// that a look-up sees them together.
    state: AtomicU64,
    revision: AtomicU64,
    ordinal: AtomicU32,
}

const REVOKED: u32 = 1;
const DISABLED: u32 = 2;
const SUPERSEDED: u32 = 4;
const INHERITS: u32 = 8;
const EXPIRES: u32 = 16;
const IN_GRACE: u32 = 32;
const ENVIRONMENT_SHIFT: u32 = 8;

const USER_KNOWN: u64 = 1;
const USER_ACTIVE: u64 = 2;
const USER_DELETED: u64 = 4;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was not known before.
    New,
    /// It was known, and is now as the row says.
    Changed,
    /// As new or newer was known already.
    Unchanged,
    /// Taken over, but what the row takes back of a terminal state was not.
    Conflict,
    /// There is no room for it; the key, where known, is refused from now on.
    Full,
}

/// Slot numbers and usage counters, which stay with their keys when the content is swapped.
#[derive(Debug)]
pub(super) struct Numbers {
    next: AtomicU32,
    pub(super) usage: Usage,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self { next: AtomicU32::new(0), usage: Usage::with_room_for(KEYS_MAX) }
    }

    fn take(&self) -> u32 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.usage.make(number);
        number
    }
}

/// One whole key set.
#[derive(Debug)]
pub(super) struct Content {
    map: DashMap<Head, u32, PassThrough>,
    slots: Slab<Slot>,
    projects: Interner<ProjectId>,
    environments: Interner<EnvironmentId>,
    lineages: Interner<LineageId>,
    flag_sets: Interner<Arc<FlagSet>>,
    user_ids: Interner<UserId>,
    users: Slab<UserSlot>,
    keys: AtomicUsize,
    nothing: Arc<FlagSet>,
}

impl Content {
    pub(super) fn new() -> Self {
        Self {
            map: DashMap::with_hasher_and_shard_amount(PassThrough, SHARDS),
            slots: Slab::with_room_for(KEYS_MAX),
            projects: Interner::with_room_for(PROJECTS_MAX),
            environments: Interner::with_room_for(ENVIRONMENTS_MAX),
            lineages: Interner::with_room_for(KEYS_MAX),
            flag_sets: Interner::with_room_for(FLAG_SETS_MAX),
            user_ids: Interner::with_room_for(KEYS_MAX),
            users: Slab::with_room_for(KEYS_MAX),
            keys: AtomicUsize::new(0),
            nothing: Arc::new(FlagSet::default()),
        }
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    pub(super) fn knows(&self, head: &Head) -> bool {
        self.map.contains_key(head)
    }

    /// The newest change known of a key; none if it is not known.
    pub(super) fn stamp(&self, head: &Head) -> Option<Stamp> {
        let number = self.map.get(head)?;
        let slot = self.slots.get(*number)?;
        Some(stamp_of(&slot.revision, &slot.ordinal))
    }

    pub(super) fn lookup(&self, head: &Head) -> Option<Record> {
        let number = self.map.get(head)?;
        let slot = self.slots.get(*number)?;
        let bits = slot.bits.load(Ordering::Relaxed);
        let user = slot.user.load(Ordering::Relaxed).checked_sub(1);
        let state = user.and_then(|user| self.users.get(user)).map_or(0, |user| user.state.load(Ordering::Acquire));
        let standing = match user {
            None => UserStanding::None,
            Some(_) if is_usable(state) => UserStanding::Active,
            Some(_) => UserStanding::Disabled,
        };
        let own = || self.flag_set(slot.flags.load(Ordering::Relaxed));
        let flags = match (bits & INHERITS != 0, user) {
            (false, None) => RecordFlags::Own(own()),
            (false, Some(_)) => RecordFlags::Both { key: own(), user: self.user_flags(state) },
            (true, None) => RecordFlags::Own(Arc::clone(&self.nothing)),
            (true, Some(_)) => RecordFlags::Inherited(self.user_flags(state)),
        };
        let id = KeyId::from_bits(wide(&slot.id));
        Some(Record {
            id,
            lineage: self.lineage(slot, id)?,
            hash_head: *head.as_bytes(),
            standing: Standing {
                states: states_of(bits),
                user: standing,
                expires_at: end_of(bits, EXPIRES, &slot.expires_at),
                grace_expires_at: end_of(bits, IN_GRACE, &slot.grace_expires_at),
            },
            project: self.project(slot).cloned(),
            // Every slot in the map has an environment; were one missing, its empty stand-in
            // matches no route that lists any.
            environment: self.environment(slot).cloned()?,
            user: user.and_then(|user| self.user_ids.value(user)).cloned(),
            flags,
            slot: *number,
        })
    }

    /// The id of the key in a slot.
    pub(super) fn id_of(&self, slot: u32) -> Option<KeyId> {
        let bits = wide(&self.slots.get(slot)?.id);
        (bits != 0).then(|| KeyId::from_bits(bits))
    }

    /// Takes a key over, where nothing newer is known of it. `previous` is the content that this
    /// one will replace: its keys keep their slot numbers.
    pub(super) fn apply_key(&self, key: &KeyRef<'_>, numbers: &Numbers, previous: Option<&Self>) -> Fate {
        match self.map.entry(key.head) {
            Entry::Occupied(entry) => {
                let Some(slot) = self.slots.get(*entry.get()) else { return Fate::Full };
                if key.stamp <= stamp_of(&slot.revision, &slot.ordinal) {
                    return Fate::Unchanged;
                }
                let known = states_of(slot.bits.load(Ordering::Relaxed));
                let kept = States {
                    revoked: key.states.revoked || known.revoked,
                    disabled: key.states.disabled,
                    superseded: key.states.superseded || known.superseded,
                };
                if !self.write(slot, key, kept) {
                    return Fate::Full;
                }
                if kept == key.states { Fate::Changed } else { Fate::Conflict }
            }
            Entry::Vacant(entry) => {
                let kept = previous.and_then(|previous| previous.map.get(&key.head).map(|number| *number));
                let number = kept.unwrap_or_else(|| numbers.take());
                let Some(slot) = self.slots.make(number) else { return Fate::Full };
                let room = self.write(slot, key, key.states);
                entry.insert(number);
                self.keys.fetch_add(1, Ordering::Relaxed);
                if room { Fate::New } else { Fate::Full }
            }
        }
    }

    /// Makes what is terminal of `key` true here too. Whether anything had to change.
    pub(super) fn keep_terminal(&self, key: &KeyRef<'_>, numbers: &Numbers, previous: &Self) -> bool {
        if !self.knows(&key.head) {
            self.apply_key(key, numbers, Some(previous));
            return true;
        }
        // What this history says of the key stands, but for what is terminal. The write guard of
        // the shard, not the slot's number, is what is needed here.
        let Some(number) = self.map.get_mut(&key.head) else { return false };
        let Some(slot) = self.slots.get(*number) else { return false };
        let bits = slot.bits.load(Ordering::Relaxed);
        let kept = bits | (bits_of(key.states) & (REVOKED | SUPERSEDED));
        slot.bits.store(kept, Ordering::Relaxed);
        kept != bits
    }

    /// Whether there was room for everything; where not, the key is switched off.
    fn write(&self, slot: &Slot, key: &KeyRef<'_>, states: States) -> bool {
        let project = key.project.map(|project| self.projects.number(project, || project.clone()));
        let environment = self.environments.number(key.environment, || key.environment.clone());
        let lineage = (key.lineage != key.id.lineage()).then(|| self.lineages.number(&key.lineage, || key.lineage));
        let user = key.user.map(|user| self.user_number(user));
        let flags = key.flags.map(|flags| self.flag_sets.number(flags, || Arc::new(flags.clone())));
        let environment = environment.filter(|&number| u64::from(number) < ENVIRONMENTS_MAX);
        let room = project != Some(None)
            && environment.is_some()
            && lineage != Some(None)
            && user != Some(None)
            && flags != Some(None);
        let mut bits = bits_of(states) | (environment.unwrap_or(0) << ENVIRONMENT_SHIFT);
        if !room {
            bits |= DISABLED;
        }
        if key.flags.is_none() {
            bits |= INHERITS;
        }
        if let Some(end) = key.expires_at {
            bits |= EXPIRES;
            slot.expires_at.store(end.nanos(), Ordering::Relaxed);
        }
        if let Some(end) = key.grace_expires_at {
            bits |= IN_GRACE;
            slot.grace_expires_at.store(end.nanos(), Ordering::Relaxed);
        }
        store_wide(&slot.id, key.id.bits());
        slot.lineage.store(lineage.flatten().map_or(0, |number| number + 1), Ordering::Relaxed);
        slot.project.store(project.flatten().map_or(0, |number| number + 1), Ordering::Relaxed);
        slot.user.store(user.flatten().map_or(0, |number| number + 1), Ordering::Relaxed);
        slot.flags.store(flags.flatten().unwrap_or(0), Ordering::Relaxed);
        slot.revision.store(key.stamp.revision, Ordering::Relaxed);
        slot.ordinal.store(key.stamp.ordinal, Ordering::Relaxed);
        slot.bits.store(bits, Ordering::Relaxed);
        room
    }

    /// Takes a user over, where nothing newer is known of it. Callers take turns.
    pub(super) fn apply_user(&self, user: &UserRow) -> Fate {
        let Some(slot) = self.user_number(&user.id).and_then(|number| self.users.get(number)) else {
            return Fate::Full;
        };
        let known = slot.state.load(Ordering::Relaxed);
        if known & USER_KNOWN != 0 && user.stamp <= stamp_of(&slot.revision, &slot.ordinal) {
            return Fate::Unchanged;
        }
        let Some(flags) = self.flag_sets.number(&user.flags, || Arc::new(user.flags.clone())) else {
            slot.state.fetch_and(!USER_ACTIVE, Ordering::Release);
            return Fate::Full;
        };
        let mut state = USER_KNOWN | (u64::from(flags) << 32);
        if user.active {
            state |= USER_ACTIVE;
        }
        if user.deleted || known & USER_DELETED != 0 {
            state |= USER_DELETED;
        }
        // The stamp last: whoever walks over the users while this is written may see the new state
        // under the old stamp, which the journal then sets right, and never the reverse.
        slot.state.store(state, Ordering::Release);
        slot.ordinal.store(user.stamp.ordinal, Ordering::Release);
        slot.revision.store(user.stamp.revision, Ordering::Release);
        if known & USER_KNOWN == 0 {
            Fate::New
        } else if known & USER_DELETED != 0 && !user.deleted {
            Fate::Conflict
        } else {
            Fate::Changed
        }
    }

    /// Makes the deletion of `user` true here too. Whether anything had to change.
    pub(super) fn keep_deleted(&self, user: &UserRow) -> bool {
        if self.user_stamp(&user.id).is_none() {
            self.apply_user(user);
            return true;
        }
        let slot = self.user_number(&user.id).and_then(|number| self.users.get(number));
        slot.is_some_and(|slot| slot.state.fetch_or(USER_DELETED, Ordering::AcqRel) & USER_DELETED == 0)
    }

    /// The newest change known of a user; none if it is not known.
    pub(super) fn user_stamp(&self, user: &UserId) -> Option<Stamp> {
        let slot = self.users.get(self.user_ids.known(user)?)?;
        let known = slot.state.load(Ordering::Acquire) & USER_KNOWN != 0;
        known.then(|| stamp_of(&slot.revision, &slot.ordinal))
    }

    /// Walks over all keys. Each is read whole, all of them not of one moment; no guard is held
    /// while `each` runs.
    pub(super) fn for_each_key(&self, mut each: impl FnMut(&KeyRef<'_>)) {
        let mut heads: Vec<Head> = Vec::with_capacity(self.keys() / WALKS * 5 / 4);
        for part in 0..=u8::MAX >> WALK_BITS {
            heads.extend(self.map.iter().map(|entry| *entry.key()).filter(|head| head.last() >> WALK_BITS == part));
            for head in heads.drain(..) {
                if let Some(key) = self.key(head) {
                    each(&key);
                }
            }
        }
    }

    /// Walks over all users. A state may be newer than its stamp, and is never older.
    pub(super) fn for_each_user(&self, mut each: impl FnMut(UserRow)) {
        for number in 0..u32::try_from(self.user_ids.len()).unwrap_or(u32::MAX) {
            let (Some(id), Some(slot)) = (self.user_ids.value(number), self.users.get(number)) else { continue };
            let stamp = user_stamp_of(slot);
            let state = slot.state.load(Ordering::Acquire);
            if state & USER_KNOWN != 0 {
                each(UserRow {
                    id: id.clone(),
                    flags: self.user_flags(state).as_ref().clone(),
                    active: state & USER_ACTIVE != 0,
                    deleted: state & USER_DELETED != 0,
                    stamp,
                });
            }
        }
    }

    fn key(&self, head: Head) -> Option<KeyRef<'_>> {
        let number = self.map.get(&head)?;
        let slot = self.slots.get(*number)?;
        let bits = slot.bits.load(Ordering::Relaxed);
        let user = slot.user.load(Ordering::Relaxed).checked_sub(1);
        let flags = self.flag_sets.value(slot.flags.load(Ordering::Relaxed));
        let id = KeyId::from_bits(wide(&slot.id));
        Some(KeyRef {
            head,
            id,
            lineage: self.lineage(slot, id)?,
            states: states_of(bits),
            project: self.project(slot),
            environment: self.environment(slot)?,
            user: user.and_then(|user| self.user_ids.value(user)),
            flags: if bits & INHERITS == 0 { Some(flags.unwrap_or(&self.nothing)) } else { None },
            expires_at: end_of(bits, EXPIRES, &slot.expires_at),
            grace_expires_at: end_of(bits, IN_GRACE, &slot.grace_expires_at),
            stamp: stamp_of(&slot.revision, &slot.ordinal),
        })
    }

    fn user_number(&self, user: &UserId) -> Option<u32> {
        let number = self.user_ids.number(user, || user.clone())?;
        self.users.make(number)?;
        Some(number)
    }

    fn flag_set(&self, number: u32) -> Arc<FlagSet> {
        Arc::clone(self.flag_sets.value(number).unwrap_or(&self.nothing))
    }

    fn user_flags(&self, state: u64) -> Arc<FlagSet> {
        match u32::try_from(state >> 32) {
            Ok(number) if state & USER_KNOWN != 0 => self.flag_set(number),
            Ok(_) | Err(_) => Arc::clone(&self.nothing),
        }
    }

    fn project(&self, slot: &Slot) -> Option<&ProjectId> {
        let number = slot.project.load(Ordering::Relaxed).checked_sub(1)?;
        self.projects.value(number)
    }

    fn environment(&self, slot: &Slot) -> Option<&EnvironmentId> {
        self.environments.value(slot.bits.load(Ordering::Relaxed) >> ENVIRONMENT_SHIFT)
    }

    fn lineage(&self, slot: &Slot, id: KeyId) -> Option<LineageId> {
        match slot.lineage.load(Ordering::Relaxed).checked_sub(1) {
            None => Some(id.lineage()),
            Some(number) => self.lineages.value(number).copied(),
        }
    }
}

const fn is_usable(state: u64) -> bool {
    state & (USER_KNOWN | USER_ACTIVE | USER_DELETED) == USER_KNOWN | USER_ACTIVE
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

/// The revision before the ordinal, as the reverse is written: see [`Content::apply_user`].
fn user_stamp_of(slot: &UserSlot) -> Stamp {
    let revision = slot.revision.load(Ordering::Acquire);
    Stamp { revision, ordinal: slot.ordinal.load(Ordering::Acquire) }
}

fn stamp_of(revision: &AtomicU64, ordinal: &AtomicU32) -> Stamp {
    Stamp { revision: revision.load(Ordering::Relaxed), ordinal: ordinal.load(Ordering::Relaxed) }
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

fn end_of(bits: u32, which: u32, end: &AtomicI64) -> Option<Timestamp> {
    (bits & which != 0).then(|| Timestamp::from_nanos(end.load(Ordering::Relaxed)))
}
