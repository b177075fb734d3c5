//! `keyward keys show`: everything about one key but its token, and what became of its lineage.

use serde::Serialize;

use super::{end_text, flags_text, project_text, rotation_text, time_text};
use crate::admin::{KeyWhole, LineageMember};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::{Place, clock};
use crate::cli::values::{ConfigFile, key_id};
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, KeyId, ProjectId};
use crate::manage::KeyView;
use crate::store::{Delivery, DeliveryId, DeliveryState};

/// How many announcements are shown.
const ANNOUNCEMENTS_SHOWN: usize = 5;

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

/// A key with what was announced of it.
#[derive(Debug, Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    key: &'a KeyWhole<'a>,
    /// What was announced of it and its lineage at the webhook, newest first.
    announcements: &'a [Announcement],
}

/// Something that was announced, or is to be.
#[derive(Debug, Serialize)]
struct Announcement {
    id: DeliveryId,
    key_id: KeyId,
    r#type: &'static str,
    state: DeliveryState,
    created_at: Timestamp,
    failed_attempts: u32,
    next_attempt_at: Option<Timestamp>,
    last_outcome: String,
}

impl Announcement {
    fn of(delivery: Delivery) -> Self {
        let is_pending = delivery.state == DeliveryState::Pending;
        Self {
            id: delivery.id,
            key_id: delivery.key,
            r#type: delivery.kind.as_str(),
            state: delivery.state,
            created_at: delivery.created_at,
            failed_attempts: delivery.attempts,
            next_attempt_at: Some(delivery.next_attempt_at).filter(|_| is_pending),
            last_outcome: delivery.told,
        }
    }
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let view = place.wait(place.manager.key(&place.caller, args.id))?;
    let lineage = place.wait(place.manager.lineage(&place.caller, args.id))?;
    let whole = KeyWhole::of(&view, &lineage);
    let deliveries = match place.store.rotation() {
        Some(store) => place.wait(store.deliveries(view.key.lineage, ANNOUNCEMENTS_SHOWN))?,
        None => Vec::new(),
    };
    let announcements: Vec<_> = deliveries.into_iter().map(Announcement::of).collect();
    if args.json {
        return output.json(&Whole { key: &whole, announcements: &announcements });
    }
    print_key(&view, output)?;
    print_lineage(args.id, whole.lineage(), output)?;
    print_announcements(&announcements, output)
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
    say("rotates itself", yes(key.rotates_itself()))?;
    if let Some(days) = key.rotation.interval_days {
        say("rotate every", &format!("{days}d, next {}", rotation_text(key, clock().now())))?;
    }
    if let Some(url) = &key.rotation.webhook_url {
        say("webhook", url)?;
        let version = key.rotation.secret_version;
        let old = key.rotation.old_secret_until.filter(|until| clock().now() < *until);
        let beside = old.map_or_else(String::new, |until| format!(", the one before it until {until}"));
        say("its secret", &format!("version {version}{beside}"))?;
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

/// What was announced lately, and what is still to be.
fn print_announcements(announcements: &[Announcement], output: &mut Output) -> Result<(), Failure> {
    if announcements.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let rows = announcements.iter().map(|announcement| {
        vec![
            announcement.r#type.to_owned(),
            announcement.state.as_str().to_owned(),
            announcement.created_at.to_rfc3339(),
            announcement.failed_attempts.to_string(),
            time_text(announcement.next_attempt_at),
            Some(announcement.last_outcome.clone()).filter(|told| !told.is_empty()).unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let header = ["ANNOUNCED", "STATE", "SINCE", "FAILED", "NEXT ATTEMPT", "LAST OUTCOME"];
    output.table(&header, rows.collect())
}
