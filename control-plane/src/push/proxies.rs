//! Which proxies are connected, what they acknowledged and what they refuse; for operators and metrics.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weft_core::identity::spiffe::SpiffeId;
use weft_proto::v1::Rejection;

use crate::metrics::{Counter, Histogram};

/// Characters kept of what a proxy says.
const TEXT_CHARACTERS_MAX: usize = 256;

/// Rejections remembered per proxy.
const REJECTIONS_MAX: usize = 1000;

/// From a change of the index to the proxy's word that it is in force. The promise is a second; the gathering of changes
/// takes 20 to 200 ms of it.
const PUSH_SECONDS: [Duration; 11] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Shared by all streams.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    streams: Arc<Mutex<HashMap<u64, Connected>>>,
    next: Arc<AtomicU64>,
    counts: Arc<PushCounts>,
}

/// What streams count.
#[derive(Debug)]
pub struct PushCounts {
    /// Updates sent.
    pub sent: Counter,
    /// Resources refused.
    pub refused: Counter,
    /// Streams closed because an update was not acknowledged in time.
    pub overdue: Counter,
    /// From a change of the index to its acknowledgement, of each update that told of one.
    pub took: Histogram,
}

impl Default for PushCounts {
    fn default() -> Self {
        let (sent, refused, overdue) = (Counter::default(), Counter::default(), Counter::default());
        Self { sent, refused, overdue, took: Histogram::new(&PUSH_SECONDS) }
    }
}

/// One proxy with an open stream.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Who it is.
    pub id: SpiffeId,
    /// What it calls itself.
    pub instance_id: String,
    /// Revision last acknowledged.
    pub acked_revision: u64,
    /// Resources it refuses, with field and reason.
    pub rejected: BTreeMap<String, String>,
}

/// An open stream; dropping it disconnects.
#[derive(Debug)]
pub struct Seat {
    proxies: Proxies,
    number: u64,
}

impl Proxies {
    /// A proxy has connected.
    #[must_use]
    pub fn connect(&self, id: SpiffeId, instance_id: String) -> Seat {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let connected = Connected { id, instance_id, acked_revision: 0, rejected: BTreeMap::new() };
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(number, connected);
        Seat { proxies: self.clone(), number }
    }

    /// All that are connected.
    #[must_use]
    pub fn all(&self) -> Vec<Connected> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How many are connected.
    #[must_use]
    pub fn count(&self) -> usize {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counts(&self) -> &PushCounts {
        &self.counts
    }
}

impl Seat {
    /// An update was sent.
    pub fn pushed(&self) {
        self.proxies.counts.sent.increment();
    }

    /// The proxy was told of a change, and has it in force this long after.
    pub fn took(&self, took: Duration) {
        self.proxies.counts.took.observe(took);
    }

    /// An update was not acknowledged in time.
    pub fn overdue(&self) {
        self.proxies.counts.overdue.increment();
    }

    /// An update was acknowledged, but for some resources.
    pub fn acknowledged(&self, revision: u64, sent: &[Arc<str>], rejections: &[Rejection]) {
        let mut streams = self.proxies.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(connected) = streams.get_mut(&self.number) else { return };
        connected.acked_revision = revision;
        for name in sent {
            connected.rejected.remove(&**name);
        }
        for rejection in rejections.iter().take(REJECTIONS_MAX) {
            let name = cut(rejection.name.as_ref().map_or("", |name| &name.name));
            let (field, reason) = (cut(&rejection.field), cut(&rejection.reason));
            tracing::warn!(
                proxy = %connected.id, instance = %connected.instance_id, resource = %name,
                field = %field, reason = %reason, "proxy refuses a resource"
            );
            if connected.rejected.len() < REJECTIONS_MAX {
                connected.rejected.insert(name, format!("{field}: {reason}"));
            }
        }
        self.proxies.counts.refused.add(u64::try_from(rejections.len()).unwrap_or(u64::MAX));
    }
}

/// A proxy's words as they are kept and logged: bounded, and without what a terminal would obey.
#[must_use]
pub fn cut(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(TEXT_CHARACTERS_MAX).collect()
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.proxies.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
