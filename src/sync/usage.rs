//! Writes usage back to the store, in batches and in the order of key ids, off the request path.

use std::sync::Arc;
use std::time::Duration;

use super::metrics::SyncMetrics;
use crate::clock::Clock;
use crate::store::{SharedStore, UsageUpdate};
use crate::table::{Table, Used};

/// Writes usage back.
#[derive(Debug, Clone)]
pub(super) struct Flusher {
    pub(super) table: Arc<Table>,
    pub(super) store: SharedStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<SyncMetrics>,
    pub(super) gateway: String,
}

const BATCH: usize = 1_000;
/// Longer than a store itself waits for a lock, so that it says itself whether it took a batch.
const PATIENCE: Duration = Duration::from_secs(7);

impl Flusher {
    /// Writes everything counted so far. What the store did not take is counted again; where it
    /// took a batch without saying so, that batch is counted twice.
    pub(super) async fn flush(&self) {
        let used = self.table.drain_usage(self.clock.now());
        let mut rest = used.as_slice();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(rest.len().min(BATCH));
            let updates = batch.iter().map(update_of).collect();
            let written = tokio::time::timeout(PATIENCE, self.store.record_usage(self.gateway.clone(), updates)).await;
            match written {
                Ok(Ok(())) => self.metrics.usage_written.inc_by(u64::try_from(batch.len()).unwrap_or(0)),
                Ok(Err(_)) | Err(_) => {
                    self.metrics.store_error("usage");
                    self.table.give_back_usage(rest);
                    return;
                }
            }
            rest = after;
        }
    }
}

fn update_of(used: &Used) -> UsageUpdate {
    UsageUpdate { key: used.key, last_used_at: used.last_used_at, count: used.count }
}
