//! The table that everyone shares.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::content::{Content, Fate, Numbers};
use super::head::Head;
use super::load::{Load, LoadRefused, Merged};
use super::reviews::{Reviewer, Reviews};
use super::row::{KeyRef, KeyRow, Row, UserRow};
use super::staleness::{Contact, Freshness};
use super::usage::Used;
use crate::clock::Timestamp;
use crate::key::{KeyId, Record, States, TokenHash, UserId};

/// The key set in memory. Shared by `Arc`; every method takes `&self` and none awaits.
#[derive(Debug)]
pub struct Table {
    content: ArcSwap<Content>,
    numbers: Arc<Numbers>,
    /// Whoever changes the content takes turns here; look-ups never do.
    writing: Mutex<Ahead>,
    applied: watch::Sender<u64>,
    turns: Turns,
    changes: Changes,
    readied: watch::Sender<bool>,
    reviews: Arc<Reviews>,
    generation: AtomicU64,
    contact: Contact,
}

/// The turns of whoever follows the store.
#[derive(Debug, Default)]
struct Turns {
    begun: AtomicU64,
    /// The newest that found all it had to follow, and reported it.
    whole: watch::Sender<u64>,
}

/// How often what is known has changed. Every request asks for the number, so that must take no lock; who waits for
/// the next change is told of it then.
#[derive(Debug, Default)]
struct Changes {
    version: AtomicU64,
    told: watch::Sender<u64>,
}

impl Changes {
    /// What is known has changed. Callers take turns.
    fn one_more(&self) {
        let version = self.version.load(Ordering::Relaxed) + 1;
        self.version.store(version, Ordering::Release);
        self.told.send_replace(version);
    }
}

/// How far the feed has brought the content, and what is ahead of it.
#[derive(Debug, Default)]
struct Ahead {
    /// Everything up to this revision is in the content.
    reached: u64,
    /// What misses found in the store, and the feed has yet to bring.
    found: Vec<(KeyRow, Option<UserRow>)>,
}

/// What the feed was to bring, because a miss had found it.
#[derive(Debug, Default)]
struct Awaited {
    keys: HashSet<Head>,
    users: HashSet<UserId>,
}

impl Awaited {
    fn of<'a>(found: impl Iterator<Item = &'a (KeyRow, Option<UserRow>)>) -> Self {
        let mut awaited = Self::default();
        for (key, user) in found {
            awaited.keys.insert(key.head);
            awaited.users.extend(user.as_ref().map(|user| user.id.clone()));
        }
        awaited
    }
}

/// The feed went past what was found in the store and did not bring it: the store's history is
/// another than it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotBrought;

/// What applying rows did.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Rows that changed what was known, new keys that do not work (known by a miss already or not), and all
    /// users: what must survive a restart.
    pub changed: Vec<Row>,
    /// Rows that tried to take back a terminal state. Each is an alarm.
    pub conflicts: Vec<Conflict>,
    /// Rows for which there was no room. Each is an alarm, and its key is refused.
    pub full: usize,
}

/// A row that tried to take back what is true for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// A key that is revoked or superseded here.
    Key(KeyId),
    /// A user that is deleted here.
    User(UserId),
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    /// A table that knows nothing, and is not ready to be asked.
    #[must_use]
    pub fn new() -> Self {
        Self {
            content: ArcSwap::from_pointee(Content::new()),
            numbers: Arc::new(Numbers::new()),
            writing: Mutex::default(),
            applied: watch::Sender::new(0),
            turns: Turns::default(),
            changes: Changes::default(),
            readied: watch::Sender::new(false),
            reviews: Arc::default(),
            generation: AtomicU64::new(0),
            contact: Contact::none(),
        }
    }

    /// The key whose token has this hash, revoked ones included; none if no such key is known.
    #[must_use]
    pub fn lookup(&self, hash: &TokenHash) -> Option<Record> {
        self.content.load().lookup(&Head::from(hash))
    }

    pub(super) fn content(&self) -> arc_swap::Guard<Arc<Content>> {
        self.content.load()
    }

    /// How the table stands towards the store.
    #[must_use]
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        self.contact.freshness(now)
    }

    /// Counts one use of the key in `slot`, a handle from [`Record::slot`].
    pub fn used(&self, slot: u32, now: Timestamp) {
        self.numbers.usage.add(slot, now, 1);
    }

    /// Moves on every change of what is known: whoever holds a stream open then decides again.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.told.subscribe()
    }

    /// How often what is known has changed.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.changes.version.load(Ordering::Acquire)
    }

    /// One more who holds streams open, and decides on them again whenever what is known has changed. It
    /// holds none now.
    #[must_use]
    pub fn reviewer(&self) -> Reviewer {
        self.reviews.join(self.version())
    }

    /// Up to which [`Table::version`] every stream that is open was decided on again, and cut where it is
    /// not permitted any more, by all who hold any.
    #[must_use]
    pub fn reviewed(&self) -> watch::Receiver<u64> {
        self.reviews.subscribe()
    }

    /// The newest revision applied whole, and remembered across a restart.
    #[must_use]
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until `revision` is applied. Cancel-safe.
    pub async fn wait_applied(&self, revision: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as `self`, so this ends only by the revision's arrival.
        let _closed = applied.wait_for(|&applied| applied >= revision).await;
    }

    /// The turn that was begun last, to be asked for before whoever follows the store is woken.
    #[must_use]
    pub fn turns_begun(&self) -> u64 {
        self.turns.begun.load(Ordering::Acquire)
    }

    /// Waits until `revision` of the store's history as it is after the turn `begun` is applied: one that was
    /// applied before may have been of a history that the store has left. Cancel-safe.
    pub async fn wait_applied_after(&self, begun: u64, revision: u64) {
        if self.applied() >= revision {
            let mut whole = self.turns.whole.subscribe();
            // As above.
            let _closed = whole.wait_for(|&whole| whole > begun).await;
        }
        self.wait_applied(revision).await;
    }

    /// Whoever follows the store is about to ask it. The number of this turn.
    #[must_use]
    pub fn begin_turn(&self) -> u64 {
        self.turns.begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Everything that the store had in this turn is applied and reported.
    pub fn end_turn(&self, turn: u64) {
        self.turns.whole.send_replace(turn);
    }

    /// How many keys are known, revoked ones included.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.content.load().keys()
    }

    /// Applies whole revisions, in the order given: what a row says holds at once, unless newer is
    /// known. [`Table::report`] then moves [`Table::applied`].
    pub fn apply(&self, rows: Vec<Row>) -> Applied {
        let _turn = self.writing.lock();
        self.apply_in_turn(rows, &Awaited::default())
    }

    fn apply_in_turn(&self, rows: Vec<Row>, awaited: &Awaited) -> Applied {
        let content = self.content.load();
        let mut applied = Applied::default();
        let mut moved = false;
        for row in rows {
            let fate = match &row {
                Row::Key(key) => content.apply_key(&key.view(), &self.numbers, None),
                Row::User(user) => content.apply_user(user),
            };
            moved |= fate != Fate::Unchanged;
            match (fate, &row) {
                // What a miss found is in force already, and is written down nowhere.
                (Fate::Unchanged, Row::Key(key))
                    if key.states != States::default() && awaited.keys.contains(&key.head) => {}
                (Fate::Unchanged, Row::User(user)) if awaited.users.contains(&user.id) => {}
                (Fate::Unchanged, _) => continue,
                // A key that is not remembered is refused anyway; that it ended must be, or a store
                // restored from a backup would revive it.
                (Fate::New, Row::Key(key)) if key.states == States::default() => continue,
                (Fate::New | Fate::Changed, _) => {}
                (Fate::Full, _) => applied.full += 1,
                (Fate::Conflict, Row::Key(key)) => applied.conflicts.push(Conflict::Key(key.id)),
                (Fate::Conflict, Row::User(user)) => applied.conflicts.push(Conflict::User(user.id.clone())),
            }
            applied.changed.push(row);
        }
        if moved {
            self.changes.one_more();
        }
        applied
    }

    /// How many keys were found in the store, and were not brought by the feed yet.
    #[must_use]
    pub fn finds(&self) -> usize {
        self.writing.lock().found.len()
    }

    /// Applies `rows` as [`Table::apply`] does: all that the feed has up to revision `through`, read after
    /// [`Table::finds`] was `finds`.
    ///
    /// # Errors
    /// When something that was found in the store is not among them. Nothing was applied.
    pub fn follow(&self, rows: Vec<Row>, finds: usize, through: u64) -> Result<Applied, NotBrought> {
        let mut ahead = self.writing.lock();
        // What was found before the store was asked, it cannot have lost since.
        let is_due = |at: usize, key: &KeyRow| at < finds || key.stamp.revision <= through;
        let due = || ahead.found.iter().enumerate().filter(|(at, (key, _))| is_due(*at, key)).map(|(_, found)| found);
        if !are_brought(due(), &rows) {
            // It is awaited still: until everything is read anew, the next look must find the same.
            return Err(NotBrought);
        }
        let awaited = Awaited::of(due());
        let mut at = 0..;
        ahead.found.retain(|(key, _)| at.next().is_some_and(|at| !is_due(at, key)));
        ahead.reached = through;
        Ok(self.apply_in_turn(rows, &awaited))
    }

    /// Everything up to `revision` is in the content, by whatever way it came.
    pub fn set_reached(&self, revision: u64) {
        self.writing.lock().reached = revision;
    }

    /// From here on every revision up to this one counts as applied.
    pub fn report(&self, revision: u64) {
        self.applied.send_if_modified(|applied| {
            let moves = *applied != revision;
            *applied = revision;
            moves
        });
    }

    /// Begins a key set beside this one.
    #[must_use]
    pub fn load(&self) -> Load {
        Load::beside(self.content.load_full(), Arc::clone(&self.numbers))
    }

    /// Puts a key set that was built beside into place, with all that is known here as revoked,
    /// superseded or deleted carried over. Usage counters stay.
    ///
    /// # Errors
    /// When more than `drop_max_percent` of the live keys would be lost: the table is as it was.
    pub fn swap(&self, load: Load, drop_max_percent: u8) -> Result<Merged, LoadRefused> {
        let mut ahead = self.writing.lock();
        let merged = load.merge(drop_max_percent)?;
        self.content.store(load.content);
        *ahead = Ahead::default();
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.changes.one_more();
        Ok(merged)
    }

    /// Puts a key set that was built beside into place as it is: what is known here as ended, and is not there,
    /// is known no more. Only where somebody has said that this is meant. Usage counters stay.
    pub fn replace(&self, load: Load) {
        let mut ahead = self.writing.lock();
        self.content.store(load.content);
        // Found in another history than this, which will not bring it.
        ahead.found.clear();
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.changes.one_more();
    }

    /// Which key set is in use: moves on every swap.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes over what a miss found in the store at `revision`, unless the table has moved past it
    /// or was swapped since `generation` was read, or somebody else is changing it now. The key as
    /// it is then to be decided on: `found`, the record of these rows, where nothing as new is known.
    #[must_use]
    pub fn insert_found(
        &self,
        generation: u64,
        revision: u64,
        key: &KeyRow,
        user: Option<&UserRow>,
        found: Record,
    ) -> Record {
        if let Some(mut ahead) = self.writing.try_lock() {
            let content = self.content.load();
            // A newer row of a known key or user must come by the feed, where it is journalled.
            let user_known =
                user.is_none_or(|user| content.user_stamp(&user.id).is_none_or(|known| known >= user.stamp));
            let is_new = self.generation() == generation && ahead.reached < revision && !content.knows(&key.head);
            if is_new && user_known {
                // A user that is known need not have changed with its key.
                let new = user.filter(|user| content.user_stamp(&user.id).is_none());
                if let Some(user) = new {
                    content.apply_user(user);
                }
                content.apply_key(&key.view(), &self.numbers, None);
                ahead.found.push((key.clone(), new.cloned()));
            }
        }
        let content = self.content.load();
        let known = content.stamp(&key.head).filter(|&known| known >= key.stamp);
        known.and_then(|_| content.lookup(&key.head)).unwrap_or(found)
    }

    /// Whether the key whose token has this hash was used here since the process began, whether that
    /// is written down already or not.
    #[must_use]
    pub fn was_used(&self, hash: &TokenHash) -> bool {
        self.lookup(hash).is_some_and(|record| self.numbers.usage.was_used(record.slot))
    }

    /// Takes all usage since the last drain, in the order of key ids, no instant later than `now`.
    #[must_use]
    pub fn drain_usage(&self, now: Timestamp) -> Vec<Used> {
        let content = self.content.load();
        self.numbers.usage.drain(now, |slot| content.id_of(slot))
    }

    /// Gives back what could not be written.
    pub fn give_back_usage(&self, used: &[Used]) {
        for used in used {
            let count = u32::try_from(used.count).unwrap_or(u32::MAX);
            self.numbers.usage.add(used.slot, used.last_used_at, count);
        }
    }

    /// Walks over all keys; see [`Table::for_each_user`].
    pub fn for_each_key(&self, each: impl FnMut(&KeyRef<'_>)) {
        self.content.load().for_each_key(each);
    }

    /// Walks over all users. Each row is read whole, but not all of them at one moment.
    pub fn for_each_user(&self, each: impl FnMut(UserRow)) {
        self.content.load().for_each_user(each);
    }

    /// How long the table may be out of contact before it is stale.
    pub fn set_max_staleness(&self, span: Duration) {
        self.contact.set_max_staleness(span);
    }

    /// What is known was loaded and may be decided on.
    pub fn set_ready(&self) {
        self.contact.set_ready();
        self.readied.send_replace(true);
    }

    /// Waits until the table may be asked. Cancel-safe.
    pub async fn wait_ready(&self) {
        let mut readied = self.readied.subscribe();
        // The sender lives as long as `self`, so this ends only by the table's getting ready.
        let _closed = readied.wait_for(|ready| *ready).await;
    }

    /// Whether the table may be asked.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.contact.is_ready()
    }

    /// The store was heard of at `now`, and nothing that it holds is missing here for long.
    pub fn contact_made(&self, now: Timestamp) {
        self.contact.made(now);
    }

    /// The store cannot be asked. Whether it could before.
    pub fn contact_lost(&self, now: Timestamp) -> bool {
        self.contact.lost(now)
    }

    /// Since when the store cannot be asked; none if it can.
    #[must_use]
    pub fn contact_lost_at(&self) -> Option<Timestamp> {
        self.contact.lost_at()
    }

    /// When the store was last heard of.
    #[must_use]
    pub fn last_contact(&self) -> Option<Timestamp> {
        self.contact.last()
    }

    /// The monotonic clock says that contact was lost too long ago, whatever the wall clock says.
    pub fn set_overdue(&self, overdue: bool) {
        self.contact.set_overdue(overdue);
    }
}

/// Whether the feed brought what was found: as it was then, or newer.
fn are_brought<'a>(found: impl Iterator<Item = &'a (KeyRow, Option<UserRow>)>, rows: &[Row]) -> bool {
    let (mut keys, mut users) = (HashMap::new(), HashMap::new());
    for (key, user) in found {
        keys.insert(key.head, key);
        users.extend(user.as_ref().map(|user| (&user.id, user)));
    }
    if keys.is_empty() {
        return true;
    }
    for row in rows {
        match row {
            Row::Key(row) => {
                let is_brought = |key: &&KeyRow| row.stamp > key.stamp || **row == **key;
                if keys.get(&row.head).is_some_and(is_brought) {
                    keys.remove(&row.head);
                }
            }
            Row::User(row) => {
                let is_brought = |user: &&UserRow| row.stamp > user.stamp || *row == **user;
                if users.get(&row.id).is_some_and(is_brought) {
                    users.remove(&row.id);
                }
            }
        }
    }
    keys.is_empty() && users.is_empty()
}
