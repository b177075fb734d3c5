//! `keyward keys import`: takes in keys that another system made, all rows or none.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use zeroize::Zeroizing;

use super::foreign::{self, Groups, System};
use super::rows::{Defaults, Kind, LineFault, read};
use crate::admin::own_flags;
use crate::cli::failure::Failure;
use crate::cli::gateways::WaitOption;
use crate::cli::output::{Output, Progress, unreadable};
use crate::cli::place::Place;
use crate::cli::values::ConfigFile;
use crate::clock::Timestamp;
use crate::key::{EnvironmentId, Grant, Grants, Key, ProjectId, UserId};
use crate::manage::{ImportOptions, ImportedKey, ManageError};

/// The most faults that are told one by one.
const FAULTS_TOLD: usize = 20;
/// The most keys that a dry run shows.
const PREVIEWED: usize = 20;

/// Take in keys that another system made: all rows or none
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys import -c keyward.toml --project acme --tokens old-keys.txt --flag jobs:read
  keyward keys import -c keyward.toml --csv keys.csv --dry-run
  zcat hashes.gz | keyward keys import -c keyward.toml --project acme --hashes -
  keyward keys import -c keyward.toml --project acme --from kong kong.yaml --groups-as-flags

Files: one token, or one SHA-512 as 128 hexadecimal digits, a line; or CSV with a header of
token or hash, and any of name, flags (separated by spaces), inherit, project, environment, user,
expires_at. - is standard input. A bad row is named, and nothing is imported.

From other systems: kong, the key-auth credentials of a declarative configuration; nginx, the
entries of a map; unkey, its keys in JSON with their SHA-256 hashes. Keys that are refused there
are left out, and said to be.")]
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
    /// With --from: take groups (kong) and permissions (unkey) for flags, beside those of --flag
    #[arg(long, requires = "from")]
    groups_as_flags: bool,
    /// Take tokens of less than 112 bits of entropy too
    #[arg(long)]
    allow_weak: bool,
    /// Check every row against the store, and import nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitOption,
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
    /// A file of another system: kong, nginx or unkey
    #[arg(long, num_args = 2, value_names = ["SYSTEM", "FILE"])]
    from: Option<Vec<String>>,
}

/// What a file is.
#[derive(Clone, Copy)]
enum Form {
    Rows(Kind),
    Foreign(System, Groups),
}

/// An import as JSON.
#[derive(Serialize)]
struct Taken {
    imported: usize,
    left_out: usize,
    dry_run: bool,
    /// None of a dry run.
    revision: Option<u64>,
}

impl Source {
    fn meaning(self, groups: Groups) -> Result<(Form, PathBuf), Failure> {
        if let Some([system, file]) = self.from.as_deref() {
            let system = system.parse().map_err(|fault: String| Failure::usage(format!("--from: {fault}")))?;
            return Ok((Form::Foreign(system, groups), file.into()));
        }
        let tokens = self.tokens.map(|file| (Form::Rows(Kind::Tokens), file));
        let hashes = self.hashes.map(|file| (Form::Rows(Kind::Hashes), file));
        let csv = self.csv.map(|file| (Form::Rows(Kind::Csv), file));
        let found = tokens.or(hashes).or(csv);
        found.ok_or_else(|| Failure::usage("expected one of --tokens, --hashes, --csv and --from"))
    }
}

pub(super) fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let groups = if args.groups_as_flags { Groups::AsFlags } else { Groups::AsProp };
    let (form, file) = args.source.meaning(groups)?;
    if !matches!(form, Form::Rows(Kind::Csv)) && args.project.is_none() {
        return Err(Failure::usage("expected --project: only a CSV file can name one for each row"));
    }
    let place = Place::open(&args.config.path)?;
    let defaults =
        Defaults { project: args.project, environment: args.environment, user: args.user, flags: args.flags.into() };
    let options = ImportOptions { dry_run: args.dry_run, allow_weak: args.allow_weak };

    let progress = Progress::start();
    let (rows, left_out) = read_file(form, &file, &defaults, &progress)?;
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
        let left_out = left_out.len();
        output.json(&Taken { imported: count, left_out, dry_run: args.dry_run, revision })?;
        return revision.map_or(Ok(()), |revision| args.wait.check(&place, revision, output));
    }
    let name = name_of(&file);
    for fault in left_out.iter().take(FAULTS_TOLD) {
        output.line(format_args!("left out: {name}:{}: {}", fault.line, fault.cause))?;
    }
    if left_out.len() > FAULTS_TOLD {
        output.line(format_args!("left out: {} more", left_out.len() - FAULTS_TOLD))?;
    }
    match revision {
        Some(revision) => {
            output.line(format_args!("imported {count} keys, revision {revision}"))?;
            args.wait.tell(&place, revision, output)
        }
        None => {
            preview(&imported.keys, output)?;
            output.line(format_args!("{count} keys could be imported; nothing was written"))
        }
    }
}

/// What the first keys of a dry run would be.
fn preview(keys: &[Key], output: &mut Output) -> Result<(), Failure> {
    let rows = keys.iter().take(PREVIEWED).map(|key| {
        vec![
            key.name.clone(),
            key.project.as_ref().map(ToString::to_string).unwrap_or_default(),
            key.environment.to_string(),
            key.user.as_ref().map(ToString::to_string).unwrap_or_default(),
            key.expires_at.map_or_else(|| "never".to_owned(), Timestamp::to_rfc3339),
            if key.grants == Grants::Inherit { "(inherits)".to_owned() } else { own_flags(key).to_string() },
        ]
    });
    output.table(&["NAME", "PROJECT", "ENV", "USER", "ENDS", "FLAGS"], rows.collect())?;
    match keys.len().saturating_sub(PREVIEWED) {
        0 => Ok(()),
        more => output.line(format_args!("and {more} more")),
    }
}

type Rows = (Vec<ImportedKey>, Vec<LineFault>);

/// The keys of `file`, and what it holds that is left out.
fn read_file(form: Form, file: &Path, defaults: &Defaults, progress: &Progress) -> Result<Rows, Failure> {
    let input: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).map_err(|error| unreadable(file.display(), &error))?;
        Box::new(BufReader::new(opened))
    };
    let rows = match form {
        Form::Rows(kind) => read(kind, input, defaults, || progress.step()).map(|keys| (keys, Vec::new())),
        Form::Foreign(system, groups) => {
            let text = whole(input).map_err(|error| unreadable(name_of(file), &error))?;
            foreign::read(system, &text, defaults, groups).map(|found| (found.keys, found.left_out))
        }
    };
    let rows = rows.map_err(|faults| at_fault(file, faults.iter().map(|fault| (fault.line, &fault.cause))))?;
    if rows.0.is_empty() {
        return Err(Failure::failed(format_args!("{} holds no key that could be imported", name_of(file))));
    }
    Ok(rows)
}

fn whole(mut input: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    input.read_to_string(&mut text)?;
    Ok(text)
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
