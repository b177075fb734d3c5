//! `keyward secrets jwks`: the public keys, for whoever verifies without asking a listener.

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::ConfigFile;

/// Print the public keys of keys in JWT form and of assertions, as a JWK set
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward secrets jwks -c keyward.toml > jwks.json
  keyward keys inspect --jwks jwks.json < token.txt")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    output.line(place::jwks(&place::load(&args.config.path)?)?)?;
    output.flush()
}
