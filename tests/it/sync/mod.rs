//! The gateway and its store: contact lost, found again, and never had.

mod cold_start;
mod killed;
mod latency;
mod locked;
mod outage;
mod restored;
