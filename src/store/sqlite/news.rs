//! Watching for commits of other processes: one connection that never writes asks SQLite every
//! 50 ms whether the file has changed. A hint and no more; what changed, the poll tells.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Shared;
use super::fault::Fault;
use super::file::{self, Identity, Role};
use crate::background;

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// The watching thread; it ends when this is dropped.
pub(super) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch. Where no thread can be had there are no hints, and polls find what is new.
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let (stop, stopped) = channel();
        let watched = Arc::clone(shared);
        let thread = background::spawn("keyward-news", move || {
            // What was committed before the first look cannot be told from what was there, so the
            // first look is news.
            let mut last = None;
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let seen = Some(look(&watched));
                if seen != last {
                    last = seen;
                    watched.news.notify_waiters();
                    watched.news.notify_one();
                }
            }
        });
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What the file looks like. Anything that differs from the last look is news.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// The open file, opened as the `generation`th, with SQLite's counter of others' commits.
    Open { generation: u64, version: i64 },
    /// Another file, or none.
    Replaced(Option<Identity>),
    /// It cannot be looked at.
    Failed,
}

fn look(shared: &Shared) -> Look {
    try_look(shared).unwrap_or(Look::Failed)
}

fn try_look(shared: &Shared) -> Result<Look, Fault> {
    let open = shared.open.read();
    let found = Identity::of(&shared.path)?;
    if found != Some(open.identity) {
        return Ok(Look::Replaced(found));
    }
    let mut watcher = open.watcher.lock();
    if watcher.is_none() {
        *watcher = Some(file::connect(&shared.path, Role::Reader)?);
    }
    let connection = watcher.as_ref().expect("it was opened just now");
    let version = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
    Ok(Look::Open { generation: open.generation, version })
}
