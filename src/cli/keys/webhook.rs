//! `keyward keys rotate-webhook-secret`: changes the secret that a webhook's receiver verifies with.

use crate::cli::documents::NewWebhookSecret;
use crate::cli::failure::Failure;
use crate::cli::gateways::WaitOption;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{Whom, key_id};
use crate::key::KeyId;

/// Change the secret by which a key's webhook knows what is ours; both work for a day
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The key
    #[arg(value_name = "ID", value_parser = key_id)]
    id: KeyId,
    #[command(flatten)]
    wait: WaitOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let changed = asked.rotate_webhook_secret(args.id)?;
    print(&changed, args.json, output).map_err(|_unprinted| {
        let id = changed.id;
        Failure::failed(format_args!(
            "the webhook secret of {id} was changed, but could not be printed: change it again"
        ))
    })?;
    args.wait.check(&*asked, changed.revision, output)
}

fn print(changed: &NewWebhookSecret, json: bool, output: &mut Output) -> Result<(), Failure> {
    if json {
        output.json(changed)?;
        return output.flush();
    }
    let (id, revision) = (changed.id, changed.revision);
    output.line(format_args!("changed the webhook secret of {id} and its lineage, revision {revision}"))?;
    output.line(format_args!("  the old secret is signed with, too, until {}", changed.old_secret_valid_until))?;
    output.line("The secret that the receiver verifies with from now on:")?;
    output.line(changed.rotation_webhook_secret.expose())?;
    output.flush()
}
