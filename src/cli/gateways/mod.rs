//! `keyward gateways`: which gateways follow the store, how far each has come, and where a change is in
//! force.

mod forget;
mod list;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use tokio::time::Instant;

use super::failure::Failure;
use super::output::Output;
use super::place::Place;
use super::values::{ConfigFile, duration};
use crate::clock::Timestamp;
use crate::manage::{Confirmation, GatewayState, GatewayView};

/// Show which gateways follow the store and how far each has come, or forget one that is gone
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
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
    match (args.command, args.config) {
        (Some(Command::List(args)), _) => list::run(&args, output),
        (Some(Command::Forget(args)), _) => forget::run(args, output),
        (None, Some(path)) => list::run(&list::Args { config: ConfigFile { path }, json: args.json }, output),
        (None, None) => Err(Failure::usage("expected --config <FILE>; see `keyward gateways --help`")),
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
    pub(super) fn confirmation(self, place: &Place, revision: u64) -> Result<Option<Confirmation>, Failure> {
        let Some(wait) = self.wait else { return Ok(None) };
        let until = Instant::now() + wait;
        place.wait(place.manager.wait_confirmed(revision, until)).map(Some)
    }

    /// Waits as [`WaitOption::confirmation`] does, after all that was printed so far can be read, and tells
    /// people what came of it.
    ///
    /// # Errors
    /// Naming each gateway that has not confirmed `revision`.
    pub(super) fn tell(self, place: &Place, revision: u64, output: &mut Output) -> Result<(), Failure> {
        output.flush()?;
        let Some(confirmation) = self.confirmation(place, revision)? else { return Ok(()) };
        if confirmation.is_of_all() {
            output.line(format_args!("in force{}", counted(gateways(&confirmation.applied))))?;
        }
        unconfirmed(&confirmation)
    }

    /// The same where the output is not for people.
    pub(super) fn check(self, place: &Place, revision: u64, output: &mut Output) -> Result<(), Failure> {
        output.flush()?;
        self.confirmation(place, revision)?.as_ref().map_or(Ok(()), unconfirmed)
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
fn gateways<'a>(views: impl IntoIterator<Item = &'a GatewayView>) -> usize {
    views.into_iter().map(|view| &view.gateway.report.gateway).collect::<BTreeSet<_>>().len()
}

/// Nothing where a change is in force everywhere.
///
/// # Errors
/// Naming each gateway on which it may not be.
pub(super) fn unconfirmed(confirmation: &Confirmation) -> Result<(), Failure> {
    if confirmation.is_of_all() {
        return Ok(());
    }
    let (revision, now) = (confirmation.revision, confirmation.now);
    let missing = gateways(&confirmation.unconfirmed);
    let all = gateways(confirmation.unconfirmed.iter().chain(&confirmation.applied));
    let mut lines =
        vec![format!("it is done, but revision {revision} is not confirmed by {missing} of {all} gateways:")];
    lines.extend(confirmation.unconfirmed.iter().map(|view| format!("  {}", sentence(view, now))));
    if confirmation.unconfirmed.iter().any(|view| view.state == GatewayState::Silent) {
        lines.push("  one that is gone for good is forgotten by `keyward gateways forget ID`".to_owned());
    }
    Err(Failure::Failed(lines))
}

fn sentence(view: &GatewayView, now: Timestamp) -> String {
    let report = &view.gateway.report;
    let seen = now.since(view.gateway.last_seen).as_secs();
    let at = match view.gateway.confirmed() {
        Some(revision) => format!("at revision {revision}"),
        None => "follows another history of the store".to_owned(),
    };
    let state = view.state.as_str();
    format!("{} on {}, process {}: {state}, {at}, heard {seen}s ago", report.gateway, report.host, report.pid)
}
