//! What is remembered of one endpoint: atomics, because every worker adds to the same memory.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::time::Moment;

/// Time after which a remembered latency has faded to 1/e. Long enough to outlast the pauses between two requests of a
/// quiet service, short enough that an endpoint that was slow once is asked again within a minute: 1 s fades to 1 ms in
/// seven times this.
pub const LATENCY_FADES_IN: Duration = Duration::from_secs(5);

/// What a failed attempt counts as, at least. An endpoint that refuses connections answers faster than any other; taken
/// literally that would attract all traffic.
pub const LATENCY_OF_FAILURE: Duration = Duration::from_secs(1);

/// Latencies below this are not told apart: they are noise, and a product with zero would hide the requests in flight.
const NANOS_FLOOR: f64 = 1_000.0;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered after this time (to the response head, or to the connection for TCP).
    Answered(Duration),
    /// The attempt failed upstream after this time: connect, TLS, reset, timeout, an error of the server's.
    Failed(Duration),
    /// The caller left before an answer: it would have taken longer than this.
    Abandoned(Duration),
    /// It says nothing of the endpoint: the request was never sent.
    Unknown,
}

/// Latency and load of one endpoint, shared by all workers and carried over from snapshot to snapshot in an `Arc`.
///
/// The latency is a peak EWMA: an observation above the memory replaces it, one below pulls it down, by the more the
/// longer ago the last one was. Memory without observations fades to zero, so that a slow endpoint is asked again. But
/// while requests wait and none is answered, the endpoint is believed to be at least as slow as that has lasted: one that
/// hangs must not look ever faster because nothing is heard of it.
///
/// All accesses are relaxed and two workers may overwrite each other's observation; the memory is an estimate, and the
/// next observation follows soon where two can collide. Aligned so that two endpoints never share a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointHealth {
    /// 0: not measured yet.
    latency_nanos: AtomicU64,
    updated: AtomicU64,
    in_flight: AtomicU32,
    /// Attempts begun and not answered yet.
    waiting: AtomicU32,
    /// Since when some wait without any having been answered.
    silent_since: AtomicU64,
}

impl EndpointHealth {
    /// Of an endpoint not used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn begin(&self, now: Moment) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.silent_since.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    pub(super) fn end(&self) {
        one_less(&self.in_flight);
    }

    fn stop_waiting(&self) {
        one_less(&self.waiting);
    }

    /// Remembers how an attempt went. Usually called at the response head, while the body is still in flight.
    pub(super) fn observe(&self, outcome: Outcome, now: Moment) {
        let seen = match outcome {
            Outcome::Answered(after) => {
                self.silent_since.fetch_max(now.as_nanos(), Ordering::Relaxed);
                after
            }
            Outcome::Failed(after) => after.max(LATENCY_OF_FAILURE),
            // That it would have taken longer can only make it look slower.
            Outcome::Abandoned(after) if self.latency(now).is_none_or(|believed| believed < after) => after,
            Outcome::Abandoned(_) | Outcome::Unknown => return,
        };
        let seen = u64::try_from(seen.as_nanos()).unwrap_or(u64::MAX).max(1);
        let stored = self.latency_nanos.load(Ordering::Relaxed);
        let weight = self.faded_share(now);
        #[allow(clippy::cast_precision_loss, reason = "an estimate; 2^53 ns are 104 days")]
        let (old, new) = (stored as f64, seen as f64);
        let latency = if stored == 0 || seen >= stored { new } else { old.mul_add(weight, new * (1.0 - weight)) };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between two u64; the cast saturates"
        )]
        self.latency_nanos.store((latency as u64).max(1), Ordering::Relaxed);
        // Never backwards: a worker that was descheduled must not make the memory look older than it is.
        self.updated.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// Requests in flight to this endpoint, of all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Latency as it is believed at `now`; `None` if never measured.
    #[must_use]
    pub fn latency(&self, now: Moment) -> Option<Duration> {
        self.faded_nanos(now).map(|nanos| Duration::from_secs_f64(nanos / 1e9))
    }

    pub(super) fn faded_nanos(&self, now: Moment) -> Option<f64> {
        let stored = self.latency_nanos.load(Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss, reason = "an estimate; 2^53 ns are 104 days")]
        let nanos = stored as f64;
        let silent = self.silence(now);
        let measured = stored != 0 || silent > LATENCY_OF_FAILURE;
        #[allow(clippy::cast_precision_loss, reason = "an estimate; 2^53 ns are 104 days")]
        let silent = silent.as_nanos() as f64;
        measured.then(|| (nanos * self.faded_share(now)).max(silent).max(NANOS_FLOOR))
    }

    /// How long attempts have been waiting without any being answered.
    fn silence(&self, now: Moment) -> Duration {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return Duration::ZERO;
        }
        now.since(Moment::from_nanos(self.silent_since.load(Ordering::Relaxed)))
    }

    /// Share of the memory that is left at `now`, from 0 to 1.
    fn faded_share(&self, now: Moment) -> f64 {
        let age = now.since(Moment::from_nanos(self.updated.load(Ordering::Relaxed)));
        (-age.as_secs_f64() / LATENCY_FADES_IN.as_secs_f64()).exp()
    }
}

fn one_less(count: &AtomicU32) {
    // An error means that the count was zero already, and there it stays.
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).ok();
}

/// One request (or TCP connection) in flight; dropping it ends the count, however the request ends. `H` is an `Arc` or a
/// reference.
#[derive(Debug)]
pub struct InFlight<H: Deref<Target = EndpointHealth>> {
    health: H,
    begun: Moment,
    waiting: Cell<bool>,
}

impl<H: Deref<Target = EndpointHealth>> InFlight<H> {
    /// Counts from now until dropped.
    #[must_use]
    pub fn begin(health: H, now: Moment) -> Self {
        health.begin(now);
        Self { health, begun: now, waiting: Cell::new(true) }
    }

    /// Remembers how the attempt went: at the response head, while the body is still in flight, or at its failure. Only
    /// the first call counts.
    pub fn observe(&self, outcome: Outcome, now: Moment) {
        if self.waiting.replace(false) {
            self.health.stop_waiting();
            self.health.observe(outcome, now);
        }
    }

    /// The caller leaves. If there was no answer yet, that is remembered.
    pub fn abandon(&self, now: Moment) {
        self.observe(Outcome::Abandoned(now.since(self.begun)), now);
    }
}

impl<H: Deref<Target = EndpointHealth>> Drop for InFlight<H> {
    fn drop(&mut self) {
        if self.waiting.get() {
            self.health.stop_waiting();
        }
        self.health.end();
    }
}
