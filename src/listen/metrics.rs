//! What a listener counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters of one listener, shared by its workers. Nothing here moves per request.
#[derive(Debug, Clone)]
pub struct ListenMetrics {
    /// Connections that were accepted.
    pub accepted: IntCounter,
    /// Connections that are open.
    pub open: IntGauge,
    /// Idle connections that have given their buffers back.
    pub resting: IntGauge,
    /// Connections that were closed at once because the cap was reached.
    pub refused: IntCounter,
    /// Connections that were closed at once because their client had as many as it may.
    pub refused_of_client: IntCounter,
    /// Failures to accept a connection, for instance for lack of file descriptors.
    pub accept_errors: IntCounter,
    /// Connections of trusted proxies that did not begin with a PROXY header, and were closed.
    pub bad_introductions: IntCounter,
    /// TLS handshakes that succeeded, by protocol version and whether a session was resumed.
    pub handshakes: IntCounterVec,
    /// TLS handshakes that failed, by reason.
    pub handshake_failures: IntCounterVec,
    /// Connections that were closed because the other side took too long, by what it was to do.
    pub timeouts: IntCounterVec,
    /// Requests and connections that a fault of this program ended.
    pub panics: IntCounter,
}

impl ListenMetrics {
    /// Counters with the label `listener = "…"`, not registered anywhere yet.
    ///
    /// # Errors
    /// Never with these names.
    pub fn new(listener: &str) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("listener", listener);
        let metrics = Self {
            accepted: IntCounter::with_opts(opts(
                "keyward_connections_accepted_total",
                "Connections that were accepted.",
            ))?,
            open: IntGauge::with_opts(opts("keyward_connections_open", "Connections that are open."))?,
            resting: IntGauge::with_opts(opts(
                "keyward_connections_resting",
                "Idle connections that have given their buffers back.",
            ))?,
            refused: IntCounter::with_opts(opts(
                "keyward_connections_refused_total",
                "Connections that were closed at once because the cap was reached.",
            ))?,
            refused_of_client: IntCounter::with_opts(opts(
                "keyward_client_connections_refused_total",
                "Connections that were closed at once because their client had as many as it may.",
            ))?,
            accept_errors: IntCounter::with_opts(opts(
                "keyward_accept_errors_total",
                "Failures to accept a connection, for instance for lack of file descriptors.",
            ))?,
            bad_introductions: IntCounter::with_opts(opts(
                "keyward_proxy_headers_refused_total",
                "Connections of trusted proxies that did not begin with a PROXY header, and were closed.",
            ))?,
            handshakes: IntCounterVec::new(
                opts(
                    "keyward_tls_handshakes_total",
                    "TLS handshakes that succeeded, by protocol version and whether a session was resumed.",
                ),
                &["version", "resumed"],
            )?,
            handshake_failures: IntCounterVec::new(
                opts("keyward_tls_handshake_failures_total", "TLS handshakes that failed, by reason."),
                &["reason"],
            )?,
            timeouts: IntCounterVec::new(
                opts(
                    "keyward_connection_timeouts_total",
                    "Connections that were closed because the other side took too long, by what it was to do.",
                ),
                &["which"],
            )?,
            panics: IntCounter::with_opts(opts(
                "keyward_panics_total",
                "Requests and connections that a fault of this program ended.",
            ))?,
        };
        // From the start, so that the first of each is an increase.
        for which in ["first_byte", "handshake", "head", "idle", "write", "stream"] {
            metrics.timeouts.with_label_values(&[which]);
        }
        Ok(metrics)
    }

    /// Makes them known to `registry`. Several listeners may share one.
    ///
    /// # Errors
    /// When this listener's are registered already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let refused = [&self.refused, &self.refused_of_client, &self.bad_introductions];
        for counter in refused.into_iter().chain([&self.accepted, &self.accept_errors, &self.panics]) {
            registry.register(Box::new(counter.clone()))?;
        }
        for family in [&self.handshakes, &self.handshake_failures, &self.timeouts] {
            registry.register(Box::new(family.clone()))?;
        }
        registry.register(Box::new(self.open.clone()))?;
        registry.register(Box::new(self.resting.clone()))
    }
}
