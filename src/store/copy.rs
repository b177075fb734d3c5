//! Moving a store into another one, of whichever kind: every row as it is, with its ids, hashes and stamps.
//!
//! A copy is the same store in another place. It keeps the store's id, from which webhook secrets and
//! signing keys are derived, and its history, so that gateways go on where they stood. Until it is
//! finished it is no store: nobody can open it.
//!
//! Rows are compared before they are written, so a copy that was broken off goes on where it stopped,
//! and the last pass, which finds nothing to write any more, is the proof that both are the same.

use std::collections::{HashMap, HashSet};

use super::{Answer, Cursor, NumberedSecret, StoreError, StoreId};
use crate::clock::Timestamp;
use crate::key::Stamp;

/// How a column is kept; each kind of store has its own type for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number, or an instant in nanoseconds.
    Number,
    /// True or false.
    Yes,
    /// Text.
    Text,
    /// 16 bytes that name something.
    Id,
    /// Other bytes.
    Bytes,
}

/// A column that is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name, the same in every kind of store.
    pub name: &'static str,
    /// How it is kept.
    pub kind: Kind,
}

/// What is in a column: [`Kind::Yes`] as 0 or 1, [`Kind::Id`] as its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Number(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// A row: a value for each of its table's columns, in their order.
pub type CopyRow = Vec<Value>;

/// The values of a row's first columns, by which its table knows it.
pub type CopyPlace = Vec<Value>;

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident = $name:literal, $strict:literal, key $key:literal: $($column:ident $kind:ident),+;)*) => {
        /// A table that is copied.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum CopyTable { $($(#[$doc])* $table,)* }

        impl CopyTable {
            /// Every one, those that others refer to first.
            pub const ALL: &[Self] = &[$(Self::$table,)*];

            /// Its name, the same in every kind of store.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$table => $name,)* }
            }

            /// Its columns; the first [`CopyTable::key_width`] of them are its key.
            #[must_use]
            pub const fn columns(self) -> &'static [Column] {
                match self {
                    $(Self::$table => &[$(Column { name: stringify!($column), kind: Kind::$kind }),+],)*
                }
            }

            /// How many columns are its key.
            #[must_use]
            pub const fn key_width(self) -> usize {
                match self { $(Self::$table => $key,)* }
            }

            /// Whether it changes with the store's revision alone. What gateways count changes all the time.
            #[must_use]
            pub const fn is_history(self) -> bool {
                match self { $(Self::$table => $strict,)* }
            }
        }
    };
}

tables! {
    /// Users.
    Users = "users", true, key 1: id Text, project Text, flags Text, active Yes, deleted Yes, created_at Number,
        updated_at Number, revision Number, ordinal Number;
    /// Keys, by the number that orders lists.
    Keys = "keys", true, key 1: number Number, id Id, lineage Id, hash Bytes, format Text, shown_prefix Text,
        last_four Text, name Text, project Text, environment Text, user_id Text, inherit Yes, flags Text, props Text,
        may_grant Text, operates Yes, operates_project Text, operates_environment Text, self_rotate Yes, minted_by Id,
        revoked Yes, disabled Yes, superseded Yes, revoked_at Number, replaced_by Id, expires_at Number,
        grace_expires_at Number, rotation_days Number, rotation_next_at Number, rotation_webhook_url Text,
        webhook_secret_version Number, webhook_old_secret_until Number, created_at Number, updated_at Number,
        revision Number, ordinal Number;
    /// The commit id of each revision.
    Revisions = "revisions", true, key 1: revision Number, commit_id Id, at Number;
    /// Who changed what.
    Events = "events", true, key 2: revision Number, ordinal Number, at Number, kind Text, actor Text, address Text,
        key_id Id, user_id Text, changes Text;
    /// How much keys were used.
    Usage = "key_usage", false, key 2: key_id Id, gateway_id Text, last_used_at Number, count Number;
    /// Refused attempts.
    Refusals = "audit_refusals", false, key 5: minute Number, actor Text, address Text, operation Text, code Text,
        key_id Id, user_id Text, count Number, last_at Number;
    /// Answers to requests that are done once.
    Once = "once", false, key 1: once Bytes, request Bytes, key_id Id, revision Number, sealed Bytes, until Number,
        at Number;
    /// Which dates were announced.
    Notices = "webhook_notices", false, key 2: key_id Id, kind Text, at Number;
    /// Announcements.
    Deliveries = "webhook_deliveries", false, key 1: id Id, key_id Id, lineage Id, kind Text, at Number, host Text,
        body Text, created_at Number, attempts Number, next_attempt_at Number, lease_owner Id, leased_until Number,
        state Text, told Text, finished_at Number;
    /// Restored backups that were accepted.
    Acceptances = "acceptances", true, key 1: id Id, revision Number, at Number, actor Text;
}

/// What a store is, beside its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its id.
    pub store: StoreId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its newest revision.
    pub newest: Cursor,
    /// How far its events were announced.
    pub announced: Stamp,
    /// Its secrets' fingerprints.
    pub secrets: Vec<NumberedSecret>,
    /// The store of which it is an unfinished copy, where it is one.
    pub copying: Option<StoreId>,
}

/// The part of a store that is copied.
pub trait CopyStore: Send + Sync {
    /// What it is, of one moment.
    fn head(&self) -> Answer<'_, Head>;

    /// How many rows a table has.
    fn count(&self, table: CopyTable) -> Answer<'_, u64>;

    /// Up to `limit` rows after `after`, in the store's own order of the table's key.
    fn rows(&self, table: CopyTable, after: Option<CopyPlace>, limit: usize) -> Answer<'_, Vec<CopyRow>>;

    /// Those of the rows at these places that there are, in no order.
    fn rows_at(&self, table: CopyTable, places: Vec<CopyPlace>) -> Answer<'_, Vec<CopyRow>>;

    /// From here on this is an unfinished copy of `of`, which nobody can open.
    fn begin_copy(&self, of: StoreId) -> Answer<'_, ()>;

    /// Writes rows, in the place of those that have the same key.
    fn write_rows(&self, table: CopyTable, rows: Vec<CopyRow>) -> Answer<'_, ()>;

    /// Removes the rows at these places.
    fn remove_rows(&self, table: CopyTable, places: Vec<CopyPlace>) -> Answer<'_, ()>;

    /// Makes an unfinished copy the store that `head` describes, at once.
    fn finish_copy(&self, head: Head) -> Answer<'_, ()>;
}

/// Why a store was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    /// One of them failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is copied is an unfinished copy itself.
    #[error("the source is an unfinished copy itself: finish that one first")]
    UnfinishedSource,
    /// The copy is there.
    #[error("the destination is this store already, at revision {revision}: nothing was copied")]
    AlreadyThere {
        /// Its newest revision.
        revision: u64,
    },
    /// There is something else.
    #[error("the destination holds another store or keys of its own: give one that is empty; nothing was copied")]
    Occupied,
    /// The source never stood still.
    #[error("the source was changed in each of {rounds} passes: stop changing it for a while, and copy again to go on")]
    Moving {
        /// How often it was read.
        rounds: usize,
    },
}

/// How far a copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A pass over all rows begins, the first from 1; so many rows are to be read.
    Pass {
        /// Which.
        number: usize,
        /// How many rows there were.
        rows: u64,
    },
    /// So many rows were read and are in the copy.
    Rows(u64),
}

/// A copy that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// What both are now.
    pub head: Head,
    /// How many rows were held against each other in the last pass.
    pub verified: u64,
    /// How many were written, in all passes.
    pub written: u64,
}

/// How many rows are read at a time.
const BATCH: usize = 500;
/// How often a source that changes is read.
const ROUNDS_MAX: usize = 8;

/// Makes `to`, which is empty or an unfinished copy of `from`, a copy of it. `from` may be in use and change
/// meanwhile; the copy is of one moment of its history all the same.
///
/// # Errors
/// When one of them fails, there is something else at `to`, or `from` does not stand still for one pass. What
/// was written stays for the next attempt, and is no store before one is finished.
pub async fn copy(
    from: &dyn CopyStore,
    to: &dyn CopyStore,
    told: &mut (dyn FnMut(Step) + Send),
) -> Result<Copied, CopyFault> {
    let source = from.head().await?;
    if source.copying.is_some() {
        return Err(CopyFault::UnfinishedSource);
    }
    make_ready(&source, to).await?;
    let mut written = 0;
    for number in 1..=ROUNDS_MAX {
        let before = from.head().await?;
        let mut pass = Pass { from, to, told, read: 0, written: 0, history_written: 0 };
        pass.begin(number).await?;
        for &table in CopyTable::ALL {
            pass.table(table).await?;
        }
        let Pass { read, written: in_pass, history_written, .. } = pass;
        written += in_pass;
        let head = from.head().await?;
        // The last pass wrote nothing of the history, and the source stood still: they are the same.
        if history_written == 0 && before == head && number > 1 {
            to.finish_copy(head.clone()).await?;
            return Ok(Copied { head, verified: read, written });
        }
    }
    Err(CopyFault::Moving { rounds: ROUNDS_MAX })
}

/// Begins a copy, unless one was begun or something else is there.
async fn make_ready(source: &Head, to: &dyn CopyStore) -> Result<(), CopyFault> {
    let there = to.head().await?;
    match there.copying {
        Some(of) if of == source.store => return Ok(()),
        Some(_) => return Err(CopyFault::Occupied),
        None if there.store == source.store => {
            return Err(CopyFault::AlreadyThere { revision: there.newest.revision });
        }
        None => {}
    }
    let is_empty = there.newest.revision == 0 && there.secrets.is_empty();
    if !is_empty || to.count(CopyTable::Keys).await? > 0 || to.count(CopyTable::Users).await? > 0 {
        return Err(CopyFault::Occupied);
    }
    Ok(to.begin_copy(source.store).await?)
}

/// One pass over all rows of both.
struct Pass<'a> {
    from: &'a dyn CopyStore,
    to: &'a dyn CopyStore,
    told: &'a mut (dyn FnMut(Step) + Send),
    read: u64,
    written: u64,
    history_written: u64,
}

impl Pass<'_> {
    async fn begin(&mut self, number: usize) -> Result<(), StoreError> {
        let mut rows = 0;
        for &table in CopyTable::ALL {
            rows += self.from.count(table).await?;
        }
        (self.told)(Step::Pass { number, rows });
        Ok(())
    }

    async fn table(&mut self, table: CopyTable) -> Result<(), StoreError> {
        let mut after = None;
        let mut seen = 0;
        loop {
            let rows = self.from.rows(table, after, BATCH).await?;
            let Some(last) = rows.last() else { break };
            after = Some(place(table, last));
            seen += count(rows.len());
            self.take_over(table, rows).await?;
        }
        // Mostly there are as many there as here, and looking for one too many is for nothing.
        if self.to.count(table).await? != seen {
            self.remove_others(table).await?;
        }
        Ok(())
    }

    async fn take_over(&mut self, table: CopyTable, rows: Vec<CopyRow>) -> Result<(), StoreError> {
        let read = count(rows.len());
        let places = rows.iter().map(|row| place(table, row)).collect();
        let there: HashMap<CopyPlace, CopyRow> =
            self.to.rows_at(table, places).await?.into_iter().map(|row| (place(table, &row), row)).collect();
        let missing = |row: &CopyRow| there.get(&place(table, row)) != Some(row);
        let missing: Vec<CopyRow> = rows.into_iter().filter(missing).collect();
        self.wrote(table, missing.len());
        if !missing.is_empty() {
            self.to.write_rows(table, missing).await?;
        }
        self.read += read;
        (self.told)(Step::Rows(read));
        Ok(())
    }

    /// Removes from the copy what is no longer in its source.
    async fn remove_others(&mut self, table: CopyTable) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let rows = self.to.rows(table, after, BATCH).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(place(table, last));
            let places: Vec<CopyPlace> = rows.iter().map(|row| place(table, row)).collect();
            let kept = self.from.rows_at(table, places.clone()).await?;
            let kept: HashSet<CopyPlace> = kept.iter().map(|row| place(table, row)).collect();
            let gone: Vec<CopyPlace> = places.into_iter().filter(|place| !kept.contains(place)).collect();
            self.wrote(table, gone.len());
            if !gone.is_empty() {
                self.to.remove_rows(table, gone).await?;
            }
        }
    }

    fn wrote(&mut self, table: CopyTable, rows: usize) {
        self.written += count(rows);
        if table.is_history() {
            self.history_written += count(rows);
        }
    }
}

fn place(table: CopyTable, row: &CopyRow) -> CopyPlace {
    row.iter().take(table.key_width()).cloned().collect()
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}
