//! `keyward keys export`: every key as CSV or JSON lines, for a backup or another system. Never
//! tokens, which are stored nowhere; hashes only where they are asked for.

use super::complain_of_damage;
use super::rows::Columns;
use crate::cli::documents::Key;
use crate::cli::failure::Failure;
use crate::cli::operations::Hashes;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{Which, Whom, status};
use crate::key::{EnvironmentId, ProjectId, Status};
use crate::store::KeyQuery;

/// Print every key as CSV or as JSON lines, newest first; never a token
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys export -c keyward.toml --project acme --status active --hashes > keys.csv
  keyward keys export -c keyward.toml --project acme --json | jq .name

What --hashes exports, `keyward keys import --csv` reads, except operators' keys and keys that have
ended: leave those out with --project and --status active.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// Of this project, or of all
    #[arg(long, value_name = "PROJECT", default_value = "all")]
    project: Which<ProjectId>,
    /// Of this environment
    #[arg(long, value_name = "ENVIRONMENT")]
    environment: Option<EnvironmentId>,
    /// Of this status
    #[arg(long, value_name = "STATUS", value_parser = status())]
    status: Option<Status>,
    /// Print the SHA-512 of each token too; not with --admin
    #[arg(long)]
    hashes: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let asked = place::open(&args.whom)?;
    let (columns, hashes) =
        if args.hashes { (Columns::WithHash, Hashes::Told) } else { (Columns::WithoutHash, Hashes::Kept) };
    let query = KeyQuery {
        project: args.project.one(),
        environment: args.environment,
        status: args.status,
        ..KeyQuery::default()
    };
    let mut begun = args.json;
    let mut print = |key: Option<Key>| {
        // Whoever may not read keys is not handed a header either.
        if !std::mem::replace(&mut begun, true) {
            print_csv(columns.header().into_iter(), output)?;
        }
        match key {
            Some(key) if args.json => output.json_line(&key),
            Some(key) => print_csv(columns.cells(&key).iter().map(String::as_str), output),
            None => Ok(()),
        }
    };
    let damaged = asked.each_key(query, hashes, &mut |key| print(Some(key)))?;
    print(None)?;
    complain_of_damage(&damaged)
}

fn print_csv<'a>(cells: impl Iterator<Item = &'a str>, output: &mut Output) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells).map_err(|error| Failure::because(&error))?;
    let line = writer.into_inner().map_err(|error| Failure::failed(error.to_string()))?;
    output.raw(&line)
}
