//! Why the program could not start, and whether its operator or its surroundings are to be asked.

use std::io;
use std::path::PathBuf;

use crate::config::{Config, Fault};
use crate::listen::BindFault;
use crate::manage::ManageError;
use crate::secret::NoRandomness;
use crate::store::{CopyFault, StoreError};
use crate::sync::StateError;
use crate::telemetry::LogFault;
use crate::tls::{CannotGenerate, CertificateFault};

/// Why the program could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration has faults.
    #[error("{}", lines(.0))]
    Config(Vec<Fault>),
    /// The deny list cannot be read.
    #[error("the deny list {} cannot be read: {cause}", .path.display())]
    DenyFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A reload changes what only a restart can change.
    #[error("a restart is needed to change {changed}; nothing was changed")]
    RestartNeeded {
        /// Which keys.
        changed: String,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A store was not copied.
    #[error(transparent)]
    Copy(CopyFault),
    /// A store of this kind cannot do it.
    #[error("the store {store} cannot be {what}")]
    NotOfThisKind {
        /// Which store.
        store: String,
        /// What was asked for.
        what: &'static str,
    },
    /// The store was made with a master secret that is not there.
    #[error("the store {store} was made with a master secret, and there is none at {}: put that file back", .path.display())]
    SecretMissing {
        /// Which store.
        store: String,
        /// Where the secret was looked for.
        path: PathBuf,
    },
    /// There is no store, and there was one.
    #[error(
        "no store at {store}, and {state} remembers one: put it back from a backup; to begin anew without its keys, move {state} away first",
        state = .state.display()
    )]
    StoreLost {
        /// Where it was looked for.
        store: String,
        /// What a gateway has written of it.
        state: PathBuf,
    },
    /// The store has not said in time whether secrets are its own.
    #[error("the store {store} gives no answer: reload again once it does")]
    StoreSilent {
        /// Which store.
        store: String,
    },
    /// The store knows a newer secret than the file.
    #[error("the store knows master secret {number}, and {} does not: copy the file from where that one was made, \
             or `keyward secrets forget {number}` if it is lost", .path.display())]
    SecretLacking {
        /// The secret that is lacking.
        number: u32,
        /// The file.
        path: PathBuf,
    },
    /// No more secrets fit.
    #[error("there are as many master secrets as there can be: `keyward secrets forget {oldest}` first")]
    TooManySecrets {
        /// The oldest.
        oldest: u32,
    },
    /// A secret that is in use cannot be forgotten.
    #[error("master secret {number} is in use: it can be forgotten once another is")]
    SecretInUse {
        /// Which one.
        number: u32,
    },
    /// A secret that nobody knows.
    #[error("there is no master secret {number}: see `keyward secrets list`")]
    NoSuchSecret {
        /// Which one.
        number: u32,
    },
    /// The secrets are in a variable, which no command can change.
    #[error("KEYWARD_MASTER_SECRET holds the master secrets, and no command can change a variable: {remedy}")]
    SecretInEnvironment {
        /// What to do.
        remedy: &'static str,
    },
    /// Somebody else changes the secrets' file.
    #[error("{} is being changed by another process: try again when that has ended", .path.display())]
    SecretsBusy {
        /// The file.
        path: PathBuf,
    },
    /// Snapshot and journal cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A listener cannot be had.
    #[error("{key}: {fault}")]
    Listen {
        /// The configuration's key for it.
        key: String,
        /// Why.
        fault: BindFault,
    },
    /// A value that was typed cannot be used.
    #[error("{option}: {cause}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// A key operation failed.
    #[error(transparent)]
    Manage(#[from] ManageError),
    /// A file or folder cannot be made or read.
    #[error("cannot {doing} {}: {cause}", .path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// A file is there that this would have to change.
    #[error("{} is there: {remedy}", .path.display())]
    Occupied {
        /// Its path.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The log cannot be started.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// A certificate cannot be made.
    #[error(transparent)]
    Generate(#[from] CannotGenerate),
    /// The operating system has no randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// Two metrics have one name.
    #[error("a metric cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A thread or runtime cannot be had, or ended before it should.
    #[error("{what}: {cause}")]
    Runtime {
        /// Which one.
        what: &'static str,
        /// Why.
        cause: io::Error,
    },
}

impl AppError {
    /// Whether what the operator configured is at fault, rather than its surroundings.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::DenyFile { .. }
            | Self::RestartNeeded { .. }
            | Self::Occupied { .. }
            | Self::SecretMissing { .. }
            | Self::StoreLost { .. }
            | Self::SecretInEnvironment { .. }
            | Self::Log(_) => true,
            Self::Store(error) => match error {
                StoreError::Missing { .. }
                | StoreError::TooNew { .. }
                | StoreError::WrongSecret { .. }
                | StoreError::OtherStore { .. }
                | StoreError::Unfinished { .. } => true,
                StoreError::Unavailable { .. }
                | StoreError::Damaged { .. }
                | StoreError::Replaced { .. }
                | StoreError::DuplicateToken { .. }
                | StoreError::StageLost { .. }
                | StoreError::Backup { .. } => false,
            },
            Self::State(error) => matches!(error, StateError::InUse(_)),
            Self::Listen { .. }
            | Self::StoreSilent { .. }
            | Self::Copy(_)
            | Self::NotOfThisKind { .. }
            | Self::SecretLacking { .. }
            | Self::TooManySecrets { .. }
            | Self::SecretInUse { .. }
            | Self::NoSuchSecret { .. }
            | Self::SecretsBusy { .. }
            | Self::Option { .. }
            | Self::Manage(_)
            | Self::File { .. }
            | Self::Generate(_)
            | Self::Randomness(_)
            | Self::Metrics(_)
            | Self::Runtime { .. } => false,
        }
    }

    /// What is wrong with certificates that `table` of `config` names.
    pub(super) fn certificates(config: &Config, table: &str) -> impl FnOnce(Vec<CertificateFault>) -> Self {
        move |faults| Self::Config(config.certificate_faults(table, &faults))
    }

    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { doing, path, cause }
    }

    pub(super) fn runtime(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Runtime { what, cause }
    }
}

fn lines<T: std::fmt::Display>(faults: &[T]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
