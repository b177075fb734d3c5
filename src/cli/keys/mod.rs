//! `keyward keys`: make, find, change, replace and end keys, in the store that the configuration names or
//! through a running gateway's management API.

mod create;
mod export;
mod foreign;
mod import;
mod inspect;
mod list;
mod revoke;
mod rotate;
mod rows;
mod show;
mod update;
mod webhook;

use clap::Subcommand;

use super::documents::Key;
use super::failure::Failure;
use super::operations::DamagedRow;
use super::output::{self, Output};
use crate::clock::Timestamp;
use crate::key::{KeyId, RotationState};
use crate::store::Damaged;

/// Make, find, change, replace and end keys
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Args),
    List(list::Args),
    Show(show::Args),
    Update(update::Args),
    Rotate(rotate::Args),
    RotateWebhookSecret(webhook::Args),
    Revoke(revoke::Args),
    Import(import::Args),
    Export(export::Args),
    Inspect(inspect::Args),
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        Command::Create(args) => create::run(args, output),
        Command::List(args) => list::run(args, output),
        Command::Show(args) => show::run(&args, output),
        Command::Update(args) => update::run(args, output),
        Command::Rotate(args) => rotate::run(&args, output),
        Command::RotateWebhookSecret(args) => webhook::run(&args, output),
        Command::Revoke(args) => revoke::run(&args, output),
        Command::Import(args) => import::run(args, output),
        Command::Export(args) => export::run(args, output),
        Command::Inspect(args) => inspect::run(args, output),
    }
}

/// A key's flags, for people.
fn flags_text(key: &Key) -> String {
    match (key.inherit, key.scopes.is_empty()) {
        (true, _) => "(its user's)".to_owned(),
        (false, true) => "(none)".to_owned(),
        (false, false) => key.scopes.join(" "),
    }
}

/// A key's project, for people.
fn project_text(key: &Key) -> &str {
    key.project_id.as_deref().unwrap_or("all")
}

/// An instant that may not be, for people.
fn time_text(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), Timestamp::to_rfc3339)
}

/// When a key is to be replaced, and whether that is now, for people.
fn rotation_text(key: &Key, now: Timestamp) -> String {
    let next = time_text(key.next_rotation_at);
    match key.rotation_state(now) {
        RotationState::None | RotationState::Ahead => next,
        RotationState::Due => format!("due since {next}"),
        RotationState::Overdue => format!("overdue since {next}"),
    }
}

/// When a key ends, if ever, for people.
fn end_text(end: Option<Timestamp>) -> String {
    end.map_or_else(|| "never".to_owned(), Timestamp::to_rfc3339)
}

/// `printed`, or, where it did not get through, what became of the token that nobody has seen.
fn told_once(id: KeyId, printed: Result<(), Failure>) -> Result<(), Failure> {
    printed.map_err(|_unprinted| {
        Failure::failed(format_args!("{id} was made, but its token could not be printed: revoke it and make another"))
    })
}

/// Names the rows that could not be listed with the others, if there are any.
fn complain_of_damage(damaged: &[DamagedRow]) -> Result<(), Failure> {
    for (what, cause) in damaged {
        match what {
            Damaged::Key { id, .. } => output::note(&format!("{id} cannot be read: {cause}")),
            Damaged::User(id) => output::note(&format!("user {id} cannot be read: {cause}")),
            Damaged::Unnamed => output::note(&format!("a row cannot be read: {cause}")),
        }
    }
    match damaged.len() {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} rows of the store are damaged; restore them from a backup"))),
    }
}
