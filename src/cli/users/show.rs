//! `keyward users show`.

use crate::admin::UserShape;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::ConfigFile;
use crate::key::UserId;

/// Show a user
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

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let user = super::existing(&place, place.manager.user(&place.caller, args.id))?;
    if args.json {
        return output.json(&UserShape::of(&user));
    }
    let flags = if user.flags.is_empty() { "(none)".to_owned() } else { user.flags.to_string() };
    let project = user.project.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let mut say = |name: &str, value: &str| output.line(format_args!("{name:<12} {value}"));
    say("id", user.id.as_str())?;
    say("project", &project)?;
    say("state", super::state_text(&user))?;
    say("flags", &flags)?;
    say("created", &user.created_at.to_rfc3339())?;
    say("updated", &format!("{} in revision {}", user.updated_at, user.stamp.revision))
}
