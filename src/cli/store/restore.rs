//! `keyward store restore`: a backup in the store's place.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::ConfigFile;

/// Put a backup in the store's place, also while gateways run
///
/// Gateways notice. What they know as revoked stays refused, and they revoke it in the restored store, too,
/// until `keyward store accept-restore` says that the backup is meant.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward store restore -c keyward.toml /backup/keyward-2027-01-31.db

All that was changed since the backup is lost. A store in PostgreSQL is restored with pg_restore.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let backup = place::restore(&place::load(&args.config.path)?, &args.file)?;
    let (file, revision) = (args.file.display(), backup.newest.revision);
    if args.json {
        return output.json(&json!({ "file": args.file, "revision": revision }));
    }
    output.line(format_args!("restored {file}: the store is at revision {revision}"))?;
    output.line("what running gateways know as revoked stays so; see `keyward store accept-restore --dry-run`")
}
