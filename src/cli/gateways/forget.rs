//! `keyward gateways forget`: says that a gateway is gone.

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::Whom;
use crate::store::GatewayId;

/// Forget a gateway that is gone for good, so that no change waits for it any more
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward gateways forget -c keyward.toml gw_0193…

Make sure that it does not run: one that cannot reach the store may still let revoked keys through.
A gateway that runs after all is taken up again as soon as it is heard.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The gateway, as `keyward gateways list` shows it
    #[arg(value_name = "ID")]
    id: GatewayId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was forgotten, as JSON.
#[derive(Serialize)]
struct Forgotten {
    id: GatewayId,
    processes: usize,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let processes = place::open(&args.whom)?.forget_gateway(args.id.clone())?;
    if args.json {
        return output.json(&Forgotten { id: args.id, processes });
    }
    output.line(format_args!("forgot gateway {}; changes no longer wait for it", args.id))
}
