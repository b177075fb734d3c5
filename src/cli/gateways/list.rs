//! `keyward gateways list`: every process of every gateway.

use crate::admin::GatewayShape;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::ConfigFile;
use crate::clock::Timestamp;
use crate::manage::GatewayView;

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
    pub(super) config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let fleet = place.wait(place.manager.gateways(&place.caller))?;
    if args.json {
        return output.json(&fleet.gateways.iter().map(GatewayShape::of).collect::<Vec<_>>());
    }
    if fleet.gateways.is_empty() {
        return output.line("no gateway follows this store");
    }
    let rows = fleet.gateways.iter().map(|view| cells(view, fleet.now)).collect();
    output.table(&["GATEWAY", "STATE", "REVISION", "BEHIND", "SEEN", "HOST", "PROCESS", "VERSION"], rows)?;
    output.line(format_args!("The newest revision is {}.", fleet.newest))
}

fn cells(view: &GatewayView, now: Timestamp) -> Vec<String> {
    let report = &view.gateway.report;
    let revision = view.gateway.confirmed().map_or_else(|| "of another history".to_owned(), |at| at.to_string());
    let behind = match (view.lag_revisions, view.lag) {
        (Some(0), _) => "-".to_owned(),
        (Some(revisions), Some(lag)) => format!("{revisions}, for {}s", lag.as_secs()),
        (Some(revisions), None) => revisions.to_string(),
        (None, _) => "unknown".to_owned(),
    };
    vec![
        report.gateway.to_string(),
        view.state.as_str().to_owned(),
        revision,
        behind,
        format!("{}s ago", now.since(view.gateway.last_seen).as_secs()),
        report.host.clone(),
        report.pid.to_string(),
        report.version.clone(),
    ]
}
