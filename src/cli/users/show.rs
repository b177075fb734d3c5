//! `keyward users show`.

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::Whom;
use crate::key::UserId;

/// Show a user
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
    let user = asked.user(args.id)?;
    if args.json {
        return output.json(&user);
    }
    let flags = if user.flags.is_empty() { "(none)".to_owned() } else { user.flags.join(" ") };
    let project = user.project_id.as_deref().unwrap_or("-");
    let mut say = |name: &str, value: &str| output.line(format_args!("{name:<12} {value}"));
    say("id", &user.id)?;
    say("project", project)?;
    say("state", super::state_text(&user))?;
    say("flags", &flags)?;
    say("created", &user.created_at.to_rfc3339())?;
    say("updated", &format!("{} in revision {}", user.updated_at, user.revision))
}
