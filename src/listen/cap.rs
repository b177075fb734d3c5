//! How many connections may be open at a time, over all workers and listeners that share the count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;
use rustix::process::{Resource, getrlimit};

/// The count of open connections, and its cap.
#[derive(Debug)]
pub struct Connections {
    open: AtomicUsize,
    max: AtomicUsize,
}

impl Connections {
    /// A count with this cap. 0: a quarter below the limit of open files.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max: AtomicUsize::new(effective(max)) })
    }

    /// Sets another cap; what is open stays open.
    pub fn set_max(&self, max: usize) {
        self.max.store(effective(max), Ordering::Relaxed);
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place, or none where the cap is reached.
    pub(super) fn enter(self: &Arc<Self>, gauge: &IntGauge) -> Option<Place> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max.load(Ordering::Relaxed) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        gauge.inc();
        Some(Place { connections: Arc::clone(self), gauge: gauge.clone() })
    }
}

fn effective(max: usize) -> usize {
    if max > 0 {
        return max;
    }
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    files.map_or(usize::MAX, |files| (files / 4 * 3).max(1))
}

/// The place of one open connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    gauge: IntGauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}
