//! `keyward keys show`: everything about one key but its token, and what became of its lineage.

use super::{end_text, flags_text, project_text, rotation_text, time_text};
use crate::cli::documents::{Announcement, Member, OperatesOn, WholeKey};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::{self, clock};
use crate::cli::values::{Whom, key_id};
use crate::key::KeyId;

/// Show everything about a key but its token, and what it replaced or was replaced by
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The key
    #[arg(value_name = "ID", value_parser = key_id)]
    id: KeyId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let whole = asked.key(args.id)?;
    if args.json {
        return output.json(&whole);
    }
    print_key(&whole, output)?;
    print_lineage(args.id, &whole.lineage, output)?;
    print_announcements(&whole.announcements, output)
}

fn print_key(whole: &WholeKey, output: &mut Output) -> Result<(), Failure> {
    let key = &whole.key;
    let mut say = |name: &str, value: &str| output.line(format_args!("{name:<14} {value}"));
    let yes = |truth: bool| if truth { "yes" } else { "no" };
    say("id", &key.id.to_string())?;
    say("name", &key.name)?;
    say("status", &key.status)?;
    say("project", project_text(key))?;
    say("environment", &key.environment_id)?;
    say("flags", &flags_text(key))?;
    if let Some(id) = &key.user_id {
        say("user", id)?;
        say("user's flags", whole.flags_of_user.as_deref().unwrap_or("-"))?;
    }
    if !key.may_grant.is_empty() {
        say("may grant", &key.may_grant.join(" "))?;
    }
    if let Some(OperatesOn { project, environment }) = &key.operates_on {
        say("operates on", &format!("project {project}, environment {environment}"))?;
    }
    for (name, value) in &key.props {
        say("prop", &format!("{name}={value}"))?;
    }
    say("format", &key.format)?;
    say("prefix", key.key_prefix.as_deref().unwrap_or("-"))?;
    say("last four", whole.last_four.as_deref().unwrap_or("-"))?;
    // A webhook's receiver has no other key to ask with.
    say("rotates itself", yes(key.self_rotate || key.rotation_webhook_url.is_some()))?;
    if let Some(days) = key.rotation_interval_days {
        say("rotate every", &format!("{days}d, next {}", rotation_text(key, clock().now())))?;
    }
    if let Some(url) = &key.rotation_webhook_url {
        say("webhook", url)?;
        let version = whole.webhook_secret_version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        let old = whole.old_webhook_secret_valid_until.filter(|until| clock().now() < *until);
        let beside = old.map_or_else(String::new, |until| format!(", the one before it until {until}"));
        say("its secret", &format!("version {version}{beside}"))?;
    }
    say("created", &key.created_at.to_rfc3339())?;
    say("minted by", &key.minted_by.map_or_else(|| "-".to_owned(), |id| id.to_string()))?;
    say("updated", &format!("{} in revision {}", key.updated_at, key.revision))?;
    say("expires", &end_text(key.expires_at))?;
    if key.grace_expires_at.is_some() {
        say("grace until", &time_text(key.grace_expires_at))?;
    }
    if key.revoked_at.is_some() {
        say("revoked", &time_text(key.revoked_at))?;
    }
    let used = key.last_used_at.map(|last| format!("{last}, {} times in all", whole.uses));
    say("last used", used.as_deref().unwrap_or("never"))?;
    say("lineage", &key.lineage_id)
}

/// Which key replaced which, and whether an old one is still used.
fn print_lineage(id: KeyId, members: &[Member], output: &mut Output) -> Result<(), Failure> {
    if members.len() < 2 {
        return Ok(());
    }
    output.line("")?;
    let rows = members.iter().map(|member| {
        vec![
            format!("{}{}", member.id, if member.id == id { " (this)" } else { "" }),
            member.status.clone(),
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

/// What was announced lately, and what is still to be.
fn print_announcements(announcements: &[Announcement], output: &mut Output) -> Result<(), Failure> {
    if announcements.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let rows = announcements.iter().map(|announcement| {
        vec![
            announcement.r#type.clone(),
            announcement.state.clone(),
            announcement.created_at.to_rfc3339(),
            announcement.failed_attempts.to_string(),
            time_text(announcement.next_attempt_at),
            Some(announcement.last_outcome.clone()).filter(|told| !told.is_empty()).unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let header = ["ANNOUNCED", "STATE", "SINCE", "FAILED", "NEXT ATTEMPT", "LAST OUTCOME"];
    output.table(&header, rows.collect())
}
