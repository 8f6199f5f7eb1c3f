//! The one place that reads clocks, so that everything else can be given its time.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_core::time::Moment;

/// Monotonic time since the process began, and the wall time that belongs to it. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall_at_origin: SystemTime,
}

impl Clock {
    /// Starts the line of [`Moment`]s here. Made once per process.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the worker's clock that the rule points to")]
    pub fn start() -> Self {
        Self { origin: Instant::now(), wall_at_origin: SystemTime::now() }
    }

    /// Now, on the monotonic line.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the worker's clock that the rule points to")]
    pub fn now(&self) -> Moment {
        let elapsed = Instant::now().saturating_duration_since(self.origin);
        Moment::from_nanos(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// A moment, for the runtime's timers.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> tokio::time::Instant {
        (self.origin + Duration::from_nanos(moment.as_nanos())).into()
    }

    /// A time of the runtime's as a moment.
    #[must_use]
    pub fn moment(&self, instant: tokio::time::Instant) -> Moment {
        let passed = instant.into_std().saturating_duration_since(self.origin);
        Moment::from_nanos(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Wall time of a moment, for records. It follows the monotonic line from the start of the process, so records stay
    /// in order when the wall clock is stepped.
    #[must_use]
    pub fn wall(&self, moment: Moment) -> SystemTime {
        self.wall_at_origin + Duration::from_nanos(moment.as_nanos())
    }

    /// Seconds since the Unix epoch by the wall clock as it is now, for certificates only.
    #[must_use]
    pub fn unix_seconds(&self) -> i64 {
        seconds(Self::unix())
    }

    #[allow(clippy::disallowed_methods, reason = "this is the worker's clock that the rule points to")]
    fn unix() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

fn seconds(unix: Duration) -> i64 {
    i64::try_from(unix.as_secs()).unwrap_or(i64::MAX)
}

/// The wall clock where each request asks: read once in [`WallClock::READ_EVERY`], and followed by the moments between.
#[derive(Debug)]
pub struct WallClock {
    read: Cell<(Moment, Duration)>,
}

impl WallClock {
    /// For so long a step of the wall clock may go unnoticed.
    const READ_EVERY: Duration = Duration::from_secs(1);

    /// Read now.
    #[must_use]
    pub fn read(now: Moment) -> Self {
        Self { read: Cell::new((now, Clock::unix())) }
    }

    /// As [`Clock::unix_seconds`], at `now`.
    #[must_use]
    pub fn unix_seconds(&self, now: Moment) -> i64 {
        let (at, _) = self.read.get();
        if now.since(at) >= Self::READ_EVERY {
            self.read.set((now, Clock::unix()));
        }
        let (at, unix) = self.read.get();
        seconds(unix.saturating_add(now.since(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_followed_and_read_again() {
        let clock = Clock::start();
        let start = clock.now();
        let wall = WallClock::read(start);
        wall.read.set((start, Duration::from_millis(7_500)));
        assert_eq!(wall.unix_seconds(start), 7);
        assert_eq!(wall.unix_seconds(start + Duration::from_millis(600)), 8);
        let read = wall.unix_seconds(start + WallClock::READ_EVERY);
        assert!((clock.unix_seconds() - 10..=clock.unix_seconds()).contains(&read), "{read}");
    }
}
