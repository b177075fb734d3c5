//! Which store, and where.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use super::{PostgresSettings, PostgresStore, SharedStore, SqliteStore, StoreError, examine};
use crate::clock::Clock;

/// Where keys are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// An embedded SQLite file.
    Sqlite {
        /// The database file; its `-wal` and `-shm` lie beside it.
        path: PathBuf,
    },
    /// A PostgreSQL database that many gateways share.
    Postgres(Box<PostgresSettings>),
}

impl Settings {
    /// What the store is called in messages: the file's path or the server's address, never a password.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Sqlite { path } => path.display().to_string(),
            Self::Postgres(settings) => settings.address.name().to_owned(),
        }
    }
}

impl Settings {
    /// Opens the store, which must be there. Blocks on it. A PostgreSQL store goes by its server's clock.
    ///
    /// # Errors
    /// When it is missing, damaged, of a newer schema, or cannot be used.
    pub fn open(&self, clock: Arc<dyn Clock>) -> Result<SharedStore, StoreError> {
        Ok(match self {
            Self::Sqlite { path } => Arc::new(SqliteStore::open(path, clock)?),
            Self::Postgres(settings) => Arc::new(PostgresStore::open(settings)?),
        })
    }

    /// Whether it is a file, and that is not there. An empty file is one that was made ready for the store, by whoever
    /// mounts or owns the folder. One that cannot be looked at is not lacking.
    #[must_use]
    pub fn is_lacking_file(&self) -> bool {
        match self {
            Self::Sqlite { path } => {
                fs::metadata(path).map_or_else(|error| error.kind() == ErrorKind::NotFound, |file| file.len() == 0)
            }
            Self::Postgres(_) => false,
        }
    }

    /// Makes the store where there is none, and answers whether it did. For `init` alone. Blocks on it.
    ///
    /// # Errors
    /// When it can be neither made nor used.
    pub fn make(&self, clock: Arc<dyn Clock>) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite { path } => {
                let is_lacking = self.is_lacking_file();
                if is_lacking {
                    SqliteStore::create(path, clock)?;
                }
                Ok(is_lacking)
            }
            Self::Postgres(settings) => Ok(PostgresStore::create(settings)?.1),
        }
    }

    /// Holds all of the store's file against itself, where it is a file. Blocks on it.
    ///
    /// # Errors
    /// When it is damaged, or cannot be read.
    pub fn examine(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite { path } => examine(path),
            // What its server does for itself.
            Self::Postgres(_) => Ok(()),
        }
    }
}
