//! How the table follows the store.

use std::path::PathBuf;
use std::time::Duration;

use crate::table::OnStale;
use crate::wire::FailureLimit;

/// How the table follows the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where snapshot, journal and high-water file lie.
    pub state_dir: PathBuf,
    /// How often the store is asked for its revision, whatever hints say.
    pub poll: Duration,
    /// How long the table may go without contact before `on_stale` applies.
    pub max_staleness: Duration,
    /// What then happens on routes that say nothing of their own.
    pub on_stale: OnStale,
    /// How long after contact was lost an unknown token is answered "not known yet".
    pub unknown_grace: Duration,
    /// How many unknown tokens a second may be looked for in the store, over all clients.
    pub misses_per_second: u32,
    /// The oldest snapshot that is started from.
    pub snapshot_max_age: Duration,
    /// Start from a snapshot that the high-water file says is too old.
    pub accept_old_snapshot: bool,
    /// The share of live keys, in percent, whose loss makes a reload be refused.
    pub reload_drop_max_percent: u8,
    /// How often usage is written back.
    pub usage_flush: Duration,
    /// How many unknown tokens one client may send.
    pub failure_limit: FailureLimit,
}

impl Settings {
    /// The defaults, with state in `state_dir`.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            poll: Duration::from_secs(1),
            max_staleness: Duration::from_secs(24 * 3600),
            on_stale: OnStale::Serve,
            unknown_grace: Duration::from_secs(60),
            misses_per_second: 500,
            snapshot_max_age: Duration::from_secs(24 * 3600),
            accept_old_snapshot: false,
            reload_drop_max_percent: 20,
            usage_flush: Duration::from_secs(10),
            failure_limit: FailureLimit::default(),
        }
    }
}
