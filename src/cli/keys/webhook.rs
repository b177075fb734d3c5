//! `keyward keys rotate-webhook-secret`: changes the secret that a webhook's receiver verifies with.

use crate::admin::NewWebhookSecret;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::{ConfigFile, key_id};
use crate::key::KeyId;
use crate::secret::Secret;

/// Change the secret by which a key's webhook knows what is ours; both work for a day
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The key
    #[arg(value_name = "ID", value_parser = key_id)]
    id: KeyId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let changed = place.wait(place.manager.rotate_webhook_secret(&place.caller, args.id))?;
    if args.json {
        return output.json(&NewWebhookSecret::of(&changed));
    }
    let (id, revision) = (changed.key.id, changed.committed.revision);
    output.line(format_args!("changed the webhook secret of {id} and its lineage, revision {revision}"))?;
    output.line(format_args!("  the old secret is signed with, too, until {}", changed.old_until))?;
    output.line("The secret that the receiver verifies with from now on:")?;
    output.line(&*text_of(&changed.secret))
}

/// A webhook secret, to be printed.
pub(super) fn text_of(secret: &Secret) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned())
}
