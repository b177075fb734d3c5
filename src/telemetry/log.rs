//! The log: JSON or text on standard error, written by a thread of its own so that a slow reader
//! of the log never delays a request. Lines that find its queue full are dropped and counted.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 65_536;

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// Plain text, in colour on a terminal.
    Text,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which lines: a level, or `target=level` pairs, separated by commas.
    pub filter: String,
    /// What they look like.
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: Format::Json }
    }
}

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// The filter is no filter.
    #[error("log level {filter:?} is no level such as info, nor target=level pairs")]
    Filter {
        /// What was given.
        filter: String,
    },
    /// A log was started already.
    #[error("the log was started already")]
    Started(#[source] TryInitError),
}

/// Keeps the log's thread; dropping it writes what still waits.
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
}

impl LogGuard {
    /// Counts the lines that were dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

impl Settings {
    /// Whether the filter can be read.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), LogFault> {
        self.targets().map(|_targets| ())
    }

    fn targets(&self) -> Result<Targets, LogFault> {
        Targets::from_str(&self.filter).map_err(|_opaque| LogFault::Filter { filter: self.filter.clone() })
    }
}

/// Starts the process's one log.
///
/// # Errors
/// When the filter cannot be read, or a log was started already.
pub fn start(settings: &Settings) -> Result<LogGuard, LogFault> {
    let targets = settings.targets()?;
    let (writer, worker) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE_LINES).thread_name("log").finish(io::stderr());
    let dropped = writer.error_counter();
    let lines = match settings.format {
        Format::Json => fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(writer).boxed(),
        Format::Text => fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(writer).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(targets)).try_init().map_err(LogFault::Started)?;
    Ok(LogGuard { _worker: worker, dropped })
}
