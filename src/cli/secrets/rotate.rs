//! `keyward secrets rotate`: a new master secret beside the old.

use std::time::Duration;

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{ConfigFile, duration};

/// Add a master secret, which takes over from the old one
///
/// The old one stays beside it: what it signed and sealed stays good until it is forgotten.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward secrets rotate -c keyward.toml
  keyward secrets rotate -c keyward.toml --after 1h

With several gateways give --after, and copy the file to each of them meanwhile: they take it
over by themselves, and all of them know the new secret before one of them uses it.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Use it only after so long, such as 1h
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    after: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let added = place::rotate_secrets(&place::load(&args.config.path)?, args.after)?;
    if args.json {
        let used_from = added.used_from.to_rfc3339();
        return output.json(&json!({ "number": added.number, "used_from": used_from, "file": added.file }));
    }
    let (number, file) = (added.number, added.file.display());
    if args.after.is_zero() {
        output.line(format_args!("added master secret {number} to {file}; it is in use from now on"))?;
    } else {
        output.line(format_args!("added master secret {number} to {file}; it is used from {}", added.used_from))?;
        output.line("until then, copy that file to every other gateway of this store")?;
    }
    if let Some(old) = number.checked_sub(1) {
        output.line(format_args!("what secret {old} made stays good until `keyward secrets forget {old}`"))?;
    }
    output.flush()
}
