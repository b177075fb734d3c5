//! `keyward secrets list`.

use data_encoding::HEXLOWER;
use serde_json::json;

use crate::app::SecretStanding;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::ConfigFile;

/// List the master secrets by number, and which is in use
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let secrets = place::list_secrets(&place::load(&args.config.path)?)?;
    if args.json {
        let shape = |one: &SecretStanding| {
            json!({
                "number": one.number,
                "state": state(one),
                "fingerprint": HEXLOWER.encode(&one.fingerprint),
                "used_from": one.used_from.map(|from| from.to_rfc3339()),
                "in_file": one.is_given,
                "in_store": one.is_stored,
            })
        };
        return output.json(&secrets.iter().map(shape).collect::<Vec<_>>());
    }
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let rows = secrets.iter().map(|one| {
        vec![
            one.number.to_string(),
            one.used_from.map_or_else(|| state(one).to_owned(), |from| format!("{} from {from}", state(one))),
            yes(one.is_given),
            yes(one.is_stored),
            HEXLOWER.encode(&one.fingerprint),
        ]
    });
    output.table(&["NUMBER", "STATE", "IN FILE", "IN STORE", "FINGERPRINT"], rows.collect())
}

const fn state(one: &SecretStanding) -> &'static str {
    match (one.is_in_use, one.used_from.is_some(), one.is_given) {
        (true, ..) => "in use",
        (false, true, _) => "next",
        (false, false, true) => "retired",
        (false, false, false) => "not here",
    }
}
