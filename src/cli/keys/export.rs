//! `keyward keys export`: every key as CSV or JSON lines, for a backup or another system. Never
//! tokens, which are stored nowhere; hashes only where they are asked for.

use serde::Serialize;

use super::complain_of_damage;
use super::rows::Columns;
use crate::admin::KeyShape;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::{ConfigFile, Which, status};
use crate::key::{EnvironmentId, ProjectId, Status};
use crate::manage::KeyView;
use crate::store::KeyQuery;

/// How many keys are read at a time.
const PAGE: usize = 1000;

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
    config: ConfigFile,
    /// Of this project, or of all
    #[arg(long, value_name = "PROJECT", default_value = "all")]
    project: Which<ProjectId>,
    /// Of this environment
    #[arg(long, value_name = "ENVIRONMENT")]
    environment: Option<EnvironmentId>,
    /// Of this status
    #[arg(long, value_name = "STATUS", value_parser = status())]
    status: Option<Status>,
    /// Print the SHA-512 of each token too
    #[arg(long)]
    hashes: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// A key as a JSON line.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    key: KeyShape<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let place = Place::open(&args.config)?;
    let columns = if args.hashes { Columns::WithHash } else { Columns::WithoutHash };
    if !args.json {
        print_csv(columns.header().into_iter(), output)?;
    }
    let mut query = KeyQuery {
        project: args.project.one(),
        environment: args.environment,
        status: args.status,
        limit: PAGE,
        ..KeyQuery::default()
    };
    let mut damaged = Vec::new();
    loop {
        let page = place.wait(place.manager.keys(&place.caller, query.clone()))?;
        for view in &page.keys {
            if args.json {
                let hash = args.hashes.then(|| view.key.hash.to_hex());
                output.json_line(&Line { key: KeyShape::of(view), hash })?;
            } else {
                print_row(view, columns, output)?;
            }
        }
        damaged.extend(page.damaged);
        query.before = page.next;
        if query.before.is_none() {
            return complain_of_damage(&damaged);
        }
    }
}

fn print_row(view: &KeyView, columns: Columns, output: &mut Output) -> Result<(), Failure> {
    print_csv(columns.cells(view).iter().map(String::as_str), output)
}

fn print_csv<'a>(cells: impl Iterator<Item = &'a str>, output: &mut Output) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells).map_err(|error| Failure::because(&error))?;
    let line = writer.into_inner().map_err(|error| Failure::failed(error.to_string()))?;
    output.raw(&line)
}
