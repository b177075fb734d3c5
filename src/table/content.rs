//! One whole key set: the map, the slots, and the values they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::head::Head;
use super::intern::Interner;
use super::map::{Map, Was};
use super::row::{KeyRef, UserRow};
use super::slab::Slab;
use super::slot::{Fields, Rest, Slot};
use super::usage::Usage;
use crate::key::{
    EnvironmentId, FlagSet, KeyId, LineageId, ProjectId, Record, RecordFlags, Stamp, Standing, States, UserId,
    UserStanding,
};

/// More keys than fit in memory.
const KEYS_MAX: u64 = 1 << 28;

/// What a key shares with others, under one number.
#[derive(Debug)]
struct Label {
    project: Option<ProjectId>,
    environment: EnvironmentId,
    /// None where the key inherits.
    flags: Option<Arc<FlagSet>>,
}

/// What a label consists of, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct LabelParts {
    project: Option<u32>,
    environment: u32,
    flags: Option<u32>,
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

impl UserSlot {
    fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    /// The revision before the ordinal, as the reverse is written: see [`Content::apply_user`].
    fn stamp(&self) -> Stamp {
        let revision = self.revision.load(Ordering::Acquire);
        Stamp { revision, ordinal: self.ordinal.load(Ordering::Acquire) }
    }
}

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

    /// The number that the next new key gets, if nobody else takes it. Its counter is made.
    fn make_room(&self) -> u32 {
        let next = self.next.load(Ordering::Relaxed);
        self.usage.make(next);
        next
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
    map: Map,
    /// By slot number, as the slots themselves.
    rests: Slab<Rest>,
    labels: Interner<LabelParts, Label>,
    projects: Interner<ProjectId>,
    environments: Interner<EnvironmentId>,
    flag_sets: Interner<Arc<FlagSet>>,
    lineages: Interner<LineageId>,
    user_ids: Interner<UserId>,
    users: Slab<UserSlot>,
    keys: AtomicUsize,
    nothing: Arc<FlagSet>,
    /// The stand-in of a label for which there was no room; its keys are switched off.
    nowhere: Label,
}

impl Content {
    pub(super) fn new() -> Self {
        let nothing = Arc::new(FlagSet::default());
        Self {
            map: Map::with_room_for(KEYS_MAX),
            rests: Slab::with_room_for(KEYS_MAX),
            labels: Interner::with_room_for(KEYS_MAX),
            projects: Interner::with_room_for(KEYS_MAX),
            environments: Interner::with_room_for(KEYS_MAX),
            flag_sets: Interner::with_room_for(KEYS_MAX),
            lineages: Interner::with_room_for(KEYS_MAX),
            user_ids: Interner::with_room_for(KEYS_MAX),
            users: Slab::with_room_for(KEYS_MAX),
            keys: AtomicUsize::new(0),
            nowhere: Label { project: None, environment: EnvironmentId::live(), flags: Some(Arc::clone(&nothing)) },
            nothing,
        }
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    pub(super) fn knows(&self, head: &Head) -> bool {
        self.map.read(head, |_number, _slot| ()).is_some()
    }

    /// The newest change known of a key; none if it is not known.
    pub(super) fn stamp(&self, head: &Head) -> Option<Stamp> {
        self.map.read(head, |number, _slot| self.rests.get(number).map(Rest::stamp))?
    }

    pub(super) fn lookup(&self, head: &Head) -> Option<Record> {
        let (number, fields) =
            self.map.read(head, |number, slot| Some((number, slot.read(|| self.rests.get(number))?)))??;
        // What has a number never changes, so the guard is not needed any more; a user's state is one value.
        let label = self.label(&fields);
        let state = fields.user.and_then(|user| self.users.get(user)).map_or(0, UserSlot::state);
        let user = fields.user.and_then(|user| self.user_ids.value(user)).cloned();
        let standing = match fields.user {
            None => UserStanding::None,
            Some(_) if is_usable(state) => UserStanding::Active,
            Some(_) => UserStanding::Disabled,
        };
        let flags = match (&label.flags, fields.user) {
            (Some(own), None) => RecordFlags::Own(Arc::clone(own)),
            (Some(own), Some(_)) => RecordFlags::Both { key: Arc::clone(own), user: self.user_flags(state) },
            (None, None) => RecordFlags::Own(Arc::clone(&self.nothing)),
            (None, Some(_)) => RecordFlags::Inherited(self.user_flags(state)),
        };
        Some(Record {
            id: fields.id,
            lineage: self.lineage(&fields)?,
            hash_head: *head.as_bytes(),
            standing: Standing {
                states: fields.states,
                user: standing,
                expires_at: fields.expires_at,
                grace_expires_at: fields.grace_expires_at,
            },
            project: label.project.clone(),
            environment: label.environment.clone(),
            user,
            flags,
            slot: number,
        })
    }

    /// The id of the key in a slot.
    pub(super) fn id_of(&self, slot: u32) -> Option<KeyId> {
        self.map.slot(slot)?.id()
    }

    /// Takes a key over, where nothing newer is known of it. `previous` is the content that this
    /// one will replace: its keys keep their slot numbers.
    pub(super) fn apply_key(&self, key: &KeyRef<'_>, numbers: &Numbers, previous: Option<&Self>) -> Fate {
        // A chunk of slots is large; no look-up shall wait while it is made.
        let next = numbers.make_room();
        self.map.make_room(next);
        self.rests.make(next);
        let place = || previous.and_then(|previous| previous.number(&key.head)).unwrap_or_else(|| numbers.take());
        let fate = self.map.put(&key.head, place, |was, number, slot| match was {
            Was::Known => self.overwrite(number, slot, key),
            Was::New => {
                let room = self.write(number, slot, key, key.states);
                self.keys.fetch_add(1, Ordering::Relaxed);
                if room { Fate::New } else { Fate::Full }
            }
        });
        fate.unwrap_or(Fate::Full)
    }

    fn number(&self, head: &Head) -> Option<u32> {
        self.map.read(head, |number, _slot| number)
    }

    fn overwrite(&self, number: u32, slot: &Slot, key: &KeyRef<'_>) -> Fate {
        if self.rests.get(number).is_some_and(|rest| key.stamp <= rest.stamp()) {
            return Fate::Unchanged;
        }
        let known = slot.states();
        let kept = States {
            revoked: key.states.revoked || known.revoked,
            disabled: key.states.disabled,
            superseded: key.states.superseded || known.superseded,
        };
        if !self.write(number, slot, key, kept) {
            return Fate::Full;
        }
        if kept == key.states { Fate::Changed } else { Fate::Conflict }
    }

    /// Makes what is terminal of `key` true here too. Whether anything had to change.
    pub(super) fn keep_terminal(&self, key: &KeyRef<'_>, numbers: &Numbers, previous: &Self) -> bool {
        // What this history says of the key stands, but for what is terminal.
        let kept = self.map.change(&key.head, |_number, slot| slot.keep_terminal(key.states));
        kept.unwrap_or_else(|| {
            self.apply_key(key, numbers, Some(previous));
            true
        })
    }

    /// Whether there was room for everything; where not, the key is switched off.
    fn write(&self, number: u32, slot: &Slot, key: &KeyRef<'_>, states: States) -> bool {
        let label = self.label_number(key);
        let lineage = (key.lineage != key.id.lineage()).then(|| self.lineages.number_of(&key.lineage));
        let user = key.user.map(|user| self.user_number(user));
        let Some(rest) = self.rests.make(number) else { return false };
        let room = label.is_some() && lineage != Some(None) && user != Some(None);
        let fields = Fields {
            id: key.id,
            states: States { disabled: states.disabled || !room, ..states },
            expires_at: key.expires_at,
            label: label.unwrap_or(u32::MAX),
            grace_expires_at: key.grace_expires_at,
            lineage: lineage.flatten(),
            user: user.flatten(),
        };
        slot.write(rest, &fields, key.stamp);
        room
    }

    /// The number of what `key` shares with others.
    fn label_number(&self, key: &KeyRef<'_>) -> Option<u32> {
        let parts = LabelParts {
            project: key.project.map(|project| self.projects.number_of(project).ok_or(())).transpose().ok()?,
            environment: self.environments.number_of(key.environment)?,
            flags: key.flags.map(|flags| self.flag_set_number(flags).ok_or(())).transpose().ok()?,
        };
        self.labels.number(&parts, || {
            let label = Label {
                project: parts.project.and_then(|number| self.projects.value(number)).cloned(),
                environment: self.environments.value(parts.environment)?.clone(),
                flags: parts.flags.map(|number| self.flag_set(number)),
            };
            Some((parts, label))
        })
    }

    /// Takes a user over, where nothing newer is known of it. Callers take turns.
    pub(super) fn apply_user(&self, user: &UserRow) -> Fate {
        let Some(slot) = self.user_number(&user.id).and_then(|number| self.users.get(number)) else {
            return Fate::Full;
        };
        let known = slot.state.load(Ordering::Relaxed);
        if known & USER_KNOWN != 0 && user.stamp <= slot.stamp() {
            return Fate::Unchanged;
        }
        let Some(flags) = self.flag_set_number(&user.flags) else {
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
        let known = slot.state() & USER_KNOWN != 0;
        known.then(|| slot.stamp())
    }

    /// Walks over all keys. Each is read whole, all of them not of one moment; no guard is held
    /// while `each` runs.
    pub(super) fn for_each_key(&self, mut each: impl FnMut(&KeyRef<'_>)) {
        for head in self.map.heads() {
            if let Some(key) = self.key(head) {
                each(&key);
            }
        }
    }

    /// Walks over all users. A state may be newer than its stamp, and is never older.
    pub(super) fn for_each_user(&self, mut each: impl FnMut(UserRow)) {
        for number in 0..u32::try_from(self.user_ids.len()).unwrap_or(u32::MAX) {
            let (Some(id), Some(slot)) = (self.user_ids.value(number), self.users.get(number)) else { continue };
            let stamp = slot.stamp();
            let state = slot.state();
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
        let (fields, stamp) = self.map.read(&head, |number, slot| {
            let rest = self.rests.get(number)?;
            Some((slot.read(|| Some(rest))?, rest.stamp()))
        })??;
        let label = self.label(&fields);
        Some(KeyRef {
            head,
            id: fields.id,
            lineage: self.lineage(&fields)?,
            states: fields.states,
            project: label.project.as_ref(),
            environment: &label.environment,
            user: fields.user.and_then(|user| self.user_ids.value(user)),
            flags: label.flags.as_deref(),
            expires_at: fields.expires_at,
            grace_expires_at: fields.grace_expires_at,
            stamp,
        })
    }

    fn user_number(&self, user: &UserId) -> Option<u32> {
        let number = self.user_ids.number_of(user)?;
        self.users.make(number)?;
        Some(number)
    }

    fn flag_set_number(&self, flags: &FlagSet) -> Option<u32> {
        self.flag_sets.number(flags, || {
            let set = Arc::new(flags.clone());
            Some((Arc::clone(&set), set))
        })
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

    fn label(&self, fields: &Fields) -> &Label {
        self.labels.value(fields.label).unwrap_or(&self.nowhere)
    }

    fn lineage(&self, fields: &Fields) -> Option<LineageId> {
        match fields.lineage {
            None => Some(fields.id.lineage()),
            Some(number) => self.lineages.value(number).copied(),
        }
    }
}

const fn is_usable(state: u64) -> bool {
    state & (USER_KNOWN | USER_ACTIVE | USER_DELETED) == USER_KNOWN | USER_ACTIVE
}
