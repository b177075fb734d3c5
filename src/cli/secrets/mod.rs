//! `keyward secrets`: the master secrets, from which everything that is signed and sealed is derived.
//! None of these commands shows one.

mod forget;
mod jwks;
mod list;
mod rotate;

use clap::Subcommand;

use super::failure::Failure;
use super::output::Output;

/// Replace the master secret, and see which there are
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Rotate(rotate::Args),
    List(list::Args),
    Jwks(jwks::Args),
    Forget(forget::Args),
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        Command::Rotate(args) => rotate::run(&args, output),
        Command::List(args) => list::run(&args, output),
        Command::Jwks(args) => jwks::run(&args, output),
        Command::Forget(args) => forget::run(&args, output),
    }
}
