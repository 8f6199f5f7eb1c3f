//! Which proxies are connected, what they acknowledged and what they refuse; for operators and metrics.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use weft_core::identity::spiffe::SpiffeId;
use weft_proto::v1::Rejection;

/// Characters kept of what a proxy says.
const TEXT_CHARACTERS_MAX: usize = 256;

/// Rejections remembered per proxy.
const REJECTIONS_MAX: usize = 1000;

/// Shared by all streams.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    streams: Arc<Mutex<HashMap<u64, Connected>>>,
    next: Arc<AtomicU64>,
    pushes: Arc<AtomicU64>,
    nacks: Arc<AtomicU64>,
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

    /// Updates sent, and resources refused, since the start.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.pushes.load(Ordering::Relaxed), self.nacks.load(Ordering::Relaxed))
    }
}

impl Seat {
    /// An update was sent.
    pub fn pushed(&self) {
        self.proxies.pushes.fetch_add(1, Ordering::Relaxed);
    }

    /// An update was acknowledged, but for some resources.
    pub fn acknowledged(&self, revision: u64, sent: &[String], rejections: &[Rejection]) {
        let mut streams = self.proxies.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(connected) = streams.get_mut(&self.number) else { return };
        connected.acked_revision = revision;
        for name in sent {
            connected.rejected.remove(name);
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
        self.proxies.nacks.fetch_add(rejections.len() as u64, Ordering::Relaxed);
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
