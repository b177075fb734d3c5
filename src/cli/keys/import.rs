//! `keyward keys import`: takes in keys that another system made, all rows or none.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::rows::{Defaults, Kind, read};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Progress, unreadable};
use crate::cli::place::Place;
use crate::cli::values::ConfigFile;
use crate::key::{EnvironmentId, Grant, ProjectId, UserId};
use crate::manage::{ImportOptions, ImportedKey, ManageError};

/// The most faults that are told one by one.
const FAULTS_TOLD: usize = 20;

/// Take in keys that another system made: all rows or none
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys import -c keyward.toml --project acme --tokens old-keys.txt --flag jobs:read
  keyward keys import -c keyward.toml --csv keys.csv --dry-run
  zcat hashes.gz | keyward keys import -c keyward.toml --project acme --hashes -

Files: one token, or one SHA-512 as 128 hexadecimal digits, a line; or CSV with a header of
token or hash, and any of name, flags (separated by spaces), inherit, project, environment, user,
expires_at. - is standard input. A bad row is named, and nothing is imported.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    source: Source,
    /// The project of rows that name none
    #[arg(long, value_name = "PROJECT")]
    project: Option<ProjectId>,
    /// A flag of rows that name none; repeatable
    #[arg(long = "flag", value_name = "FLAG")]
    flags: Vec<Grant>,
    /// The environment of rows that name none
    #[arg(long, value_name = "ENVIRONMENT", default_value = "live")]
    environment: EnvironmentId,
    /// The user of rows that name none
    #[arg(long, value_name = "USER")]
    user: Option<UserId>,
    /// Take tokens of less than 112 bits of entropy too
    #[arg(long)]
    allow_weak: bool,
    /// Check every row against the store, and import nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A file of tokens, one a line
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// A file of SHA-512 hashes, one a line
    #[arg(long, value_name = "FILE")]
    hashes: Option<PathBuf>,
    /// A CSV file with a header
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// An import as JSON.
#[derive(Serialize)]
struct Taken {
    imported: usize,
    dry_run: bool,
    /// None of a dry run.
    revision: Option<u64>,
}

impl Source {
    fn meaning(self) -> Result<(Kind, PathBuf), Failure> {
        let tokens = self.tokens.map(|file| (Kind::Tokens, file));
        let hashes = self.hashes.map(|file| (Kind::Hashes, file));
        let csv = self.csv.map(|file| (Kind::Csv, file));
        tokens.or(hashes).or(csv).ok_or_else(|| Failure::usage("expected one of --tokens, --hashes and --csv"))
    }
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let (kind, file) = args.source.meaning()?;
    if kind != Kind::Csv && args.project.is_none() {
        return Err(Failure::usage("expected --project: only a CSV file can name one for each row"));
    }
    let place = Place::open(&args.config)?;
    let defaults =
        Defaults { project: args.project, environment: args.environment, user: args.user, flags: args.flags.into() };
    let options = ImportOptions { dry_run: args.dry_run, allow_weak: args.allow_weak };

    let progress = Progress::start();
    let rows = read_file(kind, &file, &defaults, &progress)?;
    progress.say("writing");
    let imported = place.wait(async {
        let imported = place.manager.import_keys(&place.caller, rows, options).await;
        imported.map_err(|error| refused(&file, error))
    });
    progress.finish();
    let imported = imported?;
    let revision = imported.committed.map(|committed| committed.revision);
    let count = imported.keys.len();
    if args.json {
        return output.json(&Taken { imported: count, dry_run: args.dry_run, revision });
    }
    match revision {
        Some(revision) => output.line(format_args!("imported {count} keys, revision {revision}")),
        None => output.line(format_args!("{count} keys could be imported; nothing was written")),
    }
}

fn read_file(kind: Kind, file: &Path, defaults: &Defaults, progress: &Progress) -> Result<Vec<ImportedKey>, Failure> {
    let rows = if file == Path::new("-") {
        read(kind, io::stdin().lock(), defaults, || progress.step())
    } else {
        let opened = File::open(file).map_err(|error| unreadable(file.display(), &error))?;
        read(kind, BufReader::new(opened), defaults, || progress.step())
    };
    let rows = rows.map_err(|faults| at_fault(file, faults.iter().map(|fault| (fault.line, &fault.cause))))?;
    if rows.is_empty() {
        return Err(Failure::failed(format_args!("{} holds no key", name_of(file))));
    }
    Ok(rows)
}

/// The manager's refusal, with each row as a line of `file`.
fn refused(file: &Path, error: ManageError) -> Failure {
    match error {
        ManageError::Import(faults) => at_fault(file, faults.iter().map(|fault| (fault.line, &fault.cause))),
        error => error.into(),
    }
}

/// Lines of `file` that are at fault, and that nothing was imported.
fn at_fault<C: std::fmt::Display>(file: &Path, faults: impl ExactSizeIterator<Item = (usize, C)>) -> Failure {
    let name = name_of(file);
    let more = faults.len().saturating_sub(FAULTS_TOLD);
    let mut lines: Vec<_> = faults.take(FAULTS_TOLD).map(|(line, cause)| format!("{name}:{line}: {cause}")).collect();
    lines.push(match more {
        0 => "nothing was imported".to_owned(),
        more => format!("and {more} more rows; nothing was imported"),
    });
    Failure::Failed(lines)
}

fn name_of(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_one_by_one_up_to_a_limit() {
        let faults: Vec<_> = (1..=25).map(|line| (line, "bad")).collect();
        let failure = at_fault(Path::new("keys.csv"), faults.into_iter());
        assert_eq!(failure.lines().len(), FAULTS_TOLD + 1);
        assert_eq!(failure.lines()[0], "keys.csv:1: bad");
        assert_eq!(failure.lines()[FAULTS_TOLD], "and 5 more rows; nothing was imported");
        let failure = at_fault(Path::new("-"), [(7, "bad")].into_iter());
        assert_eq!(failure.lines(), ["standard input:7: bad", "nothing was imported"]);
    }
}
