//! What is counted of the table and of its following the store. The text of each is its HELP.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::clock::Timestamp;
use crate::table::MissAnswer;

/// Metrics of the table, the feed, the miss path and the state folder.
#[derive(Debug, Clone)]
pub struct SyncMetrics {
    pub(super) keys: IntGauge,
    pub(super) applied: IntGauge,
    pub(super) lag: IntGauge,
    pub(super) last_contact: IntGauge,
    pub(super) in_contact: IntGauge,
    pub(super) ahead_of_store: Gauge,
    store_errors: IntCounterVec,
    misses: IntCounterVec,
    /// The counter of those of which there may be a flood.
    failed_too_often: IntCounter,
    alarms: IntCounterVec,
    pub(super) snapshot_at: IntGauge,
    pub(super) snapshot_failures: IntCounter,
    pub(super) journal_bytes: IntGauge,
    pub(super) reloads: IntCounter,
    pub(super) usage_written: IntCounter,
    pub(super) rows_compared: IntCounter,
    differences: IntCounterVec,
    pub(super) reconciled_at: IntGauge,
    pub(super) reported: IntGauge,
    pub(super) report_failures: IntCounter,
}

/// What kind of divergence was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alarm {
    /// The store's history is another than the one that was followed.
    History,
    /// The store is another one.
    OtherStore,
    /// A reload would lose too many keys.
    TooManyLost,
    /// The store takes back a revocation, supersession or deletion.
    TakenBack,
    /// There is no room for a row.
    Full,
    /// A row of the store cannot be read.
    Damaged,
    /// What the state folder holds was refused.
    State,
    /// A change could not be journalled.
    Journal,
    /// A walk over the store found a difference.
    Reconcile,
    /// The clocks of store and gateway are apart.
    Clock,
}

impl Alarm {
    const ALL: [Self; 10] = [
        Self::History,
        Self::OtherStore,
        Self::TooManyLost,
        Self::TakenBack,
        Self::Full,
        Self::Damaged,
        Self::State,
        Self::Journal,
        Self::Reconcile,
        Self::Clock,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::OtherStore => "other_store",
            Self::TooManyLost => "too_many_lost",
            Self::TakenBack => "taken_back",
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::State => "state",
            Self::Journal => "journal",
            Self::Reconcile => "reconcile",
            Self::Clock => "clock",
        }
    }
}

const OPERATIONS: [&str; 6] = ["poll", "history", "changes", "find", "usage", "walk"];
const DIFFERENCES: [&str; 5] = ["missing", "other", "extra", "taken_back", "damaged"];
const OUTCOMES: [&str; 5] = ["found", "unknown", "unknown_yet", "too_many_failures", "overloaded"];
const VALID: &str = "names and labels are constants of this file";

impl Default for SyncMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl SyncMetrics {
    /// All at zero, and every label present.
    ///
    /// # Panics
    /// Never: the names are valid.
    #[must_use]
    pub fn new() -> Self {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect(VALID);
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect(VALID);
        let family = |name: &str, help: &str, label: &str, values: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), &[label]).expect(VALID);
            for value in values {
                family.with_label_values(&[value]);
            }
            family
        };
        let misses = family(
            "keyward_misses_total",
            "Tokens that the table did not know, by what came of them.",
            "outcome",
            &OUTCOMES,
        );
        Self {
            keys: gauge("keyward_table_keys", "Keys in the table, revoked ones included."),
            applied: gauge("keyward_applied_revision", "The newest revision applied whole."),
            lag: gauge("keyward_sync_lag_revisions", "Revisions that the store has and the table has not."),
            last_contact: gauge(
                "keyward_sync_last_contact_timestamp_seconds",
                "When the table was last known to be like the store; 0 before the first load is over.",
            ),
            in_contact: gauge("keyward_sync_in_contact", "1 while the store can be asked, else 0."),
            ahead_of_store: Gauge::new(
                "keyward_sync_clock_ahead_seconds",
                "Seconds by which this gateway's clock is ahead of the store's, at least; below 0 where it is behind.",
            )
            .expect(VALID),
            store_errors: family(
                "keyward_store_errors_total",
                "Reads and writes of the store that failed, by what was asked.",
                "operation",
                &OPERATIONS,
            ),
            failed_too_often: misses.with_label_values(&["too_many_failures"]),
            misses,
            alarms: family(
                "keyward_divergence_alarms_total",
                "Disagreements between store, table and state folder that an operator must look at.",
                "kind",
                &Alarm::ALL.map(Alarm::as_str),
            ),
            snapshot_at: gauge("keyward_snapshot_timestamp_seconds", "When the newest snapshot was taken; 0 for none."),
            snapshot_failures: counter("keyward_snapshot_failures_total", "Snapshots that could not be written."),
            journal_bytes: gauge("keyward_journal_bytes", "Bytes in the journal since the newest snapshot."),
            reloads: counter("keyward_table_reloads_total", "Times the whole key set was loaded and swapped."),
            usage_written: counter("keyward_usage_written_total", "Usage counters written back to the store."),
            rows_compared: counter("keyward_reconcile_rows_total", "Rows of the store held against the table."),
            differences: family(
                "keyward_reconcile_differences_total",
                "Rows of the store that the table had otherwise, though it should have had them as they are.",
                "kind",
                &DIFFERENCES,
            ),
            reconciled_at: gauge(
                "keyward_reconciled_timestamp_seconds",
                "When everything in the store had last been held against the table; 0 for not yet.",
            ),
            reported: gauge(
                "keyward_sync_reported_revision",
                "The newest revision that the store was told is in force here, open streams included.",
            ),
            report_failures: counter(
                "keyward_sync_report_failures_total",
                "Times the store could not be told how far this gateway is.",
            ),
        }
    }

    /// Makes them known to `registry`.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        for gauge in [
            &self.keys,
            &self.applied,
            &self.lag,
            &self.last_contact,
            &self.in_contact,
            &self.snapshot_at,
            &self.journal_bytes,
            &self.reconciled_at,
            &self.reported,
        ] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(self.ahead_of_store.clone()))?;
        for family in [&self.store_errors, &self.misses, &self.alarms, &self.differences] {
            registry.register(Box::new(family.clone()))?;
        }
        for counter in
            [&self.snapshot_failures, &self.reloads, &self.usage_written, &self.rows_compared, &self.report_failures]
        {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(())
    }

    pub(super) fn store_error(&self, operation: &'static str) {
        self.store_errors.with_label_values(&[operation]).inc();
    }

    pub(super) fn alarm(&self, alarm: Alarm, count: usize) {
        self.alarms.with_label_values(&[alarm.as_str()]).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    pub(super) fn difference(&self, kind: &'static str) {
        self.differences.with_label_values(&[kind]).inc();
    }

    #[cfg(test)]
    pub(super) fn differences_of(&self, kind: &str) -> u64 {
        self.differences.with_label_values(&[kind]).get()
    }

    /// The store was found damaged by somebody who looked through it.
    pub fn store_is_damaged(&self) {
        self.alarm(Alarm::Damaged, 1);
    }

    #[cfg(test)]
    pub(super) fn alarms_of(&self, alarm: Alarm) -> u64 {
        self.alarms.with_label_values(&[alarm.as_str()]).get()
    }

    pub(super) fn miss(&self, answer: &MissAnswer) {
        let outcome = match answer {
            MissAnswer::Found(_) => "found",
            MissAnswer::Unknown => "unknown",
            MissAnswer::UnknownYet => "unknown_yet",
            MissAnswer::TooManyFailures { .. } => return self.failed_too_often.inc(),
            MissAnswer::Overloaded => "overloaded",
        };
        self.misses.with_label_values(&[outcome]).inc();
    }

    pub(super) fn contact(&self, at: Option<Timestamp>, in_contact: bool) {
        self.last_contact.set(at.map_or(0, Timestamp::seconds));
        self.in_contact.set(i64::from(in_contact));
    }
}

/// A count as a gauge shows it.
pub(super) fn shown(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
