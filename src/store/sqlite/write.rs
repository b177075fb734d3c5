//! What is written: one thread, one connection, one transaction at a time.
//!
//! Mutations that wait together are committed together, each in a savepoint of its own, so that
//! one that is refused takes nothing from the others, and a disk flush is shared.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::fault::Fault;
use super::rows::{to_sql, write_event, write_kept, write_key, write_tally, write_user};
use super::{Ending, Shared};
use super::{read, stage};
use crate::clock::Timestamp;
use crate::key::{Event, KeyId, Stamp, Subject};
use crate::secret;
use crate::store::{
    Changes, CommitId, Committed, Cursor, Keep, ONCE_KEPT, Outcome, Plan, REFUSALS_KEPT, ReadRequest, Refusal,
    RefusalTally, Row, Staging, StoreError, UsageUpdate,
};

/// How many mutations share one commit at most.
const GROUP_MAX: usize = 64;

/// After how many commits what else there is to write is no longer put off.
const GROUPS_BEFORE_THE_REST: u32 = 1000;

/// What the writer is asked for.
pub(super) enum Request {
    Mutate(Box<Member>),
    Usage {
        gateway: String,
        updates: Vec<UsageUpdate>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Refusals {
        tallies: Vec<RefusalTally>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Stage {
        staging: Staging,
        reply: oneshot::Sender<Result<Duration, StoreError>>,
    },
    Tidy {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Secret {
        number: u32,
        fingerprint: [u8; 32],
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    AddSecret {
        number: u32,
        fingerprint: [u8; 32],
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    ForgetSecret {
        number: u32,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// What writes neither keys nor revisions.
    Run(Box<dyn FnOnce(&Shared) + Send>),
}

/// One mutation.
pub(super) struct Member {
    pub(super) read: ReadRequest,
    pub(super) plan: Plan,
    pub(super) reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// Serves requests until nobody can send another.
pub(super) fn serve(shared: &Arc<Shared>, requests: &Receiver<Request>) {
    // What nobody's access depends on: it is written when no mutation waits, or has waited long.
    let mut later = VecDeque::new();
    let mut groups = 0;
    loop {
        groups += 1;
        if groups >= GROUPS_BEFORE_THE_REST
            && let Some(work) = later.pop_front()
        {
            groups = 0;
            later.extend(in_the_background(shared, work));
        }
        let mut next = match requests.try_recv() {
            Ok(request) => Some(request),
            Err(TryRecvError::Empty) => match later.pop_front() {
                Some(work) => {
                    later.extend(in_the_background(shared, work));
                    continue;
                }
                None => requests.recv().ok(),
            },
            Err(TryRecvError::Disconnected) => None,
        };
        if next.is_none() {
            for work in later {
                // What is left of it is for whoever opens the store next.
                let _left = in_the_background(shared, work);
            }
            return;
        }
        let mut group = Vec::new();
        while let Some(request) = next.take() {
            match request {
                Request::Mutate(member) => {
                    group.push(member);
                    if group.len() < GROUP_MAX {
                        next = requests.try_recv().ok();
                    }
                }
                Request::Refusals { tallies, reply } => later.push_back(Later::Refusals(tallies, reply)),
                Request::Stage { staging, reply } => later.push_back(Later::Stage(staging, reply)),
                Request::Tidy { reply } => later.push_back(Later::Tidy(reply, SWEEPS_MAX)),
                Request::Usage { gateway, updates, reply } => {
                    mutate(shared, std::mem::take(&mut group));
                    if reply.is_closed() {
                        // Whoever gave this up counts it again: it must not be written twice.
                        continue;
                    }
                    let now = shared.clock.now();
                    // Whoever no longer waits for the answer needs none.
                    let _gone = reply.send(shared.write(|connection| record(connection, &gateway, updates, now)));
                }
                Request::Run(run) => {
                    mutate(shared, std::mem::take(&mut group));
                    run(shared);
                }
                Request::Secret { number, fingerprint, reply } => {
                    mutate(shared, std::mem::take(&mut group));
                    let _gone = reply
                        .send(shared.write(|connection| check_secret(connection, number, fingerprint, &shared.name)));
                }
                Request::AddSecret { number, fingerprint, reply } => {
                    mutate(shared, std::mem::take(&mut group));
                    let _gone = reply
                        .send(shared.write(|connection| add_secret(connection, number, fingerprint, &shared.name)));
                }
                Request::ForgetSecret { number, reply } => {
                    mutate(shared, std::mem::take(&mut group));
                    let _gone = reply.send(shared.write(|connection| forget_secret(connection, number)));
                }
            }
        }
        mutate(shared, group);
    }
}

/// What is written when no mutation waits.
enum Later {
    Refusals(Vec<RefusalTally>, oneshot::Sender<Result<(), StoreError>>),
    Stage(Staging, oneshot::Sender<Result<Duration, StoreError>>),
    /// And how many sweeps more before it is answered at the latest.
    Tidy(oneshot::Sender<Result<(), StoreError>>, u32),
}

/// Does one piece of `work`, and hands back what is left of it. Whoever no longer waits for an answer
/// needs none.
fn in_the_background(shared: &Shared, work: Later) -> Option<Later> {
    match work {
        Later::Refusals(tallies, reply) => {
            let _gone = reply
                .send(shared.write(|connection| tallies.iter().try_for_each(|tally| write_tally(connection, tally))));
        }
        Later::Stage(staging, reply) => {
            // Whoever gave this up has given up the stage.
            if !reply.is_closed() {
                let (now, begun) = (shared.clock.now(), shared.clock.monotonic());
                let staged = shared.write(|connection| stage::add(connection, &staging, now, &shared.name));
                let held = shared.clock.monotonic().saturating_duration_since(begun);
                let _gone = reply.send(staged.map(|()| held));
            }
        }
        Later::Tidy(reply, more) => {
            let now = shared.clock.now();
            let swept = shared.write(|connection| tidy(connection, now));
            if matches!(swept, Ok(Swept::Part)) && more > 0 && !reply.is_closed() {
                return Some(Later::Tidy(reply, more - 1));
            }
            let _gone = reply.send(swept.map(|_swept| ()));
        }
    }
    None
}

/// How many rows one sweep takes away at most, so that no mutation waits for long behind it.
pub(super) const SWEPT_MAX: usize = 1000;

/// How many sweeps follow one another at most for whoever asked for them once.
const SWEEPS_MAX: u32 = 50;

/// What one sweep took away of what is to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swept {
    All,
    Part,
}

/// Forgets answers, refused attempts and stages whose time has come, so many of each at once.
fn tidy(connection: &Connection, now: Timestamp) -> Result<Swept, Fault> {
    let most = i64::try_from(SWEPT_MAX).unwrap_or(i64::MAX);
    let sealed = connection
        .prepare_cached(
            "UPDATE once SET sealed = NULL WHERE once IN \
             (SELECT once FROM once WHERE sealed IS NOT NULL AND until <= ?1 ORDER BY until LIMIT ?2)",
        )?
        .execute(params![now.nanos(), most])?;
    let once = connection
        .prepare_cached("DELETE FROM once WHERE once IN (SELECT once FROM once WHERE at <= ?1 ORDER BY at LIMIT ?2)")?
        .execute(params![now.minus(ONCE_KEPT).nanos(), most])?;
    let refusals = connection
        .prepare_cached(
            "DELETE FROM audit_refusals WHERE (minute, actor, address, operation, code) IN \
             (SELECT minute, actor, address, operation, code FROM audit_refusals WHERE minute < ?1 \
             ORDER BY minute LIMIT ?2)",
        )?
        .execute(params![now.minus(REFUSALS_KEPT).nanos(), most])?;
    let staged = stage::forget(connection, now)?;
    let is_all = [sealed, once, refusals].iter().all(|count| *count < SWEPT_MAX) && staged == Swept::All;
    Ok(if is_all { Swept::All } else { Swept::Part })
}

#[expect(clippy::vec_box, reason = "they come boxed")]
fn mutate(shared: &Shared, mut members: Vec<Box<Member>>) {
    if members.is_empty() {
        return;
    }
    let committed = shared.write_if(|connection| {
        let mut outcomes = Vec::with_capacity(members.len());
        for member in &mut members {
            outcomes.push(one(connection, shared, member)?);
        }
        let all_refused = outcomes.iter().all(|outcome| !matches!(outcome, Ok(Ok(_))));
        Ok((outcomes, if all_refused { Ending::RollBack } else { Ending::Commit }))
    });
    match committed {
        Ok(outcomes) => {
            if outcomes.iter().any(|outcome| matches!(outcome, Ok(Ok(_)))) {
                shared.news.notify_waiters();
                shared.news.notify_one();
            }
            for (member, outcome) in members.into_iter().zip(outcomes) {
                let _gone = member.reply.send(outcome);
            }
        }
        Err(error) => {
            for member in members {
                let _gone = member.reply.send(Err(error.clone()));
            }
        }
    }
}

/// One mutation in its savepoint. The outer error ends the whole transaction.
fn one(connection: &Connection, shared: &Shared, member: &mut Member) -> Result<Result<Outcome, StoreError>, Fault> {
    connection.execute_batch("SAVEPOINT member")?;
    let at = shared.clock.now();
    let attempt = attempt(connection, member, at, &shared.name);
    if connection.is_autocommit() {
        // SQLite gave up the whole transaction, for instance because the disk is full.
        return Err(attempt.err().unwrap_or_else(|| Fault::Around("the transaction ended early".to_owned())));
    }
    match attempt {
        Ok(Attempt::Written(committed)) => {
            connection.execute_batch("RELEASE member")?;
            Ok(Ok(Ok(committed)))
        }
        Ok(Attempt::Nothing(keep)) => {
            connection.execute_batch("ROLLBACK TO member")?;
            let newest = read::newest(connection)?;
            if let Some(keep) = keep {
                write_kept(connection, &keep, newest.revision, at)?;
            }
            connection.execute_batch("RELEASE member")?;
            Ok(Ok(Ok(Committed { revision: newest.revision, commit: newest.commit, at })))
        }
        Ok(Attempt::Refused(refusal)) => {
            connection.execute_batch("ROLLBACK TO member; RELEASE member")?;
            Ok(Ok(Err(refusal)))
        }
        Err(fault) => {
            connection.execute_batch("ROLLBACK TO member; RELEASE member")?;
            Ok(Err(fault.told(&shared.name)))
        }
    }
}

enum Attempt {
    Written(Committed),
    Nothing(Option<Keep>),
    Refused(Refusal),
}

fn attempt(connection: &Connection, member: &mut Member, at: Timestamp, store: &str) -> Result<Attempt, Fault> {
    let commit = CommitId(u128::from_be_bytes(secret::random()?));
    let newest = read::newest(connection)?;
    let revision: i64 = connection
        .prepare_cached("UPDATE counter SET revision = revision + 1, commit_id = ?1 RETURNING revision")?
        .query_row(params![commit.0.to_be_bytes()], |row| row.get(0))?;
    let revision = super::rows::unsigned(revision)?;
    let mut reading = read::reading(connection, &member.read, at)?;
    (reading.newest, reading.next) = (newest, Cursor { revision, commit });
    let planned = catch_unwind(AssertUnwindSafe(|| (member.plan)(&reading)));
    let changes = match planned {
        Ok(Ok(changes)) => changes,
        Ok(Err(refusal)) => return Ok(Attempt::Refused(refusal)),
        Err(_panic) => return Err(Fault::Around("the mutation panicked, and nothing was changed".to_owned())),
    };
    if changes.changes.is_empty() && changes.staged.is_none() {
        return Ok(Attempt::Nothing(changes.keep));
    }
    refuse_duplicates(connection, &changes)?;
    let committed = Committed { revision, commit, at };
    write(connection, changes, committed, store)?;
    Ok(Attempt::Written(committed))
}

/// A token is found by its hash alone, so no two rows may share one.
fn refuse_duplicates(connection: &Connection, changes: &Changes) -> Result<(), Fault> {
    let mut new: HashMap<&[u8; 64], KeyId> = HashMap::new();
    for (row, change) in changes.changes.iter().enumerate() {
        let Row::Key(key) = &change.row else { continue };
        let stored = stage::holder(connection, &key.hash, None)?;
        let existing = stored.or_else(|| new.insert(key.hash.as_bytes(), key.id));
        if let Some(existing) = existing.filter(|existing| *existing != key.id) {
            return Err(Fault::Duplicate { row, existing });
        }
    }
    Ok(())
}

fn write(connection: &Connection, mut changes: Changes, committed: Committed, store: &str) -> Result<(), Fault> {
    let Committed { revision, commit, at } = committed;
    connection
        .prepare_cached("INSERT INTO revisions (revision, commit_id, at) VALUES (?1, ?2, ?3)")?
        .execute(params![to_sql(revision), commit.0.to_be_bytes(), at.nanos()])?;
    let first = changes.staged.map_or(0, |staged| staged.keys);
    if let Some(staged) = changes.staged {
        stage::take_in(connection, staged, committed, store)?;
    }
    changes.changes.sort_by_key(|change| matches!(change.row, Row::Key(_)));
    for (ordinal, change) in (first..).zip(changes.changes) {
        let stamp = Stamp { revision, ordinal };
        let subject = match &change.row {
            Row::Key(key) => {
                write_key(connection, key, at, stamp.into())?;
                Subject::Key(key.id)
            }
            Row::User(user) => {
                write_user(connection, user, at, stamp)?;
                Subject::User(user.id.clone())
            }
        };
        let (kind, told) = (change.event.kind, change.event.changes);
        let (actor, from) = (changes.actor.clone(), changes.from);
        write_event(connection, &Event { stamp, at, kind, actor, from, subject, changes: told }, stamp.into())?;
    }
    if let Some(keep) = &changes.keep {
        write_kept(connection, keep, revision, at)?;
    }
    Ok(())
}

fn record(connection: &Connection, gateway: &str, mut updates: Vec<UsageUpdate>, now: Timestamp) -> Result<(), Fault> {
    updates.sort_unstable_by_key(|update| update.key);
    let mut statement = connection.prepare_cached(
        "INSERT INTO key_usage (key_id, gateway_id, last_used_at, count) \
         SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM keys WHERE id = ?1) \
         ON CONFLICT (key_id, gateway_id) DO UPDATE SET \
         last_used_at = max(last_used_at, excluded.last_used_at), count = count + excluded.count",
    )?;
    for update in updates {
        let last = update.last_used_at.min(now);
        statement.execute(params![update.key.bits().to_be_bytes(), gateway, last.nanos(), to_sql(update.count)])?;
    }
    Ok(())
}

fn check_secret(connection: &Connection, number: u32, fingerprint: [u8; 32], store: &str) -> Result<(), Fault> {
    let known = read::secrets(connection)?;
    if known.contains(&(number, fingerprint)) {
        return Ok(());
    }
    if !known.is_empty() {
        return Err(StoreError::WrongSecret { store: store.to_owned() }.into());
    }
    connection.execute("INSERT INTO secrets (number, fingerprint) VALUES (?1, ?2)", params![number, fingerprint])?;
    Ok(())
}

fn add_secret(connection: &Connection, number: u32, fingerprint: [u8; 32], store: &str) -> Result<(), Fault> {
    let known = read::secrets(connection)?;
    if known.contains(&(number, fingerprint)) {
        return Ok(());
    }
    if known.iter().any(|&(other, _)| other >= number) {
        return Err(StoreError::WrongSecret { store: store.to_owned() }.into());
    }
    connection.execute("INSERT INTO secrets (number, fingerprint) VALUES (?1, ?2)", params![number, fingerprint])?;
    Ok(())
}

fn forget_secret(connection: &Connection, number: u32) -> Result<(), Fault> {
    connection.execute(
        "DELETE FROM secrets WHERE number = ?1 AND EXISTS (SELECT 1 FROM secrets WHERE number <> ?1)",
        params![number],
    )?;
    Ok(())
}
