//! `keyward quickstart`, and what it prints.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::gateway::{Log, spawn};
use super::wait::until;

/// The running command. It is killed when this is dropped.
pub(crate) struct Quickstart {
    child: Child,
    errors: Log,
    printed: Log,
}

impl Quickstart {
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.args(["quickstart", "--listen", "127.0.0.1:0", "--dir"]).arg(folder.join("keyward-data"));
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        let (child, errors, printed) = spawn(command);
        Self { child, errors, printed }
    }

    /// The first so many lines that begin with `curl`, once they are there.
    pub(crate) fn curl_lines(&self, count: usize) -> Vec<String> {
        let lines = || -> Vec<String> {
            let printed = self.printed.lines().into_iter().map(|line| line.trim().to_owned());
            printed.filter(|line| line.starts_with("curl ")).take(count).collect()
        };
        until("the printed curl lines", || lines().len() == count);
        lines()
    }

    pub(crate) fn printed(&self) -> String {
        format!("{}\n{}", self.printed.text(), self.errors.text())
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- quickstart's last words ---\n{}", self.printed());
        }
    }
}
