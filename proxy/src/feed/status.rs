//! What the status door and operators want to know of the feed: a few atomics, written by the control thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use weft_core::time::Moment;

/// State of the feed.
#[derive(Debug, Default)]
pub struct FeedStatus {
    connected: AtomicBool,
    /// Nanoseconds of the last moment at which the stream was known to be in step; 0: never.
    synced: AtomicU64,
    revision: AtomicU64,
    rejected: AtomicU64,
    connects: AtomicU64,
}

impl FeedStatus {
    /// A stream is open and the control plane has welcomed us.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// How old the knowledge may be: zero while connected, else the time since the stream was lost; `None` before the
    /// first one.
    #[must_use]
    pub fn age(&self, now: Moment) -> Option<Duration> {
        match self.synced.load(Ordering::Relaxed) {
            0 => None,
            _ if self.is_connected() => Some(Duration::ZERO),
            synced => Some(now.since(Moment::from_nanos(synced))),
        }
    }

    /// The revision in force.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Resources refused at present.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Streams opened since the start.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    pub(super) fn welcomed(&self, now: Moment) {
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.synced.store(now.as_nanos().max(1), Ordering::Relaxed);
        self.connected.store(true, Ordering::Relaxed);
    }

    pub(super) fn lost(&self, now: Moment) {
        if self.connected.swap(false, Ordering::Relaxed) {
            self.synced.store(now.as_nanos().max(1), Ordering::Relaxed);
        }
    }

    pub(super) fn applied(&self, revision: u64, rejected: usize) {
        self.revision.store(revision, Ordering::Relaxed);
        self.rejected.store(u64::try_from(rejected).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
