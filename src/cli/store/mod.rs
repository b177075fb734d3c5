//! `keyward store`: the store as a whole. Copies, backups, and what follows a restore.

mod accept;
mod backup;
mod copy;
mod restore;

use clap::Subcommand;

use super::failure::Failure;
use super::output::Output;

/// Copy, back up and restore the store
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Copy(copy::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    AcceptRestore(accept::Args),
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        Command::Copy(args) => copy::run(&args, output),
        Command::Backup(args) => backup::run(&args, output),
        Command::Restore(args) => restore::run(&args, output),
        Command::AcceptRestore(args) => accept::run(&args, output),
    }
}
