//! Where a connection's requests go: asked anew for each request, so that a kept connection follows what has changed.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use weft_core::fault::FaultKind;
use weft_core::model::{AppProtocol, ServiceKey};
use weft_core::snapshot::Target;

use crate::feed::ANSWER_DEADLINE;
use crate::forward::Destination;
use crate::runtime::worker::Worker;
use crate::telemetry::Counter;

/// What a connection was made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    /// A captured connection's original destination.
    Captured(SocketAddr),
    /// A service that a listener stands for; `None`: its first port.
    Service(ServiceKey, Option<NonZeroU16>),
    /// The local application.
    Local {
        /// Where it listens.
        address: SocketAddr,
        /// What it speaks.
        protocol: AppProtocol,
    },
    /// Nowhere: every request is answered with this.
    Refused(FaultKind),
}

impl Site {
    /// The destination as known now; for a captured one the control plane may be asked, for at most a second.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn locate(&self, worker: &Worker) -> Result<Destination, FaultKind> {
        match self {
            Self::Captured(address) => {
                let mut target = worker.snapshot().outbound_target(*address);
                if let Target::Ask { .. } = target {
                    target = worker.shared.resolver.resolve(*address, ANSWER_DEADLINE).await;
                }
                match target {
                    Target::Service { port, pinned } => {
                        port.usage.touch(worker.now());
                        Ok(Destination::Service { port, pinned })
                    }
                    Target::Passthrough => Ok(Destination::Passthrough(*address)),
                    Target::Refused(fault) => Err(fault),
                    Target::Ask { .. } => Err(FaultKind::DestinationUnknown),
                }
            }
            Self::Service(key, number) => {
                let snapshot = worker.snapshot();
                let service = snapshot.service(key).ok_or(FaultKind::NoRoute)?;
                let port = match number {
                    Some(number) => service.port(number.get()),
                    None => service.ports.first(),
                };
                let port = port.cloned().ok_or(FaultKind::NoRoute)?;
                Ok(Destination::Service { port, pinned: None })
            }
            Self::Local { address, protocol } => Ok(Destination::Local { address: *address, protocol: *protocol }),
            Self::Refused(fault) => Err(*fault),
        }
    }

    /// The address under which it is remembered who speaks first there. Not for the local application: a connection to it
    /// may be the mesh's, whatever is spoken inside, and its handshake must be waited for.
    #[must_use]
    pub const fn remembered_as(&self) -> Option<SocketAddr> {
        match self {
            Self::Captured(address) => Some(*address),
            Self::Local { .. } | Self::Service(..) | Self::Refused(_) => None,
        }
    }
}

/// Counts what an operator wants to see of a destination.
pub fn count_destination(worker: &Worker, located: &Result<Destination, FaultKind>) {
    match located {
        Ok(Destination::Passthrough(_)) => worker.telemetry.count(Counter::Passthrough),
        Err(FaultKind::NotInRegistry) => worker.telemetry.count(Counter::RegistryOnlyRefused),
        Ok(Destination::Service { .. } | Destination::Local { .. }) | Err(_) => {}
    }
}
