//! `keyward keys show`: everything about one key but its token, and what became of its lineage.

use super::{end_text, flags_text, project_text, time_text};
use crate::admin::{KeyWhole, LineageMember};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::{ConfigFile, key_id};
use crate::key::{EnvironmentId, KeyId, ProjectId};
use crate::manage::KeyView;

/// Show everything about a key but its token, and what it replaced or was replaced by
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
    let view = place.wait(place.manager.key(&place.caller, args.id))?;
    let lineage = place.wait(place.manager.lineage(&place.caller, args.id))?;
    let whole = KeyWhole::of(&view, &lineage);
    if args.json {
        return output.json(&whole);
    }
    print_key(&view, output)?;
    print_lineage(args.id, whole.lineage(), output)
}

fn print_key(KeyView { key, user, usage, status }: &KeyView, output: &mut Output) -> Result<(), Failure> {
    let mut say = |name: &str, value: &str| output.line(format_args!("{name:<14} {value}"));
    let yes = |truth: bool| if truth { "yes" } else { "no" };
    say("id", &key.id.to_string())?;
    say("name", &key.name)?;
    say("status", status.as_str())?;
    say("project", project_text(key))?;
    say("environment", key.environment.as_str())?;
    say("flags", &flags_text(key))?;
    if let Some(id) = &key.user {
        say("user", id.as_str())?;
        let theirs = user.as_ref().map_or_else(|| "(no such user)".to_owned(), |user| user.flags.to_string());
        say("user's flags", &theirs)?;
    }
    if !key.may_grant.is_empty() {
        say("may grant", &key.may_grant.to_string())?;
    }
    if let Some(scope) = &key.operates_on {
        let project = scope.project.as_ref().map_or("all", ProjectId::as_str);
        let environment = scope.environment.as_ref().map_or("all", EnvironmentId::as_str);
        say("operates on", &format!("project {project}, environment {environment}"))?;
    }
    for (name, value) in &key.props {
        say("prop", &format!("{name}={value}"))?;
    }
    say("format", key.format.as_str())?;
    say("prefix", key.shown_prefix.as_deref().unwrap_or("-"))?;
    say("last four", key.last_four.as_deref().unwrap_or("-"))?;
    say("rotates itself", yes(key.self_rotate))?;
    if let Some(days) = key.rotation.interval_days {
        say("rotate every", &format!("{days}d, next at {}", time_text(key.rotation.next_at)))?;
    }
    say("created", &key.created_at.to_rfc3339())?;
    say("minted by", &key.minted_by.map_or_else(|| "-".to_owned(), |id| id.to_string()))?;
    say("updated", &format!("{} in revision {}", key.updated_at, key.stamp.revision))?;
    say("expires", &end_text(key.expires_at))?;
    if key.grace_expires_at.is_some() {
        say("grace until", &time_text(key.grace_expires_at))?;
    }
    if key.revoked_at.is_some() {
        say("revoked", &time_text(key.revoked_at))?;
    }
    let used = usage.map(|usage| format!("{}, {} times in all", usage.last_used_at, usage.count));
    say("last used", used.as_deref().unwrap_or("never"))?;
    say("lineage", &key.lineage.to_string())
}

/// Which key replaced which, and whether an old one is still used.
fn print_lineage(id: KeyId, members: &[LineageMember], output: &mut Output) -> Result<(), Failure> {
    if members.len() < 2 {
        return Ok(());
    }
    output.line("")?;
    let rows = members.iter().map(|member| {
        vec![
            format!("{}{}", member.id, if member.id == id { " (this)" } else { "" }),
            member.status.as_str().to_owned(),
            member.created_at.to_rfc3339(),
            time_text(member.grace_expires_at),
            time_text(member.last_used_at),
            member.uses.to_string(),
            member.replaced_by_key_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        ]
    });
    let header = ["LINEAGE", "STATUS", "CREATED", "GRACE UNTIL", "LAST USED", "USES", "REPLACED BY"];
    output.table(&header, rows.collect())
}
