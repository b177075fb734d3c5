//! `keyward users delete`: ends a user and revokes its keys. Its id is never used again.

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::ConfigFile;
use crate::key::{KeyId, UserId};

/// Delete a user and revoke all its keys, for good; its id is never used again
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The user
    #[arg(value_name = "USER")]
    id: UserId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A deletion as JSON.
#[derive(Serialize)]
struct Deleted<'a> {
    id: &'a UserId,
    revoked: Vec<KeyId>,
    revision: u64,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let deleted = super::existing(&place, place.manager.delete_user(&place.caller, args.id))?;
    let revision = deleted.committed.revision;
    let revoked: Vec<_> = deleted.keys.iter().map(|key| key.id).collect();
    if args.json {
        return output.json(&Deleted { id: &deleted.user.id, revoked, revision });
    }
    output.line(format_args!("deleted user {}, revision {revision}", deleted.user.id))?;
    revoked.iter().try_for_each(|id| output.line(format_args!("revoked its key {id}")))
}
