//! `keyward keys rotate`: replaces a key by one that may do the same, and prints its token, once.

use std::time::Duration;

use super::{end_text, told_once};
use crate::cli::documents::Replacement;
use crate::cli::failure::Failure;
use crate::cli::gateways::WaitOption;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{Whom, duration, key_id};
use crate::key::KeyId;

/// Replace a key by one that may do the same, and print its token, once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys rotate -c keyward.toml key_0193…
  keyward keys rotate -c keyward.toml key_0193… --grace 0s --json

The token is the last line printed, or `key` in the JSON. It is stored nowhere.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The key to replace
    #[arg(value_name = "ID", value_parser = key_id)]
    id: KeyId,
    /// How long the old token still works, at most 30d; 0s ends it at once
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60m")]
    grace: Duration,
    #[command(flatten)]
    wait: WaitOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let rotated = asked.rotate_key(args.id, args.grace)?;
    told_once(rotated.new_key_id, print(&rotated, args.json, output))?;
    // Nothing comes after the token on standard output.
    args.wait.check(&*asked, rotated.revision, output)
}

fn print(rotated: &Replacement, json: bool, output: &mut Output) -> Result<(), Failure> {
    if json {
        output.json(rotated)?;
        return output.flush();
    }
    let Replacement { old_key_id: old, new_key_id: new, name, revision, .. } = rotated;
    output.line(format_args!("replaced key {old} by {new} ({name}), revision {revision}"))?;
    match rotated.grace_expires_at {
        // Without a grace it ended when the new one began.
        Some(end) if end > rotated.created_at => output.line(format_args!("  the old token works until {end}"))?,
        Some(_) | None => output.line("  the old token works no more")?,
    }
    if let Some(unused) = rotated.revoked_key_id {
        output
            .line(format_args!("  revoked      {unused}, by which it was replaced before and which was never used"))?;
    }
    output.line(format_args!("  expires      {}", end_text(rotated.expires_at)))?;
    output.line("Its token, shown this once and stored nowhere:")?;
    output.line(rotated.key.expose())?;
    output.flush()
}
