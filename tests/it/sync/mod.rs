//! The gateway and its store: contact lost, found again, and never had.

mod cold_start;
mod outage;
