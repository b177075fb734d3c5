//! `keyward serve`: runs the gateway until it is told to stop.

use super::failure::Failure;
use super::place;
use super::values::ConfigFile;

/// Run the gateway until SIGTERM or SIGINT; SIGHUP reloads, SIGUSR2 upgrades
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward serve -c keyward.toml

On SIGTERM open requests are finished, up to the configured drain time. On SIGHUP, and when a file
changes, configuration, certificates and deny list are read again; a bad file leaves the old ones.
On SIGUSR2 the binary is started anew and takes over the sockets; this process finishes and ends.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Start from a snapshot of the keys that is older than one this gateway has known: keys revoked since may work until the store is reached
    #[arg(long)]
    accept_old_snapshot: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    place::serve(&args.config.path, args.accept_old_snapshot)
}
