//! `keyward store copy`: the same store in another place.

use std::path::Path;

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::{Bar, Output};
use crate::cli::place;
use crate::store::{PostgresSettings, Settings, Step};

/// Copy a store into another one, of whichever kind, and verify it row by row
///
/// The copy keeps the store's id and history, so that gateways go on with it where they stood. It can be
/// broken off and begun again: it goes on where it stopped, and is no store before it is finished.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward store copy --from sqlite:///var/lib/keyward/keyward.db --to new.toml
  keyward store copy --from old.toml --to sqlite://copy.db --json
  keyward store copy --from old.toml --to postgres://kw_owner@db.example.com/keyward

A store is named by a configuration file that ends in .toml, as sqlite://PATH or as
postgres://USER@HOST/DATABASE. A password belongs into the configuration: others on the machine
see what a command is given. Stop changing the source before, and use the copy alone from then on.")]
pub(super) struct Args {
    /// The store to copy
    #[arg(long, value_name = "STORE")]
    from: String,
    /// The store to copy it into: an empty one, which is made where it is missing
    #[arg(long, value_name = "STORE")]
    to: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let (from, to) = (meaning("--from", &args.from)?, meaning("--to", &args.to)?);
    if from == to {
        return Err(Failure::usage("--from and --to are one store: give another to copy it into"));
    }
    let bar = Bar::start();
    let mut told = |step| match step {
        Step::Pass { number: 1, rows } => bar.begin("copying", rows),
        Step::Pass { rows, .. } => bar.begin("verifying", rows),
        Step::Rows(rows) => bar.advance(rows),
    };
    let copied = place::copy_store(&from, &to, &mut told);
    bar.finish();
    let copied = copied?;
    let revision = copied.head.newest.revision;
    if args.json {
        return output.json(&json!({
            "store_id": format!("{:032x}", copied.head.store.0),
            "revision": revision,
            "rows": copied.verified,
            "written": copied.written,
        }));
    }
    output.line(format_args!(
        "copied {} rows up to revision {revision}, and found each of them the same",
        copied.verified
    ))?;
    output.line("what was changed at the source since then is not in the copy: use the copy alone from now on")
}

fn meaning(option: &str, text: &str) -> Result<Settings, Failure> {
    if let Some(path) = text.strip_prefix("sqlite://").filter(|path| !path.is_empty()) {
        return Ok(Settings::Sqlite { path: path.into() });
    }
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        // Nothing of it is quoted: it may hold a password.
        let settings = PostgresSettings::of_url(text);
        let settings = settings.map_err(|fault| Failure::usage(format_args!("{option}: the URL {fault}")))?;
        return Ok(Settings::Postgres(Box::new(settings)));
    }
    if text.ends_with(".toml") {
        return Ok(place::load(Path::new(text))?.store);
    }
    Err(Failure::usage(format_args!(
        "{option}: expected sqlite://PATH, postgres://USER@HOST/DATABASE, or a configuration file that ends in .toml"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_its_address() {
        let file = |path: &str| Ok(Settings::Sqlite { path: path.into() });
        assert_eq!(meaning("--from", "sqlite:///var/lib/keyward.db"), file("/var/lib/keyward.db"));
        assert_eq!(meaning("--from", "sqlite://data/keyward.db"), file("data/keyward.db"));
        let server = |url: &str| match meaning("--to", url) {
            Ok(Settings::Postgres(settings)) => settings,
            other => panic!("{other:?}"),
        };
        let here = server("postgres://keyward@127.0.0.1:5433/keys");
        assert_eq!((here.address.name(), here.tls.is_some()), ("postgres://127.0.0.1:5433/keys", false));
        assert!(server("postgresql://keyward@db.example.com/keys").tls.is_some(), "clear text stays on this machine");
        assert!(server("postgres://keyward@db.example.com/keys?sslmode=disable").tls.is_none());
        let unreadable = meaning("--to", "postgres://keyward:hunter2@/keys?sslmode=prefer").expect_err("it falls back");
        assert!(!unreadable.lines().concat().contains("hunter2"), "{unreadable:?}");
        for wrong in ["", "sqlite://", "keyward.db", "mysql://x", "postgres://", "postgres://127.0.0.1/keys"] {
            assert!(meaning("--to", wrong).is_err_and(|failure| failure.lines().concat().contains("--to")), "{wrong}");
        }
    }
}
