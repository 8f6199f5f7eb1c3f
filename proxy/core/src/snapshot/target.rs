//! What to do with a captured connection, by its original destination alone.
//!
//! In order: what the control plane answered about exactly this address (it may deny); else a service's virtual IP and
//! port; else a workload's own address and port, which means that endpoint only (D9, U16); else it must be asked. An
//! address inside mesh ranges is never passed through in the clear, whatever is missing (E7).

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::{EndpointTarget, PortEntry, Snapshot};
use crate::fault::FaultKind;
use crate::model::{OutboundMode, ServiceKey, Verdict};

/// Where an outbound connection goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// To a port of a service.
    Service {
        /// Whose policy holds.
        port: Arc<PortEntry>,
        /// `Some`: to this endpoint only; `None`: balance.
        pinned: Option<Arc<EndpointTarget>>,
    },
    /// To the original address, in the clear.
    Passthrough,
    /// Nowhere.
    Refused(FaultKind),
    /// Not known yet: ask the control plane. Without an answer in time, see [`Snapshot::unanswered`].
    Ask {
        /// The address is the mesh's: without an answer it is refused.
        mesh_range: bool,
    },
}

/// Why a target was chosen: what `explain` and records print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Virtual IP and port of a service.
    VirtualIp,
    /// A workload's own address.
    WorkloadAddress,
    /// The control plane denies it.
    Denied,
    /// Proven unknown, and the mode lets it through.
    Unknown,
    /// Proven unknown, and the mode is registry-only.
    RegistryOnly,
    /// Proven unknown, but inside mesh ranges, where everything must be known.
    UnknownInMesh,
    /// The answer names an endpoint that does not serve the port any more.
    EndpointGone,
    /// The answer names a service or port that has not arrived.
    ServicePending,
    /// Nothing is known about the address.
    NotAsked,
    /// No answer came in time.
    Unanswered,
}

impl Reason {
    /// Stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::VirtualIp => "virtual_ip",
            Self::WorkloadAddress => "workload_address",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::RegistryOnly => "registry_only",
            Self::UnknownInMesh => "unknown_in_mesh",
            Self::EndpointGone => "endpoint_gone",
            Self::ServicePending => "service_pending",
            Self::NotAsked => "not_asked",
            Self::Unanswered => "unanswered",
        }
    }
}

/// A target with its reason.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Where to.
    pub target: Target,
    /// Why.
    pub reason: Reason,
}

const fn decide(target: Target, reason: Reason) -> Decision {
    Decision { target, reason }
}

/// One spelling for an address: IPv4 in IPv6 clothes becomes IPv4, scope and flow go.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Snapshot {
    /// Where a connection to this original destination goes.
    #[must_use]
    pub fn outbound_target(&self, dst: SocketAddr) -> Target {
        self.explain_target(dst).target
    }

    /// As [`Snapshot::outbound_target`], with the reason.
    #[must_use]
    pub fn explain_target(&self, dst: SocketAddr) -> Decision {
        let dst = canonical(dst);
        if let Some(resolution) = self.resolution(dst) {
            return match &resolution.verdict {
                Verdict::Found { service, port, endpoint } => self.found(service, *port, endpoint.as_deref()),
                Verdict::Denied { .. } => decide(Target::Refused(FaultKind::DestinationDenied), Reason::Denied),
                Verdict::Unknown => self.unknown(dst),
            };
        }
        if let Some(port) = self.virtual_address(dst) {
            return decide(Target::Service { port: Arc::clone(port), pinned: None }, Reason::VirtualIp);
        }
        if let Some((port, endpoint)) = self.workload(dst) {
            let target = Target::Service { port: Arc::clone(port), pinned: Some(Arc::clone(endpoint)) };
            return decide(target, Reason::WorkloadAddress);
        }
        if self.complete {
            return self.unknown(dst);
        }
        decide(Target::Ask { mesh_range: self.is_mesh_address(dst) }, Reason::NotAsked)
    }

    /// What becomes of a [`Target::Ask`] that nobody answered in time: refused if it is the mesh's, else treated as
    /// unknown.
    #[must_use]
    pub fn unanswered(&self, mesh_range: bool) -> Target {
        if mesh_range {
            return Target::Refused(FaultKind::DestinationUnknown);
        }
        match self.outbound_mode() {
            OutboundMode::Passthrough => Target::Passthrough,
            OutboundMode::RegistryOnly => Target::Refused(FaultKind::NotInRegistry),
        }
    }

    /// Inside mesh ranges, or a virtual IP of a known service; before anything is known, every address.
    #[must_use]
    pub fn is_mesh_address(&self, dst: SocketAddr) -> bool {
        let ip = dst.ip().to_canonical();
        let Some(mesh) = self.mesh() else { return true };
        mesh.ranges.iter().any(|range| range.contains(&ip)) || self.index.is_virtual_ip(ip)
    }

    /// The port of a service behind a virtual address.
    fn virtual_address(&self, address: SocketAddr) -> Option<&Arc<PortEntry>> {
        self.index.virtual_ip(address.ip()).find_map(|key| self.service(key)?.port(address.port()))
    }

    /// The endpoint at a workload's own address, and the port it serves.
    fn workload(&self, address: SocketAddr) -> Option<(&Arc<PortEntry>, &Arc<EndpointTarget>)> {
        let workload = self.index.workload(address)?;
        let port = self.service(&workload.service)?.port(workload.port.get())?;
        Some((port, port.endpoints.find(&workload.id)?))
    }

    fn outbound_mode(&self) -> OutboundMode {
        self.mesh().map(|mesh| mesh.outbound_mode).unwrap_or_default()
    }

    fn found(&self, service: &ServiceKey, port: NonZeroU16, endpoint: Option<&str>) -> Decision {
        let port = self.service(service).and_then(|entry| entry.port(port.get()));
        let Some(port) = port else { return decide(Target::Ask { mesh_range: true }, Reason::ServicePending) };
        let Some(id) = endpoint else {
            return decide(Target::Service { port: Arc::clone(port), pinned: None }, Reason::VirtualIp);
        };
        let Some(pinned) = port.endpoints.find(id) else {
            return decide(Target::Refused(FaultKind::NoEndpoint), Reason::EndpointGone);
        };
        let target = Target::Service { port: Arc::clone(port), pinned: Some(Arc::clone(pinned)) };
        decide(target, Reason::WorkloadAddress)
    }

    fn unknown(&self, dst: SocketAddr) -> Decision {
        if self.is_mesh_address(dst) {
            return decide(Target::Refused(FaultKind::NotInRegistry), Reason::UnknownInMesh);
        }
        match self.outbound_mode() {
            OutboundMode::Passthrough => decide(Target::Passthrough, Reason::Unknown),
            OutboundMode::RegistryOnly => decide(Target::Refused(FaultKind::NotInRegistry), Reason::RegistryOnly),
        }
    }
}
