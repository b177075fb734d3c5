//! Why a command did not succeed: the lines it prints to standard error, and its exit code.

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;

use crate::manage::ManageError;
use crate::report::Chain;
use crate::store::StoreError;

/// Why a command did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// What was asked for could not be done. Exit code 1.
    Failed(Vec<String>),
    /// The command was typed wrongly. Exit code 2.
    Usage(String),
    /// The configuration cannot be used; a line for each fault. Exit code 64.
    Config(Vec<String>),
    /// Whoever read our output has gone, as `head` does. Nothing is said; exit code 0.
    PipeClosed,
}

impl Failure {
    /// A failure that one line describes.
    pub(super) fn failed(line: impl Display) -> Self {
        Self::Failed(vec![line.to_string()])
    }

    /// A failure described by `error` and all its causes.
    pub(super) fn because(error: &dyn Error) -> Self {
        Self::failed(Chain(error))
    }

    /// `what` could not be done because of `error`.
    pub(super) fn of(what: impl Display, error: &dyn Error) -> Self {
        Self::failed(format_args!("{what}: {}", Chain(error)))
    }

    /// Wrong use that the argument parser alone could not see.
    pub(super) fn usage(line: impl Display) -> Self {
        Self::Usage(line.to_string())
    }

    /// The faults of a configuration, a line each.
    pub(super) fn config<T: Display>(faults: impl IntoIterator<Item = T>) -> Self {
        Self::Config(faults.into_iter().map(|fault| fault.to_string()).collect())
    }

    /// What is printed to standard error, a line each.
    pub(super) fn lines(&self) -> &[String] {
        match self {
            Self::Failed(lines) | Self::Config(lines) => lines,
            Self::Usage(line) => std::slice::from_ref(line),
            Self::PipeClosed => &[],
        }
    }

    /// The code the program exits with.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Config(_) => ExitCode::from(64),
            Self::PipeClosed => ExitCode::SUCCESS,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            // The configuration names a secret and a store that do not belong together.
            StoreError::WrongSecret { .. } => Self::config([Chain(&error)]),
            _ => Self::because(&error),
        }
    }
}

impl From<ManageError> for Failure {
    fn from(error: ManageError) -> Self {
        match error {
            ManageError::Store(error) => error.into(),
            error => Self::because(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {0}")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let error = Outer("keys.csv", std::io::Error::other("disk on fire"));
        assert_eq!(Failure::because(&error).lines(), ["cannot read keys.csv: disk on fire"]);
        assert_eq!(Failure::of("import", &error).lines(), ["import: cannot read keys.csv: disk on fire"]);
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let code = |failure: Failure| format!("{:?}", failure.exit_code());
        assert_eq!(code(Failure::failed("x")), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(Failure::usage("x")), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(Failure::config(["x", "y"])), format!("{:?}", ExitCode::from(64)));
        assert_eq!(code(Failure::PipeClosed), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(Failure::config(["x", "y"]).lines(), ["x", "y"]);
    }
}
