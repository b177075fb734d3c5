//! The threads that serve: one runtime each, with listeners and upstream connections of its own, so
//! that no request ever crosses from one thread to another.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::error::AppError;
use super::supervisor::{Pulse, beat_every};
use crate::listen::{self, Handler, Listening};
use crate::secret::NoRandomness;

/// When a thread begins and ends, and whether it lives.
#[derive(Debug, Clone)]
pub(super) struct Times {
    /// True once connections may be accepted.
    pub(super) open: watch::Receiver<bool>,
    /// True once none may be any more.
    pub(super) stop: watch::Receiver<bool>,
    /// The thread's sign of life.
    pub(super) pulse: Pulse,
}

impl Times {
    /// The times of one more thread.
    pub(super) fn new(open: &watch::Receiver<bool>, stop: &watch::Receiver<bool>) -> Self {
        Self { open: open.clone(), stop: stop.clone(), pulse: Pulse::default() }
    }
}

/// The threads that were started, and word of their end.
#[derive(Debug)]
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<String>,
    ending: mpsc::UnboundedSender<String>,
}

impl Workers {
    pub(super) fn new() -> Self {
        let (ending, ended) = mpsc::unbounded_channel();
        Self { threads: Vec::new(), ended, ending }
    }

    /// Starts a thread that serves these listeners with the handler that `make` makes on it.
    ///
    /// # Errors
    /// When the operating system has no thread or runtime to give.
    pub(super) fn start<H: Handler>(
        &mut self,
        name: String,
        listeners: Vec<(TcpListener, Listening)>,
        times: Times,
        make: impl FnOnce() -> Result<H, NoRandomness> + Send + 'static,
    ) -> Result<(), AppError> {
        let word = Word { name: name.clone(), ending: self.ending.clone() };
        let (built, is_built) = std::sync::mpsc::sync_channel(1);
        let work = move || {
            let _word = word;
            // Its tasks are local, with no set of them between: whatever wakes one of a `LocalSet` outside of its turn
            // wakes the whole set too, by a system call. It stays on its thread, and so is made there.
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            let (runtime, fault) = match runtime {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _nobody_waits = built.send(fault);
            let Some(runtime) = runtime else { return };
            let served = runtime.block_on(async {
                let handler = Rc::new(make().map_err(io::Error::other)?);
                serve(handler, listeners, times).await
            });
            if let Err(error) = served {
                tracing::error!(%error, "a listener could not be served");
            }
        };
        let thread =
            thread::Builder::new().name(name).spawn(work).map_err(AppError::runtime("cannot start a thread"))?;
        self.threads.push(thread);
        let built = is_built.recv().unwrap_or_else(|_gone| Err(io::ErrorKind::Other.into()));
        built.map_err(AppError::runtime("cannot start a runtime"))
    }

    /// The name of a thread that ended. Cancel-safe.
    pub(super) async fn one_ended(&mut self) -> String {
        // This holds a sender itself, so the channel stays open.
        self.ended.recv().await.unwrap_or_default()
    }

    /// Waits for every thread.
    pub(super) fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread ended by a panic");
            }
        }
    }
}

/// Says which thread ended, however it did.
struct Word {
    name: String,
    ending: mpsc::UnboundedSender<String>,
}

impl Drop for Word {
    fn drop(&mut self) {
        // Nobody listens once the process is on its way out.
        self.ending.send(std::mem::take(&mut self.name)).ok();
    }
}

/// A runtime for one thread.
pub(super) fn runtime() -> Result<Runtime, AppError> {
    Builder::new_current_thread().enable_all().build().map_err(AppError::runtime("cannot start a runtime"))
}

async fn serve<H: Handler>(handler: Rc<H>, listeners: Vec<(TcpListener, Listening)>, times: Times) -> io::Result<()> {
    let Times { mut open, mut stop, pulse } = times;
    let mut beating = JoinSet::new();
    if let Some(every) = beat_every() {
        beating.spawn_local(pulse.beat(every));
    }
    let stopped = tokio::select! {
        biased;
        stopped = stop.wait_for(|stop| *stop) => stopped.is_ok(),
        // Whoever holds the other end is there as long as this thread.
        opened = open.wait_for(|open| *open) => opened.is_err(),
    };
    if stopped {
        return Ok(());
    }
    let mut served = JoinSet::new();
    for (listener, listening) in listeners {
        served.spawn_local(listen::serve(listener, Rc::clone(&handler), listening, stop.clone()));
    }
    let mut outcome = Ok(());
    while let Some(ended) = served.join_next().await {
        outcome = outcome.and(ended.map_err(io::Error::other).and_then(|served| served));
    }
    outcome
}
