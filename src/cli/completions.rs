//! `keyward completions`: what a shell needs to complete our commands.

use clap_complete::{Shell, generate};

use super::failure::Failure;
use super::output::Output;
use super::typed;

/// Print what a shell needs to complete keyward's commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward completions bash > /etc/bash_completion.d/keyward
  keyward completions zsh > \"${fpath[1]}/_keyward\"")]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut typed::command(), "keyward", &mut script);
    output.raw(&script)
}
