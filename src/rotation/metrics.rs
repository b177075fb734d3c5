//! What is counted of rotations and their announcements. The text of each is its HELP.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::store::{DeliveryState, RotationCounts};

/// Metrics of rotations and their announcements.
#[derive(Debug, Clone)]
pub struct RotationMetrics {
    due: IntGauge,
    overdue: IntGauge,
    pending: IntGauge,
    oldest_pending: IntGauge,
    deliveries: IntCounterVec,
    store_errors: IntCounter,
}

const VALID: &str = "names and labels are constants of this file";
const OUTCOMES: [&str; 5] = ["delivered", "failed", "gone", "given_up", "moot"];

impl Default for RotationMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl RotationMetrics {
    /// All at zero, and every label present.
    ///
    /// # Panics
    /// Never: the names are valid.
    #[must_use]
    pub fn new() -> Self {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect(VALID);
        let deliveries = Opts::new(
            "keyward_webhook_deliveries_total",
            "Attempts to announce something at a webhook, by outcome; a failed one is repeated.",
        );
        let deliveries = IntCounterVec::new(deliveries, &["outcome"]).expect(VALID);
        for outcome in OUTCOMES {
            deliveries.with_label_values(&[outcome]);
        }
        Self {
            due: gauge("keyward_rotations_due", "Live keys whose rotation is due, the overdue ones included."),
            overdue: gauge("keyward_rotations_overdue", "Live keys whose rotation has been due for a day or longer."),
            pending: gauge("keyward_webhook_pending", "Announcements that are still to be sent, by any gateway."),
            oldest_pending: gauge(
                "keyward_webhook_oldest_pending_seconds",
                "How long the oldest announcement has waited that is still to be sent; 0 for none.",
            ),
            deliveries,
            store_errors: IntCounter::new(
                "keyward_rotation_store_errors_total",
                "Reads and writes of the store that failed while rotations were looked after.",
            )
            .expect(VALID),
        }
    }

    /// Makes them known to `registry`.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        for gauge in [&self.due, &self.overdue, &self.pending, &self.oldest_pending] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(self.deliveries.clone()))?;
        registry.register(Box::new(self.store_errors.clone()))
    }

    pub(super) fn show(&self, counts: &RotationCounts) {
        let shown = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.due.set(shown(counts.due));
        self.overdue.set(shown(counts.overdue));
        self.pending.set(shown(counts.pending));
        let age = counts.oldest_pending.map_or(0, |oldest| counts.now.since(oldest).as_secs());
        self.oldest_pending.set(shown(age));
    }

    pub(super) fn attempted(&self, state: DeliveryState) {
        let outcome = match state {
            DeliveryState::Pending => "failed",
            ended @ (DeliveryState::Delivered | DeliveryState::Gone | DeliveryState::GivenUp | DeliveryState::Moot) => {
                ended.as_str()
            }
        };
        self.deliveries.with_label_values(&[outcome]).inc();
    }

    pub(super) fn store_failed(&self) {
        self.store_errors.inc();
    }

    #[cfg(test)]
    pub(super) fn count(&self, outcome: &str) -> u64 {
        self.deliveries.with_label_values(&[outcome]).get()
    }

    #[cfg(test)]
    pub(super) fn gauges(&self) -> [i64; 4] {
        [self.due.get(), self.overdue.get(), self.pending.get(), self.oldest_pending.get()]
    }
}
