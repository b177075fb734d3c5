//! `keyward secrets forget`: the end of a master secret.

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::ConfigFile;

/// Forget a master secret that is not in use any more
///
/// What it signed can be verified no longer, and what it sealed is not opened again: keys in JWT form
/// still work, and a gateway whose last snapshot is older than its new secret starts only with its store.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward secrets forget 1 -c keyward.toml

Copy the file to every other gateway of this store afterwards, too.")]
pub(super) struct Args {
    /// Its number, as `keyward secrets list` shows it
    #[arg(value_name = "NUMBER")]
    number: u32,
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let number = args.number;
    place::forget_secret(&place::load(&args.config.path)?, number)?;
    if args.json {
        return output.json(&json!({ "forgot": number }));
    }
    output.line(format_args!("forgot master secret {number}"))?;
    output.flush()
}
