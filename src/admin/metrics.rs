//! What the management API counts. Labels come from closed sets: an endpoint is its pattern, never a
//! path.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Counters of all listeners of the management API.
#[derive(Debug, Clone)]
pub struct AdminMetrics {
    /// Requests that were answered, by listener, endpoint and status.
    pub(super) requests: IntCounterVec,
    /// Requests that were refused, by listener and code.
    pub(super) refusals: IntCounterVec,
    /// Time from a request's head to its answer's, in seconds, by listener.
    pub(super) duration: HistogramVec,
}

impl AdminMetrics {
    /// Counters, not registered anywhere yet.
    ///
    /// # Errors
    /// Never with these names.
    pub fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "keyward_admin_requests_total",
                    "Requests to the management API that were answered, by listener, endpoint and status.",
                ),
                &["listener", "endpoint", "status"],
            )?,
            refusals: IntCounterVec::new(
                Opts::new(
                    "keyward_admin_refusals_total",
                    "Requests to the management API that were refused, by listener and code.",
                ),
                &["listener", "code"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "keyward_admin_request_duration_seconds",
                    "Time from the head of a request to the management API to that of its answer, by listener.",
                )
                .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
                &["listener"],
            )?,
        })
    }

    /// Makes them known to `registry`.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.refusals.clone()))?;
        registry.register(Box::new(self.duration.clone()))
    }
}
