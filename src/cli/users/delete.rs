//! `keyward users delete`: ends a user and revokes its keys. Its id is never used again.

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::Whom;
use crate::key::UserId;

/// Delete a user and revoke all its keys, for good; its id is never used again
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The user
    #[arg(value_name = "USER")]
    id: UserId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let deleted = asked.delete_user(args.id)?;
    if args.json {
        return output.json(&deleted);
    }
    output.line(format_args!("deleted user {}, revision {}", deleted.id, deleted.revision))?;
    deleted.revoked.iter().try_for_each(|id| output.line(format_args!("revoked its key {id}")))
}
