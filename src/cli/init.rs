//! `keyward init`: makes what a configuration names and is not there yet.

use serde::Serialize;

use super::failure::Failure;
use super::output::Output;
use super::place;
use super::values::ConfigFile;
use crate::app::Initialised;
use crate::key::KeyId;

/// Make what the configuration names and is missing: the master secret, the store, the first operator key
///
/// Running it again makes only what is missing by then. Where the store holds no key at all, the first
/// operator key is made, and its token printed once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward init -c keyward.toml")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was made, as JSON.
#[derive(Serialize)]
struct Made<'a> {
    made: Vec<String>,
    operator: Option<Operator<'a>>,
}

/// The first operator key.
#[derive(Serialize)]
struct Operator<'a> {
    id: KeyId,
    key: &'a str,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let config = place::load(&args.config.path)?;
    let Initialised { made, operator } = place::init(&config)?;
    let printed = if args.json {
        let operator = operator.as_ref().map(|(id, token)| Operator { id: *id, key: token.expose() });
        output.json(&Made { made: made.iter().map(|path| path.display().to_string()).collect(), operator })
    } else {
        for path in &made {
            output.line(format_args!("made {}", path.display()))?;
        }
        match &operator {
            None if made.is_empty() => output.line("everything is there already"),
            None => Ok(()),
            Some((id, token)) => output
                .line(format_args!("made the first operator key {id}. Its token, shown this once and stored nowhere:"))
                .and_then(|()| output.line(token.expose())),
        }
    };
    match (printed.and_then(|()| output.flush()), operator) {
        (Err(_unprinted), Some((id, _))) => Err(Failure::failed(format_args!(
            "the operator key {id} was made, but its token could not be printed: revoke it and make another with `keyward keys create`"
        ))),
        (printed, _) => printed,
    }
}
