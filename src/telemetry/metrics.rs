//! The page of metrics, and the figures of the process as a whole.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tracing_appender::non_blocking::ErrorCounter;

/// Figures of the process as a whole.
#[derive(Debug, Clone)]
pub struct ProcessMetrics {
    /// Always 1; the labels tell what runs.
    build: IntGaugeVec,
    /// Reloads of the configuration, by whether they took.
    reloads: IntCounterVec,
    /// New binaries that did not take over.
    failed_upgrades: IntCounter,
    /// When the configuration in force was loaded.
    loaded_at: Gauge,
    resident: IntGauge,
    open_files: IntGauge,
    dropped_lines: IntCounter,
    dropped: Option<ErrorCounter>,
}

impl ProcessMetrics {
    /// The figures, not yet registered. `dropped` counts the log's lost lines.
    ///
    /// # Errors
    /// Never for the names used here; the library checks them at run time.
    pub fn new(dropped: Option<ErrorCounter>) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        let metrics = Self {
            build: IntGaugeVec::new(
                Opts::new("keyward_build_info", "Always 1; the label tells which version runs."),
                &["version"],
            )?,
            reloads: IntCounterVec::new(
                Opts::new("keyward_config_reloads_total", "Reloads of the configuration, by outcome: ok or refused."),
                &["outcome"],
            )?,
            failed_upgrades: IntCounter::new(
                "keyward_upgrade_failures_total",
                "New binaries that were started by SIGUSR2 and did not take over.",
            )?,
            loaded_at: Gauge::new(
                "keyward_config_loaded_timestamp_seconds",
                "When the configuration in force was loaded, in seconds since the epoch.",
            )?,
            resident: gauge(
                "keyward_process_resident_memory_bytes",
                "Memory of the process that is in RAM, in bytes.",
            )?,
            open_files: gauge("keyward_process_open_files", "Open file descriptors of the process.")?,
            dropped_lines: IntCounter::new(
                "keyward_log_lines_dropped_total",
                "Log lines dropped because their reader was too slow.",
            )?,
            dropped,
        };
        metrics.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for outcome in ["ok", "refused"] {
            metrics.reloads.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }

    /// A reload took, or the first load did, at this many seconds after the epoch.
    pub fn reloaded(&self, now_seconds: i64) {
        self.reloads.with_label_values(&["ok"]).inc();
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
        self.loaded_at.set(now_seconds as f64);
    }

    /// A reload was refused, and the old configuration goes on.
    pub fn reload_refused(&self) {
        self.reloads.with_label_values(&["refused"]).inc();
    }

    /// A new binary did not take over, and this one goes on.
    pub fn upgrade_failed(&self) {
        self.failed_upgrades.inc();
    }

    /// Registers every figure.
    ///
    /// # Errors
    /// When another metric has one of the names.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.clone()))
    }

    fn read_process(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            let kib =
                status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
            self.resident.set(kib.map_or(0, |kib: i64| kib * 1024));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.open_files.set(i64::try_from(files.count()).unwrap_or(i64::MAX));
        }
        if let Some(dropped) = &self.dropped {
            let known = self.dropped_lines.get();
            let now = u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX);
            self.dropped_lines.inc_by(now.saturating_sub(known));
        }
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [
            &self.build,
            &self.reloads,
            &self.failed_upgrades,
            &self.loaded_at,
            &self.resident,
            &self.open_files,
            &self.dropped_lines,
        ]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read_process();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Everything registered, in the text format that Prometheus reads.
///
/// # Errors
/// When a metric cannot be written.
pub fn page(registry: &Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(64 * 1024);
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_of_the_process() -> prometheus::Result<()> {
        let registry = Registry::new();
        let process = ProcessMetrics::new(None)?;
        process.register(&registry)?;
        let text = String::from_utf8(page(&registry)?).expect("the page is text");
        assert!(text.contains(concat!("keyward_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{text}");
        let resident = text.lines().find_map(|line| line.strip_prefix("keyward_process_resident_memory_bytes "));
        assert!(resident.is_some_and(|bytes| bytes.parse::<u64>().is_ok_and(|bytes| bytes > 0)), "{text}");
        Ok(())
    }
}
