//! Coarse timers: one tick per worker that looks at every deadline, in place of a timer per event.
//!
//! Moving a deadline is one store of an integer, so it may be done on every read and write. What is
//! late is noticed up to one tick late. While nothing is watched there is no tick.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};

/// A time on a worker's coarse clock: milliseconds since its start.
pub(super) type Tick = u64;

/// No deadline.
pub(super) const NEVER: Tick = u64::MAX;

/// Which of an alarm's deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Of what the connection, or the body, is waiting for now.
    Phase = 0,
    /// Of a write that the other side does not take.
    Write = 1,
    /// Of the connection as a whole.
    Age = 2,
    /// Of buffers that are kept for another request.
    Rest = 3,
}

/// Deadlines of one watched thing, and whom to wake when the first has passed.
///
/// Shared between a connection, its I/O and whoever counts its time; never contended.
#[derive(Debug)]
pub(super) struct Alarm {
    deadlines: [AtomicU64; 4],
    fired: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Alarm {
    const fn new() -> Self {
        Self { deadlines: [const { AtomicU64::new(NEVER) }; 4], fired: AtomicBool::new(false), waker: Mutex::new(None) }
    }

    fn slot(&self, slot: Slot) -> &AtomicU64 {
        let [phase, write, age, rest] = &self.deadlines;
        match slot {
            Slot::Phase => phase,
            Slot::Write => write,
            Slot::Age => age,
            Slot::Rest => rest,
        }
    }

    /// Moves one deadline.
    pub(super) fn set(&self, slot: Slot, deadline: Tick) {
        self.slot(slot).store(deadline, Ordering::Relaxed);
    }

    /// Whether this deadline has passed.
    pub(super) fn is_late(&self, slot: Slot, now: Tick) -> bool {
        self.slot(slot).load(Ordering::Relaxed) <= now
    }

    /// Whether this deadline is set at all.
    pub(super) fn is_set(&self, slot: Slot) -> bool {
        self.slot(slot).load(Ordering::Relaxed) != NEVER
    }

    fn first(&self) -> Tick {
        self.deadlines.iter().map(|deadline| deadline.load(Ordering::Relaxed)).min().unwrap_or(NEVER)
    }

    /// Whether it went off since the last call.
    pub(super) fn take_fired(&self) -> bool {
        // The load alone is what every poll pays.
        self.fired.load(Ordering::Relaxed) && self.fired.swap(false, Ordering::Relaxed)
    }

    /// Whom to wake.
    pub(super) fn register(&self, waker: &Waker) {
        let mut slot = self.waker.lock();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Goes off now.
    pub(super) fn ring(&self) {
        self.fired.store(true, Ordering::Relaxed);
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The coarse time of one worker. Cheap to clone, and `Send`.
#[derive(Debug, Clone)]
pub(super) struct CoarseClock {
    origin: Instant,
    now: Arc<AtomicU64>,
}

impl CoarseClock {
    /// The time of the last tick.
    pub(super) fn now(&self) -> Tick {
        self.now.load(Ordering::Relaxed)
    }

    /// `span` from now.
    pub(super) fn after(&self, span: Duration) -> Tick {
        self.now().saturating_add(millis(span).max(1))
    }

    /// The time of the last tick as an instant.
    pub(super) fn instant(&self) -> Instant {
        self.origin + Duration::from_millis(self.now())
    }
}

fn millis(span: Duration) -> Tick {
    u64::try_from(span.as_millis()).unwrap_or(NEVER)
}

/// Watches the deadlines of one worker.
#[derive(Debug)]
pub(super) struct Ticker {
    clock: Arc<dyn Clock>,
    coarse: CoarseClock,
    alarms: RefCell<Vec<Arc<Alarm>>>,
    period: Cell<Duration>,
    first: Notify,
}

impl Ticker {
    /// A ticker with nothing to watch.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Rc<Self> {
        let origin = clock.monotonic();
        Rc::new(Self {
            clock,
            coarse: CoarseClock { origin, now: Arc::new(AtomicU64::new(0)) },
            alarms: RefCell::default(),
            period: Cell::new(PERIOD_MAX),
            first: Notify::new(),
        })
    }

    /// The time it keeps.
    pub(super) const fn coarse(&self) -> &CoarseClock {
        &self.coarse
    }

    /// What the time is outside.
    pub(super) fn wall(&self) -> Timestamp {
        self.clock.now()
    }

    /// Ticks at least four times within `span` from now on.
    pub(super) fn resolve(&self, span: Duration) {
        let wanted = (span / 4).clamp(PERIOD_MIN, PERIOD_MAX);
        self.period.set(self.period.get().min(wanted));
    }

    /// A new alarm, watched until it is dropped.
    pub(super) fn watch(&self) -> Arc<Alarm> {
        let alarm = Arc::new(Alarm::new());
        let mut alarms = self.alarms.borrow_mut();
        if alarms.is_empty() {
            self.read_clock();
            self.first.notify_one();
        }
        alarms.push(Arc::clone(&alarm));
        alarm
    }

    fn read_clock(&self) {
        let now = self.clock.monotonic().saturating_duration_since(self.coarse.origin);
        self.coarse.now.store(millis(now), Ordering::Relaxed);
    }

    /// Reads the clock and tells what is late; lets go of what nobody holds any more.
    fn late(&self) -> Vec<Arc<Alarm>> {
        self.read_clock();
        let now = self.coarse.now();
        let mut late = Vec::new();
        self.alarms.borrow_mut().retain(|alarm| {
            if Arc::strong_count(alarm) == 1 {
                return false;
            }
            if alarm.first() <= now {
                late.push(Arc::clone(alarm));
            }
            true
        });
        late
    }

    /// Rings every alarm: something that concerns them all has changed.
    pub(super) fn ring_all(&self) {
        let all = self.alarms.borrow().clone();
        for alarm in all {
            alarm.ring();
        }
    }

    /// Ticks for ever.
    pub(super) async fn run(&self) {
        loop {
            if self.alarms.borrow().is_empty() {
                self.first.notified().await;
            }
            tokio::time::sleep(self.period.get()).await;
            self.ring(&self.late()).await;
        }
    }

    /// Rings what is late, a few at a time: thousands that end at once would be served before the next byte
    /// of anybody else.
    async fn ring(&self, late: &[Arc<Alarm>]) {
        let mut portions = late.chunks(TOGETHER).peekable();
        while let Some(portion) = portions.next() {
            portion.iter().for_each(|alarm| alarm.ring());
            if portions.peek().is_some() {
                tokio::time::sleep(BREATH).await;
                self.read_clock();
            }
        }
    }
}

/// How many alarms go off together. Closing a connection costs the kernel some 50 microseconds.
const TOGETHER: usize = 64;
/// And how soon the next may: 10,000 take a third of a second.
const BREATH: Duration = Duration::from_millis(1);
const PERIOD_MIN: Duration = Duration::from_millis(5);
const PERIOD_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    fn tick(ticker: &Ticker) {
        ticker.late().iter().for_each(|alarm| alarm.ring());
    }

    #[test]
    fn an_alarm_goes_off_at_its_first_deadline_and_not_before() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1)));
        let ticker = Ticker::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let alarm = ticker.watch();
        alarm.set(Slot::Phase, ticker.coarse().after(Duration::from_secs(2)));
        alarm.set(Slot::Age, ticker.coarse().after(Duration::from_secs(9)));
        clock.advance(Duration::from_millis(1_999));
        tick(&ticker);
        assert!(!alarm.take_fired());
        clock.advance(Duration::from_millis(1));
        tick(&ticker);
        assert!(alarm.take_fired());
        assert!(alarm.is_late(Slot::Phase, ticker.coarse().now()));
        assert!(!alarm.is_late(Slot::Age, ticker.coarse().now()));
    }

    #[test]
    fn an_alarm_that_nobody_holds_is_let_go() {
        let ticker = Ticker::new(Arc::new(ManualClock::at(Timestamp::EPOCH)));
        drop(ticker.watch());
        let kept = ticker.watch();
        tick(&ticker);
        assert_eq!(ticker.alarms.borrow().len(), 1);
        drop(kept);
    }

    #[tokio::test]
    async fn a_crowd_that_is_late_at_once_is_rung_bit_by_bit_and_to_the_last() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1)));
        let ticker = Ticker::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let crowd: Vec<_> = (0..10_000).map(|_| ticker.watch()).collect();
        for alarm in &crowd {
            alarm.set(Slot::Phase, ticker.coarse().after(Duration::from_secs(1)));
        }
        clock.advance(Duration::from_secs(1));
        let late = ticker.late();
        let mut ringing = std::pin::pin!(ticker.ring(&late));
        let rung = || crowd.iter().filter(|alarm| alarm.fired.load(Ordering::Relaxed)).count();
        tokio::select! {
            biased;
            () = &mut ringing => {}
            () = std::future::ready(()) => {}
        }
        assert_eq!(rung(), TOGETHER);
        ringing.await;
        assert_eq!(rung(), crowd.len());
    }
}
