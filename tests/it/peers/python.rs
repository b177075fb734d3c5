//! Programs in Python: clients that run to their end, and services that are stopped.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Python with these arguments, among the programs of `tests/peers`.
pub(super) fn python<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(interpreter(root));
    // What is compiled is kept out of the sources.
    command.env("PYTHONPYCACHEPREFIX", root.join("target/peers/cache"));
    command.args(arguments).current_dir(root.join("tests/peers")).stdin(Stdio::null());
    command
}

/// The interpreter of the environment that `make tools` makes; there is no other way to have one.
fn interpreter(root: &Path) -> PathBuf {
    let list = |name: &str| fs::read(root.join(name)).ok();
    let (wanted, made) = (list("tests/peers/requirements.txt"), list("target/peers/requirements.txt"));
    assert!(made.is_some(), "target/peers is not there: run `make tools`, which installs what this test needs");
    assert!(wanted == made, "target/peers is out of date: run `make tools`, which makes it anew");
    root.join("target/peers/bin/python")
}

/// Runs a program to its end, which must be a good one; what it printed.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    run_command(python(arguments))
}

/// Runs any command to its end, which must be a good one; what it printed.
pub(super) fn run_command(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|fault| panic!("{command:?}: {fault}; is it installed? `make tools`"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{printed}\n{errors}", output.status);
    printed
}

/// A program that serves. It is killed when this is dropped.
pub(super) struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    /// Starts it, and waits until it prints the port that it listens on.
    pub(super) fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut child = python(arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        // It prints nothing else.
        BufReader::new(output).read_line(&mut line).expect("a line");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("no port but {line:?}"));
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
