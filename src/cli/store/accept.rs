//! `keyward store accept-restore`: the restored backup is meant.

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::{self, Place};
use crate::cli::values::ConfigFile;
use crate::key::Subject;
use crate::store::Retold;

/// Let a restored backup stand: what gateways revoked in it again works as it did
///
/// After a restore, gateways go on refusing what they knew as revoked, and revoke it in the restored store.
/// This takes that back, and lets every gateway forget what the backup does not know of.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward store accept-restore -c keyward.toml --dry-run
  keyward store accept-restore -c keyward.toml --after 4711

Look at --dry-run first: a key that was revoked because it leaked works again for whoever has it.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Take back only what gateways revoked after this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    after: u64,
    /// Say what would work again, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config.path)?;
    let (revision, retold) = if args.dry_run {
        (None, place::retold(&place, args.after)?)
    } else {
        let (acceptance, retold) = place::accept_restore(&place, args.after)?;
        (Some(acceptance.revision), retold)
    };
    if args.json {
        let items: Vec<_> =
            retold.iter().map(|one| json!({ "subject": one.subject, "revision": one.revision })).collect();
        return output.json(&json!({ "dry_run": args.dry_run, "taken_back": items, "revision": revision }));
    }
    let would = if args.dry_run { "would be taken back" } else { "taken back" };
    for Retold { revision, subject } in &retold {
        match subject {
            Subject::Key(id) => {
                output.line(format_args!("{would}: the revocation of key {id} in revision {revision}"))?;
            }
            Subject::User(id) => {
                output.line(format_args!("{would}: the deletion of user {id} in revision {revision}"))?;
            }
        }
    }
    match revision {
        Some(revision) => output.line(format_args!("accepted the restored store, revision {revision}")),
        None if retold.is_empty() => output.line("gateways have revoked nothing again; nothing was changed"),
        None => output.line("nothing was changed"),
    }
}
