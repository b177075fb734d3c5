//! One whole key set: the map, the slots, and the values they share.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::head::Head;
use super::intern::{Counted, Interner};
use super::map::{Map, Was};
use super::row::{KeyRef, UserRow};
use super::slab::Slab;
use super::slot::{Fields, Rest, Slot};
use super::usage::Usage;
use crate::clock::Timestamp;
use crate::key::{
    EnvironmentId, FlagSet, Held, KeyId, Label, LineageId, ProjectId, Record, Stamp, Standing, States, UserCore,
    UserId, UserStanding,
};

/// More keys than fit in memory.
const KEYS_MAX: u64 = 1 << 28;

/// What a label consists of, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct LabelParts {
    project: Option<u32>,
    environment: u32,
    flags: Option<u32>,
}

/// What keys share: each label, and each part of one, is forgotten with the last key that has it.
/// Whoever may change flags could else fill the memory with sets that nobody has any more.
#[derive(Debug)]
pub(super) struct Labels {
    numbers: Counted<LabelParts>,
    values: Slab<OnceLock<ArcSwap<Label>>>,
    projects: Counted<ProjectId>,
    environments: Counted<EnvironmentId>,
    /// Those of users too.
    flag_sets: Counted<Arc<FlagSet>>,
}

impl Labels {
    fn new() -> Self {
        Self {
            numbers: Counted::new(),
            values: Slab::with_room_for(KEYS_MAX),
            projects: Counted::new(),
            environments: Counted::new(),
            flag_sets: Counted::new(),
        }
    }

    /// The label of this number. To be asked while the key that has it cannot change, for then the
    /// number may be another's; the label itself stays what it is.
    fn get(&self, number: u32) -> Option<Held<Label>> {
        Some(self.values.get(number)?.get()?.load().into())
    }

    /// One more use of the label of `key`: its number.
    pub(super) fn take(&self, key: &KeyRef<'_>) -> Option<u32> {
        let project = key.project.map(|project| self.projects.take(project, || project.clone(), |_| ()));
        let environment = self.environments.take(key.environment, || key.environment.clone(), |_| ());
        let flags = key.flags.map(|flags| self.take_flags(flags));
        let (Some((environment, named)), false, false) = (environment, project == Some(None), flags == Some(None))
        else {
            return None;
        };
        let (project, flags) = (project.flatten(), flags.flatten());
        let parts = LabelParts {
            project: project.as_ref().map(|(number, _)| *number),
            environment,
            flags: flags.as_ref().map(|(number, _)| *number),
        };
        let mut is_new = false;
        let begin = |number| {
            let label = Label {
                project: project.map(|(_, project)| project),
                environment: named,
                flags: flags.map(|(_, flags)| flags),
            };
            if let Some(place) = self.values.make(number) {
                put(place, label);
            }
            is_new = true;
        };
        let (number, _) = self.numbers.take(&parts, || parts, begin)?;
        if !is_new {
            // A label has its parts once, however many have the label.
            self.give_parts_back(parts);
        }
        Some(number)
    }

    /// So many more uses of the label of this number, which is in use.
    pub(super) fn take_more(&self, number: u32, uses: u32) {
        self.numbers.take_more(number, uses);
    }

    fn give_back(&self, number: u32) {
        self.give_all_back(number, 1);
    }

    /// So many uses less.
    pub(super) fn give_all_back(&self, number: u32, uses: u32) {
        let end = || {
            if let Some(place) = self.values.get(number) {
                put(place, nowhere());
            }
        };
        if let Some(parts) = self.numbers.give_back(number, uses, end) {
            self.give_parts_back(parts);
        }
    }

    fn give_parts_back(&self, parts: LabelParts) {
        if let Some(project) = parts.project {
            self.projects.give_back(project, 1, || ());
        }
        self.environments.give_back(parts.environment, 1, || ());
        if let Some(flags) = parts.flags {
            self.give_flags_back(flags);
        }
    }

    fn take_flags(&self, flags: &FlagSet) -> Option<(u32, Arc<FlagSet>)> {
        self.flag_sets.take(flags, || Arc::new(flags.clone()), |_| ())
    }

    fn give_flags_back(&self, number: u32) {
        self.flag_sets.give_back(number, 1, || ());
    }
}

/// The stand-in of a label for which there was no room, and of one that nobody has any more.
fn nowhere() -> Label {
    Label { project: None, environment: EnvironmentId::live(), flags: Some(Arc::default()) }
}

/// What is known of one user, by the number of its id. One change of it changes all its keys.
#[derive(Debug, Default)]
struct UserSlot {
    core: OnceLock<ArcSwap<UserCore>>,
    /// The number of its flags. Who changes it takes turns.
    flag_set: AtomicU32,
}

impl UserSlot {
    fn read(&self) -> Option<Held<UserCore>> {
        Some(self.core.get()?.load().into())
    }
}

fn put<T>(place: &OnceLock<ArcSwap<T>>, value: T) {
    let value = Arc::new(value);
    let first = Arc::clone(&value);
    let place = place.get_or_init(|| ArcSwap::new(first));
    if !Arc::ptr_eq(&place.load(), &value) {
        place.store(value);
    }
}

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
    pub(super) labels: Labels,
    lineages: Interner<LineageId>,
    user_ids: Interner<UserId>,
    users: Slab<UserSlot>,
    keys: AtomicUsize,
}

impl Content {
    pub(super) fn new() -> Self {
        Self {
            map: Map::with_room_for(KEYS_MAX),
            rests: Slab::with_room_for(KEYS_MAX),
            labels: Labels::new(),
            lineages: Interner::with_room_for(KEYS_MAX),
            user_ids: Interner::with_room_for(KEYS_MAX),
            users: Slab::with_room_for(KEYS_MAX),
            keys: AtomicUsize::new(0),
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

    /// The newest change known of a key, and what is true of it at every time; none if it is not known.
    pub(super) fn stamp_and_states(&self, head: &Head) -> Option<(Stamp, States)> {
        self.map.read(head, |number, slot| Some((self.rests.get(number)?.stamp(), slot.states())))?
    }

    pub(super) fn lookup(&self, head: &Head) -> Option<Record> {
        let (number, fields, label) = self.map.read(head, |number, slot| {
            let fields = slot.read(|| self.rests.get(number))?;
            Some((number, fields, self.labels.get(fields.label)))
        })??;
        let user = match fields.user {
            Some(number) => Some(self.numbered_user(number)?),
            None => None,
        };
        let standing = match &user {
            None => UserStanding::None,
            Some(user) if user.is_usable() => UserStanding::Active,
            Some(_) => UserStanding::Disabled,
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
            label: label.unwrap_or_else(|| nowhere().into()),
            user,
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
        self.apply_labelled_key(key, || self.labels.take(key), (numbers, previous))
    }

    /// The same, with one use of the key's label from `label`, which is asked only if the key is taken over.
    pub(super) fn apply_labelled_key(
        &self,
        key: &KeyRef<'_>,
        label: impl FnOnce() -> Option<u32>,
        (numbers, previous): (&Numbers, Option<&Self>),
    ) -> Fate {
        // A chunk of slots is large; no look-up shall wait while it is made.
        let next = numbers.make_room();
        self.map.make_room(next);
        self.rests.make(next);
        let place = || previous.and_then(|previous| previous.number(&key.head)).unwrap_or_else(|| numbers.take());
        let fate = self.map.put(&key.head, place, |was, number, slot| match was {
            Was::Known => self.overwrite(number, slot, key, label),
            Was::New => {
                let room = self.write(number, slot, key, key.states, (label(), None));
                self.keys.fetch_add(1, Ordering::Relaxed);
                if room { Fate::New } else { Fate::Full }
            }
        });
        fate.unwrap_or(Fate::Full)
    }

    fn number(&self, head: &Head) -> Option<u32> {
        self.map.read(head, |number, _slot| number)
    }

    fn overwrite(&self, number: u32, slot: &Slot, key: &KeyRef<'_>, label: impl FnOnce() -> Option<u32>) -> Fate {
        let rest = self.rests.get(number);
        if rest.is_some_and(|rest| key.stamp <= rest.stamp()) {
            return Fate::Unchanged;
        }
        let kept = key.over(slot.states(), rest.and_then(|rest| slot.grace(rest)));
        let fate = if key.takes_back(kept) { Fate::Conflict } else { Fate::Changed };
        let key = KeyRef { grace_expires_at: kept.grace_expires_at, ..*key };
        if !self.write(number, slot, &key, kept.states, (label(), Some(slot.label()))) {
            return Fate::Full;
        }
        fate
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

    /// Makes a known key's grace end at `end` at the latest. Whether anything had to change.
    pub(super) fn keep_grace(&self, head: &Head, end: Timestamp) -> bool {
        let keep = |number, slot: &Slot| self.rests.make(number).is_some_and(|rest| slot.keep_grace(rest, end));
        self.map.change(head, keep).unwrap_or(false)
    }

    /// Whether there was room for everything; where not, the key is switched off. `label` is the one that it
    /// gets, and `before` the one that it had.
    fn write(
        &self,
        number: u32,
        slot: &Slot,
        key: &KeyRef<'_>,
        states: States,
        (label, before): (Option<u32>, Option<u32>),
    ) -> bool {
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
        if let Some(before) = before {
            self.labels.give_back(before);
        }
        room
    }

    /// Takes a user over, where nothing newer is known of it. Callers take turns.
    pub(super) fn apply_user(&self, user: &UserRow) -> Fate {
        let Some(slot) = self.user_number(&user.id).and_then(|number| self.users.get(number)) else {
            return Fate::Full;
        };
        let known = slot.read();
        if known.as_ref().is_some_and(|known| user.stamp <= known.stamp) {
            return Fate::Unchanged;
        }
        let Some((flag_set, flags)) = self.labels.take_flags(&user.flags) else { return Fate::Full };
        let was_deleted = known.as_ref().is_some_and(|known| known.deleted);
        let deleted = user.deleted || was_deleted;
        put(&slot.core, UserCore { id: user.id.clone(), flags, active: user.active, deleted, stamp: user.stamp });
        let flag_set_before = slot.flag_set.swap(flag_set, Ordering::Relaxed);
        if known.is_none() {
            return Fate::New;
        }
        self.labels.give_flags_back(flag_set_before);
        if was_deleted && !user.deleted { Fate::Conflict } else { Fate::Changed }
    }

    /// Makes the deletion of `user` true here too. Whether anything had to change. Callers take turns.
    pub(super) fn keep_deleted(&self, user: &UserRow) -> bool {
        let slot = self.user_number(&user.id).and_then(|number| self.users.get(number));
        let Some((slot, known)) = slot.and_then(|slot| Some((slot, slot.read()?))) else {
            self.apply_user(user);
            return true;
        };
        if known.deleted {
            return false;
        }
        put(&slot.core, UserCore { deleted: true, ..UserCore::clone(&known) });
        true
    }

    /// The newest change known of a user; none if it is not known.
    pub(super) fn user_stamp(&self, user: &UserId) -> Option<Stamp> {
        let slot = self.users.get(self.user_ids.known(user)?)?;
        slot.read().map(|core| core.stamp)
    }

    /// Walks over all keys. Each is read whole, all of them not of one moment; no guard is held
    /// while `each` runs.
    pub(super) fn for_each_key(&self, mut each: impl FnMut(&KeyRef<'_>)) {
        self.for_each_numbered_key(|_number, key| each(key));
    }

    /// The same, with the numbers of their slots.
    pub(super) fn for_each_numbered_key(&self, mut each: impl FnMut(u32, &KeyRef<'_>)) {
        for head in self.map.heads() {
            self.with_key(head, |number, key| each(number, key));
        }
    }

    /// Walks over all users.
    pub(super) fn for_each_user(&self, mut each: impl FnMut(UserRow)) {
        for number in 0..u32::try_from(self.user_ids.len()).unwrap_or(u32::MAX) {
            if let Some(user) = self.user_row(number) {
                each(user);
            }
        }
    }

    /// What is known of a user.
    pub(super) fn user(&self, id: &UserId) -> Option<UserRow> {
        self.user_row(self.user_ids.known(id)?)
    }

    /// None where the feed has not brought it yet.
    fn user_row(&self, number: u32) -> Option<UserRow> {
        let core = self.users.get(number)?.read()?;
        let UserCore { id, flags, active, deleted, stamp } = &*core;
        Some(UserRow {
            id: id.clone(),
            flags: flags.as_ref().clone(),
            active: *active,
            deleted: *deleted,
            stamp: *stamp,
        })
    }

    /// The user of this number, known or not; none where there is no such number.
    fn numbered_user(&self, number: u32) -> Option<Held<UserCore>> {
        let known = self.users.get(number).and_then(UserSlot::read);
        known.or_else(|| Some(UserCore::unknown(self.user_ids.value(number)?.clone()).into()))
    }

    /// Hands over what is known of a key with the number of its slot. No guard is held meanwhile.
    pub(super) fn with_key<T>(&self, head: Head, hand: impl FnOnce(u32, &KeyRef<'_>) -> T) -> Option<T> {
        let (number, fields, stamp, label) = self.map.read(&head, |number, slot| {
            let rest = self.rests.get(number)?;
            let fields = slot.read(|| Some(rest))?;
            Some((number, fields, rest.stamp(), self.labels.get(fields.label)))
        })??;
        let label = label.unwrap_or_else(|| nowhere().into());
        let key = KeyRef {
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
        };
        Some(hand(number, &key))
    }

    fn user_number(&self, user: &UserId) -> Option<u32> {
        let number = self.user_ids.number_of(user)?;
        self.users.make(number)?;
        Some(number)
    }

    /// How many labels, projects, environments and sets of flags there is or was a place for at one time.
    #[cfg(test)]
    pub(super) fn shared_places(&self) -> [usize; 4] {
        let Labels { numbers, projects, environments, flag_sets, .. } = &self.labels;
        [numbers.places(), projects.places(), environments.places(), flag_sets.places()]
    }

    fn lineage(&self, fields: &Fields) -> Option<LineageId> {
        match fields.lineage {
            None => Some(fields.id.lineage()),
            Some(number) => self.lineages.value(number).copied(),
        }
    }
}
