//! The log: JSON or text on standard error, written by a thread of its own so that a slow reader
//! of the log never delays a request. Lines that find its queue full are dropped and counted.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use super::json::JsonLines;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 65_536;
/// What is written at once. A pipe takes so much as one piece, so that the lines of two processes
/// that share one, as in an upgrade, never mix.
const PIECE_BYTES: usize = 4096;
/// What the thread waits for more lines once it has written all there were. Without it every line
/// of a busy gateway wakes it.
const REST: Duration = Duration::from_millis(10);

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

/// Writes whole lines in pieces, and rests after the last that was there.
#[derive(Debug)]
struct Pieces<W: Write>(BufWriter<W>);

impl<W: Write> Pieces<W> {
    fn new(inner: W) -> Self {
        Self(BufWriter::with_capacity(PIECE_BYTES, inner))
    }
}

impl<W: Write> Write for Pieces<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        thread::sleep(REST);
        flushed
    }
}

/// Starts the process's one log.
///
/// # Errors
/// When the filter cannot be read, or a log was started already.
pub fn start(settings: &Settings) -> Result<LogGuard, LogFault> {
    let targets = settings.targets()?;
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE_LINES)
        .thread_name("log")
        .finish(Pieces::new(io::stderr()));
    let dropped = writer.error_counter();
    let lines = match settings.format {
        Format::Json => JsonLines::new(writer).boxed(),
        Format::Text => fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(writer).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(targets)).try_init().map_err(LogFault::Started)?;
    Ok(LogGuard { _worker: worker, dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each piece as it was written.
    #[derive(Debug, Default)]
    struct Written(Vec<Vec<u8>>);

    impl Write for Written {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            self.0.push(piece.to_vec());
            Ok(piece.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_whole_and_many_at_once() {
        let lines: Vec<_> = (0..100).map(|number| format!("{number} {}\n", "x".repeat(number * 10))).collect();
        let long = format!("{}\n", "y".repeat(PIECE_BYTES * 2));
        let mut pieces = Pieces::new(Written::default());
        for line in lines.iter().chain([&long]).chain(&lines) {
            pieces.write_all(line.as_bytes()).expect("it takes everything");
        }
        pieces.flush().expect("it takes everything");
        let written = &pieces.0.get_ref().0;
        assert_eq!(written.concat(), [lines.concat(), long.clone(), lines.concat()].concat().into_bytes());
        for piece in written {
            assert_eq!(piece.last(), Some(&b'\n'), "it ends with a line");
            assert!(piece.len() <= PIECE_BYTES || *piece == long.as_bytes(), "{} bytes", piece.len());
        }
        assert!(written.len() < lines.len() / 2, "{} pieces", written.len());
    }
}
