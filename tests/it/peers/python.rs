//! The programs of `tests/peers`, and the Python that runs them.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

use super::process::{self, Served};

fn python<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(interpreter(root));
    // What is compiled is kept out of the sources.
    command.env("PYTHONPYCACHEPREFIX", root.join("target/peers/cache"));
    command.args(arguments).current_dir(root.join("tests/peers")).stdin(Stdio::null());
    command
}

/// The interpreter of the environment that `make tools` makes.
fn interpreter(root: &Path) -> PathBuf {
    let list = |name: &str| fs::read(root.join(name)).ok();
    let (wanted, made) = (list("tests/peers/requirements.txt"), list("target/peers/requirements.txt"));
    assert!(made.is_some(), "target/peers is not there: run `make tools`, which installs what this test needs");
    assert!(wanted == made, "target/peers is out of date: run `make tools`, which makes it anew");
    root.join("target/peers/bin/python")
}

/// Runs Python with these arguments, such as `-m` and a module, to its end, which must be a good one; what it printed.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    process::run(python(arguments))
}

/// A program that goes on running and is listened to. It is killed when this is dropped.
pub(crate) struct Running {
    _process: Served,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = python(arguments);
        command.stdout(Stdio::piped());
        let mut process = Served::start(command);
        let output = process.child().stdout.take().expect("a pipe");
        Self { _process: process, lines: BufReader::new(output).lines() }
    }

    /// The next line it prints.
    pub(crate) fn line(&mut self) -> String {
        self.lines.next().expect("one more line").expect("a line of text")
    }
}

/// A program that serves. It is killed when this is dropped.
pub(crate) struct Service {
    _running: Running,
    address: SocketAddr,
}

impl Service {
    /// Starts it, and waits until it says on which port it listens.
    pub(crate) fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut running = Running::start(arguments);
        let line = running.line();
        let port = line.parse().unwrap_or_else(|_| panic!("no port but {line:?}"));
        Self { _running: running, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
