//! `keyward keys rotate-webhook-secret`: changes the secret that a webhook's receiver verifies with.

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::{ConfigFile, key_id};
use crate::clock::Timestamp;
use crate::key::{KeyId, LineageId};
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

/// A changed secret as JSON.
#[derive(Serialize)]
struct Changed<'a> {
    id: KeyId,
    lineage_id: LineageId,
    rotation_webhook_secret: &'a str,
    old_secret_valid_until: Timestamp,
    revision: u64,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let changed = place.wait(place.manager.rotate_webhook_secret(&place.caller, args.id))?;
    let secret = text_of(&changed.secret);
    if args.json {
        return output.json(&Changed {
            id: changed.key.id,
            lineage_id: changed.key.lineage,
            rotation_webhook_secret: &secret,
            old_secret_valid_until: changed.old_until,
            revision: changed.committed.revision,
        });
    }
    let (id, revision) = (changed.key.id, changed.committed.revision);
    output.line(format_args!("changed the webhook secret of {id} and its lineage, revision {revision}"))?;
    output.line(format_args!("  the old secret is signed with, too, until {}", changed.old_until))?;
    output.line("The secret that the receiver verifies with from now on:")?;
    output.line(&*secret)
}

/// A webhook secret, to be printed.
pub(super) fn text_of(secret: &Secret) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned())
}
