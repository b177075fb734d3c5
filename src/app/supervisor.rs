//! What the service manager is told, where there is one: `sd_notify(3)`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The service manager, which may not be there.
#[derive(Debug)]
pub(super) struct Supervisor {
    every: Option<Duration>,
    watchdog: Option<Interval>,
    pulses: Vec<Pulse>,
    seen: Vec<u64>,
}

/// A sign of life of one thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Shows, for as long as it is polled, that the thread comes round to it.
    pub(super) async fn beat(self, every: Duration) {
        loop {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(every).await;
        }
    }
}

/// How often a thread must show that it lives, where somebody wants to know.
pub(super) fn beat_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 4)
}

impl Supervisor {
    /// Asks for signs of life of the threads with these pulses, where a watchdog is on.
    pub(super) fn new(pulses: Vec<Pulse>) -> Self {
        Self {
            every: beat_every().filter(|every| !every.is_zero()),
            watchdog: None,
            seen: vec![0; pulses.len()],
            pulses,
        }
    }

    /// Everything is in order.
    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
    }

    /// Something is being changed; [`ready`](Self::ready) ends it.
    pub(super) fn reloading(&self, what: &str) {
        let mut said = vec![NotifyState::Reloading, NotifyState::Status(what)];
        said.extend(NotifyState::monotonic_usec_now());
        tell(&said);
    }

    /// The end has begun.
    pub(super) fn stopping(&mut self) {
        // Threads end from here on; that this one comes round is all that can be asked.
        self.pulses.clear();
        tell(&[NotifyState::Stopping, NotifyState::Status("finishing open requests")]);
    }

    /// Another process is the service from now on.
    pub(super) fn hand_over(&mut self, process: u32) {
        tell(&[NotifyState::MainPid(process)]);
        self.every = None;
    }

    /// Shows the watchdog signs of life, for ever, as long as every thread gives some. Cancel-safe.
    pub(super) async fn watch(&mut self) {
        let Some(every) = self.every else { return std::future::pending().await };
        let watchdog = self.watchdog.get_or_insert_with(|| {
            // Twice within the limit at the least, and at most once for each pulse.
            let mut watchdog = interval(every + every / 2);
            watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
            watchdog
        });
        loop {
            watchdog.tick().await;
            let now: Vec<u64> = self.pulses.iter().map(|pulse| pulse.0.load(Ordering::Relaxed)).collect();
            if now.iter().zip(&self.seen).all(|(now, seen)| now != seen) {
                tell(&[NotifyState::Watchdog]);
                self.seen = now;
            } else {
                tracing::error!("a thread gives no sign of life: the watchdog is told nothing");
            }
        }
    }
}

fn tell(said: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(said) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
