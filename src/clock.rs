//! Time as a value: instants on the wall clock, and the clocks that hand them out.
//!
//! Everything that decides takes a [`Timestamp`] as an argument; only this file reads the
//! machine's clocks. The wall clock handed out never goes backwards within a process, so a key
//! that was seen to expire stays expired when the machine's clock is set back.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// An instant on the wall clock: nanoseconds since 1970-01-01T00:00:00Z, negative before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The last instant that can be represented, in the year 2262.
    pub const MAX: Self = Self(i64::MAX);
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The instant `nanos` nanoseconds after the epoch.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The instant `seconds` seconds after the epoch, at most [`Timestamp::MAX`].
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND))
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(NANOS_PER_SECOND)
    }

    /// This instant and `span` later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos_of(span)))
    }

    /// `span` before this instant.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos_of(span)))
    }

    /// How long after `earlier` this instant is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This instant as RFC 3339 in UTC, to the second: `2026-11-21T22:53:49Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let seconds = jiff::Timestamp::from_second(self.seconds()).unwrap_or(jiff::Timestamp::MAX);
        seconds.to_string()
    }

    /// This instant as RFC 3339 in UTC with `digits` (0 to 9) decimals of the second.
    #[must_use]
    pub fn to_rfc3339_with(self, digits: usize) -> String {
        let exact = jiff::Timestamp::from_nanosecond(i128::from(self.0));
        format!("{:.digits$}", exact.unwrap_or(jiff::Timestamp::MAX))
    }
}

fn nanos_of(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339_with(9))
    }
}

/// Text that is no RFC 3339 date and time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no RFC 3339 time such as 2026-11-21T22:53:49Z")]
pub struct NotATime {
    found: String,
}

impl FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let fault = || NotATime { found: text.to_owned() };
        let exact = text.parse::<jiff::Timestamp>().or_else(|unknown| {
            // What is computed with ends a day before the last that can be written.
            text.strip_prefix("9999-").ok_or(unknown)?;
            text.replacen("9999-", "9998-", 1).parse()
        });
        let exact = exact.map_err(|_unhelpful| fault())?;
        // One that lies beyond what can be represented is the first or the last that can.
        let nanos = exact.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into());
        i64::try_from(nanos).map(Self).map_err(|_outside| fault())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What tells the time. Cheap enough to ask on every request.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock. Never goes backwards on one clock.
    fn now(&self) -> Timestamp;

    /// The monotonic clock, for intervals and timeouts.
    fn monotonic(&self) -> Instant;
}

/// The machine's clocks, with the wall clock held to never going backwards.
#[derive(Debug, Default)]
pub struct SystemClock {
    floor: AtomicI64,
}

impl SystemClock {
    /// A clock that starts no earlier than `floor`, for instance the time of a snapshot.
    #[must_use]
    pub const fn starting_at(floor: Timestamp) -> Self {
        Self { floor: AtomicI64::new(floor.0) }
    }

    /// From here on this clock reads at least `floor`.
    pub fn raise_to(&self, floor: Timestamp) {
        self.floor.fetch_max(floor.0, Ordering::Relaxed);
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn now(&self) -> Timestamp {
        let read = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos_of);
        let floor = self.floor.load(Ordering::Relaxed);
        if read <= floor {
            return Timestamp(floor);
        }
        // A coarse floor is enough to never go back by more than a step, and it keeps the
        // cache line shared between workers unwritten on most requests.
        if read - floor > 1_000_000 {
            self.floor.fetch_max(read, Ordering::Relaxed);
        }
        Timestamp(read)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that tests set by hand.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicI64,
    origin: (Instant, i64),
}

impl ManualClock {
    /// A clock that reads `now` until it is moved.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "an origin for intervals, never compared with the machine's time")]
    pub fn at(now: Timestamp) -> Self {
        Self { now: AtomicI64::new(now.0), origin: (Instant::now(), now.0) }
    }

    /// Moves the clock on by `span`.
    pub fn advance(&self, span: Duration) {
        self.now.fetch_add(nanos_of(span), Ordering::SeqCst);
    }

    /// Moves the clock to `now`, if that is later than what it reads.
    pub fn set(&self, now: Timestamp) {
        self.now.fetch_max(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Instant {
        let (origin, start) = self.origin;
        origin + self.now().since(Timestamp(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_written() -> Result<(), NotATime> {
        let time: Timestamp = "2026-11-21T22:53:49Z".parse()?;
        assert_eq!(time.to_string(), "2026-11-21T22:53:49Z");
        assert_eq!(time.to_rfc3339_with(6), "2026-11-21T22:53:49.000000Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
        for last in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59"] {
            assert_eq!(last.parse(), Ok(Timestamp::MAX));
        }
        assert!("9999-12-32T00:00:00Z".parse::<Timestamp>().is_err());
        assert_eq!("0001-01-01T00:00:00Z".parse(), Ok(Timestamp::from_nanos(i64::MIN)));
        Ok(())
    }

    #[test]
    fn the_wall_clock_never_reads_below_its_floor() {
        let future = Timestamp::from_seconds(7_000_000_000);
        let clock = SystemClock::starting_at(future);
        assert_eq!(clock.now(), future);
        let clock = SystemClock::default();
        clock.raise_to(future);
        assert_eq!(clock.now(), future);
    }
}
