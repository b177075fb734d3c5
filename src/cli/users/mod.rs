//! `keyward users`: who owns keys, and what their keys may do at most.

mod delete;
mod list;
mod set;
mod show;

use clap::Subcommand;

use super::failure::Failure;
use super::output::Output;
use super::place::Place;
use crate::key::User;
use crate::manage::ManageError;

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

/// What `asked`, which is about a user that exists, comes to.
fn existing<T>(place: &Place, asked: impl Future<Output = Result<T, ManageError>>) -> Result<T, Failure> {
    place.wait(async {
        asked.await.map_err(|error| match error {
            ManageError::UserNotFound { id } => {
                Failure::failed(format_args!("no user {:?}; `keyward users list` shows those that exist", id.as_str()))
            }
            error => error.into(),
        })
    })
}

/// How a user stands, for people.
const fn state_text(user: &User) -> &'static str {
    match (user.deleted, user.active) {
        (true, _) => "deleted",
        (false, true) => "active",
        (false, false) => "disabled",
    }
}
