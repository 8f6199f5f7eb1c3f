//! All a proxy knows at one version, immutable: a reader keeps one snapshot for as long as its decision lasts, and a
//! change is a new snapshot that shares every unchanged part by pointer. Endpoint health lives behind pointers too and
//! is carried over, so that a deploy does not forget who is slow (architecture: one swap, nothing else is shared).
//!
//! Left out on purpose: versions and subscriptions (see [`crate::sync`]) and anything that needs a socket.

mod apply;
mod index;
mod roster;
mod target;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use crate::balance::EndpointHealth;
use crate::hash::Trie;
use crate::identity::spiffe::SpiffeId;
use crate::model::{Endpoint, Mesh, Resolution, Service, ServiceKey, ServicePort, Weight};
use crate::time::Moment;
use index::Index;

pub use apply::apply;
pub use roster::Roster;
pub use target::{Decision, Reason, Target};

/// What the proxy knows. Cheap to copy: its maps are persistent, a copy shares what neither changes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: u64,
    ready: bool,
    complete: bool,
    mesh: Option<Arc<Mesh>>,
    services: Trie<ServiceKey, Arc<ServiceEntry>>,
    /// By service, whether or not the service itself is known yet.
    endpoints: Trie<ServiceKey, EndpointSet>,
    resolutions: HashTrieMapSync<SocketAddr, Arc<Resolution>>,
    index: Index,
}

/// Endpoints of one service by id, so that the order in which they arrived leaves no trace.
type EndpointSet = RedBlackTreeMapSync<Arc<str>, Arc<Endpoint>>;

/// A service with what serves it.
#[derive(Debug)]
pub struct ServiceEntry {
    /// As declared.
    pub service: Service,
    /// One for each of its ports, in the order of the declaration.
    pub ports: Vec<Arc<PortEntry>>,
}

/// One port of a service: what a connection or request is balanced over.
#[derive(Debug)]
pub struct PortEntry {
    /// The service.
    pub service: ServiceKey,
    /// The port as declared.
    pub port: ServicePort,
    /// `namespace/name:port`, for records and metrics; made once, because paths must not format.
    pub label: Arc<str>,
    /// Those that serve this port, sorted by id. May be empty.
    pub endpoints: Roster,
    /// When it was last used. Survives changes of the port.
    pub usage: Arc<Usage>,
}

/// When something was last used, shared by all workers. Precise to a second, so that busy workers rarely write.
#[derive(Debug, Default)]
pub struct Usage(AtomicU64);

impl Usage {
    const PRECISION: Duration = Duration::from_secs(1);

    /// Notes a use: call it for each connection or request that goes to the port.
    pub fn touch(&self, now: Moment) {
        if now.since(Moment::from_nanos(self.0.load(Ordering::Relaxed))) >= Self::PRECISION {
            self.0.fetch_max(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// The last use noted; `None` before the first.
    #[must_use]
    pub fn last(&self) -> Option<Moment> {
        Some(self.0.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0).map(Moment::from_nanos)
    }
}

/// One endpoint as it serves one port.
#[derive(Debug)]
pub struct EndpointTarget {
    /// Unique in the service.
    pub id: Arc<str>,
    /// Where to connect.
    pub address: SocketAddr,
    /// Who it must prove to be.
    pub identity: Option<SpiffeId>,
    /// It has an identity and a sidecar captures the port: mutual TLS, with no fallback to plaintext.
    pub mesh_tls: bool,
    /// Relative share.
    pub weight: Weight,
    /// "region/zone", or empty.
    pub locality: Arc<str>,
    /// What is learned of it. Survives changes of the endpoint (same service, id and service port).
    pub health: Arc<EndpointHealth>,
}

impl Snapshot {
    /// Knows nothing and is not ready.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The server's revision it reflects; 0 before the first update.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Facts about the mesh, once known.
    #[must_use]
    pub fn mesh(&self) -> Option<&Mesh> {
        self.mesh.as_deref()
    }

    /// A service by name.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        self.services.get(key)
    }

    /// All services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.services.values()
    }

    /// The control plane's answer about an original destination.
    #[must_use]
    pub fn resolution(&self, address: SocketAddr) -> Option<&Resolution> {
        self.resolutions.get(&address).map(AsRef::as_ref)
    }

    /// When traffic last went where an original destination leads; `None` if never, or if it leads nowhere.
    #[must_use]
    pub fn last_use(&self, address: SocketAddr) -> Option<Moment> {
        match self.outbound_target(address) {
            Target::Service { port, .. } => port.usage.last(),
            Target::Passthrough | Target::Refused(_) | Target::Ask { .. } => None,
        }
    }

    /// All answers held, in no particular order.
    pub fn resolutions(&self) -> impl Iterator<Item = &Resolution> {
        self.resolutions.values().map(AsRef::as_ref)
    }

    /// All endpoints, also those whose service is not known (yet), in no particular order.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values().flat_map(|set| set.values())
    }

    /// Endpoints whose service is not known (yet).
    pub fn pending_endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().filter(|(key, _)| !self.services.contains_key(*key)).flat_map(|(_, set)| set.values())
    }

    /// The first update has been applied.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Says that nobody can be asked for more: what is not in here is proven unknown (static mode).
    #[must_use]
    pub fn into_complete(mut self) -> Self {
        self.complete = true;
        self
    }
}

impl ServiceEntry {
    /// A port by number.
    #[must_use]
    pub fn port(&self, port: u16) -> Option<&Arc<PortEntry>> {
        self.ports.iter().find(|entry| entry.port.port.get() == port)
    }
}
