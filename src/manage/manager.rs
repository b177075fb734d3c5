//! The manager: what can be done to keys and users.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::gateways::Glances;
use super::may::{Acting, Operation, Target};
use super::mint::Minter;
use super::once::Once;
use super::plan::{self, Plan};
use super::refusals::Refusals;
use super::revoke::revocation;
use super::staged::IMPORTED_AT_ONCE_MAX;
use super::{
    Answered, Authenticated, Caller, Changed, Created, ImportOptions, Imported, ImportedKey, KeyChange, KeyList,
    KeyView, ManageError, NewKey, RevokeScope, Rotated, UserDeleted, UserPatch, UserSet, Webhooks, import,
};
use crate::clock::Timestamp;
use crate::key::{Event, Key, KeyId, MintJwt, Shape, Stamp, Subject, Token, TokenHash, TokenPrefix, User, UserId};
use crate::store::{
    Changes, Committed, Cursor, EventQuery, Keep, KeyQuery, KeyUsage, OnceKey, Planned, ReadRequest, Reading,
    RefusalQuery, RefusalTally, SharedStore, StoreError, UsageUpdate, UserQuery,
};

/// How many keys a user may have that mints its own, where nothing else is said.
pub const KEYS_PER_USER_MAX: usize = 50;
/// Under which name the use of keys at the management API is counted.
const GATEWAY_OF_MANAGEMENT: &str = "management";

/// What gateways have counted of the use of keys and not yet written to the store. To be
/// implemented over every gateway that uses the store, or not at all.
pub trait LiveUsage: Send + Sync + fmt::Debug {
    /// Whether the key was used, as far as any gateway knows, since that gateway started.
    fn is_used(&self, key: &Key) -> bool;
}

/// Changes and reads keys and users of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Manager {
    pub(super) store: SharedStore,
    minter: Minter,
    keys_per_user_max: usize,
    usage_settled: Duration,
    counted: Arc<Counted>,
    pub(super) fleet: Arc<Glances>,
    pub(super) webhooks: Option<Webhooks>,
}

/// What is counted here and written to the store later.
#[derive(Debug, Default)]
pub(super) struct Counted {
    refusals: Refusals,
    /// The use of keys at the management API.
    uses: Mutex<HashMap<KeyId, (Timestamp, u64)>>,
    /// The keys that were used here since the process began.
    used: Mutex<std::collections::HashSet<KeyId>>,
    gateways: std::sync::OnceLock<Arc<dyn LiveUsage>>,
}

/// What is known of a key's use beyond what the store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was used.
    Used,
    /// It was not, as of now.
    Unused,
    /// Whoever may have used it is not known here.
    Unknown,
}

impl Counted {
    pub(super) fn seen(&self, key: &Key) -> Seen {
        if self.used.lock().contains(&key.id) {
            return Seen::Used;
        }
        match self.gateways.get() {
            None => Seen::Unknown,
            Some(gateways) if gateways.is_used(key) => Seen::Used,
            Some(_) => Seen::Unused,
        }
    }
}

/// A change that was committed, or found nothing to change.
pub(super) struct Done<T> {
    pub(super) outcome: T,
    pub(super) committed: Committed,
    /// Whether rows were written, and so carry the commit's stamp.
    pub(super) wrote: bool,
}

impl<T> Done<T> {
    /// Gives `key`, the `ordinal`th row of the change, the stamp that the store gives it.
    pub(super) fn settle_key(&self, key: &mut Key, ordinal: usize) {
        if self.wrote {
            key.updated_at = self.committed.at;
            key.stamp = self.stamp(ordinal);
        }
    }

    /// The outcome, and what is known of the commit.
    pub(super) fn apart(self) -> (T, Done<()>) {
        let Self { outcome, committed, wrote } = self;
        (outcome, Done { outcome: (), committed, wrote })
    }

    fn settle_user(&self, user: &mut User) {
        if self.wrote {
            user.updated_at = self.committed.at;
            user.stamp = self.stamp(0);
        }
    }

    fn stamp(&self, ordinal: usize) -> Stamp {
        Stamp { revision: self.committed.revision, ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX) }
    }
}

/// What is asked for: how the audit log names it, of what, and what has to be read for it.
pub(super) struct Asked {
    pub(super) operation: &'static str,
    pub(super) subject: Option<Subject>,
    pub(super) read: ReadRequest,
    /// Whether to hold it against what is committed first, so that what would be refused never
    /// waits for the store's one writer nor makes others wait.
    pub(super) first: First,
    /// What it does to the subject, where that makes the store read much: whoever may not is refused by
    /// its own row before.
    pub(super) glance: Option<Operation>,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// A look at what is committed.
    Look,
    /// The change itself, for nothing is more urgent.
    Change,
}

impl Asked {
    pub(super) const fn of(operation: &'static str, subject: Option<Subject>, read: ReadRequest) -> Self {
        Self { operation, subject, read, first: First::Look, glance: None }
    }
}

/// Makes the answer that is kept.
type Render<U> = Box<dyn Fn(&U) -> Vec<u8> + Send>;

/// What a plan of an import comes to.
pub(super) type TakenIn = Result<Plan<Vec<Key>>, ManageError>;

/// The answer to keep of a request that is done once.
pub(super) struct Kept<U> {
    pub(super) once: Once,
    pub(super) answer: Render<U>,
    /// The key whose token the answer tells.
    pub(super) key: fn(&U) -> Option<KeyId>,
}

/// Why a plan goes no further.
enum Stop {
    Refused(ManageError),
    Before { answer: Vec<u8>, revision: u64 },
}

/// What came of a change.
struct Came<U> {
    done: Option<(U, Vec<u8>)>,
    now: Timestamp,
}

impl Manager {
    /// A manager of `store` whose tokens begin with `prefix`.
    #[must_use]
    pub fn new(store: SharedStore, prefix: TokenPrefix) -> Self {
        let minter = Minter { prefix, jwt: None };
        Self {
            store,
            minter,
            keys_per_user_max: KEYS_PER_USER_MAX,
            usage_settled: plan::USAGE_SETTLED,
            counted: Arc::default(),
            fleet: Arc::default(),
            webhooks: None,
        }
    }

    /// This manager, minting keys in JWT form by `jwt`.
    #[must_use]
    pub fn with_jwt(mut self, jwt: Arc<dyn MintJwt>) -> Self {
        self.minter.jwt = Some(jwt);
        self
    }

    /// This manager, where a user that mints its own keys may have at most `most`.
    #[must_use]
    pub const fn with_keys_per_user_max(mut self, most: usize) -> Self {
        self.keys_per_user_max = most;
        self
    }

    /// This manager, where gateways write down so often which keys were used.
    #[must_use]
    pub fn with_usage_flush(mut self, every: Duration) -> Self {
        self.usage_settled = plan::USAGE_SETTLED.max(every.saturating_add(plan::USAGE_WRITTEN_WITHIN));
        self
    }

    /// This manager and all its clones, told of usage that the store does not know yet by
    /// `gateways`. Without it a rotation is not repeated within the first
    /// [`USAGE_SETTLED`](super::USAGE_SETTLED), or longer where gateways write usage down seldom, in which
    /// its successor may be in use unseen.
    #[must_use]
    pub fn with_live_usage(self, gateways: Arc<dyn LiveUsage>) -> Self {
        let _told_already = self.counted.gateways.set(gateways);
        self
    }

    pub(super) const fn keys_per_user_max(&self) -> usize {
        self.keys_per_user_max
    }

    pub(super) fn minter(&self) -> Minter {
        self.minter.clone()
    }

    /// Where the store holds no key at all: mints the first operator key, `keyward.**` with
    /// `may_grant = ["**"]` over all projects and environments. Else nothing.
    ///
    /// # Errors
    /// When the caller does not hold the master secret, or the store fails.
    pub async fn create_first_operator(&self, caller: &Caller) -> Result<Option<Created>, ManageError> {
        let (by, minter) = (caller.clone(), self.minter());
        let plan = move |reading: &Reading| {
            if reading.any_key {
                return Ok(Plan { changes: vec![], outcome: None });
            }
            let Plan { changes, outcome } = plan::create(&by, &plan::first_operator(), &minter, reading)?;
            Ok(Plan { changes, outcome: Some(outcome) })
        };
        let finish = |Done { outcome, committed, wrote }: Done<Option<plan::Minted>>| {
            outcome.map(|outcome| created(Done { outcome, committed, wrote }))
        };
        self.change(caller, Asked::of("create", None, ReadRequest::default()), plan, finish).await
    }

    /// Mints a key.
    ///
    /// # Errors
    /// When a value breaks a rule, the caller may not, or the store fails.
    pub async fn create_key(&self, caller: &Caller, new: NewKey) -> Result<Created, ManageError> {
        let (asked, plan) = self.creation(caller, new);
        let webhooks = self.webhooks.clone();
        self.change(caller, asked, plan, move |done| with_secret(created(done), webhooks.as_ref())).await
    }

    /// Mints a key, once. `answer` makes the answer that is kept; it runs inside the transaction.
    ///
    /// # Errors
    /// As [`Manager::create_key`], and when the same was asked for before with other words, or with
    /// the same so long ago that the answer is no longer kept.
    pub async fn create_key_once(
        &self,
        caller: &Caller,
        new: NewKey,
        once: Once,
        answer: impl Fn(&Created) -> Vec<u8> + Send + 'static,
    ) -> Result<Answered<Created>, ManageError> {
        let (asked, plan) = self.creation(caller, new);
        let kept = Kept { once, answer: Box::new(answer), key: |created: &Created| Some(created.key.id) };
        let webhooks = self.webhooks.clone();
        let finish = move |done| with_secret(created(done), webhooks.as_ref());
        self.change_once(caller, asked, plan, finish, kept).await
    }

    fn creation(
        &self,
        caller: &Caller,
        new: NewKey,
    ) -> (Asked, impl FnMut(&Reading) -> Result<Plan<plan::Minted>, ManageError> + Send + use<>) {
        let (by, minter) = (caller.clone(), self.minter());
        let webhook = self.check_webhook(new.rotation_webhook_url.as_deref());
        let read = ReadRequest { users: new.user.iter().cloned().collect(), ..ReadRequest::default() };
        let plan = move |reading: &Reading| {
            webhook.clone()?;
            plan::create(&by, &new, &minter, reading)
        };
        (Asked::of("create", None, read), plan)
    }

    /// Changes a key. Where nothing differs, nothing is written.
    ///
    /// # Errors
    /// When a value breaks a rule, the key is revoked or not there, the caller may not, or the
    /// store fails.
    pub async fn update_key(&self, caller: &Caller, id: KeyId, change: KeyChange) -> Result<Changed, ManageError> {
        let webhook = self.check_webhook(change.rotation_webhook_url.as_ref().and_then(Option::as_deref));
        let (by, is_told) = (caller.clone(), matches!(change.rotation_webhook_url, Some(Some(_))));
        // Whoever sets a URL is told the newest secret of the lineage.
        let lineage_of = is_told.then_some(id);
        let read = ReadRequest { keys: vec![id], disabled: Some(id), lineage_of, ..ReadRequest::default() };
        let plan = move |reading: &Reading| {
            webhook.clone()?;
            plan::update(&by, id, &change, reading)
        };
        let webhooks = self.webhooks.clone().filter(|_| is_told);
        let finish = move |done| {
            let mut changed = changed(done);
            let secret_of = |webhooks: &Webhooks| webhooks.secret_of(&changed.key, changed.committed.at);
            changed.webhook_secret = webhooks.as_ref().and_then(secret_of);
            changed
        };
        let glance = is_told.then_some(Operation::Update);
        let asked = Asked { glance, ..Asked::of("update", Some(Subject::Key(id)), read) };
        self.change(caller, asked, plan, finish).await
    }

    /// Replaces a key: mints its successor, and leaves the old key `grace` more, which may be zero,
    /// at most [`GRACE_MAX`](super::GRACE_MAX), and never more than its own expiry.
    ///
    /// A key that was rotated is refused, unless its successor was never used and the caller is the
    /// one who rotated it: then the successor is revoked and another minted.
    ///
    /// # Errors
    /// When the key does not work, was rotated, or is not there, the caller may not, or the store
    /// fails.
    pub async fn rotate_key(&self, caller: &Caller, id: KeyId, grace: Duration) -> Result<Rotated, ManageError> {
        let (asked, plan) = self.rotation(caller, id, grace);
        self.change(caller, asked, plan, rotated).await
    }

    /// Replaces a key, once. `answer` makes the answer that is kept; it runs inside the transaction.
    ///
    /// # Errors
    /// As [`Manager::rotate_key`], and when the same was asked for before with other words, or with
    /// the same so long ago that the answer is no longer kept.
    pub async fn rotate_key_once(
        &self,
        caller: &Caller,
        id: KeyId,
        grace: Duration,
        once: Once,
        answer: impl Fn(&Rotated) -> Vec<u8> + Send + 'static,
    ) -> Result<Answered<Rotated>, ManageError> {
        let (asked, plan) = self.rotation(caller, id, grace);
        let kept = Kept { once, answer: Box::new(answer), key: |rotated: &Rotated| Some(rotated.new.id) };
        self.change_once(caller, asked, plan, rotated, kept).await
    }

    fn rotation(
        &self,
        caller: &Caller,
        id: KeyId,
        grace: Duration,
    ) -> (Asked, impl FnMut(&Reading) -> Result<Plan<plan::Replaced>, ManageError> + Send + use<>) {
        let (by, minter, counted) = (caller.clone(), self.minter(), Arc::clone(&self.counted));
        let settled = self.usage_settled;
        // Of a long lineage all that matters is how often it was rotated lately, and what came last.
        let lineage_newest = plan::LINEAGE_READ;
        let read = ReadRequest { keys: vec![id], lineage_of: Some(id), lineage_newest, ..ReadRequest::default() };
        let plan = move |reading: &Reading| {
            let seen = |key: &Key| counted.seen(key);
            plan::rotate(&by, id, grace, &minter, plan::Usage { seen: &seen, settled }, reading)
        };
        (Asked::of("rotate", Some(Subject::Key(id)), read), plan)
    }

    /// Imports keys: all rows in one revision, or none. A dry run checks the same and writes
    /// nothing. Many rows are put aside in batches first, between which others write.
    ///
    /// # Errors
    /// [`ManageError::Import`] with every row that is refused; when the caller may not, or the
    /// store fails.
    pub async fn import_keys(
        &self,
        caller: &Caller,
        rows: Vec<ImportedKey>,
        options: ImportOptions,
    ) -> Result<Imported, ManageError> {
        let lines: Vec<_> = rows.iter().map(|row| (row.line, import::other_hash_of(&row.secret))).collect();
        let (asked, mut plan) = self.taking_in(caller, rows, options);
        if options.dry_run {
            let reading = self.asked(caller, asked.read).await?;
            return Ok(Imported { keys: plan(&reading)?.outcome, committed: None });
        }
        if lines.len() > IMPORTED_AT_ONCE_MAX {
            return self.import_staged(caller, asked, plan, lines).await;
        }
        self.change(caller, asked, plan, imported).await
    }

    /// Imports keys, once. `answer` makes the answer that is kept; it runs inside the transaction.
    ///
    /// # Errors
    /// As [`Manager::import_keys`], and when the same was asked for before with other words.
    pub async fn import_keys_once(
        &self,
        caller: &Caller,
        rows: Vec<ImportedKey>,
        options: ImportOptions,
        once: Once,
        answer: impl Fn(&Imported) -> Vec<u8> + Send + 'static,
    ) -> Result<Answered<Imported>, ManageError> {
        if options.dry_run {
            let outcome = self.import_keys(caller, rows, options).await?;
            return Ok(Answered::First { answer: answer(&outcome), outcome });
        }
        let (asked, plan) = self.taking_in(caller, rows, options);
        let kept = Kept { once, answer: Box::new(answer), key: |_: &Imported| None };
        self.change_once(caller, asked, plan, imported, kept).await
    }

    pub(super) fn taking_in(
        &self,
        caller: &Caller,
        rows: Vec<ImportedKey>,
        options: ImportOptions,
    ) -> (Asked, impl FnMut(&Reading) -> TakenIn + Send + use<>) {
        let mut users: Vec<UserId> = rows.iter().filter_map(|row| row.user.clone()).collect();
        users.sort_unstable();
        users.dedup();
        let read = ReadRequest { users, hashes: import::hashes(&rows), ..ReadRequest::default() };
        let (by, prefix) = (caller.clone(), self.minter.prefix.clone());
        let plan = move |reading: &Reading| import::import(&by, &rows, options, &prefix, reading);
        (Asked::of("import", None, read), plan)
    }

    /// Makes a user, or changes what is known of it. Its keys follow in the same revision.
    ///
    /// # Errors
    /// When a value breaks a rule, the user was deleted, the caller may not, or the store fails.
    pub async fn set_user(&self, caller: &Caller, change: impl Into<UserPatch>) -> Result<UserSet, ManageError> {
        let (by, change) = (caller.clone(), change.into());
        let id = change.id.clone();
        let read = ReadRequest { users: vec![id.clone()], keys_of_user: Some(id.clone()), ..ReadRequest::default() };
        let plan = move |reading: &Reading| plan::set_user(&by, &change, reading);
        let finish = |done: Done<(User, bool)>| {
            let (mut user, created) = done.outcome.clone();
            done.settle_user(&mut user);
            UserSet { user, created, committed: done.committed }
        };
        let asked = Asked::of("set_user", Some(Subject::User(id)), read);
        self.change(caller, Asked { glance: Some(Operation::WriteUsers), ..asked }, plan, finish).await
    }

    /// Deletes a user and revokes its keys, in one revision. Its id is never used again.
    ///
    /// # Errors
    /// When the user is not there, the caller may not, or the store fails.
    pub async fn delete_user(&self, caller: &Caller, id: UserId) -> Result<UserDeleted, ManageError> {
        let by = caller.clone();
        let asked = deletion(caller, &id);
        let plan = move |reading: &Reading| plan::delete_user(&by, &id, reading);
        let finish = |done: Done<(User, Vec<Key>)>| {
            let (mut user, mut keys) = done.outcome.clone();
            done.settle_user(&mut user);
            for (at, key) in keys.iter_mut().enumerate() {
                done.settle_key(key, at + 1);
            }
            UserDeleted { user, keys, committed: done.committed }
        };
        self.change(caller, asked, plan, finish).await
    }

    /// Revokes a key or deletes a user that ended before, in a store that has forgotten it, unless the history of
    /// the store is another by now than that of which `at` is a place: somebody may have said that it is meant to
    /// be forgotten. As of which revision it has ended; none where the history was another.
    ///
    /// # Errors
    /// When the key or user is not there, the caller may not, or the store fails.
    pub async fn end_again(&self, caller: &Caller, subject: Subject, at: Cursor) -> Result<Option<u64>, ManageError> {
        let mut asked = match &subject {
            Subject::Key(id) => revocation(caller, *id, RevokeScope::Key),
            Subject::User(id) => deletion(caller, id),
        };
        asked.read.leads_on_from = Some(at);
        let by = caller.clone();
        let plan = move |reading: &Reading| {
            if !reading.leads_on {
                return Ok(Plan { changes: vec![], outcome: false });
            }
            let changes = match &subject {
                Subject::Key(id) => plan::revoke(&by, *id, RevokeScope::Key, reading)?.changes,
                Subject::User(id) => plan::delete_user(&by, id, reading)?.changes,
            };
            Ok(Plan { changes, outcome: true })
        };
        self.change(caller, asked, plan, |done| done.outcome.then_some(done.committed.revision)).await
    }

    /// Whose token this is. Counts as a use of its key.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn authenticate(&self, token: &Token) -> Result<Authenticated, ManageError> {
        let Some((view, now)) = self.of_token(token).await? else { return Ok(Authenticated::Unknown) };
        if !view.status.is_usable() {
            return Ok(Authenticated::NotLive { id: view.key.id, status: view.status });
        }
        let id = view.key.id;
        let mut uses = self.counted.uses.lock();
        let (last, count) = uses.entry(id).or_insert((now, 0));
        (*last, *count) = (now.max(*last), count.saturating_add(1));
        drop(uses);
        self.counted.used.lock().insert(id);
        Ok(Authenticated::Live(Box::new(view)))
    }

    /// The key of a token that somebody presented elsewhere, as far as the caller may know of it. Needs
    /// `keyward.verify`.
    ///
    /// # Errors
    /// When the caller may not, or the store fails.
    pub async fn find_token(&self, caller: &Caller, token: &Token) -> Result<Option<KeyView>, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::Verify)?;
        acting.scope()?;
        let found = self.of_token(token).await?.map(|(view, _)| view);
        Ok(found.filter(|view| acting.sees(Target::Key { key: &view.key, user: view.user.as_ref() })))
    }

    /// The key of a token, and the store's clock.
    async fn of_token(&self, token: &Token) -> Result<Option<(KeyView, Timestamp)>, ManageError> {
        let text = token.expose().as_bytes();
        let mut hashes = vec![token.hash()];
        if Shape::of(text, &self.minter.prefix) == Shape::Foreign {
            hashes.push(TokenHash::sha256_of(text));
        }
        let reading = self.store.read(ReadRequest { hashes: hashes.clone(), ..ReadRequest::default() }).await?;
        let found = hashes.iter().find_map(|hash| reading.keys.iter().find(|key| key.hash == *hash));
        Ok(found.map(|key| {
            let user = reading.user_of(key).cloned();
            (view((key.clone(), user, None), reading.now), reading.now)
        }))
    }

    /// One key.
    ///
    /// # Errors
    /// When it is not there, the caller may not, or the store fails.
    pub async fn key(&self, caller: &Caller, id: KeyId) -> Result<KeyView, ManageError> {
        let reading = self.asked(caller, ReadRequest { keys: vec![id], ..ReadRequest::default() }).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadKeys)?;
        let (key, user) = plan::seen(id, &reading, acting)?;
        let usage = reading.usage.iter().find(|usage| usage.key == id).copied();
        Ok(view((key.clone(), user.cloned(), usage), reading.now))
    }

    /// A key and all that it replaced or was replaced by, oldest first, each with its usage.
    ///
    /// # Errors
    /// When the key is not there, the caller may not, or the store fails.
    pub async fn lineage(&self, caller: &Caller, id: KeyId) -> Result<Vec<KeyView>, ManageError> {
        let read = ReadRequest { keys: vec![id], lineage_of: Some(id), ..ReadRequest::default() };
        let reading = self.asked(caller, read).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadKeys)?;
        let (target, _) = plan::seen(id, &reading, acting)?;
        let usage = |id| reading.usage.iter().find(|usage| usage.key == id).copied();
        let kin = reading.keys.iter().filter(|key| key.lineage == target.lineage);
        let seen = kin.filter(|key| acting.sees(Target::Key { key, user: reading.user_of(key) }));
        let views = seen.map(|key| view((key.clone(), reading.user_of(key).cloned(), usage(key.id)), reading.now));
        let mut views: Vec<KeyView> = views.collect();
        views.sort_by_key(|view| (view.key.created_at, view.key.id));
        Ok(views)
    }

    /// Keys, newest first: of those that the caller may see.
    ///
    /// # Errors
    /// When the query names a project or environment that the caller does not manage or a key to go on
    /// from that is not there for it, the caller may not read keys, or the store fails.
    pub async fn keys(&self, caller: &Caller, mut query: KeyQuery) -> Result<KeyList, ManageError> {
        let read = ReadRequest { keys: query.before.into_iter().collect(), ..ReadRequest::default() };
        let reading = self.asked(caller, read).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadKeys)?;
        let there = |id| plan::seen(id, &reading, acting).is_ok();
        if query.before.is_some_and(|before| !there(before)) {
            return Err(ManageError::BadCursor);
        }
        if let Some(scope) = acting.scope()? {
            query.project = narrowed("project_id", query.project, scope.project.as_ref())?;
            query.environment = narrowed("environment_id", query.environment, scope.environment.as_ref())?;
        }
        self.list(query, reading.now).await
    }

    pub(super) async fn list(&self, query: KeyQuery, now: Timestamp) -> Result<KeyList, ManageError> {
        let page = self.store.list_keys(query).await?;
        let keys = page.keys.into_iter().map(|listed| view(listed, now)).collect();
        Ok(KeyList { keys, damaged: page.damaged, next: page.next })
    }

    /// One user.
    ///
    /// # Errors
    /// When it is not there or deleted, the caller may not, or the store fails.
    pub async fn user(&self, caller: &Caller, id: UserId) -> Result<User, ManageError> {
        let reading = self.asked(caller, ReadRequest { users: vec![id.clone()], ..ReadRequest::default() }).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadUsers)?;
        let user = reading.user(&id).filter(|user| !user.deleted && acting.sees(Target::User(user)));
        user.cloned().ok_or(ManageError::UserNotFound { id })
    }

    /// Users by id, of those that the caller may see. Deleted ones are left out.
    ///
    /// # Errors
    /// When the query names a project that the caller does not manage or a user to go on from that is not
    /// there for it, the caller may not read users, or the store fails.
    pub async fn users(&self, caller: &Caller, mut query: UserQuery) -> Result<Vec<User>, ManageError> {
        let read = ReadRequest { users: query.after.iter().cloned().collect(), ..ReadRequest::default() };
        let reading = self.asked(caller, read).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadUsers)?;
        let there = |id| reading.user(id).is_some_and(|user| acting.sees(Target::User(user)));
        if query.after.as_ref().is_some_and(|after| !there(after)) {
            return Err(ManageError::BadCursor);
        }
        if let Some(scope) = acting.scope()? {
            query.project = narrowed("project_id", query.project, scope.project.as_ref())?;
        }
        Ok(self.store.list_users(UserQuery { undeleted: true, ..query }).await?)
    }

    /// Events, oldest first. An event may be of any project, so only whoever manages all of them
    /// reads events.
    ///
    /// # Errors
    /// When the caller may not read events, or the store fails.
    pub async fn events(&self, caller: &Caller, query: EventQuery) -> Result<Vec<Event>, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadEvents)?;
        all_projects(acting)?;
        Ok(self.store.list_events(query).await?)
    }

    /// Refused attempts to change something, newest first, counted by the minute. For whoever may
    /// read events.
    ///
    /// # Errors
    /// When the caller may not read events, or the store fails.
    pub async fn refusals(&self, caller: &Caller, query: RefusalQuery) -> Result<Vec<RefusalTally>, ManageError> {
        let reading = self.asked(caller, ReadRequest::default()).await?;
        let acting = Acting::of(caller, &reading)?;
        acting.is_permitted(Operation::ReadEvents)?;
        all_projects(acting)?;
        self.write_refusals(self.counted.refusals.take()).await;
        Ok(self.store.list_refusals(query).await?)
    }

    /// Writes what was counted here, and forgets what is past its time: to be called every few
    /// seconds while requests are served, and once more at the end.
    ///
    /// # Errors
    /// When the store fails; what was counted is written another time.
    pub async fn write_back(&self) -> Result<(), ManageError> {
        self.write_refusals(self.counted.refusals.take()).await;
        let uses = std::mem::take(&mut *self.counted.uses.lock());
        let updates =
            uses.iter().map(|(key, (last, count))| UsageUpdate { key: *key, last_used_at: *last, count: *count });
        let updates: Vec<UsageUpdate> = updates.collect();
        if !updates.is_empty()
            && let Err(error) = self.store.record_usage(GATEWAY_OF_MANAGEMENT.to_owned(), updates).await
        {
            let mut newer = self.counted.uses.lock();
            for (key, (last, count)) in uses {
                let (newest, sum) = newer.entry(key).or_insert((last, 0));
                (*newest, *sum) = (last.max(*newest), sum.saturating_add(count));
            }
            return Err(error.into());
        }
        Ok(self.store.tidy().await?)
    }

    async fn write_refusals(&self, tallies: Vec<RefusalTally>) {
        if tallies.is_empty() {
            return;
        }
        if let Err(error) = self.store.record_refusals(tallies.clone()).await {
            tracing::warn!(error = %error, "refused attempts could not be written to the audit log yet");
            self.counted.refusals.give_back(tallies);
        }
    }

    /// What `request` asks for, and the caller's own key.
    pub(super) async fn asked(&self, caller: &Caller, mut request: ReadRequest) -> Result<Reading, StoreError> {
        request.keys.extend(caller.key());
        self.store.read(request).await
    }

    /// Runs `plan` in one mutation, on what is asked for and the caller's own key. `finish` makes the
    /// outcome of it, inside the transaction.
    pub(super) async fn change<T: 'static, U: Send + 'static>(
        &self,
        caller: &Caller,
        asked: Asked,
        plan: impl FnMut(&Reading) -> Result<Plan<T>, ManageError> + Send + 'static,
        finish: impl Fn(Done<T>) -> U + Send + 'static,
    ) -> Result<U, ManageError> {
        match self.answered(caller, asked, plan, finish, None).await? {
            Answered::First { outcome, .. } => Ok(outcome),
            // Only a request with a key of its own is ever answered from what is kept.
            Answered::Again { .. } => Err(ManageError::IdempotencyConflict),
        }
    }

    /// [`Manager::change`], of a request that is done once.
    pub(super) async fn change_once<T: 'static, U: Send + 'static>(
        &self,
        caller: &Caller,
        mut asked: Asked,
        plan: impl FnMut(&Reading) -> Result<Plan<T>, ManageError> + Send + 'static,
        finish: impl Fn(Done<T>) -> U + Send + 'static,
        kept: Kept<U>,
    ) -> Result<Answered<U>, ManageError> {
        asked.read.once = Some(kept.once.key);
        self.answered(caller, asked, plan, finish, Some(kept)).await
    }

    async fn answered<T: 'static, U: Send + 'static>(
        &self,
        caller: &Caller,
        asked: Asked,
        plan: impl FnMut(&Reading) -> Result<Plan<T>, ManageError> + Send + 'static,
        finish: impl Fn(Done<T>) -> U + Send + 'static,
        kept: Option<Kept<U>>,
    ) -> Result<Answered<U>, ManageError> {
        let Asked { operation, subject, mut read, first, glance } = asked;
        if let Some((glance, subject)) = glance.zip(subject.as_ref()) {
            self.glance(caller, (operation, glance), subject, kept.as_ref().map(|kept| kept.once.key)).await?;
        }
        read.keys.extend(caller.key());
        let came = Arc::new(Mutex::new(Came { done: None, now: Timestamp::EPOCH }));
        let mut decide = decision(caller.clone(), plan, finish, kept, Arc::clone(&came));
        let outcome = if first == First::Look {
            let reading = self.store.read(read.clone()).await?;
            match decide(&reading) {
                Err(stop) => Ok(Err(stop)),
                Ok(_) => self.store.mutate(read, Box::new(decide)).await,
            }
        } else {
            self.store.mutate(read, Box::new(decide)).await
        };
        let refused = match outcome {
            Ok(Ok(_committed)) => {
                let (outcome, answer) = came.lock().done.take().expect("what was committed was planned");
                return Ok(Answered::First { outcome, answer });
            }
            Ok(Err(stop)) => match *stop.downcast::<Stop>().expect("the plan stops with nothing else") {
                Stop::Before { answer, revision } => return Ok(Answered::Again { answer, revision }),
                Stop::Refused(error) => error,
            },
            Err(StoreError::DuplicateToken { existing, .. }) => ManageError::DuplicateToken { existing },
            Err(error) => return Err(error.into()),
        };
        let now = came.lock().now;
        Err(self.refused(caller, operation, subject, refused, now).await)
    }

    /// Refuses, by the caller's row and the subject's alone, whoever may not do this: so that nothing
    /// more is read for it, and the store's one writer does not wait for that. Nobody is refused what was done
    /// before. Whether it was not, as far as `once` tells.
    pub(super) async fn glance(
        &self,
        caller: &Caller,
        (operation, glance): (&'static str, Operation),
        subject: &Subject,
        once: Option<OnceKey>,
    ) -> Result<bool, ManageError> {
        if caller.key().is_none() && once.is_none() {
            return Ok(true);
        }
        let mut read = ReadRequest { once, ..ReadRequest::default() };
        match subject {
            Subject::Key(id) => read.keys.push(*id),
            Subject::User(id) => read.users.push(id.clone()),
        }
        let reading = self.asked(caller, read).await?;
        if reading.once.is_some() || caller.key().is_none() {
            return Ok(reading.once.is_none());
        }
        match plan::glance(caller, glance, subject, &reading) {
            Ok(()) => Ok(true),
            Err(error) => Err(self.refused(caller, operation, Some(subject.clone()), error, reading.now).await),
        }
    }

    /// Counts what was refused for the audit log.
    pub(super) async fn refused(
        &self,
        caller: &Caller,
        operation: &'static str,
        subject: Option<Subject>,
        error: ManageError,
        now: Timestamp,
    ) -> ManageError {
        if error.is_refusal()
            && let Some(due) = self.counted.refusals.count(caller, operation, subject, &error, now)
        {
            self.write_refusals(due).await;
        }
        error
    }
}

/// What decides inside the transaction: whether it was done before, what the plan says, and what is
/// kept of it.
fn decision<T: 'static, U: Send + 'static>(
    caller: Caller,
    mut plan: impl FnMut(&Reading) -> Result<Plan<T>, ManageError> + Send + 'static,
    finish: impl Fn(Done<T>) -> U + Send + 'static,
    kept: Option<Kept<U>>,
    came: Arc<Mutex<Came<U>>>,
) -> impl FnMut(&Reading) -> Planned + Send + 'static {
    let mut decide = move |reading: &Reading| -> Result<Changes, Stop> {
        came.lock().now = reading.now;
        if let (Some(kept), Some(before)) = (&kept, &reading.once) {
            // Whoever no longer works learns nothing, not even what it was told before.
            Acting::of(&caller, reading).map_err(Stop::Refused)?;
            let answer = kept.once.replay(before).map_err(Stop::Refused)?;
            return Err(Stop::Before { answer, revision: before.revision });
        }
        let Plan { changes, outcome } = plan(reading).map_err(Stop::Refused)?;
        let wrote = !changes.is_empty();
        let Cursor { revision, commit } = if wrote { reading.next } else { reading.newest };
        let done = finish(Done { outcome, committed: Committed { revision, commit, at: reading.now }, wrote });
        let (answer, keep) = match &kept {
            None => (Vec::new(), None),
            Some(kept) => {
                let answer = (kept.answer)(&done);
                let keep = keep(kept, &done, &answer, reading.now).map_err(Stop::Refused)?;
                (answer, Some(keep))
            }
        };
        came.lock().done = Some((done, answer));
        Ok(Changes { from: caller.address(), keep, ..Changes::by(caller.actor(), changes) })
    };
    move |reading| decide(reading).map_err(|stop| Box::new(stop) as Box<dyn Any + Send>)
}

fn keep<U>(kept: &Kept<U>, done: &U, answer: &[u8], now: Timestamp) -> Result<Keep, ManageError> {
    Ok(kept.once.keep(answer, (kept.key)(done), now)?)
}

fn deletion(caller: &Caller, id: &UserId) -> Asked {
    let read = ReadRequest {
        users: vec![id.clone()],
        keys_of_user: Some(id.clone()),
        ended_by_gateways: !caller.is_gateway(),
        ..ReadRequest::default()
    };
    let asked = Asked::of("delete_user", Some(Subject::User(id.clone())), read);
    Asked { first: First::Change, glance: Some(Operation::DeleteUser), ..asked }
}

/// What is of all projects is for whoever manages all of them.
pub(super) fn all_projects(acting: Acting<'_>) -> Result<(), ManageError> {
    match acting.scope()? {
        Some(scope) if scope.project.is_some() || scope.environment.is_some() => {
            Err(ManageError::OutOfScope { field: "project_id", found: "what is of all projects".to_owned() })
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn created(done: Done<plan::Minted>) -> Created {
    let mut key = done.outcome.key.clone();
    done.settle_key(&mut key, 0);
    Created { key, user: done.outcome.user, token: done.outcome.token, webhook_secret: None, committed: done.committed }
}

fn with_secret(mut made: Created, webhooks: Option<&Webhooks>) -> Created {
    made.webhook_secret = webhooks.and_then(|webhooks| webhooks.secret_of(&made.key, made.committed.at));
    made
}

pub(super) fn changed(done: Done<(Key, Option<User>)>) -> Changed {
    let ((mut key, user), done) = done.apart();
    done.settle_key(&mut key, 0);
    Changed { key, user, webhook_secret: None, committed: done.committed }
}

fn rotated(done: Done<plan::Replaced>) -> Rotated {
    let (mut new, mut old) = (done.outcome.new.clone(), done.outcome.old.clone());
    done.settle_key(&mut new, 0);
    done.settle_key(&mut old, 1);
    Rotated { old, new, token: done.outcome.token, revoked: done.outcome.unused, committed: done.committed }
}

fn imported(mut done: Done<Vec<Key>>) -> Imported {
    let mut keys = std::mem::take(&mut done.outcome);
    for (ordinal, key) in keys.iter_mut().enumerate() {
        done.settle_key(key, ordinal);
    }
    Imported { keys, committed: Some(done.committed) }
}

pub(super) fn view((key, user, usage): (Key, Option<User>, Option<KeyUsage>), now: Timestamp) -> KeyView {
    let status = key.status(user.as_ref(), now);
    KeyView { key, user, usage, status }
}

/// What a query may ask for where the caller manages only `managed`.
fn narrowed<T: PartialEq + Clone + ToString>(
    field: &'static str,
    asked: Option<T>,
    managed: Option<&T>,
) -> Result<Option<T>, ManageError> {
    match (asked, managed) {
        (Some(asked), Some(managed)) if asked != *managed => {
            Err(ManageError::OutOfScope { field, found: asked.to_string() })
        }
        (None, Some(managed)) => Ok(Some(managed.clone())),
        (asked, _) => Ok(asked),
    }
}
