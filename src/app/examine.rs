//! Reads a store through once beside a gateway that has just started from it. Following a store reads what
//! has changed: damage in pages that nobody asked for would be met when it is too late to have a backup.

use std::sync::Arc;

use super::error::AppError;
use crate::background;
use crate::store::{self, StoreError};
use crate::sync::SyncMetrics;

/// Looks for damage in the store's file, on a thread that ends with the process. Nothing waits for it.
///
/// # Errors
/// When the operating system has no thread to give.
pub(super) fn examine(store: store::Settings, metrics: Arc<SyncMetrics>) -> Result<(), AppError> {
    let look = move || {
        // That it is away is told by whoever follows it.
        if let Err(error @ StoreError::Damaged { .. }) = store.examine() {
            metrics.store_is_damaged();
            tracing::error!(%error, "keys that are known here are decided as before, what cannot be read is refused");
        }
    };
    let started = background::spawn("examine", look);
    started.map(drop).map_err(AppError::runtime("the thread that examines the store"))
}
