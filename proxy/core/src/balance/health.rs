//! What is remembered of one endpoint: atomics, because every worker adds to the same memory.

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
    /// The endpoint answered after this time (to the response head, or to the connection for TCP). An application error
    /// is an answer too.
    Answered(Duration),
    /// The attempt failed upstream after this time: connect, TLS, reset, timeout.
    Failed(Duration),
    /// It says nothing of the endpoint: the caller left, or the request was never sent.
    Unknown,
}

/// Latency and load of one endpoint, shared by all workers and carried over from snapshot to snapshot in an `Arc`.
///
/// The latency is a peak EWMA: an observation above the memory replaces it, one below pulls it down, by the more the
/// longer ago the last one was. Memory without observations fades to zero, so that a slow endpoint is asked again.
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
}

impl EndpointHealth {
    /// Of an endpoint not used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a request (or TCP connection) in flight. Each call is followed by exactly one [`Self::end`]; prefer
    /// [`InFlight`], which cannot forget it.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// The counterpart of [`Self::begin`], when the response is over. Without a [`Self::begin`] it counts nothing.
    pub fn end(&self) {
        let counted = |n: u32| n.checked_sub(1);
        // An error means that the count was zero already, and there it stays.
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).ok();
    }

    /// Remembers how an attempt went. Usually called at the response head, while the body is still in flight.
    pub fn observe(&self, outcome: Outcome, now: Moment) {
        let seen = match outcome {
            Outcome::Answered(after) => after,
            Outcome::Failed(after) => after.max(LATENCY_OF_FAILURE),
            Outcome::Unknown => return,
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
        (stored != 0).then(|| (nanos * self.faded_share(now)).max(NANOS_FLOOR))
    }

    /// Share of the memory that is left at `now`, from 0 to 1.
    fn faded_share(&self, now: Moment) -> f64 {
        let age = now.since(Moment::from_nanos(self.updated.load(Ordering::Relaxed)));
        (-age.as_secs_f64() / LATENCY_FADES_IN.as_secs_f64()).exp()
    }
}

/// One request in flight; dropping it ends the count, however the request ends. `H` is an `Arc` or a reference.
#[derive(Debug)]
pub struct InFlight<H: Deref<Target = EndpointHealth>>(H);

impl<H: Deref<Target = EndpointHealth>> InFlight<H> {
    /// Counts from now until dropped.
    #[must_use]
    pub fn begin(health: H) -> Self {
        health.begin();
        Self(health)
    }

    /// The endpoint's health, to [`EndpointHealth::observe`] how it went.
    #[must_use]
    pub fn health(&self) -> &EndpointHealth {
        &self.0
    }
}

impl<H: Deref<Target = EndpointHealth>> Drop for InFlight<H> {
    fn drop(&mut self) {
        self.0.end();
    }
}
