//! What a proxy may know, in types that cannot hold nonsense. Untrusted input becomes one of these once, in
//! the decoder, so that nothing later re-checks. They do not derive serde: no wire format leaks inward.

pub mod decode;
mod listener;
mod resource;

pub use listener::{ListenerRole, ListenerSpec};
pub use resource::{DecodedUpdate, Resource, ResourceId, Upsert};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ipnet::IpNet;

use crate::identity::spiffe::{SpiffeId, TrustDomain};

/// Facts about the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Whose roots vouch for peers.
    pub trust_domain: TrustDomain,
    /// Inside these an address must be known to the control plane before traffic is let through.
    pub ranges: Vec<IpNet>,
    /// What happens to a destination proven unknown.
    pub outbound_mode: OutboundMode,
}

/// What the outbound side does with a destination proven unknown to the mesh (E7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboundMode {
    /// Connect to the original address in the clear.
    #[default]
    Passthrough,
    /// Refuse and count.
    RegistryOnly,
}

/// Whether inbound accepts plaintext (S6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InboundMode {
    /// Mesh TLS and plaintext.
    #[default]
    Permissive,
    /// Mesh TLS only; anything else is reset.
    Strict,
}

/// What the application behind a port speaks (T8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Find out from the first bytes.
    #[default]
    Detect,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge (`kubernetes.io/h2c`).
    H2c,
    /// Bytes.
    Tcp,
}

/// Name of a service. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name inside the namespace.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A logical destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// At least one; numbers are unique.
    pub ports: Vec<ServicePort>,
    /// Addresses that stand for it.
    pub virtual_ips: Vec<IpAddr>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// As clients dial it.
    pub port: NonZeroU16,
    /// Optional name; empty if none.
    pub name: Arc<str>,
    /// What is spoken to the application.
    pub protocol: AppProtocol,
}

/// One address that serves a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The service it belongs to.
    pub service: ServiceKey,
    /// Unique in the service.
    pub id: Arc<str>,
    /// Where it is.
    pub address: IpAddr,
    /// Which service ports it serves, and where.
    pub ports: Vec<EndpointPort>,
    /// Who it must prove to be; `None`: it has no identity and is spoken to in the clear.
    pub identity: Option<SpiffeId>,
    /// Relative share of traffic.
    pub weight: Weight,
    /// "region/zone", or empty.
    pub locality: Arc<str>,
}

/// How an endpoint serves one port of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Port of the service.
    pub service_port: NonZeroU16,
    /// Port at the endpoint's address.
    pub target_port: NonZeroU16,
    /// A sidecar captures it: with an identity, mutual TLS is mandatory.
    pub captured: bool,
}

/// Relative share, 1 to [`Weight::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(NonZeroU32);

impl Weight {
    /// Largest weight.
    pub const MAX: u32 = 1_000_000;
    /// Weight 1.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// `None` when 0 or above [`Weight::MAX`].
    #[must_use]
    pub const fn new(weight: u32) -> Option<Self> {
        match NonZeroU32::new(weight) {
            Some(weight) if weight.get() <= Self::MAX => Some(Self(weight)),
            Some(_) | None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// The control plane's answer about one original destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The destination asked about.
    pub address: SocketAddr,
    /// The answer.
    pub verdict: Verdict,
}

/// What the control plane says of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to a service.
    Found {
        /// Which.
        service: ServiceKey,
        /// Which of its ports.
        port: NonZeroU16,
        /// `Some`: exactly this endpoint (the address is a workload's own); `None`: balance.
        endpoint: Option<Arc<str>>,
    },
    /// The mesh holds it and this proxy may not use it.
    Denied {
        /// A phrase for the record.
        reason: Arc<str>,
    },
    /// Proven not to be of the mesh.
    Unknown,
}
