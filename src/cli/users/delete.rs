//! `keyward users delete`: ends a user and revokes its keys. Its id is never used again.

use serde::Serialize;

use crate::cli::documents::{Confirmation, DeletedUser};
use crate::cli::failure::Failure;
use crate::cli::gateways::{WaitOption, unconfirmed};
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::Whom;
use crate::key::UserId;

/// Delete a user and revoke all its keys, for good; its id is never used again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward users delete -c keyward.toml ann --wait 5s")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The user
    #[arg(value_name = "USER")]
    id: UserId,
    #[command(flatten)]
    wait: WaitOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A deletion and where it is in force, as JSON.
#[derive(Serialize)]
struct Confirmed<'a> {
    #[serde(flatten)]
    deleted: &'a DeletedUser,
    confirmation: &'a Confirmation,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let (wait, deleted) = (args.wait, asked.delete_user(args.id)?);
    let revision = deleted.revision;
    if args.json {
        let Some(confirmation) = wait.confirmation(&*asked, revision)? else { return output.json(&deleted) };
        output.json(&Confirmed { deleted: &deleted, confirmation: &confirmation })?;
        output.flush()?;
        return unconfirmed(&confirmation);
    }
    output.line(format_args!("deleted user {}, revision {revision}", deleted.id))?;
    deleted.revoked.iter().try_for_each(|id| output.line(format_args!("revoked its key {id}")))?;
    wait.tell(&*asked, revision, output)
}
