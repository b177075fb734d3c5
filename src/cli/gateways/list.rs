//! `keyward gateways list`: every process of every gateway.

use crate::cli::documents::Gateway;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::{self, clock};
use crate::cli::values::Whom;
use crate::clock::Timestamp;

/// Show every gateway: how it stands, how far it has come, and when it was last heard
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward gateways list -c keyward.toml
  keyward gateways -c keyward.toml --json

States: current; behind, which has not confirmed the newest revision yet; silent, which was not
heard for 10 seconds and may still serve; stale, which by its own configuration refuses everything.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    pub(super) whom: Whom,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let gateways = place::open(&args.whom)?.gateways()?;
    if args.json {
        return output.json(&gateways);
    }
    if gateways.is_empty() {
        return output.line("no gateway follows this store");
    }
    let now = clock().now();
    let rows = gateways.iter().map(|gateway| cells(gateway, now)).collect();
    output.table(&["GATEWAY", "STATE", "REVISION", "BEHIND", "SEEN", "HOST", "PROCESS", "VERSION"], rows)?;
    let newest = gateways.iter().filter_map(|gateway| Some(gateway.confirmed()? + gateway.lag_revisions?)).max();
    match newest {
        Some(newest) => output.line(format_args!("The newest revision is {newest}.")),
        None => Ok(()),
    }
}

fn cells(gateway: &Gateway, now: Timestamp) -> Vec<String> {
    let revision = gateway.confirmed().map_or_else(|| "of another history".to_owned(), |at| at.to_string());
    let behind = match (gateway.lag_revisions, gateway.lag_seconds) {
        (Some(0), _) => "-".to_owned(),
        (Some(revisions), Some(seconds)) => format!("{revisions}, for {seconds:.0}s"),
        (Some(revisions), None) => revisions.to_string(),
        (None, _) => "unknown".to_owned(),
    };
    vec![
        gateway.id.clone(),
        gateway.state.clone(),
        revision,
        behind,
        format!("{}s ago", now.since(gateway.last_seen_at).as_secs()),
        gateway.host.clone(),
        gateway.pid.to_string(),
        gateway.version.clone(),
    ]
}
