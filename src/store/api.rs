//! The store's contract.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::key::{
    Actor, EnvironmentId, Event, EventKind, Key, KeyCore, KeyId, LineageId, ProjectId, Stamp, Status, Subject,
    TokenHash, User, UserId,
};

/// A boxed future, so that the trait can be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// 128 random bits that name a store for as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub u128);

/// 128 random bits that name one commit: the same revision of another history has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CommitId(pub u128);

/// What a store was asked, and could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached now; the same call may succeed later.
    #[error("the store {store} cannot be used now: {cause}")]
    Unavailable {
        /// Which store.
        store: String,
        /// What it said.
        cause: String,
    },
    /// The store is not there.
    #[error("no store at {store}: put it back, or make a new one with `keyward init`")]
    Missing {
        /// Which store.
        store: String,
    },
    /// The store was written by a newer program.
    #[error("the store {store} has schema {found}, and this program knows up to {known}: run the newer keyward")]
    TooNew {
        /// Which store.
        store: String,
        /// Its schema number.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// What is stored cannot be read.
    #[error("the store {store} is damaged: {cause}; restore it from a backup")]
    Damaged {
        /// Which store.
        store: String,
        /// What is wrong.
        cause: String,
    },
    /// The file at the store's path is another than the one that was opened: nothing was written.
    #[error("the store file {store} was replaced while open; nothing was changed, try again")]
    Replaced {
        /// Which store.
        store: String,
    },
    /// The file at the store's path, or the database, belongs to another store than the one that was opened.
    #[error("{store} now holds another store; put the right one back, or restart to use this one")]
    OtherStore {
        /// Which store.
        store: String,
    },
    /// The store is a copy of another, and not all of it.
    #[error("the store {store} is a copy that was not finished: run `keyward store copy` again, which goes on with it")]
    Unfinished {
        /// Which store.
        store: String,
    },
    /// A backup cannot be made, or cannot be restored.
    #[error("the backup {file}: {cause}")]
    Backup {
        /// The backup's file.
        file: String,
        /// What is wrong, and what to do.
        cause: String,
    },
    /// A secret's fingerprint is not the stored one.
    #[error("the master secret is not the one that the store {store} was made with: use that secret's file")]
    WrongSecret {
        /// Which store.
        store: String,
    },
    /// A row with this token hash exists already.
    #[error("the token of row {row} is already stored as {existing}")]
    DuplicateToken {
        /// Which of the rows to write, from 0.
        row: usize,
        /// The key that has it.
        existing: KeyId,
    },
    /// A stage does not hold what shall be taken in.
    #[error("what was staged in {store} is gone: another import has the same tokens, or it took too long; start again")]
    StageLost {
        /// Which store.
        store: String,
    },
}

/// What a mutation wants to read inside its transaction, before it decides.
#[derive(Debug, Clone, Default)]
pub struct ReadRequest {
    /// These keys; the user of each is read with it.
    pub keys: Vec<KeyId>,
    /// These users.
    pub users: Vec<UserId>,
    /// All keys of this user that are not revoked.
    pub keys_of_user: Option<UserId>,
    /// All keys of the lineage of this key.
    pub lineage_of: Option<KeyId>,
    /// No more than so many of that lineage, those that were stored last; 0 for all.
    pub lineage_newest: usize,
    /// All keys minted, directly or through others, by this key.
    pub descendants_of: Option<KeyId>,
    /// No more than so many of those, each after the one that minted it; 0 for all.
    pub descendants_max: usize,
    /// Keys that have one of these hashes.
    pub hashes: Vec<TokenHash>,
    /// What was answered to this request before, if it was.
    pub once: Option<OnceKey>,
    /// How many keys this user has that have not ended.
    pub count_of_user: Option<UserId>,
    /// Who last switched this key off.
    pub disabled: Option<KeyId>,
    /// Whether any user changed after this revision.
    pub users_changed_after: Option<u64>,
    /// How many keys this user's own keys made for it within this long.
    pub made_for_itself: Option<(UserId, Duration)>,
    /// The newest events of this key, so many.
    pub newest_events: Option<(KeyId, usize)>,
    /// Which of the keys and users that are read were ended by gateways.
    pub ended_by_gateways: bool,
    /// Whether this is a place of the store's history.
    pub leads_on_from: Option<Cursor>,
}

/// What was read inside the transaction, all of one moment.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The keys asked for, each once, in no order.
    pub keys: Vec<Key>,
    /// The users asked for and those of the keys.
    pub users: Vec<User>,
    /// The usage of the keys that [`ReadRequest::keys`] and `lineage_of` named.
    pub usage: Vec<KeyUsage>,
    /// The store's clock.
    pub now: Timestamp,
    /// Whether the store holds any key at all.
    pub any_key: bool,
    /// The newest revision that is committed.
    pub newest: Cursor,
    /// The revision and commit id that this mutation will have if it changes anything; outside of a
    /// mutation, the newest.
    pub next: Cursor,
    /// What was answered to [`ReadRequest::once`], in the last [`ONCE_KEPT`].
    pub once: Option<Kept>,
    /// How many keys [`ReadRequest::count_of_user`] has that are neither revoked nor superseded nor
    /// expired; counted up to [`COUNTED_MAX`].
    pub count_of_user: usize,
    /// The newest event that switched off [`ReadRequest::disabled`].
    pub disabled: Option<Event>,
    /// Whether any user changed after [`ReadRequest::users_changed_after`].
    pub users_changed: bool,
    /// How many of the newest [`COUNTED_MAX`] keys of the user that [`ReadRequest::made_for_itself`] names
    /// were minted by another key of that user, so lately, whatever became of them since.
    pub made_for_itself: usize,
    /// The events that [`ReadRequest::newest_events`] asks for, newest first.
    pub newest_events: Vec<Event>,
    /// Where [`ReadRequest::ended_by_gateways`] asks: the keys that are revoked and the users that are
    /// deleted by nobody but a gateway, which a restored backup had forgotten them.
    pub ended_by_gateways: HashSet<Subject>,
    /// Whether [`ReadRequest::leads_on_from`] is a place of the store's history: neither was another put in its
    /// place since, nor was one accepted.
    pub leads_on: bool,
}

impl Reading {
    /// The key of this id, if it was read.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// The user of this id, if it was read.
    #[must_use]
    pub fn user(&self, id: &UserId) -> Option<&User> {
        self.users.iter().find(|user| user.id == *id)
    }

    /// The user of `key`, if it has one and it was read.
    #[must_use]
    pub fn user_of(&self, key: &Key) -> Option<&User> {
        key.user.as_ref().and_then(|id| self.user(id))
    }
}

/// One row to write and the event that tells of it. Stamps in the rows are ignored: the store sets
/// them, `created_at` of new rows aside, to the transaction's own. A key's hash, lineage, format,
/// user, minter and birth never change once it is stored.
#[derive(Debug, Clone)]
pub struct Change {
    /// The row as it shall be.
    pub row: Row,
    /// What happened.
    pub event: NewEvent,
}

/// A row that changes.
#[derive(Debug, Clone)]
pub enum Row {
    /// A key, inserted where its id is new.
    Key(Box<Key>),
    /// A user, inserted where its id is new.
    User(User),
}

/// The event of one changed row.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What happened.
    pub kind: EventKind,
    /// What changed, field by field. Never a token, hash or secret.
    pub changes: std::collections::BTreeMap<String, String>,
}

/// What names one request that shall be done once: a digest of who asks, what for, and the key that
/// the caller chose for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OnceKey(pub [u8; 32]);

/// How long the answer to a request that shall be done once is remembered.
pub const ONCE_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How far [`Reading::count_of_user`] counts.
pub const COUNTED_MAX: usize = 10_000;
/// How long refused attempts are remembered.
pub const REFUSALS_KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// An answer to keep, in the transaction of the mutation that it answers.
#[derive(Clone)]
pub struct Keep {
    /// Which request.
    pub once: OnceKey,
    /// The digest of what was asked.
    pub request: [u8; 32],
    /// The key that was minted, if one was.
    pub key: Option<KeyId>,
    /// The answer, encrypted by whoever asked for it to be kept.
    pub sealed: Vec<u8>,
    /// From when on the answer itself is forgotten.
    pub until: Timestamp,
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keep").field("once", &self.once).field("key", &self.key).finish_non_exhaustive()
    }
}

/// An answer that was kept.
#[derive(Clone)]
pub struct Kept {
    /// The digest of what was asked.
    pub request: [u8; 32],
    /// The key that was minted, if one was.
    pub key: Option<KeyId>,
    /// The revision of the mutation.
    pub revision: u64,
    /// The answer as it was kept; none once it is forgotten.
    pub sealed: Option<Vec<u8>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("key", &self.key).field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// What names rows that are put aside, and taken in all at once by one mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StageId(pub u128);

/// How long what was staged is kept when nothing is added to it and nobody takes it in.
pub const STAGE_KEPT: Duration = Duration::from_secs(60 * 60);

/// New keys to put aside.
#[derive(Debug, Clone)]
pub struct Staging {
    /// Where. A stage begins with the first keys that are put there.
    pub stage: StageId,
    /// Who does it.
    pub actor: Actor,
    /// The address it was asked from.
    pub from: Option<IpAddr>,
    /// The keys, which come after those that the stage holds already.
    pub keys: Vec<StagedKey>,
}

/// A new key to put aside, and the event that will tell of it.
#[derive(Debug, Clone)]
pub struct StagedKey {
    /// The key.
    pub key: Key,
    /// What happened.
    pub event: NewEvent,
    /// What else its token may be known by, so that no token is stored in two forms.
    pub other_hash: Option<TokenHash>,
}

/// A whole stage, to be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// Which.
    pub stage: StageId,
    /// How many keys it holds.
    pub keys: u32,
}

/// All that one mutation writes: one revision, and an ordinal for each change. Users come before
/// keys, which may need them; else the order is this one.
#[derive(Debug, Clone)]
pub struct Changes {
    /// Who does it.
    pub actor: Actor,
    /// The address it was asked from.
    pub from: Option<IpAddr>,
    /// The rows and their events. Empty, with nothing staged: no row is written and no revision is used.
    pub changes: Vec<Change>,
    /// The answer to keep.
    pub keep: Option<Keep>,
    /// What was staged and comes true with this. Its keys have the first ordinals, in the order in which
    /// they were staged. Taking it in costs the same however many they are.
    pub staged: Option<Staged>,
}

impl Changes {
    /// These changes by `actor`, asked from no address.
    #[must_use]
    pub const fn by(actor: Actor, changes: Vec<Change>) -> Self {
        Self { actor, from: None, changes, keep: None, staged: None }
    }
}

/// Why a plan refused, as its caller boxed it. The store only hands it back.
pub type Refusal = Box<dyn std::any::Any + Send>;

/// What a plan made of what was read: changes, or a refusal that rolls everything back.
pub type Planned = Result<Changes, Refusal>;

/// What decides, on what was read in the transaction, what is written.
pub type Plan = Box<dyn FnMut(&Reading) -> Planned + Send>;

/// What a mutation came to: a commit, or its plan's own refusal.
pub type Outcome = Result<Committed, Refusal>;

/// A key and its user.
pub type OwnedKey = (Key, Option<User>);

/// A key with its user and its usage.
pub type ListedKey = (Key, Option<User>, Option<KeyUsage>);

/// Keys that were listed.
#[derive(Debug, Clone, Default)]
pub struct KeyPage {
    /// The keys, newest first.
    pub keys: Vec<ListedKey>,
    /// Rows that may belong here and cannot be read, with why.
    pub damaged: Vec<(Damaged, String)>,
    /// Where there may be more: the key after which to go on. A page may hold fewer keys than were
    /// asked for, even none, and still say so, where few of very many keys are wanted.
    pub next: Option<KeyId>,
}

/// Refused attempts of one kind within one minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusalTally {
    /// The beginning of the minute, by the clock of whoever refused.
    pub minute: Timestamp,
    /// Who asked.
    pub actor: Actor,
    /// The address it was asked from; none at the command line, or where there were too many.
    pub from: Option<IpAddr>,
    /// What for, in a word.
    pub operation: String,
    /// Why it was refused, as a code.
    pub code: String,
    /// The key or user that was named last.
    pub subject: Option<Subject>,
    /// How often.
    pub count: u64,
    /// When last.
    pub last_at: Timestamp,
}

/// Which refused attempts to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct RefusalQuery {
    /// Of minutes before this one.
    pub before: Option<Timestamp>,
    /// Of this actor.
    pub actor: Option<Actor>,
    /// At most so many; 0 for all.
    pub limit: usize,
}

/// A secret's number and fingerprint.
pub type NumberedSecret = (u32, [u8; 32]);

/// What a store answers, once it does.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A mutation that was committed, or found nothing to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The revision that holds the change; where nothing changed, the revision at that moment.
    pub revision: u64,
    /// The commit id of that revision.
    pub commit: CommitId,
    /// When, by the store's clock.
    pub at: Timestamp,
}

/// Where a reader of the feed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The last revision applied whole; 0 for none.
    pub revision: u64,
    /// The commit id at that revision, as the reader saw it.
    pub commit: CommitId,
}

/// What one poll of the store says, read in one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    /// The store's id.
    pub store: StoreId,
    /// The newest revision and its commit id.
    pub newest: Cursor,
    /// The commit id at the reader's own revision; none where that revision is pruned or has never
    /// been in this history. A reader at revision 0 gets the default id.
    pub at_cursor: Option<CommitId>,
    /// The store's clock.
    pub now: Timestamp,
}

impl Poll {
    /// Whether the store's history is the one of which `cursor`, where it was asked from, is a place.
    #[must_use]
    pub fn leads_on_from(&self, cursor: Cursor) -> bool {
        let commit = if cursor.revision == 0 { CommitId::default() } else { cursor.commit };
        self.at_cursor == Some(commit) && self.newest.revision >= cursor.revision
    }
}

/// What a feed read hands over, one row at a time.
#[derive(Debug, Clone)]
pub enum Batch {
    /// A row as it stands at the snapshot, with the event's stamp that made it due, in order.
    Row(Stamp, Row),
    /// A row that changed and cannot be read, with why. What it grants is unknown, so whoever
    /// follows must grant nothing by it; the rows after it are none the worse.
    Damaged(Stamp, Damaged, String),
    /// Every row up to here was handed over: the reader stands at this cursor.
    End(Poll),
}

/// What a row that cannot be read is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damaged {
    /// A key.
    Key {
        /// Its id.
        id: KeyId,
        /// Its hash, where that can be read.
        hash: Option<TokenHash>,
    },
    /// A user.
    User(UserId),
    /// Nothing that could be named, and so nothing that a reader could know.
    Unnamed,
}

/// What a load hands over, one row at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// A key.
    Key(KeyCore),
    /// A user.
    User(User),
    /// A row that cannot be read, with why; see [`Batch::Damaged`].
    Damaged(Damaged, String),
}

/// Takes what one lane of a load hands over.
pub type LoadLane = Box<dyn FnMut(Loaded) + Send>;

/// Which keys to list. Newest first, in the order in which they were stored.
#[derive(Debug, Clone, Default)]
pub struct KeyQuery {
    /// Of this project.
    pub project: Option<ProjectId>,
    /// Of this environment.
    pub environment: Option<EnvironmentId>,
    /// Of this user.
    pub user: Option<UserId>,
    /// Of this status, at the store's clock.
    pub status: Option<Status>,
    /// Whose name contains this text (ASCII letters in either case), or whose id or shown prefix
    /// begins with it.
    pub text: Option<String>,
    /// That expire within this many days, and have not yet.
    pub expires_within_days: Option<u32>,
    /// Not used for this many days; a key that was never used counts from its creation.
    pub unused_for_days: Option<u32>,
    /// Of this lineage.
    pub lineage: Option<LineageId>,
    /// Not those that are revoked.
    pub unrevoked: bool,
    /// Older than this key.
    pub before: Option<KeyId>,
    /// At most so many; 0 for all.
    pub limit: usize,
}

/// Which users to list, by id.
#[derive(Debug, Clone, Default)]
pub struct UserQuery {
    /// Of this project.
    pub project: Option<ProjectId>,
    /// Not those that are deleted.
    pub undeleted: bool,
    /// Whose ids come after this one.
    pub after: Option<UserId>,
    /// At most so many; 0 for all.
    pub limit: usize,
}

/// Which events to list, oldest first.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// After this place.
    pub after: Stamp,
    /// Of this subject.
    pub subject: Option<Subject>,
    /// At most so many; 0 for all.
    pub limit: usize,
}

/// How much a key was used, over all gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUsage {
    /// The key.
    pub key: KeyId,
    /// When last.
    pub last_used_at: Timestamp,
    /// How often.
    pub count: u64,
}

/// How much a key was used on one gateway since the last such update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageUpdate {
    /// The key.
    pub key: KeyId,
    /// When last.
    pub last_used_at: Timestamp,
    /// How often since the last update.
    pub count: u64,
}

/// A store. Every call may block for as long as the store does; none holds a lock across calls.
pub trait Store: Send + Sync + fmt::Debug {
    /// What it is called in messages: the file's path or the server's address, never a password.
    fn name(&self) -> &str;

    /// The store's id, as it was opened.
    fn id(&self) -> StoreId;

    /// The part of it that announcements are kept in; none where it keeps none.
    fn rotation(&self) -> Option<&dyn super::RotationStore> {
        None
    }

    /// The part of it that is copied; none where it cannot be.
    fn copies(&self) -> Option<&dyn super::CopyStore> {
        None
    }

    /// The part of it that knows of restored backups; none where it knows of none.
    fn history(&self) -> Option<&dyn super::HistoryStore> {
        None
    }

    /// The part of it that knows which gateways follow it; none where it knows none.
    fn fleet(&self) -> Option<&dyn super::FleetStore> {
        None
    }

    /// One mutation: counter row, read, plan, write, commit. `plan` runs inside the transaction and
    /// may run again if the transaction is retried. A plan that panics changes nothing.
    ///
    /// # Errors
    /// Of the outer result: the store failed, and nothing was committed. Of the inner: the plan's
    /// own refusal, and nothing was changed.
    fn mutate(&self, read: ReadRequest, plan: Plan) -> Answer<'_, Outcome>;

    /// Puts new keys aside in one short transaction that uses no revision and waits behind every
    /// mutation that is asked for meanwhile. No read shows them and no token finds them until one
    /// mutation takes in the whole stage by [`Changes::staged`]; what is written under one of their
    /// hashes before that takes the hash for itself, and the stage is lost. Answers for how long nobody
    /// else could write.
    ///
    /// # Errors
    /// [`StoreError::DuplicateToken`] with the place in this call of the first key whose token is stored
    /// or staged here already, and [`StoreError::StageLost`]; then nothing of this call is staged.
    fn stage(&self, staging: Staging) -> Answer<'_, Duration>;

    /// Gives up a stage, if it is there and not taken in: [`Store::tidy`] forgets it.
    fn unstage(&self, stage: StageId) -> Answer<'_, ()>;

    /// Reads of one moment, outside any mutation.
    fn read(&self, read: ReadRequest) -> Answer<'_, Reading>;

    /// The key that has this hash, its user, and the newest revision: of one moment.
    fn find(&self, hash: TokenHash) -> Answer<'_, (Option<OwnedKey>, Cursor)>;

    /// Keys with their usage, newest first. With a limit the work is bounded, and so the page may
    /// be short of it; without one it holds all there are. A damaged row is named and holds up none
    /// of the others.
    fn list_keys(&self, query: KeyQuery) -> Answer<'_, KeyPage>;

    /// Users by id.
    fn list_users(&self, query: UserQuery) -> Answer<'_, Vec<User>>;

    /// Events, oldest first.
    fn list_events(&self, query: EventQuery) -> Answer<'_, Vec<Event>>;

    /// One poll for a reader that stands at `cursor`.
    fn poll(&self, cursor: Cursor) -> Answer<'_, Poll>;

    /// Waits until the store has reason to believe that there is news, or `at_most` has passed.
    /// A hint: it may wake for nothing, and the poll is the truth. News that came while nobody
    /// waited wakes the next who does.
    fn wait_for_news(&self, at_most: Duration) -> BoxFuture<'_, ()>;

    /// Hands over everything that changed after `cursor`, in the order of the events, the users of
    /// a revision before its keys, then [`Batch::End`], all of one snapshot. A row that changed
    /// more than once comes as often, each time as it stands at the snapshot. `sink` runs on the
    /// store's thread. After revision 0: the whole content, users first, each row once. One row
    /// that cannot be read is handed over as such and holds up none of the others.
    ///
    /// # Errors
    /// The store failed: what was handed over is no complete revision and must be dropped.
    fn changes_after(&self, cursor: Cursor, sink: Box<dyn FnMut(Batch) + Send>) -> Answer<'_, ()>;

    /// Hands over the whole content, each row once and of a key no more than decides on requests, to
    /// whichever of `lanes`: as many are served at the same time as the store finds good, each by one thread
    /// at a time. All of it is of the snapshot that the answer describes, for a reader at revision 0.
    /// [`Store::changes_after`] revision 0 hands over the same, whole and in one lane.
    ///
    /// # Errors
    /// The store failed: what was handed over must be dropped.
    fn load(&self, lanes: Vec<LoadLane>) -> Answer<'_, Poll> {
        Box::pin(async move {
            let end = Arc::new(Mutex::new(None));
            let mut lane = lanes.into_iter().next();
            let sink = {
                let end = Arc::clone(&end);
                move |batch| {
                    let loaded = match batch {
                        Batch::Row(_, Row::Key(key)) => Loaded::Key(KeyCore::from(*key)),
                        Batch::Row(_, Row::User(user)) => Loaded::User(user),
                        Batch::Damaged(_, what, cause) => Loaded::Damaged(what, cause),
                        Batch::End(poll) => return *end.lock() = Some(poll),
                    };
                    if let Some(lane) = &mut lane {
                        lane(loaded);
                    }
                }
            };
            self.changes_after(Cursor::default(), Box::new(sink)).await?;
            let end = end.lock().take();
            let early = || "it ended its answer early".to_owned();
            end.ok_or_else(|| StoreError::Unavailable { store: self.name().to_owned(), cause: early() })
        })
    }

    /// Hands over one page of everything that is stored: users by id, then keys by id, those after
    /// `after` and at most `limit` rows; then [`Batch::End`] for a reader at `cursor`, all of one
    /// snapshot. A page of fewer rows is the last.
    ///
    /// # Errors
    /// The store failed, or cannot be walked over.
    fn walk(
        &self,
        cursor: Cursor,
        after: Option<Subject>,
        limit: u32,
        sink: Box<dyn FnMut(Batch) + Send>,
    ) -> Answer<'_, ()> {
        drop((cursor, after, limit, sink));
        let cannot = "it cannot be walked over".to_owned();
        Box::pin(async { Err(StoreError::Unavailable { store: self.name().to_owned(), cause: cannot }) })
    }

    /// Adds up usage: counts are added, instants only move forward and never past the store's
    /// clock. Keys that are not stored are left out. Uses no revision.
    fn record_usage(&self, gateway: String, updates: Vec<UsageUpdate>) -> Answer<'_, ()>;

    /// Adds up refused attempts: counts are added, the last subject and instant kept. Uses no
    /// revision, and waits behind every mutation that is asked for meanwhile.
    fn record_refusals(&self, tallies: Vec<RefusalTally>) -> Answer<'_, ()>;

    /// Refused attempts, newest first.
    fn list_refusals(&self, query: RefusalQuery) -> Answer<'_, Vec<RefusalTally>>;

    /// Forgets all answers and refused attempts whose time has come, and stages that were given up or
    /// left alone for [`STAGE_KEPT`], few at a time. Waits behind mutations too.
    fn tidy(&self) -> Answer<'_, ()>;

    /// Holds a secret's fingerprint against the stored one of that number. A store that knows no
    /// secret at all takes this one as its own; one that knows others only is not matched.
    fn check_secret(&self, number: u32, fingerprint: [u8; 32]) -> Answer<'_, ()>;

    /// The number and fingerprint of every secret the store knows.
    fn secrets(&self) -> Answer<'_, Vec<NumberedSecret>>;

    /// Adds the fingerprint of a secret that comes after all that are known. One that is known already is
    /// found right.
    ///
    /// # Errors
    /// [`StoreError::WrongSecret`] where another has that number or a greater one.
    fn add_secret(&self, number: u32, fingerprint: [u8; 32]) -> Answer<'_, ()>;

    /// Forgets a secret's fingerprint, unless it is the only one. One that is not known is forgotten.
    fn forget_secret(&self, number: u32) -> Answer<'_, ()>;
}

/// A store that many share.
pub type SharedStore = Arc<dyn Store>;
