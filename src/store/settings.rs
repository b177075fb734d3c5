//! Which store, and where.

use std::path::PathBuf;

/// Where keys are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// An embedded SQLite file.
    Sqlite {
        /// The database file; its `-wal` and `-shm` lie beside it.
        path: PathBuf,
    },
}
