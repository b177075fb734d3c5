//! A store's file as a backup, and a backup as a store's content.
//!
//! Both are transactions of SQLite: a backup is of one moment, whoever writes meanwhile, and a restore
//! is there whole or not at all, for every process that has the file open.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::fault::Fault;
use super::file::{self, Empty, Role};
use crate::clock::Clock;
use crate::store::{Cursor, StoreError, StoreId};

/// What processes say of themselves, which no backup knows.
const NOT_RESTORED: &[&str] = &["gateways"];

/// A backup, as it was found or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// The store that it is of.
    pub store: StoreId,
    /// Its newest revision.
    pub newest: Cursor,
}

/// Writes the store in the file at `path` into a new file at `to`, readable by its owner alone. Blocks on the
/// disk; others read and write the store meanwhile.
///
/// # Errors
/// When there is no store, something is at `to` already, or one of them cannot be used.
pub fn back_up(path: &Path, to: &Path, clock: &Arc<dyn Clock>) -> Result<Backup, StoreError> {
    let (name, target) = (path.display().to_string(), to.display().to_string());
    if to.exists() {
        return Err(told(to, "it is there already; name a file that is not"));
    }
    let opened = file::open(path, &name, Empty::Refuse, clock.now()).map_err(|fault| fault.told(&name))?;
    let unfinished = beside(to);
    let written = || -> Result<Backup, Fault> {
        // It may be left of an attempt that was killed.
        remove_with_log(&unfinished)?;
        file::make(&unfinished)?;
        let path = unfinished.to_str().ok_or_else(|| Fault::Around("its path is no text".to_owned()))?;
        opened.writer.execute("VACUUM INTO ?1", params![path])?;
        let backup = look(&Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?)?;
        let synced = File::open(&unfinished).and_then(|file| file.sync_all());
        synced.and_then(|()| fs::rename(&unfinished, to)).map_err(|error| Fault::Around(error.to_string()))?;
        file::sync_folder(to)?;
        Ok(backup)
    };
    written().map_err(|fault| {
        let _absent = fs::remove_file(&unfinished);
        fault.told(&target)
    })
}

/// Puts what the backup in the file at `from` holds into the store at `path`, in place of what is there: in one
/// transaction, so that whoever has the store open goes on with it. Where nothing is at `path`, makes it. The
/// backup stays as it is. Blocks on the disk.
///
/// # Errors
/// When the backup is no store, is damaged, or is of another store than the one at `path`; when one of them
/// cannot be used. Nothing is changed then.
pub fn restore(path: &Path, from: &Path, clock: &Arc<dyn Clock>) -> Result<Backup, StoreError> {
    let (name, source) = (path.display().to_string(), from.display().to_string());
    super::examine(from)?;
    let now = clock.now();
    if file::Identity::of(path)
        .is_ok_and(|there| there.is_some() && file::Identity::of(from).is_ok_and(|it| it == there))
    {
        return Err(told(from, "it is the store itself; name a backup of it"));
    }
    // A backup of an older program is brought up to date, and stays as it is all the same.
    let copied = beside(path);
    let prepared = (|| {
        remove_with_log(&copied)?;
        file::make(&copied)?;
        fs::copy(from, &copied).map_err(|error| Fault::Around(error.to_string()))?;
        // A copy has the mode of what was copied.
        fs::set_permissions(&copied, Permissions::from_mode(0o600))
            .map_err(|error| Fault::Around(error.to_string()))?;
        let opened = file::open(&copied, &source, Empty::Refuse, now)?;
        let backup = look(&opened.writer)?;
        // Nothing may be left beside the file when it is moved.
        let mode: String = opened.writer.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
        if mode != "delete" {
            return Err(Fault::Around(format!("its journal mode stays {mode:?}")));
        }
        Ok(backup)
    })()
    .map_err(|fault: Fault| fault.told(&source));
    let restored = prepared.and_then(|backup| {
        if !path.exists() {
            return put(path, &copied).map(|()| backup).map_err(|fault| fault.told(&name));
        }
        let there = file::open(path, &name, Empty::Refuse, now).map_err(|fault| {
            let cause = fault.told(&name);
            told(from, format_args!("nothing was restored, for {cause}; or move {name} away, with its -wal and -shm"))
        })?;
        if there.store != backup.store {
            return Err(told(from, format_args!("it is of another store than {name}; move that one away to use it")));
        }
        drop(there);
        replace(path, &copied).map(|()| backup).map_err(|fault| fault.told(&name))
    });
    let _absent = remove_with_log(&copied);
    restored
}

/// The prepared file becomes the store's.
fn put(path: &Path, copied: &Path) -> Result<(), Fault> {
    let around = |error: std::io::Error| Fault::Around(error.to_string());
    remove_log(path)?;
    File::open(copied).and_then(|file| file.sync_all()).map_err(around)?;
    fs::rename(copied, path).map_err(around)?;
    file::sync_folder(path)
}

/// The prepared file's rows take the place of the store's.
fn replace(path: &Path, copied: &Path) -> Result<(), Fault> {
    let mut connection = file::connect(path, Role::Writer)?;
    let copied = copied.to_str().ok_or_else(|| Fault::Around("its path is no text".to_owned()))?;
    // References hold in the backup, and are looked at as a whole: on the way, tables lack what others refer to.
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.execute("ATTACH DATABASE ?1 AS backup", params![copied])?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tables: Vec<String> = {
        let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        let mut statement = transaction.prepare(sql)?;
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    for table in tables.iter().filter(|table| !NOT_RESTORED.contains(&table.as_str())) {
        transaction.execute_batch(&format!(
            "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM backup.{table};"
        ))?;
    }
    let broken: Option<String> =
        transaction.query_row("PRAGMA main.foreign_key_check", [], |row| row.get(0)).optional()?;
    if let Some(table) = broken {
        return Err(Fault::Stored(format!("a row of the backup's table {table} refers to one that is not there")));
    }
    transaction.commit()?;
    Ok(())
}

fn told(file: &Path, cause: impl std::fmt::Display) -> StoreError {
    StoreError::Backup { file: file.display().to_string(), cause: cause.to_string() }
}

fn look(connection: &Connection) -> Result<Backup, Fault> {
    let head = super::copy::head(connection)?;
    if head.copying.is_some() {
        return Err(Fault::Stored("it is a copy that was not finished".to_owned()));
    }
    Ok(Backup { store: head.store, newest: head.newest })
}

/// Where a file is made that becomes the one at `path`.
fn beside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.unfinished", path.display()))
}

/// Removes the file at `path`, and what SQLite keeps beside it.
fn remove_with_log(path: &Path) -> Result<(), Fault> {
    remove(path)?;
    remove_log(path)
}

/// Removes what SQLite keeps beside the file at `path`. It knows a log by its name alone: one that a lost file
/// left would be replayed into the next of that name.
fn remove_log(path: &Path) -> Result<(), Fault> {
    ["-wal", "-shm", "-journal"].iter().try_for_each(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        remove(Path::new(&name))
    })
}

fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Fault::Around(error.to_string())),
        Ok(()) | Err(_) => Ok(()),
    }
}
