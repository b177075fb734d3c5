//! `keyward users list`.

use crate::admin::UserShape;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::{ConfigFile, Which};
use crate::key::ProjectId;
use crate::store::UserQuery;

/// List users
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Of this project, or of all
    #[arg(long, value_name = "PROJECT", default_value = "all")]
    project: Which<ProjectId>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let query = UserQuery { project: args.project.one(), ..UserQuery::default() };
    let users = place.wait(place.manager.users(&place.caller, query))?;
    if args.json {
        return output.json(&users.iter().map(UserShape::of).collect::<Vec<_>>());
    }
    let rows = users.iter().map(|user| {
        vec![
            user.id.to_string(),
            user.project.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            super::state_text(user).to_owned(),
            user.updated_at.to_rfc3339(),
            user.flags.to_string(),
        ]
    });
    output.table(&["ID", "PROJECT", "STATE", "UPDATED", "FLAGS"], rows.collect())
}
