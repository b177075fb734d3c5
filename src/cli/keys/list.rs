//! `keyward keys list`: which keys there are, newest first.

use super::{complain_of_damage, flags_text, project_text, rotation_text, time_text};
use crate::cli::failure::Failure;
use crate::cli::operations::Hashes;
use crate::cli::output::Output;
use crate::cli::place::{self, clock};
use crate::cli::values::{Which, Whom, status, whole_days};
use crate::key::{EnvironmentId, ProjectId, Status, UserId};
use crate::store::KeyQuery;

/// List keys, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys list -c keyward.toml --project acme --status active
  keyward keys list -c keyward.toml --expires-within 14d --json
  keyward keys list -c keyward.toml --unused-for 90d
  keyward keys list --admin https://gw.example.com:9443 --token-file operator.token")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// Of this project, or of all
    #[arg(long, value_name = "PROJECT", default_value = "all")]
    project: Which<ProjectId>,
    /// Of this environment
    #[arg(long, value_name = "ENVIRONMENT")]
    environment: Option<EnvironmentId>,
    /// Of this user
    #[arg(long, value_name = "USER")]
    user: Option<UserId>,
    /// Of this status
    #[arg(long, value_name = "STATUS", value_parser = status())]
    status: Option<Status>,
    /// That expire within this time, in whole days, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = whole_days)]
    expires_within: Option<u32>,
    /// Not used for this long or never, in whole days, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = whole_days)]
    unused_for: Option<u32>,
    /// Whose name holds this text, or whose id or prefix begins with it
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// At most so many; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    limit: usize,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Args {
    fn meaning(self) -> KeyQuery {
        KeyQuery {
            project: self.project.one(),
            environment: self.environment,
            user: self.user,
            status: self.status,
            text: self.query,
            expires_within_days: self.expires_within,
            unused_for_days: self.unused_for,
            limit: self.limit,
            ..KeyQuery::default()
        }
    }
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let json = args.json;
    let mut keys = Vec::new();
    let damaged = asked.each_key(args.meaning(), Hashes::Kept, &mut |key| {
        keys.push(key);
        Ok(())
    })?;
    if json {
        output.json(&keys)?;
        return complain_of_damage(&damaged);
    }
    let now = clock().now();
    let rows = keys.iter().map(|key| {
        vec![
            key.id.to_string(),
            key.name.clone(),
            project_text(key).to_owned(),
            key.environment_id.clone(),
            key.status.clone(),
            key.key_prefix.clone().unwrap_or_else(|| "-".to_owned()),
            time_text(key.ends_at()),
            rotation_text(key, now),
            time_text(key.last_used_at),
            flags_text(key),
        ]
    });
    let header = ["ID", "NAME", "PROJECT", "ENV", "STATUS", "PREFIX", "ENDS", "NEXT ROTATION", "LAST USED", "FLAGS"];
    output.table(&header, rows.collect())?;
    complain_of_damage(&damaged)
}
