//! The command line: what was typed, what it means, and what is printed. Two stages, a file a
//! command; printing is the business of `output` alone.
//!
//! Exit codes: 0 done, 1 failed, 2 typed wrongly, 64 the configuration cannot be used. A failure
//! is told in one line on standard error, or one for each fault; never by a backtrace.

mod check;
mod completions;
mod documents;
mod events;
mod explain;
mod failure;
mod gateways;
mod health;
mod init;
mod keys;
mod local;
mod openapi;
mod operations;
mod output;
mod panic;
mod place;
mod quickstart;
mod remote;
mod secrets;
mod serve;
mod store;
mod typed;
mod users;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use failure::Failure;
use output::Output;
use typed::Command;

/// Runs the command that `arguments`, the program's name first, spell out. Returns once it is done;
/// for `serve` and `quickstart`, once the gateway has stopped.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    panic::install_hook();
    // Where the system refuses, `serve` says so in its log; for a command there is nothing to be done.
    let _refused = crate::app::keep_memory_private();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match panic::contain(|| execute(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure);
            failure.exit_code()
        }
    }
}

fn execute(arguments: &[OsString]) -> Result<(), Failure> {
    let mut output = Output::stdout();
    let Some(typed) = typed::read(arguments, &mut output)? else { return output.flush() };
    match typed.command {
        Command::Quickstart(args) => quickstart::run(&args, &mut output),
        Command::Init(args) => init::run(&args, &mut output),
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args, &mut output),
        Command::Explain(args) => explain::run(args, &mut output),
        Command::Keys(args) => keys::run(args, &mut output),
        Command::Users(args) => users::run(args, &mut output),
        Command::Secrets(args) => secrets::run(args, &mut output),
        Command::Store(args) => store::run(args, &mut output),
        Command::Events(args) => events::run(args, &mut output),
        Command::Gateways(args) => gateways::run(args, &mut output),
        Command::Health(args) => health::run(&args, &mut output),
        Command::Openapi(args) => openapi::run(&args, &mut output),
        Command::Completions(args) => completions::run(&args, &mut output),
    }?;
    output.flush()
}
