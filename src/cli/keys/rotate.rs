//! `keyward keys rotate`: replaces a key by one that may do the same, and prints its token, once.

use std::time::Duration;

use super::{end_text, told_once};
use crate::admin::Replacement;
use crate::cli::failure::Failure;
use crate::cli::gateways::WaitOption;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::{ConfigFile, duration, key_id};
use crate::key::KeyId;
use crate::manage::Rotated;

/// Replace a key by one that may do the same, and print its token, once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys rotate -c keyward.toml key_0193…
  keyward keys rotate -c keyward.toml key_0193… --grace 0s --json

The token is the last line printed, or `key` in the JSON. It is stored nowhere.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    config: ConfigFile,
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
    let place = Place::open(&args.config)?;
    let rotated = place.wait(place.manager.rotate_key(&place.caller, args.id, args.grace))?;
    told_once(rotated.new.id, print(&rotated, args.json, output))?;
    // Nothing comes after the token on standard output.
    args.wait.check(&place, rotated.committed.revision, output)
}

fn print(rotated: &Rotated, json: bool, output: &mut Output) -> Result<(), Failure> {
    let Rotated { old, new, token, committed } = rotated;
    if json {
        output.json(&Replacement::of(rotated))?;
        return output.flush();
    }
    output
        .line(format_args!("replaced key {} by {} ({}), revision {}", old.id, new.id, new.name, committed.revision))?;
    match old.grace_expires_at {
        Some(end) if !old.states.superseded => output.line(format_args!("  the old token works until {end}"))?,
        _ => output.line("  the old token works no more")?,
    }
    output.line(format_args!("  expires      {}", end_text(new.expires_at)))?;
    output.line("Its token, shown this once and stored nowhere:")?;
    output.line(token.expose())?;
    output.flush()
}
