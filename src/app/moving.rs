//! Stores that move: copies into another store, backups, and the end of what a restored backup left open.

use std::path::Path;
use std::sync::Arc;

use super::error::AppError;
use crate::clock::Clock;
use crate::config::Config;
use crate::key::Actor;
use crate::manage::Caller;
use crate::store::{self, Acceptance, Backup, Copied, CopyFault, Retold, Settings, SharedStore, Step};

/// Copies the store that `from` says into the one that `to` says, which is made where it is missing. `told` is
/// told how far it has come.
///
/// # Errors
/// When either cannot be used, or the copy cannot be finished now.
pub async fn copy_store(
    from: &Settings,
    to: &Settings,
    clock: Arc<dyn Clock>,
    told: &mut (dyn FnMut(Step) + Send),
) -> Result<Copied, AppError> {
    let source = from.open(Arc::clone(&clock))?;
    to.make(Arc::clone(&clock))?;
    let target = to.open(clock)?;
    let part = |store: &SharedStore| AppError::NotOfThisKind { store: store.name().to_owned(), what: "copied" };
    let rows = source.copies().ok_or_else(|| part(&source))?;
    let into = target.copies().ok_or_else(|| part(&target))?;
    store::copy(rows, into, told).await.map_err(|fault| match fault {
        CopyFault::Store(error) => AppError::Store(error),
        fault => AppError::Copy(fault),
    })
}

/// Writes the store that `config` names into a new file at `to`.
///
/// # Errors
/// When the store is no file, or one of the files cannot be used.
pub fn back_up(config: &Config, to: &Path, clock: &Arc<dyn Clock>) -> Result<Backup, AppError> {
    Ok(store::back_up(file_of(config)?, to, clock)?)
}

/// Puts the backup in the file at `from` into the store that `config` names.
///
/// # Errors
/// When the store is no file, the backup is of another store, or one of the files cannot be used.
pub fn restore(config: &Config, from: &Path, clock: &Arc<dyn Clock>) -> Result<Backup, AppError> {
    Ok(store::restore(file_of(config)?, from, clock)?)
}

/// What gateways told the store again after `after`, since its backup was restored.
///
/// # Errors
/// When the store cannot be used.
pub async fn retold(store: &SharedStore, after: u64) -> Result<Vec<Retold>, AppError> {
    Ok(history_of(store)?.retold(after).await?)
}

/// Takes the restored store for right, for `caller`.
///
/// # Errors
/// When the store cannot be used.
pub async fn accept_restore(
    store: &SharedStore,
    caller: &Caller,
    after: u64,
) -> Result<(Acceptance, Vec<Retold>), AppError> {
    let actor: Actor = caller.actor();
    Ok(history_of(store)?.accept(actor, after).await?)
}

fn history_of(store: &SharedStore) -> Result<&dyn store::HistoryStore, AppError> {
    store.history().ok_or_else(|| AppError::NotOfThisKind { store: store.name().to_owned(), what: "accepted" })
}

/// A backup into a file is of a store that is one; a server's is its own tools'.
fn file_of(config: &Config) -> Result<&Path, AppError> {
    match &config.store {
        Settings::Sqlite { path } => Ok(path),
        Settings::Postgres(_) => Err(AppError::NotOfThisKind {
            store: config.store.name(),
            what: "backed up or restored here: use pg_dump and pg_restore (docs/OPERATIONS.md)",
        }),
    }
}
