//! What a bug prints: one line that says where, and nothing of what the program held.

use std::panic::{self, UnwindSafe};

use super::failure::Failure;
use super::output;

/// From here on a panic prints one line to standard error. Its message is left out, for it may quote
/// what was being handled.
pub(super) fn install_hook() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        output::note(&format!("internal error at {place}: this is a bug, please report it"));
    }));
}

/// Runs `command`; a panic in it, which the hook has told of, is a failure like any other.
pub(super) fn contain(command: impl FnOnce() -> Result<(), Failure> + UnwindSafe) -> Result<(), Failure> {
    panic::catch_unwind(command).unwrap_or_else(|_told_by_the_hook| Err(Failure::Failed(Vec::new())))
}
