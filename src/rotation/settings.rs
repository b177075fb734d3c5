//! How rotations are announced.

use std::path::PathBuf;
use std::time::Duration;

use crate::wire::Reach;

/// How rotations are announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the management API is reached from outside, without a slash at the end. Without it
    /// nothing is announced.
    pub public_url: Option<String>,
    /// How often dates and announcements are looked at.
    pub poll: Duration,
    /// Which receivers may be reached.
    pub reach: Reach,
    /// PEM file of the authorities that receivers' certificates must come from, in place of those
    /// that the machine trusts.
    pub ca: Option<PathBuf>,
    /// How long a receiver may take to answer.
    pub timeout: Duration,
    /// How long before its end a key is announced to expire.
    pub expiry_notice: Duration,
    /// How long after each failed attempt the next one follows; after the last of them it is given up.
    pub retries: Vec<Duration>,
    /// How many announcements are sent at a time.
    pub in_flight: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = |count| Duration::from_secs(count);
        // The schedule that the Standard Webhooks specification gives: a little more than three days.
        let retries = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400].map(seconds).to_vec();
        Self {
            public_url: None,
            poll: seconds(5),
            reach: Reach::Public,
            ca: None,
            timeout: seconds(15),
            expiry_notice: seconds(14 * 86_400),
            retries,
            in_flight: 16,
        }
    }
}
