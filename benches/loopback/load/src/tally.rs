//! What was measured.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::client::Clients;
use crate::options::Options;
use crate::proxy;

/// One measurement under way.
pub struct Tally {
    begun: Instant,
    pub ends: Instant,
    process: Option<u32>,
    proxy: u64,
    sleeps: u64,
    own: f64,
}

impl Tally {
    pub fn begin(options: &Options, now: Instant) -> Self {
        let process = options.process;
        let proxy = process.map_or(0, proxy::processor_nanos);
        let sleeps = process.map_or(0, proxy::sleeps);
        Self { begun: now, ends: now + options.span, process, proxy, sleeps, own: own_seconds() }
    }

    /// The result as JSON.
    pub fn end(self, clients: &Clients<'_>) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        let proxy = self.process.map_or(0, proxy::processor_nanos).saturating_sub(self.proxy) as f64;
        let own = own_seconds() - self.own;
        let sleeps = self.process.map_or(0, proxy::sleeps).saturating_sub(self.sleeps) as f64;
        let memory = self.process.map_or(0, proxy::memory_kib);
        let answered = clients.answered.max(1) as f64;
        let millis = |share| clients.latencies.quantile(share).as_secs_f64() * 1e3;
        format!(
            "{{\"rate\":{:.0},\"answered\":{},\"wrong\":{},\"broken\":{},\"resumed\":{},\"connections\":{},\
             \"micros\":{:.3},\"proxy_busy\":{:.3},\"load_busy\":{:.3},\"sleeps\":{:.3},\
             \"p50\":{:.3},\"p99\":{:.3},\"p999\":{:.3},\"memory_kib\":{memory}}}",
            answered / seconds,
            clients.answered,
            clients.wrong,
            clients.broken,
            clients.resumed,
            clients.connections(),
            proxy / 1e3 / answered,
            proxy / 1e9 / seconds,
            own / seconds,
            sleeps / answered,
            millis(0.5),
            millis(0.99),
            millis(0.999),
        )
    }
}

fn own_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// How long answers took, in steps of five microseconds.
pub struct Latencies(Vec<u32>);

impl Default for Latencies {
    fn default() -> Self {
        Self(vec![0; 400_000])
    }
}

impl Latencies {
    pub fn add(&mut self, took: Duration) {
        let at = (took.as_micros() as usize / 5).min(self.0.len() - 1);
        self.0[at] += 1;
    }

    pub fn quantile(&self, share: f64) -> Duration {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let wanted = (all as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.0.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Duration::from_micros(5 * (at as u64 + 1));
            }
        }
        Duration::ZERO
    }
}
