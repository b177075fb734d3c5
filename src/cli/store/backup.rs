//! `keyward store backup`: the store's file, of one moment, in another file.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::ConfigFile;

/// Write the store into a new file, while gateways and commands go on using it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward store backup -c keyward.toml /backup/keyward-2027-01-31.db

The file is readable by its owner alone. It holds no token, and is of use with the master secret
alone. A store in PostgreSQL is backed up with pg_dump.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The file to make
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let backup = place::back_up(&place::load(&args.config.path)?, &args.file)?;
    let (file, revision) = (args.file.display(), backup.newest.revision);
    if args.json {
        return output.json(&json!({ "file": args.file, "revision": revision }));
    }
    output.line(format_args!("wrote {file}: the store at revision {revision}"))
}
