//! The file: opening it, knowing it again, and bringing its schema up to date.
//!
//! Nothing in this process but SQLite opens the file: POSIX drops all of a process's locks on a
//! file when any descriptor of it is closed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::fault::Fault;
use super::rows::{Columns, unsigned};
use crate::clock::Timestamp;
use crate::secret;
use crate::store::{StoreError, StoreId};

/// Marks a SQLite file as ours: `KWrd` in ASCII.
const APPLICATION_ID: i32 = 0x4B57_7264;
/// Migration `n` is the `n`th from 1.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/sqlite/0001_keys.sql"),
    include_str!("../migrations/sqlite/0002_management.sql"),
    include_str!("../migrations/sqlite/0003_webhooks.sql"),
    include_str!("../migrations/sqlite/0004_fleet.sql"),
    include_str!("../migrations/sqlite/0005_stages.sql"),
    include_str!("../migrations/sqlite/0006_history.sql"),
];
/// How long a call waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENTS_KEPT: usize = 64;
/// A write-ahead log that a large import blew up is cut back to this.
const LOG_BYTES_KEPT: i64 = 64 << 20;

/// Which file lies at a path, so that another one put in its place is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of what lies at `path` now; none if nothing does.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, Fault> {
        match fs::metadata(path) {
            Ok(data) => Ok(Some(Self { device: data.dev(), inode: data.ino() })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::Around(error.to_string())),
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that writes.
    Writer,
    /// One that SQLite itself holds to never writing.
    Reader,
}

/// Whether an empty file becomes a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// It does.
    Fill,
    /// It is no store.
    Refuse,
}

/// A file that was opened and is up to date.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) identity: Identity,
    pub(super) store: StoreId,
    pub(super) log: Log,
}

/// The write-ahead log of a file, and which one it was when the file was opened.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    index: PathBuf,
    identity: Option<Identity>,
}

/// Makes an empty file of mode 0600 at `path`, and the folders above it, if nothing is there.
pub(super) fn make(path: &Path) -> Result<(), Fault> {
    let around = |error: io::Error| Fault::Around(error.to_string());
    let folder = folder_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(around)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            file.sync_all().map_err(around)?;
            drop(file);
            sync_folder(path)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(around(error)),
    }
}

/// Makes the names in the folder of `path` last.
pub(super) fn sync_folder(path: &Path) -> Result<(), Fault> {
    let synced = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Fault::Around(error.to_string()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Opens the file at `path` and brings its schema up to date.
pub(super) fn open(path: &Path, name: &str, empty: Empty, now: Timestamp) -> Result<Opened, Fault> {
    // Opened between two looks that agree, so that the identity is that of the file opened.
    loop {
        let Some(identity) = Identity::of(path)? else {
            return Err(StoreError::Missing { store: name.to_owned() }.into());
        };
        let mut writer = connect(path, Role::Writer)?;
        if Identity::of(path)? != Some(identity) {
            continue;
        }
        let store = bring_up_to_date(&mut writer, name, empty, now)?;
        let (log, index) = (beside(path, "-wal"), beside(path, "-shm"));
        let log = Log { identity: Identity::of(&log)?, path: log, index };
        return Ok(Opened { writer, identity, store, log });
    }
}

/// The file that SQLite keeps beside the one at `path`, whose links it follows.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut real = fs::canonicalize(path).unwrap_or_else(|_gone| path.to_owned()).into_os_string();
    real.push(suffix);
    real.into()
}

/// Removes a write-ahead log that was left behind by a file no longer at `path`: SQLite would
/// replay it into the file that took its place. Every connection must be closed.
pub(super) fn remove_stale_log(log: &Log) -> Result<(), Fault> {
    if log.identity.is_none() || Identity::of(&log.path)? != log.identity {
        return Ok(());
    }
    for stale in [&log.path, &log.index] {
        match fs::remove_file(stale) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Fault::Around(error.to_string())),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// A connection to the file at `path`, which must be there.
pub(super) fn connect(path: &Path, role: Role) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    match role {
        Role::Writer => {
            connection.query_row(&format!("PRAGMA journal_size_limit = {LOG_BYTES_KEPT}"), [], |_row| Ok(()))?;
        }
        Role::Reader => connection.pragma_update(None, "query_only", true)?,
    }
    Ok(connection)
}

fn bring_up_to_date(connection: &mut Connection, name: &str, empty: Empty, now: Timestamp) -> Result<StoreId, Fault> {
    // Looked at before anything is written: the file may be another program's.
    let version = version_of(connection, name, empty)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Around(format!("journal mode is {mode:?} where a write-ahead log is needed")));
    }
    if version < MIGRATIONS.len() {
        migrate(connection, name, empty, now)?;
    }
    let mut statement = connection.prepare("SELECT store_id FROM meta")?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else {
        return Err(Fault::Stored("it has no store id".to_owned()));
    };
    Columns { row, next: 0 }.bits().map(StoreId)
}

/// The number of the newest migration that was applied.
fn version_of(connection: &Connection, name: &str, empty: Empty) -> Result<usize, Fault> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, tables, empty) {
        (APPLICATION_ID, ..) => {}
        (0, 0, Empty::Fill) => {}
        (0, 0, Empty::Refuse) => {
            return Err(Fault::Stored("it is empty; `keyward init` fills it".to_owned()));
        }
        _ => return Err(Fault::Stored("it is another program's database".to_owned())),
    }
    let version: usize = unsigned(version)?;
    if version > MIGRATIONS.len() {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (found, known) = (number(version), number(MIGRATIONS.len()));
        return Err(StoreError::TooNew { store: name.to_owned(), found, known }.into());
    }
    Ok(version)
}

fn migrate(connection: &mut Connection, name: &str, empty: Empty, now: Timestamp) -> Result<(), Fault> {
    // The write lock is the migration lock: whoever comes second finds the work done.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = version_of(&transaction, name, empty)?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    if version == 0 {
        let id: [u8; 16] = secret::random()?;
        transaction
            .execute("INSERT INTO meta (one, store_id, created_at) VALUES (1, ?1, ?2)", params![id, now.nanos()])?;
        transaction.execute("INSERT INTO counter (one, revision, commit_id) VALUES (1, 0, ?1)", params![[0u8; 16]])?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    transaction.commit()?;
    Ok(())
}
