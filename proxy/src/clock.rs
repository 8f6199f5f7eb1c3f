//! The one place that reads clocks, so that everything else can be given its time.

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

    /// Wall time of a moment, for records. It follows the monotonic line from the start of the process, so records stay
    /// in order when the wall clock is stepped.
    #[must_use]
    pub fn wall(&self, moment: Moment) -> SystemTime {
        self.wall_at_origin + Duration::from_nanos(moment.as_nanos())
    }

    /// Seconds since the Unix epoch by the wall clock as it is now, for certificates only.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the worker's clock that the rule points to")]
    pub fn unix_seconds(&self) -> i64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}
