//! `keyward users list`.

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{Which, Whom};
use crate::key::ProjectId;

/// List users
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// Of this project, or of all
    #[arg(long, value_name = "PROJECT", default_value = "all")]
    project: Which<ProjectId>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let users = asked.users(args.project.one())?;
    if args.json {
        return output.json(&users);
    }
    let rows = users.iter().map(|user| {
        vec![
            user.id.clone(),
            user.project_id.clone().unwrap_or_else(|| "-".to_owned()),
            super::state_text(user).to_owned(),
            user.updated_at.to_rfc3339(),
            user.flags.join(" "),
        ]
    });
    output.table(&["ID", "PROJECT", "STATE", "UPDATED", "FLAGS"], rows.collect())
}
