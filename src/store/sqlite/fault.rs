//! What goes wrong inside, before it is told with the store's name.

use crate::key::KeyId;
use crate::secret::NoRandomness;
use crate::store::StoreError;

/// A failure that does not know yet in which store it happened.
#[derive(Debug)]
pub(in crate::store) enum Fault {
    /// SQLite says so.
    Sql(rusqlite::Error),
    /// A stored value breaks a rule.
    Stored(String),
    /// Something around the store fails: the file system, a thread, the random generator.
    Around(String),
    /// A row to write has a hash that is stored already.
    Duplicate { row: usize, existing: KeyId },
    /// A failure that is told already.
    Told(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Told(error)
    }
}

impl From<NoRandomness> for Fault {
    fn from(error: NoRandomness) -> Self {
        Self::Around(error.to_string())
    }
}

impl Fault {
    /// The failure as the store named `store` tells it.
    pub(super) fn told(self, store: &str) -> StoreError {
        let store = store.to_owned();
        match self {
            Self::Sql(error) => {
                let cause = one_line(&error.to_string());
                if is_damage(&error) {
                    StoreError::Damaged { store, cause }
                } else {
                    StoreError::Unavailable { store, cause }
                }
            }
            Self::Stored(cause) => StoreError::Damaged { store, cause },
            Self::Around(cause) => StoreError::Unavailable { store, cause: one_line(&cause) },
            Self::Duplicate { row, existing } => StoreError::DuplicateToken { row, existing },
            Self::Told(error) => error,
        }
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(code) => matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase),
        None => matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::QueryReturnedNoRows
                | rusqlite::Error::Utf8Error(..)
        ),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
