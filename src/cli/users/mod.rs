//! `keyward users`: who owns keys, and what their keys may do at most.

mod delete;
mod list;
mod set;
mod show;

use clap::Subcommand;

use super::documents::User;
use super::failure::Failure;
use super::output::Output;

/// Make, find, change and delete users, who own keys
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Set(set::Args),
    List(list::Args),
    Show(show::Args),
    Delete(delete::Args),
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        Command::Set(args) => set::run(args, output),
        Command::List(args) => list::run(args, output),
        Command::Show(args) => show::run(args, output),
        Command::Delete(args) => delete::run(args, output),
    }
}

/// How a user stands, for people.
const fn state_text(user: &User) -> &'static str {
    if user.active { "active" } else { "disabled" }
}
