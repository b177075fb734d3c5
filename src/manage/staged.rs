//! Imports of many rows: checked first, then put aside batch after batch, and then taken in at once, so
//! that nobody waits for longer than one batch takes.
//!
//! The last step is one short mutation. What the rows were held against is not read again there, row by
//! row: it is enough that nothing of it has changed. Where something has, all rows are checked again
//! before the next attempt, and after some attempts within it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::manager::{Asked, TakenIn};
use super::may::{Acting, Operation};
use super::plan::Plan;
use super::{Caller, Imported, ManageError, Manager, RowCause, RowFault};
use crate::clock::Timestamp;
use crate::key::{Key, TokenHash, User};
use crate::secret;
use crate::store::{
    Change, Changes, Committed, Planned, ReadRequest, Reading, Row, StageId, Staged, StagedKey, Staging, StoreError,
};

/// The most rows of an import that is written by one mutation. An import of more is staged.
pub const IMPORTED_AT_ONCE_MAX: usize = 1000;
/// How many rows are put aside at a time.
const BATCH: usize = 1000;
/// How often the rows are checked anew before that is done within the mutation itself.
const ATTEMPTS_BEFORE_THE_LAST: usize = 3;

/// A row's line in the caller's file, and what else its token may be known by.
pub(super) type Line = (usize, Option<TokenHash>);

/// What the rows of an import were held against, beside their tokens.
#[derive(Debug)]
struct Known {
    /// The caller's key and that key's user.
    caller: Option<(Key, Option<User>)>,
    /// The revision at which the rows' users were read, where the rows name users.
    users_at: Option<u64>,
    /// When the first of the keys ends.
    first_end: Option<Timestamp>,
}

impl Known {
    fn of(caller: &Caller, reading: &Reading, names_users: bool, first_end: Option<Timestamp>) -> Self {
        let key = caller.key().and_then(|id| reading.key(id));
        Self {
            caller: key.map(|key| (key.clone(), reading.user_of(key).cloned())),
            users_at: names_users.then_some(reading.newest.revision),
            first_end,
        }
    }

    /// Whether `reading` says the same.
    fn still_holds(&self, caller: &Caller, reading: &Reading) -> Result<bool, ManageError> {
        Acting::of(caller, reading)?.is_permitted(Operation::Import)?;
        let now = Self::of(caller, reading, false, None);
        let is_ahead = self.first_end.is_none_or(|end| end > reading.now);
        Ok(now.caller == self.caller && !reading.users_changed && is_ahead)
    }
}

/// An import that is put aside whole.
pub(super) struct Aside<P> {
    stage: StageId,
    keys: Vec<Key>,
    known: Known,
    /// Reads what the rows are held against, their tokens aside, which staging found to be new.
    read: ReadRequest,
    check: Arc<Mutex<P>>,
}

impl Manager {
    /// Imports rows by way of a stage. `check` holds all of them against a reading.
    pub(super) async fn import_staged<P>(
        &self,
        caller: &Caller,
        asked: Asked,
        check: P,
        lines: Vec<Line>,
    ) -> Result<Imported, ManageError>
    where
        P: FnMut(&Reading) -> TakenIn + Send + 'static,
    {
        let (operation, subject) = (asked.operation, asked.subject.clone());
        let imported = match self.put_aside(caller, asked, check, &lines).await {
            Ok(aside) => self.take_in(caller, aside).await,
            Err(error) => Err(error),
        };
        match imported {
            Ok(imported) => Ok(imported),
            Err(error) => {
                let now = self.store.read(ReadRequest::default()).await.map_or(Timestamp::EPOCH, |reading| reading.now);
                Err(self.refused(caller, operation, subject, error, now).await)
            }
        }
    }

    /// Checks all rows and puts their keys aside. Where that fails, nothing stays aside.
    pub(super) async fn put_aside<P>(
        &self,
        caller: &Caller,
        asked: Asked,
        mut check: P,
        lines: &[Line],
    ) -> Result<Aside<P>, ManageError>
    where
        P: FnMut(&Reading) -> TakenIn,
    {
        let mut first = asked.read;
        first.keys.extend(caller.key());
        let read = ReadRequest { keys: first.keys.clone(), users: first.users.clone(), ..ReadRequest::default() };
        let reading = self.store.read(first).await?;
        let Plan { changes, outcome: keys } = check(&reading)?;
        let first_end = keys.iter().filter_map(|key| key.expires_at).min();
        let known = Known::of(caller, &reading, !read.users.is_empty(), first_end);
        drop(reading);
        let stage = StageId(u128::from_be_bytes(secret::random()?));
        let aside = Aside { stage, keys, known, read, check: Arc::new(Mutex::new(check)) };
        match self.fill(caller, stage, changes, lines).await {
            Ok(()) => Ok(aside),
            Err(error) => {
                self.give_up(stage).await;
                Err(error)
            }
        }
    }

    async fn fill(
        &self,
        caller: &Caller,
        stage: StageId,
        changes: Vec<Change>,
        lines: &[Line],
    ) -> Result<(), ManageError> {
        let mut left = changes.into_iter();
        for lines in lines.chunks(BATCH) {
            let staged = |((_, other_hash), change): (&Line, Change)| match change.row {
                Row::Key(key) => Some(StagedKey { key: *key, event: change.event, other_hash: *other_hash }),
                Row::User(_) => None,
            };
            let keys = lines.iter().zip(left.by_ref()).filter_map(staged).collect();
            let staging = Staging { stage, actor: caller.actor(), from: caller.address(), keys };
            match self.store.stage(staging).await {
                // Another process that wants to write tries now and then: it is left as much time as
                // was taken.
                Ok(held) => tokio::time::sleep(held).await,
                Err(StoreError::DuplicateToken { row, .. }) => {
                    // Stored since the rows were checked, and the caller may not be one to know by whom.
                    let line = lines.get(row).map_or(0, |(line, _)| *line);
                    return Err(ManageError::Import(vec![RowFault {
                        line,
                        cause: RowCause::Stored { existing: None },
                    }]));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn give_up(&self, stage: StageId) {
        if let Err(error) = self.store.unstage(stage).await {
            tracing::warn!(error = %error, "what an import put aside stays in the store for an hour");
        }
    }

    /// Takes in what was put aside, or gives it up.
    pub(super) async fn take_in<P>(&self, caller: &Caller, aside: Aside<P>) -> Result<Imported, ManageError>
    where
        P: FnMut(&Reading) -> TakenIn + Send + 'static,
    {
        let Aside { stage, mut keys, known, read, check } = aside;
        let staged = Staged { stage, keys: u32::try_from(keys.len()).unwrap_or(u32::MAX) };
        match self.commit(caller, staged, known, read, check).await {
            Ok(committed) => {
                for (key, ordinal) in keys.iter_mut().zip(0..) {
                    key.updated_at = committed.at;
                    (key.stamp.revision, key.stamp.ordinal) = (committed.revision, ordinal);
                }
                Ok(Imported { keys, committed: Some(committed) })
            }
            Err(error) => {
                self.give_up(stage).await;
                Err(error)
            }
        }
    }

    async fn commit<P>(
        &self,
        caller: &Caller,
        staged: Staged,
        known: Known,
        read: ReadRequest,
        check: Arc<Mutex<P>>,
    ) -> Result<Committed, ManageError>
    where
        P: FnMut(&Reading) -> TakenIn + Send + 'static,
    {
        let mut known = Arc::new(known);
        let taken =
            move |by: &Caller| Changes { from: by.address(), staged: Some(staged), ..Changes::by(by.actor(), vec![]) };
        for _ in 0..ATTEMPTS_BEFORE_THE_LAST {
            let light = ReadRequest {
                keys: caller.key().into_iter().collect(),
                users_changed_after: known.users_at,
                ..ReadRequest::default()
            };
            let (by, held) = (caller.clone(), Arc::clone(&known));
            let plan = move |reading: &Reading| match held.still_holds(&by, reading) {
                Ok(true) => Ok(taken(&by)),
                Ok(false) => Err(None),
                Err(error) => Err(Some(error)),
            };
            if let Some(committed) = self.attempt(light, plan).await? {
                return Ok(committed);
            }
            let reading = self.store.read(read.clone()).await?;
            (check.lock())(&reading)?;
            // What ends meanwhile is refused by the check.
            known = Arc::new(Known::of(caller, &reading, !read.users.is_empty(), known.first_end));
        }
        let by = caller.clone();
        let plan = move |reading: &Reading| (check.lock())(reading).map(|_plan| taken(&by)).map_err(Some);
        Ok(self.attempt(read, plan).await?.expect("it is refused with a reason, or not at all"))
    }

    /// One mutation; none where its plan wants the rows checked again.
    async fn attempt(
        &self,
        read: ReadRequest,
        mut plan: impl FnMut(&Reading) -> Result<Changes, Option<ManageError>> + Send + 'static,
    ) -> Result<Option<Committed>, ManageError> {
        let plan = move |reading: &Reading| -> Planned { plan(reading).map_err(|why| Box::new(why) as _) };
        match self.store.mutate(read, Box::new(plan)).await? {
            Ok(committed) => Ok(Some(committed)),
            Err(why) => match *why.downcast::<Option<ManageError>>().expect("the plan stops with nothing else") {
                None => Ok(None),
                Some(error) => Err(error),
            },
        }
    }
}
