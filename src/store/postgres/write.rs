//! What is written. Mutations go through one task, one transaction at a time: those that wait
//! together are committed together, each in a savepoint of its own, so that one that is refused
//! takes nothing from the others, and a flush of the server's disk is shared. All else is written
//! beside them, for it needs neither the counter nor its lock.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::fault::Fault;
use super::read;
use super::rows::{REAL, id_of, json, subject_columns, to_count, to_sql};
use super::session::{self, NOW, Param, Transaction};
use super::{CHANNEL, Shared, stage};
use crate::clock::Timestamp;
use crate::key::{Actor, EnvironmentId, Grants, Key, KeyId, ProjectId, TokenHash, User, UserId};
use crate::secret;
use crate::store::{
    Change, Changes, CommitId, Committed, Cursor, Keep, NewEvent, ONCE_KEPT, Outcome, Plan, REFUSALS_KEPT, ReadRequest,
    Reading, Refusal, RefusalTally, Row, StoreError, UsageUpdate,
};

/// How many mutations share one commit at most: the server keeps note of so many savepoints in
/// memory that others read cheaply.
const GROUP_MAX: usize = 60;
/// How often a transaction that was not committed is run again, where that may help.
const TRIED_MAX: usize = 5;
/// How many rows are written by one statement at most.
const ROWS_MAX: usize = 1000;
/// How long a commit whose answer was lost is asked after.
const RESOLVED_WITHIN: Duration = Duration::from_secs(60);

/// One mutation.
pub(super) struct Member {
    pub(super) read: ReadRequest,
    pub(super) plan: Plan,
    pub(super) reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// Serves mutations until nobody can ask for another.
pub(super) async fn serve(shared: Arc<Shared>, mut requests: UnboundedReceiver<Member>) {
    // Commits whose answer was lost: what became of them is found out while others go on.
    let mut unresolved = JoinSet::new();
    let mut group = Vec::new();
    while requests.recv_many(&mut group, GROUP_MAX).await > 0 {
        while unresolved.try_join_next().is_some() {}
        group.retain(|member| !member.reply.is_closed());
        if !group.is_empty() {
            mutate(&shared, std::mem::take(&mut group), &mut unresolved).await;
        }
    }
}

/// What was written by a transaction that is about to be committed.
struct Written {
    outcomes: Vec<Result<Outcome, StoreError>>,
    /// By what one knows that it was committed; none where nothing is to be.
    proof: Option<Proof>,
}

/// What is in the store if, and only if, a transaction was committed.
#[derive(Debug, Clone, Copy)]
enum Proof {
    /// A revision of this commit id.
    Revision(Cursor),
    /// An answer kept by this name at this instant.
    Kept([u8; 32], Timestamp),
}

async fn mutate(shared: &Arc<Shared>, mut members: Vec<Member>, unresolved: &mut JoinSet<()>) {
    let mut tried = 0;
    let failed = loop {
        tried += 1;
        match attempt(shared, &mut members).await {
            Ok((transaction, written)) => {
                let Some(proof) = written.proof else {
                    transaction.leave();
                    return answer(members, written.outcomes);
                };
                match transaction.commit().await {
                    Ok(()) => {
                        shared.tell();
                        return answer(members, written.outcomes);
                    }
                    // The server said why it did not: nothing was changed.
                    Err(Fault::Sql(error)) if error.as_db_error().is_some() && !is_unsure(&error) => {
                        break Fault::Sql(error);
                    }
                    Err(fault) => {
                        tracing::warn!(store = %shared.name, cause = %fault.told(&shared.name),
                            "the answer to a commit was lost; asking what became of it");
                        let shared = Arc::clone(shared);
                        unresolved.spawn(async move {
                            let outcomes = match resolve(&shared, proof).await {
                                Ok(()) => {
                                    shared.tell();
                                    written.outcomes
                                }
                                Err(error) => members.iter().map(|_| Err(error.clone())).collect(),
                            };
                            answer(members, outcomes);
                        });
                        return;
                    }
                }
            }
            Err(fault) if tried < TRIED_MAX && (fault.is_lost_connection() || fault.is_passing()) => {
                tokio::time::sleep(shared.pause(tried)).await;
            }
            Err(fault) => break fault,
        }
    };
    let error = failed.told(&shared.name);
    let outcomes = members.iter().map(|_| Err(error.clone())).collect();
    answer(members, outcomes);
}

/// Whether an error that came in the place of a commit's answer leaves open whether it was done: the
/// server was going down.
fn is_unsure(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| code.code().starts_with("57P") || code.code().starts_with("08"))
}

fn answer(members: Vec<Member>, outcomes: Vec<Result<Outcome, StoreError>>) {
    for (member, outcome) in members.into_iter().zip(outcomes) {
        // Whoever no longer waits for the answer needs none.
        let _gone = member.reply.send(outcome);
    }
}

/// Finds out what became of a commit. A transaction that is still under way on the server holds the
/// counter's lock, so with that lock in hand it has ended one way or the other.
///
/// # Errors
/// Nothing was changed; or, said in so many words, nobody knows.
async fn resolve(shared: &Shared, proof: Proof) -> Result<(), StoreError> {
    let unknown = |cause: String| StoreError::Unavailable {
        store: shared.name.clone(),
        cause: format!(
            "the connection was lost while a change was committed, and whether it was made is not known: {cause}"
        ),
    };
    let asked = async {
        let mut tried = 0;
        loop {
            tried += 1;
            match is_committed(shared, proof).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    return Err(
                        Fault::Around("the connection was lost; nothing was changed".to_owned()).told(&shared.name)
                    );
                }
                Err(fault @ (Fault::Told(_) | Fault::NoStore | Fault::Stored(_))) => {
                    return Err(unknown(fault.told(&shared.name).to_string()));
                }
                Err(_away) => tokio::time::sleep(shared.pause(tried)).await,
            }
        }
    };
    match tokio::time::timeout(RESOLVED_WITHIN, asked).await {
        Ok(resolved) => resolved,
        Err(_elapsed) => Err(unknown("the server cannot be asked".to_owned())),
    }
}

async fn is_committed(shared: &Shared, proof: Proof) -> Result<bool, Fault> {
    let transaction = shared.begin(session::Kind::Write, None).await?;
    transaction.simple("SELECT 1 FROM keyward.counter FOR UPDATE").await?;
    let row = match proof {
        Proof::Revision(Cursor { revision, commit }) => {
            let (revision, commit) = (to_sql(revision), Uuid::from_u128(commit.0));
            let params: [Param<'_>; 2] = [(&revision, Type::INT8), (&commit, Type::UUID)];
            transaction.first("SELECT 1 FROM keyward.revisions WHERE revision = $1 AND commit_id = $2", &params).await?
        }
        Proof::Kept(once, at) => {
            let params: [Param<'_>; 2] = [(&once.as_slice(), Type::BYTEA), (&at.nanos(), Type::INT8)];
            transaction.first("SELECT 1 FROM keyward.once WHERE once = $1 AND at = $2", &params).await?
        }
    };
    transaction.leave();
    Ok(row.is_some())
}

fn random_commit() -> Result<CommitId, Fault> {
    Ok(CommitId(u128::from_be_bytes(secret::random()?)))
}

/// Runs a group up to its commit.
async fn attempt(shared: &Shared, members: &mut [Member]) -> Result<(Transaction, Written), Fault> {
    let first = random_commit()?;
    // All in one go: nothing is done where the beginning fails. What was acknowledged shall survive a
    // crash, whatever else this database may be lax about.
    let sql = format!(
        "{}; SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'; \
         UPDATE keyward.counter SET revision = revision + 1, previous_id = commit_id, commit_id = '{}' \
         RETURNING revision, previous_id, {NOW}; \
         SELECT EXISTS (SELECT 1 FROM keyward.keys k WHERE {REAL}), (SELECT store_id::text FROM keyward.meta)",
        shared.opening(session::WRITING, shared.statement_timeout),
        Uuid::from_u128(first.0)
    );
    let (transaction, rows) = shared.begin_by(&sql, None).await?;
    // The last is read once the lock is ours, and so knows what was committed while we waited for it.
    let [.., row, store] = rows.as_slice() else { return Err(read::no_counter()) };
    if row.len() != 3 {
        return Err(read::no_counter());
    }
    shared.is_this_store(store.get(1))?;
    let revision: u64 = row.get(0).and_then(|text| text.parse().ok()).ok_or_else(session::unexpected)?;
    let previous = row.get(1).and_then(|text| Uuid::parse_str(text).ok()).ok_or_else(session::unexpected)?;
    let at = shared.time(row.get(2))?;
    let base = Cursor { revision: revision - 1, commit: CommitId(previous.as_u128()) };
    let mut group = Group {
        transaction: &transaction,
        at,
        newest: base,
        next: Cursor { revision, commit: first },
        any_key: store.get(0) == Some("t"),
        kept: None,
        store: &shared.name,
    };
    let alone = members.len() == 1;
    let mut outcomes = Vec::with_capacity(members.len());
    for member in members {
        outcomes.push(if alone { group.alone(member).await } else { group.in_savepoint(member).await }?);
    }
    let Group { newest, kept, .. } = group;
    let outcomes = outcomes.into_iter().map(|outcome| outcome.map_err(|fault| fault.told(&shared.name))).collect();
    let proof = if newest.revision > base.revision {
        let notify = format!("SELECT pg_notify('{CHANNEL}', '{}')", newest.revision);
        if newest.revision > revision {
            set_counter(&transaction, newest).await?;
        }
        transaction.simple(&notify).await?;
        Some(Proof::Revision(newest))
    } else if let Some((once, at)) = kept {
        // Answers alone use no revision.
        set_counter(&transaction, base).await?;
        Some(Proof::Kept(once, at))
    } else {
        None
    };
    Ok((transaction, Written { outcomes, proof }))
}

async fn set_counter(transaction: &Transaction, to: Cursor) -> Result<(), Fault> {
    let (revision, commit) = (to_sql(to.revision), Uuid::from_u128(to.commit.0));
    let params: [Param<'_>; 2] = [(&revision, Type::INT8), (&commit, Type::UUID)];
    transaction.execute("UPDATE keyward.counter SET revision = $1, commit_id = $2", &params).await?;
    Ok(())
}

/// Mutations of one transaction. Its lock on the counter keeps others out, so revisions are counted
/// here and written down at the end.
struct Group<'a> {
    transaction: &'a Transaction,
    at: Timestamp,
    newest: Cursor,
    next: Cursor,
    any_key: bool,
    kept: Option<([u8; 32], Timestamp)>,
    /// What the store is called.
    store: &'a str,
}

enum Attempt {
    Written(Committed),
    Nothing,
    Refused(Refusal),
}

impl Group<'_> {
    /// The one mutation of its transaction. The outer error ends that.
    async fn alone(&mut self, member: &mut Member) -> Result<Result<Outcome, Fault>, Fault> {
        match self.attempt(member).await {
            Ok(attempt) => Ok(Ok(self.outcome(attempt)?)),
            // Its transaction is of no more use, but is dropped with whatever else it holds.
            Err(fault) if is_its_own(&fault) => Ok(Err(fault)),
            Err(fault) => Err(fault),
        }
    }

    /// One mutation of several. The outer error ends the transaction of all.
    async fn in_savepoint(&mut self, member: &mut Member) -> Result<Result<Outcome, Fault>, Fault> {
        self.transaction.simple("SAVEPOINT member").await?;
        match self.attempt(member).await {
            Ok(attempt) => {
                let undo = matches!(attempt, Attempt::Refused(_));
                let end = if undo { "ROLLBACK TO member; RELEASE member" } else { "RELEASE member" };
                self.transaction.simple(end).await?;
                Ok(Ok(self.outcome(attempt)?))
            }
            Err(fault) if fault.is_lost_connection() || fault.is_passing() => Err(fault),
            Err(fault) => {
                self.transaction.simple("ROLLBACK TO member; RELEASE member").await?;
                Ok(Err(fault))
            }
        }
    }

    fn outcome(&mut self, attempt: Attempt) -> Result<Outcome, Fault> {
        Ok(match attempt {
            Attempt::Written(committed) => {
                self.newest = self.next;
                self.next = Cursor { revision: self.next.revision + 1, commit: random_commit()? };
                Ok(committed)
            }
            Attempt::Nothing => {
                Ok(Committed { revision: self.newest.revision, commit: self.newest.commit, at: self.at })
            }
            Attempt::Refused(refusal) => Err(refusal),
        })
    }

    async fn attempt(&mut self, member: &mut Member) -> Result<Attempt, Fault> {
        let base =
            Reading { now: self.at, any_key: self.any_key, newest: self.newest, next: self.next, ..Reading::default() };
        let reading = read::fill(self.transaction, &member.read, base).await?;
        let planned = catch_unwind(AssertUnwindSafe(|| (member.plan)(&reading)));
        let changes = match planned {
            Ok(Ok(changes)) => changes,
            Ok(Err(refusal)) => return Ok(Attempt::Refused(refusal)),
            Err(_panic) => return Err(Fault::Around("the mutation panicked, and nothing was changed".to_owned())),
        };
        if changes.changes.is_empty() && changes.staged.is_none() {
            if let Some(keep) = &changes.keep {
                write_kept(self.transaction, keep, self.newest.revision, self.at).await?;
                self.kept = Some((keep.once.0, self.at));
            }
            return Ok(Attempt::Nothing);
        }
        refuse_duplicates(self.transaction, &changes).await?;
        let makes_key =
            changes.staged.is_some() || changes.changes.iter().any(|change| matches!(change.row, Row::Key(_)));
        let committed = Committed { revision: self.next.revision, commit: self.next.commit, at: self.at };
        write(self.transaction, changes, committed, self.store).await?;
        self.any_key |= makes_key;
        Ok(Attempt::Written(committed))
    }
}

/// Whether a failure is of what was asked for, and not of the connection it was asked by.
fn is_its_own(fault: &Fault) -> bool {
    !fault.is_lost_connection() && !fault.is_passing()
}

/// A token is found by its hash alone, so no two rows may share one.
async fn refuse_duplicates(transaction: &Transaction, changes: &Changes) -> Result<(), Fault> {
    let keys = changes.changes.iter().enumerate().filter_map(|(row, change)| match &change.row {
        Row::Key(key) => Some((row, &**key)),
        Row::User(_) => None,
    });
    let keys: Vec<(usize, &Key)> = keys.collect();
    let hashes: Vec<TokenHash> = keys.iter().map(|(_, key)| key.hash).collect();
    let stored = stage::holders(transaction, &hashes, None).await?;
    let mut new: HashMap<&[u8; 64], KeyId> = HashMap::new();
    for (row, key) in keys {
        let hash = key.hash.as_bytes();
        let existing = stored.get(hash).copied().or_else(|| new.insert(hash, key.id));
        if let Some(existing) = existing.filter(|existing| *existing != key.id) {
            return Err(Fault::Duplicate { row, existing });
        }
    }
    Ok(())
}

async fn write(
    transaction: &Transaction,
    mut changes: Changes,
    committed: Committed,
    store: &str,
) -> Result<(), Fault> {
    let Committed { revision, commit, at } = committed;
    let stamp = (to_sql(revision), Uuid::from_u128(commit.0), at.nanos());
    let params: [Param<'_>; 3] = [(&stamp.0, Type::INT8), (&stamp.1, Type::UUID), (&stamp.2, Type::INT8)];
    transaction.execute("INSERT INTO keyward.revisions (revision, commit_id, at) VALUES ($1, $2, $3)", &params).await?;
    let first = changes.staged.map_or(0, |staged| i64::from(staged.keys));
    if let Some(staged) = changes.staged {
        stage::take_in(transaction, staged, committed, store).await?;
    }
    changes.changes.sort_by_key(|change| matches!(change.row, Row::Key(_)));
    let mut from = 0;
    while let Some(rest) = changes.changes.get(from..).filter(|rest| !rest.is_empty()) {
        let some = rest.get(..together(rest)).unwrap_or(rest);
        let place = Place { revision: to_sql(revision), ordinal: first + to_count(from), at };
        write_rows(transaction, some, place).await?;
        let told = some.iter().map(|change| match &change.row {
            Row::Key(key) => Told { key: Some(id_of(key.id)), user: None, event: &change.event },
            Row::User(user) => Told { key: None, user: Some(user.id.as_str()), event: &change.event },
        });
        write_events(transaction, &changes.actor, changes.from, told.collect(), place).await?;
        from += some.len();
    }
    if let Some(keep) = &changes.keep {
        write_kept(transaction, keep, revision, at).await?;
    }
    Ok(())
}

/// Where rows come to stand in the history, the first of them: at a revision, or while they are staged at
/// their stage's number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) revision: i64,
    pub(super) ordinal: i64,
    pub(super) at: Timestamp,
}

/// An event, and of what it is.
pub(super) struct Told<'a> {
    pub(super) key: Option<Uuid>,
    pub(super) user: Option<&'a str>,
    pub(super) event: &'a NewEvent,
}

/// How many of these changes one statement can write: it must not meet a row twice.
fn together(changes: &[Change]) -> usize {
    let (mut keys, mut users) = (HashSet::new(), HashSet::new());
    let is_new = |change: &&Change| match &change.row {
        Row::Key(key) => keys.insert(key.id),
        Row::User(user) => users.insert(user.id.clone()),
    };
    changes.iter().take(ROWS_MAX).take_while(is_new).count()
}

async fn write_rows(transaction: &Transaction, changes: &[Change], place: Place) -> Result<(), Fault> {
    let (mut users, mut keys) = (Vec::new(), Vec::new());
    for (ordinal, change) in (place.ordinal..).zip(changes) {
        match &change.row {
            Row::User(user) => users.push((ordinal, user)),
            Row::Key(key) => keys.push((ordinal, &**key)),
        }
    }
    write_users(transaction, &users, place).await?;
    write_keys(transaction, &keys, place).await
}

/// Writes users: inserts each where its id is new, and else replaces all but its birth.
async fn write_users(transaction: &Transaction, users: &[(i64, &User)], place: Place) -> Result<(), Fault> {
    let (revision, at) = (place.revision, place.at.nanos());
    if users.is_empty() {
        return Ok(());
    }
    fn all<'a, T>(users: &[(i64, &'a User)], of: impl Fn(&'a User) -> T) -> Vec<T> {
        users.iter().map(|(_, user)| of(user)).collect()
    }
    let params: [Param<'_>; 9] = [
        (&all(users, |user| user.id.as_str()), Type::TEXT_ARRAY),
        (&all(users, |user| user.project.as_ref().map(ProjectId::as_str)), Type::TEXT_ARRAY),
        (&all(users, |user| user.flags.to_string()), Type::TEXT_ARRAY),
        (&all(users, |user| user.active), Type::BOOL_ARRAY),
        (&all(users, |user| user.deleted), Type::BOOL_ARRAY),
        (&all(users, |user| user.created_at.nanos()), Type::INT8_ARRAY),
        (&users.iter().map(|(ordinal, _)| *ordinal).collect::<Vec<_>>(), Type::INT8_ARRAY),
        (&at, Type::INT8),
        (&revision, Type::INT8),
    ];
    transaction
        .execute(
            "INSERT INTO keyward.users (id, project, flags, active, deleted, created_at, ordinal, updated_at, revision) \
             SELECT n.*, $8, $9 FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::boolean[], \
             $6::bigint[], $7::bigint[]) n \
             ON CONFLICT (id) DO UPDATE SET project = excluded.project, flags = excluded.flags, \
             active = excluded.active, deleted = excluded.deleted, updated_at = excluded.updated_at, \
             revision = excluded.revision, ordinal = excluded.ordinal",
            &params,
        )
        .await?;
    Ok(())
}

/// Writes keys: inserts each where its id is new, and else replaces all but what never changes.
pub(super) async fn write_keys(transaction: &Transaction, keys: &[(i64, &Key)], place: Place) -> Result<(), Fault> {
    let (revision, at) = (place.revision, place.at.nanos());
    if keys.is_empty() {
        return Ok(());
    }
    fn all<'a, T>(keys: &[(i64, &'a Key)], of: impl Fn(&'a Key) -> T) -> Vec<T> {
        keys.iter().map(|(_, key)| of(key)).collect()
    }
    fn flags(key: &Key) -> String {
        match &key.grants {
            Grants::Inherit => String::new(),
            Grants::Only(flags) => flags.to_string(),
        }
    }
    fn operates_project(key: &Key) -> Option<&str> {
        key.operates_on.as_ref()?.project.as_ref().map(ProjectId::as_str)
    }
    fn operates_environment(key: &Key) -> Option<&str> {
        key.operates_on.as_ref()?.environment.as_ref().map(EnvironmentId::as_str)
    }
    let params: [Param<'_>; 35] = [
        (&all(keys, |key| id_of(key.id)), Type::UUID_ARRAY),
        (&all(keys, |key| Uuid::from_u128(key.lineage.bits())), Type::UUID_ARRAY),
        (&all(keys, |key| key.hash.as_bytes().as_slice()), Type::BYTEA_ARRAY),
        (&all(keys, |key| key.format.as_str()), Type::TEXT_ARRAY),
        (&all(keys, |key| key.shown_prefix.as_deref()), Type::TEXT_ARRAY),
        (&all(keys, |key| key.last_four.as_deref()), Type::TEXT_ARRAY),
        (&all(keys, |key| key.name.as_str()), Type::TEXT_ARRAY),
        (&all(keys, |key| key.project.as_ref().map(ProjectId::as_str)), Type::TEXT_ARRAY),
        (&all(keys, |key| key.environment.as_str()), Type::TEXT_ARRAY),
        (&all(keys, |key| key.user.as_ref().map(UserId::as_str)), Type::TEXT_ARRAY),
        (&all(keys, |key| matches!(key.grants, Grants::Inherit)), Type::BOOL_ARRAY),
        (&all(keys, flags), Type::TEXT_ARRAY),
        (&all(keys, |key| json(&key.props)), Type::TEXT_ARRAY),
        (&all(keys, |key| key.may_grant.to_string()), Type::TEXT_ARRAY),
        (&all(keys, |key| key.operates_on.is_some()), Type::BOOL_ARRAY),
        (&all(keys, operates_project), Type::TEXT_ARRAY),
        (&all(keys, operates_environment), Type::TEXT_ARRAY),
        (&all(keys, |key| key.self_rotate), Type::BOOL_ARRAY),
        (&all(keys, |key| key.minted_by.map(id_of)), Type::UUID_ARRAY),
        (&all(keys, |key| key.states.revoked), Type::BOOL_ARRAY),
        (&all(keys, |key| key.states.disabled), Type::BOOL_ARRAY),
        (&all(keys, |key| key.states.superseded), Type::BOOL_ARRAY),
        (&all(keys, |key| key.revoked_at.map(Timestamp::nanos)), Type::INT8_ARRAY),
        (&all(keys, |key| key.replaced_by.map(id_of)), Type::UUID_ARRAY),
        (&all(keys, |key| key.expires_at.map(Timestamp::nanos)), Type::INT8_ARRAY),
        (&all(keys, |key| key.grace_expires_at.map(Timestamp::nanos)), Type::INT8_ARRAY),
        (&all(keys, |key| key.rotation.interval_days.map(i64::from)), Type::INT8_ARRAY),
        (&all(keys, |key| key.rotation.next_at.map(Timestamp::nanos)), Type::INT8_ARRAY),
        (&all(keys, |key| key.rotation.webhook_url.as_deref()), Type::TEXT_ARRAY),
        (&all(keys, |key| i64::from(key.rotation.secret_version)), Type::INT8_ARRAY),
        (&all(keys, |key| key.rotation.old_secret_until.map(Timestamp::nanos)), Type::INT8_ARRAY),
        (&all(keys, |key| key.created_at.nanos()), Type::INT8_ARRAY),
        (&keys.iter().map(|(ordinal, _)| *ordinal).collect::<Vec<_>>(), Type::INT8_ARRAY),
        (&at, Type::INT8),
        (&revision, Type::INT8),
    ];
    transaction.execute(WRITE_KEYS, &params).await?;
    Ok(())
}

const WRITE_KEYS: &str = "INSERT INTO keyward.keys (id, lineage, hash, format, shown_prefix, last_four, name, project, environment, \
     user_id, inherit, flags, props, may_grant, operates, operates_project, operates_environment, self_rotate, \
     minted_by, revoked, disabled, superseded, revoked_at, replaced_by, expires_at, grace_expires_at, rotation_days, \
     rotation_next_at, rotation_webhook_url, webhook_secret_version, webhook_old_secret_until, created_at, ordinal, \
     updated_at, revision) \
     SELECT n.*, $34, $35 FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $5::text[], $6::text[], \
     $7::text[], $8::text[], $9::text[], $10::text[], $11::boolean[], $12::text[], $13::text[], $14::text[], \
     $15::boolean[], $16::text[], $17::text[], $18::boolean[], $19::uuid[], $20::boolean[], $21::boolean[], \
     $22::boolean[], $23::bigint[], $24::uuid[], $25::bigint[], $26::bigint[], $27::bigint[], $28::bigint[], \
     $29::text[], $30::bigint[], $31::bigint[], $32::bigint[], $33::bigint[]) n \
     ON CONFLICT (id) DO UPDATE SET name = excluded.name, project = excluded.project, \
     environment = excluded.environment, inherit = excluded.inherit, \
     flags = excluded.flags, props = excluded.props, may_grant = excluded.may_grant, \
     operates = excluded.operates, operates_project = excluded.operates_project, \
     operates_environment = excluded.operates_environment, self_rotate = excluded.self_rotate, \
     revoked = excluded.revoked, disabled = excluded.disabled, superseded = excluded.superseded, \
     revoked_at = excluded.revoked_at, replaced_by = excluded.replaced_by, expires_at = excluded.expires_at, \
     grace_expires_at = excluded.grace_expires_at, rotation_days = excluded.rotation_days, \
     rotation_next_at = excluded.rotation_next_at, rotation_webhook_url = excluded.rotation_webhook_url, \
     webhook_secret_version = excluded.webhook_secret_version, \
     webhook_old_secret_until = excluded.webhook_old_secret_until, \
     updated_at = excluded.updated_at, revision = excluded.revision, ordinal = excluded.ordinal";

/// Appends events, one after the other from `place` on.
pub(super) async fn write_events(
    transaction: &Transaction,
    actor: &Actor,
    from: Option<IpAddr>,
    told: Vec<Told<'_>>,
    place: Place,
) -> Result<(), Fault> {
    let ordinals: Vec<i64> = (place.ordinal..).zip(&told).map(|(ordinal, _)| ordinal).collect();
    let kinds: Vec<&str> = told.iter().map(|told| told.event.kind.as_str()).collect();
    let changes: Vec<String> = told.iter().map(|told| json(&told.event.changes)).collect();
    let (keys, users): (Vec<Option<Uuid>>, Vec<Option<&str>>) = told.iter().map(|told| (told.key, told.user)).unzip();
    let (actor, address) = (actor.to_string(), from.map(|address| address.to_string()));
    let params: [Param<'_>; 9] = [
        (&ordinals, Type::INT8_ARRAY),
        (&kinds, Type::TEXT_ARRAY),
        (&keys, Type::UUID_ARRAY),
        (&users, Type::TEXT_ARRAY),
        (&changes, Type::TEXT_ARRAY),
        (&place.revision, Type::INT8),
        (&place.at.nanos(), Type::INT8),
        (&actor, Type::TEXT),
        (&address, Type::TEXT),
    ];
    transaction
        .execute(
            "INSERT INTO keyward.events (ordinal, kind, key_id, user_id, changes, revision, at, actor, address) \
             SELECT n.*, $6, $7, $8, $9 FROM unnest($1::bigint[], $2::text[], $3::uuid[], $4::text[], $5::text[]) n",
            &params,
        )
        .await?;
    Ok(())
}

/// Keeps an answer for as long as it is remembered.
async fn write_kept(transaction: &Transaction, keep: &Keep, revision: u64, at: Timestamp) -> Result<(), Fault> {
    let params: [Param<'_>; 7] = [
        (&keep.once.0.as_slice(), Type::BYTEA),
        (&keep.request.as_slice(), Type::BYTEA),
        (&keep.key.map(id_of), Type::UUID),
        (&to_sql(revision), Type::INT8),
        (&keep.sealed.as_slice(), Type::BYTEA),
        (&keep.until.nanos(), Type::INT8),
        (&at.nanos(), Type::INT8),
    ];
    // What is past its time is as if it had never been, whether it was swept yet or not.
    transaction
        .execute(
            "INSERT INTO keyward.once (once, request, key_id, revision, sealed, until, at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (once) DO UPDATE SET request = excluded.request, key_id = excluded.key_id, \
             revision = excluded.revision, sealed = excluded.sealed, until = excluded.until, at = excluded.at",
            &params,
        )
        .await?;
    Ok(())
}

/// Adds up usage.
pub(super) async fn record_usage(
    transaction: &Transaction,
    gateway: &str,
    updates: &[UsageUpdate],
) -> Result<(), Fault> {
    let now = transaction.now().nanos();
    for some in updates.chunks(ROWS_MAX * 5) {
        let keys: Vec<Uuid> = some.iter().map(|update| id_of(update.key)).collect();
        let last: Vec<i64> = some.iter().map(|update| update.last_used_at.nanos()).collect();
        let counts: Vec<i64> = some.iter().map(|update| to_sql(update.count)).collect();
        let params: [Param<'_>; 5] = [
            (&keys, Type::UUID_ARRAY),
            (&last, Type::INT8_ARRAY),
            (&counts, Type::INT8_ARRAY),
            (&gateway, Type::TEXT),
            (&now, Type::INT8),
        ];
        // In key order, so that two writers never wait for each other crosswise.
        transaction
            .execute(
                "INSERT INTO keyward.key_usage AS old (key_id, gateway_id, last_used_at, count) \
                 SELECT n.id, $4, least(max(n.last), $5), sum(n.count)::bigint \
                 FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) n (id, last, count) \
                 WHERE EXISTS (SELECT 1 FROM keyward.keys k WHERE k.id = n.id) GROUP BY n.id ORDER BY n.id \
                 ON CONFLICT (key_id, gateway_id) DO UPDATE SET \
                 last_used_at = greatest(old.last_used_at, excluded.last_used_at), \
                 count = old.count + excluded.count",
                &params,
            )
            .await?;
    }
    Ok(())
}

/// Adds up refused attempts.
pub(super) async fn record_refusals(transaction: &Transaction, tallies: &[RefusalTally]) -> Result<(), Fault> {
    let mut tallies: Vec<&RefusalTally> = tallies.iter().collect();
    tallies.sort_by_cached_key(|tally| (tally.minute, tally.actor.to_string(), tally.from));
    for tally in tallies {
        let (key, user) = subject_columns(tally.subject.as_ref());
        let params: [Param<'_>; 9] = [
            (&tally.minute.nanos(), Type::INT8),
            (&tally.actor.to_string(), Type::TEXT),
            (&tally.from.map(|address| address.to_string()).unwrap_or_default(), Type::TEXT),
            (&tally.operation, Type::TEXT),
            (&tally.code, Type::TEXT),
            (&key, Type::UUID),
            (&user, Type::TEXT),
            (&to_sql(tally.count), Type::INT8),
            (&tally.last_at.nanos(), Type::INT8),
        ];
        transaction
            .execute(
                "INSERT INTO keyward.audit_refusals AS old \
                 (minute, actor, address, operation, code, key_id, user_id, count, last_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
                 ON CONFLICT (minute, actor, address, operation, code) DO UPDATE SET key_id = excluded.key_id, \
                 user_id = excluded.user_id, count = old.count + excluded.count, \
                 last_at = greatest(old.last_at, excluded.last_at)",
                &params,
            )
            .await?;
    }
    Ok(())
}

/// How many rows one sweep takes away at most, so that it is over soon.
pub(super) const SWEPT_MAX: u64 = 1000;

/// What one sweep took away of what is to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swept {
    All,
    Part,
}

/// Forgets answers, refused attempts and stages whose time has come, so many of each at once. Another
/// gateway that sweeps at the same time has those rows; they need no second broom.
pub(super) async fn tidy(transaction: &Transaction) -> Result<Swept, Fault> {
    let now = transaction.now();
    let sealed = "UPDATE keyward.once SET sealed = NULL WHERE once IN (SELECT once FROM keyward.once \
         WHERE sealed IS NOT NULL AND until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let once = "DELETE FROM keyward.once WHERE once IN \
         (SELECT once FROM keyward.once WHERE at <= $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let refusals = "DELETE FROM keyward.audit_refusals WHERE (minute, actor, address, operation, code) IN \
         (SELECT minute, actor, address, operation, code FROM keyward.audit_refusals WHERE minute < $1 \
         ORDER BY minute LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let most = to_sql(SWEPT_MAX);
    let mut swept = stage::forget(transaction, now).await?;
    for (sql, before) in [(sealed, now), (once, now.minus(ONCE_KEPT)), (refusals, now.minus(REFUSALS_KEPT))] {
        let params: [Param<'_>; 2] = [(&before.nanos(), Type::INT8), (&most, Type::INT8)];
        if transaction.execute(sql, &params).await? == SWEPT_MAX {
            swept = Swept::Part;
        }
    }
    Ok(swept)
}

/// The lock that secrets are changed under, until the transaction ends.
const SECRETS_LOCK: i64 = 0x4B57_7264_0000_0002;

/// What to do with a secret.
#[derive(Debug, Clone, Copy)]
pub(super) enum SecretChange {
    /// Take it as the first.
    First(u32, [u8; 32]),
    /// Add it after all others.
    Add(u32, [u8; 32]),
    /// Forget it, unless it is the only one.
    Forget(u32),
}

/// Changes the secrets that the store knows.
pub(super) async fn change_secrets(transaction: &Transaction, change: SecretChange, name: &str) -> Result<(), Fault> {
    transaction.simple(&format!("SELECT pg_advisory_xact_lock({SECRETS_LOCK})")).await?;
    let known = secrets_now(transaction).await?;
    let (number, fingerprint) = match change {
        SecretChange::Forget(number) => {
            if known.iter().any(|&(other, _)| other != number) {
                let params: [Param<'_>; 1] = [(&i64::from(number), Type::INT8)];
                transaction.execute("DELETE FROM keyward.secrets WHERE number = $1", &params).await?;
            }
            return Ok(());
        }
        SecretChange::First(number, fingerprint) | SecretChange::Add(number, fingerprint) => (number, fingerprint),
    };
    if known.contains(&(number, fingerprint)) {
        return Ok(());
    }
    let is_wrong = match change {
        SecretChange::Add(..) => known.iter().any(|&(other, _)| other >= number),
        SecretChange::First(..) | SecretChange::Forget(_) => !known.is_empty(),
    };
    if is_wrong {
        return Err(StoreError::WrongSecret { store: name.to_owned() }.into());
    }
    let params: [Param<'_>; 2] = [(&i64::from(number), Type::INT8), (&fingerprint.as_slice(), Type::BYTEA)];
    transaction.execute("INSERT INTO keyward.secrets (number, fingerprint) VALUES ($1, $2)", &params).await?;
    Ok(())
}

async fn secrets_now(transaction: &Transaction) -> Result<Vec<(u32, [u8; 32])>, Fault> {
    read::secrets(transaction).await
}
