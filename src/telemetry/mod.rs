//! What the program tells of itself: its log, and the page of its metrics.
//!
//! Each module defines the metrics it counts and registers them; this one holds what belongs to the
//! process as a whole and turns all of them into the text that Prometheus reads.

mod json;
mod log;
mod metrics;

pub use log::{Format, LogFault, LogGuard, Settings as LogSettings, start as start_log};
pub use metrics::{ProcessMetrics, page};
pub use tracing_appender::non_blocking::ErrorCounter as DroppedLines;
