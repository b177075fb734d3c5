//! One binary after the other, without a moment in which nobody serves.
//!
//! The running process starts the new one with one end of a [`Channel`] as its standard input, and
//! hands it the listening sockets. The new one reads and checks everything, then asks for the state
//! folder, which the old one has stopped writing by then; loads; and says that it is ready. Only then
//! the old one stops accepting. Until then the old one serves, and goes on with it should the new one
//! fail in any way.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::channel::{Channel, Message};
use super::error::AppError;
use super::sockets::{Named, Sockets};
use crate::clock::Clock;
use crate::sync::StateLoan;

/// Why a new process did not take over.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTakenOver {
    /// It could not be started.
    #[error("{} cannot be started: {cause}", .program.display())]
    NotStarted {
        /// The program.
        program: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It said why.
    #[error("the new process gave up: {0}")]
    GaveUp(String),
    /// It ended without a word; what it printed is on standard error.
    #[error("the new process ended before it was ready: {0}")]
    Ended(String),
    /// It took too long.
    #[error("the new process was not ready within {0:?}")]
    TooSlow(Duration),
    /// What it said cannot be understood.
    #[error("the new process cannot be talked to: {0}")]
    Unintelligible(io::Error),
    /// The state folder cannot be lent.
    #[error("the state folder cannot be handed over: {0}")]
    State(io::Error),
}

/// The program that runs, as it was started.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<std::ffi::OsString>,
}

impl Program {
    /// Of this process. Must be asked at its start: the path of a binary that was replaced is lost.
    pub(super) fn of_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let typed = arguments.next().map(PathBuf::from).unwrap_or_default();
        // As it was typed, so that a link to the newest version is followed again.
        let is_path = typed.parent().is_some_and(|folder| folder != Path::new(""));
        let path = if is_path { std::path::absolute(typed)? } else { std::env::current_exe()? };
        Ok(Self { path, arguments: arguments.collect() })
    }
}

/// A new process on its way, seen by the old one.
#[derive(Debug)]
pub(super) struct Successor {
    channel: Arc<Channel>,
}

/// What the old process puts into an upgrade.
pub(super) struct Handing {
    pub(super) program: Program,
    pub(super) loan: StateLoan,
    pub(super) patience: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

/// A new process that is ready.
#[derive(Debug)]
pub(super) struct Taken {
    /// Its id.
    pub(super) process: u32,
    channel: Arc<Channel>,
}

impl Taken {
    /// Tells it that it is alone now.
    pub(super) fn is_over(&self) {
        if let Err(error) = self.channel.send(&Message::Over, None) {
            tracing::warn!(%error, "the new process could not be told that it is alone");
        }
    }
}

impl Successor {
    /// Starts the new process. Its conversation is to be led by [`Conversation::lead`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(sockets: &Sockets, handing: Handing) -> Result<(Self, Conversation), NotTakenOver> {
        let path = handing.program.path.clone();
        let fault = |cause| NotTakenOver::NotStarted { program: path.clone(), cause };
        let (ours, theirs) = Channel::pair().map_err(fault)?;
        let named = sockets.kept().iter().map(|named| {
            let (listener, address) = (named.listener.clone(), named.address);
            named.socket.try_clone().map(|socket| Named { listener, address, socket })
        });
        let sockets = named.collect::<io::Result<Vec<_>>>().map_err(fault)?;
        let mut command = Command::new(&handing.program.path);
        command.args(&handing.program.arguments).stdin(Stdio::from(theirs.into_file()));
        // These speak of this process.
        for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(fault)?;
        let channel = Arc::new(ours);
        let conversation = Conversation { channel: Arc::clone(&channel), child, sockets, handing };
        Ok((Self { channel }, conversation))
    }

    /// Gives the upgrade up.
    pub(super) fn give_up(&self) {
        self.channel.hang_up();
    }
}

/// What is said until the new process is ready, or is no more.
pub(super) struct Conversation {
    channel: Arc<Channel>,
    child: Child,
    sockets: Vec<Named>,
    handing: Handing,
}

impl Conversation {
    /// The id of the new process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Leads it to its end. Blocks.
    ///
    /// # Errors
    /// When the new process did not take over. It is gone then, and the state folder is ours.
    pub(super) fn lead(mut self) -> Result<Taken, NotTakenOver> {
        match self.talk() {
            Ok(()) => Ok(Taken { process: self.child.id(), channel: self.channel }),
            Err(mut fault) => {
                self.channel.hang_up();
                if let NotTakenOver::Ended(how) = &mut fault {
                    // It hung up and so is about to end by itself, mostly.
                    let ended = self.ended_within(LAST_WORDS);
                    *how = ended.unwrap_or_else(|| "it closed the conversation".to_owned());
                }
                // Gone already, mostly.
                self.child.kill().ok();
                if let Err(error) = self.child.wait() {
                    tracing::error!(%error, "the end of the new process cannot be waited for");
                }
                self.handing.loan.take_back();
                Err(fault)
            }
        }
    }

    fn talk(&self) -> Result<(), NotTakenOver> {
        let until = self.handing.clock.monotonic() + self.handing.patience;
        let fault = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                NotTakenOver::Ended(String::new())
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => NotTakenOver::TooSlow(self.handing.patience),
            _ => NotTakenOver::Unintelligible(error),
        };
        let hurry = || {
            let left = until.saturating_duration_since(self.handing.clock.monotonic());
            self.channel.set_patience(left).map_err(fault)
        };
        hurry()?;
        self.channel.send(&Message::Begin { sockets: self.sockets.len() }, None).map_err(fault)?;
        for named in &self.sockets {
            let message = Message::Socket { listener: named.listener.clone(), address: named.address };
            self.channel.send(&message, Some(named.socket.as_fd())).map_err(fault)?;
        }
        loop {
            hurry()?;
            match self.channel.receive().map_err(fault)?.0 {
                Message::WantsState => {
                    let lock = self.handing.loan.lend().map_err(NotTakenOver::State)?;
                    self.channel.send(&Message::State, Some(lock.as_fd())).map_err(fault)?;
                }
                Message::Ready => return Ok(()),
                Message::Failed { why } => return Err(NotTakenOver::GaveUp(why)),
                Message::Begin { .. } | Message::Socket { .. } | Message::State | Message::Over => {
                    return Err(NotTakenOver::Unintelligible(io::Error::other("it said what is not its to say")));
                }
            }
        }
    }

    /// How the new process ended, if it does in time.
    fn ended_within(&mut self, patience: Duration) -> Option<String> {
        let clock = &self.handing.clock;
        let until = clock.monotonic() + patience;
        while clock.monotonic() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status.to_string());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

/// The process that this one is to take over from.
#[derive(Debug)]
pub(super) struct Predecessor {
    channel: Channel,
}

impl Predecessor {
    /// The one that started this process to take over, and its listening sockets; none where this
    /// process was started like any other.
    ///
    /// # Errors
    /// When what it says cannot be understood.
    pub(super) fn of_process() -> Result<Option<(Self, Vec<Named>)>, AppError> {
        let fault = || AppError::runtime("the process to take over from cannot be talked to");
        let Some(channel) = Channel::in_place_of(io::stdin().as_fd()).map_err(fault())? else { return Ok(None) };
        let nothing = File::open("/dev/null").map_err(AppError::file("open", "/dev/null"))?;
        rustix::stdio::dup2_stdin(nothing).map_err(io::Error::from).map_err(fault())?;
        let receive = || -> io::Result<Vec<Named>> {
            channel.set_patience(PATIENCE)?;
            let odd = || io::Error::from(io::ErrorKind::InvalidData);
            let (Message::Begin { sockets: count }, _) = channel.receive()? else { return Err(odd()) };
            let mut sockets = Vec::with_capacity(count);
            for _socket in 0..count {
                let (Message::Socket { listener, address }, Some(file)) = channel.receive()? else {
                    return Err(odd());
                };
                sockets.push(Named { listener, address, socket: file.into() });
            }
            Ok(sockets)
        };
        let sockets = receive().map_err(fault())?;
        Ok(Some((Self { channel }, sockets)))
    }

    /// The lock of its state folder, into which it writes no more; none where it is gone, so that
    /// the folder is anybody's. Blocks.
    pub(super) fn state(&self) -> Option<File> {
        let asked = self.channel.send(&Message::WantsState, None).and_then(|()| self.channel.receive());
        match asked {
            Ok((Message::State, Some(lock))) => Some(lock.into()),
            Ok((said, _)) => {
                tracing::warn!(?said, "the process before this one does not hand over its state folder");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the process before this one is gone; going on without it");
                None
            }
        }
    }

    /// Says that this process serves, and returns once the other has made way. Blocks.
    pub(super) fn is_ready(&self) {
        let told = self.channel.send(&Message::Ready, None).and_then(|()| self.channel.receive());
        if let Err(error) = told {
            tracing::warn!(%error, "the process before this one is gone; going on without it");
        }
    }

    /// Says why this process gives up.
    pub(super) fn failed(&self, why: String) {
        // It sees the end of this process in any case.
        self.channel.send(&Message::Failed { why }, None).ok();
    }
}

/// How long the old process may take for an answer. It waits for its disk at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process that hung up gets to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(2);
