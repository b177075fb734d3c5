//! What goes wrong inside, before it is told with the store's name. The details of what PostgreSQL
//! says are left out: they may quote a row.

use tokio_postgres::error::SqlState;

use crate::key::KeyId;
use crate::report::Chain;
use crate::secret::NoRandomness;
use crate::store::StoreError;

/// A failure that does not know yet in which store it happened.
#[derive(Debug)]
pub(in crate::store) enum Fault {
    /// PostgreSQL or the connection to it says so.
    Sql(tokio_postgres::Error),
    /// A stored value breaks a rule.
    Stored(String),
    /// Something around the store fails: the network, the pool, the random generator.
    Around(String),
    /// Whoever answers is no primary, so that what it says may be old.
    Replica,
    /// The database has none of our tables.
    NoStore,
    /// A row to write has a hash that is stored already.
    Duplicate { row: usize, existing: KeyId },
    /// A failure that is told already.
    Told(StoreError),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(&(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME)) => Self::NoStore,
            Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => Self::Replica,
            _ => Self::Sql(error),
        }
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
                let cause = words(&error);
                if is_damage(&error) {
                    StoreError::Damaged { store, cause }
                } else {
                    StoreError::Unavailable { store, cause }
                }
            }
            Self::Stored(cause) => StoreError::Damaged { store, cause },
            Self::Around(cause) => StoreError::Unavailable { store, cause: one_line(&cause) },
            Self::Replica => StoreError::Unavailable {
                store,
                cause: "the server is a replica or read-only, and only the primary is asked".to_owned(),
            },
            Self::NoStore => StoreError::Missing { store },
            Self::Duplicate { row, existing } => StoreError::DuplicateToken { row, existing },
            Self::Told(error) => error,
        }
    }

    /// Whether the connection is gone: nothing that was not committed by then ever will be.
    pub(super) fn is_lost_connection(&self) -> bool {
        match self {
            Self::Sql(error) => match error.as_db_error() {
                // 57P01 to 57P05: the server goes down, or ends this session.
                Some(said) => said.code().code().starts_with("57P") || said.code().code().starts_with("08"),
                None => true,
            },
            Self::Stored(_)
            | Self::Around(_)
            | Self::Replica
            | Self::NoStore
            | Self::Duplicate { .. }
            | Self::Told(_) => false,
        }
    }

    /// Whether the same transaction may well succeed if it is run again.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Sql(error) => {
                matches!(error.code(), Some(&(SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED)))
            }
            _ => false,
        }
    }
}

/// What PostgreSQL says, without the rows that it says it of.
pub(super) fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) if *said.code() == SqlState::QUERY_CANCELED => {
            format!("{}; store.postgres.statement_timeout says how long it may take", one_line(said.message()))
        }
        Some(said) => format!("{} (SQLSTATE {})", one_line(said.message()), said.code().code()),
        None => Chain(error).to_string(),
    }
}

fn is_damage(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
