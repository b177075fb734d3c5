//! Programs of others: some run to their end, others serve until they are stopped.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command};

/// Runs a command to its end, which must be a good one; what it printed.
pub(super) fn run(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|fault| missing(&command, &fault));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{printed}\n{errors}", output.status);
    printed
}

/// A program that serves. It is killed when this is dropped.
pub(super) struct Served(Child);

impl Served {
    pub(super) fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap_or_else(|fault| missing(&command, &fault)))
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn missing(command: &Command, fault: &std::io::Error) -> ! {
    panic!("{command:?} does not start: {fault}; `make tools` installs what the tests call")
}

/// An address that nobody listens on now.
pub(super) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr()).expect("a free port")
}
