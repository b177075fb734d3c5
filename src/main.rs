//! The program: hands its arguments to the library and exits with what that answers.

use std::process::ExitCode;

/// Chosen by measurement: 5 % of a request's time against glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keyward::cli::run(std::env::args_os())
}
