//! `keyward gateways`: which gateways follow the store, how far each has come, and where a change is in
//! force.

mod forget;
mod list;

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Subcommand;

use super::documents::{Confirmation, Gateway};
use super::failure::Failure;
use super::operations::Operations;
use super::output::Output;
use super::place::clock;
use super::values::{WhomIfAny, duration};
use crate::clock::Timestamp;

/// Show which gateways follow the store and how far each has come, or forget one that is gone
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    whom: WhomIfAny,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Forget(forget::Args),
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        Some(Command::List(args)) => list::run(&args, output),
        Some(Command::Forget(args)) => forget::run(args, output),
        None => list::run(&list::Args { whom: args.whom.whom(), json: args.json }, output),
    }
}

/// Whether a command waits until its change is in force.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct WaitOption {
    /// Wait this long for every gateway to confirm it; exits 1 and names those that have not
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

impl WaitOption {
    /// Waits, where that was asked for, until `revision` is in force or the time is over.
    pub(super) fn confirmation(self, asked: &dyn Operations, revision: u64) -> Result<Option<Confirmation>, Failure> {
        self.wait.map(|wait| asked.confirmation(revision, wait)).transpose()
    }

    /// Waits as [`WaitOption::confirmation`] does, after all that was printed so far can be read, and tells
    /// people what came of it.
    ///
    /// # Errors
    /// Naming each gateway that has not confirmed `revision`.
    pub(super) fn tell(self, asked: &dyn Operations, revision: u64, output: &mut Output) -> Result<(), Failure> {
        // Whoever reads it or not: the change is waited for.
        let read = output.flush();
        let Some(confirmation) = self.confirmation(asked, revision)? else { return read };
        unconfirmed(&confirmation)?;
        read?;
        output.line(format_args!("in force{}", counted(gateways(&confirmation.applied))))
    }

    /// The same where the output is not for people.
    pub(super) fn check(self, asked: &dyn Operations, revision: u64, output: &mut Output) -> Result<(), Failure> {
        let read = output.flush();
        self.confirmation(asked, revision)?.as_ref().map_or(Ok(()), unconfirmed)?;
        read
    }
}

fn counted(gateways: usize) -> String {
    match gateways {
        0 => ": no gateway is running".to_owned(),
        1 => " on the only gateway".to_owned(),
        more => format!(" on all {more} gateways"),
    }
}

/// How many gateways these processes are of.
fn gateways<'a>(processes: impl IntoIterator<Item = &'a Gateway>) -> usize {
    processes.into_iter().map(|process| &process.id).collect::<BTreeSet<_>>().len()
}

/// Nothing where a change is in force everywhere.
///
/// # Errors
/// Naming each gateway on which it may not be.
pub(super) fn unconfirmed(confirmation: &Confirmation) -> Result<(), Failure> {
    if confirmation.confirmed {
        return Ok(());
    }
    let (revision, now) = (confirmation.revision, clock().now());
    let missing = gateways(&confirmation.unconfirmed);
    let all = gateways(confirmation.unconfirmed.iter().chain(&confirmation.applied));
    let mut lines =
        vec![format!("it is done, but revision {revision} is not confirmed by {missing} of {all} gateways:")];
    lines.extend(confirmation.unconfirmed.iter().map(|gateway| format!("  {}", sentence(gateway, now))));
    if confirmation.unconfirmed.iter().any(Gateway::is_silent) {
        lines.push("  one that is gone for good is forgotten by `keyward gateways forget ID`".to_owned());
    }
    Err(Failure::Failed(lines))
}

fn sentence(gateway: &Gateway, now: Timestamp) -> String {
    let Gateway { id, host, pid, state, .. } = gateway;
    let seen = now.since(gateway.last_seen_at).as_secs();
    let at = match gateway.confirmed() {
        Some(revision) => format!("at revision {revision}"),
        None => "follows another history of the store".to_owned(),
    };
    format!("{id} on {host}, process {pid}: {state}, {at}, heard {seen}s ago")
}
