//! Resources of the configuration stream in decoded form: the unit that is sent, held, refused and removed.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Endpoint, Mesh, Resolution, Service, ServiceKey};

/// Names one resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceId {
    /// The one [`Mesh`].
    Mesh,
    /// A service.
    Service(ServiceKey),
    /// An endpoint of a service.
    Endpoint(ServiceKey, Arc<str>),
    /// The answer about one original destination.
    Resolution(SocketAddr),
}

/// As in `ResourceName.name` of the API, after the kind.
impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Service(key) => write!(f, "service {key}"),
            Self::Endpoint(key, id) => write!(f, "endpoint {key}/{id}"),
            Self::Resolution(address) => write!(f, "resolution {address}"),
        }
    }
}

/// The content of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Facts about the mesh.
    Mesh(Mesh),
    /// A service.
    Service(Service),
    /// An endpoint.
    Endpoint(Endpoint),
    /// An answer.
    Resolution(Resolution),
}

impl Resource {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Mesh(_) => ResourceId::Mesh,
            Self::Service(service) => ResourceId::Service(service.key.clone()),
            Self::Endpoint(endpoint) => ResourceId::Endpoint(endpoint.service.clone(), Arc::clone(&endpoint.id)),
            Self::Resolution(resolution) => ResourceId::Resolution(resolution.address),
        }
    }
}

/// A resource as pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upsert {
    /// Versions of one resource only grow.
    pub version: u64,
    /// The content.
    pub resource: Resource,
}

/// One consistent step of knowledge. Where a name is both removed and upserted, the upsert wins; where it is upserted
/// twice, the greater version wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodedUpdate {
    /// The server's revision that this step leads to.
    pub revision: u64,
    /// New and changed.
    pub upserts: Vec<Upsert>,
    /// Gone.
    pub removals: Vec<ResourceId>,
}
