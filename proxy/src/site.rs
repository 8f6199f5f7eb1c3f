//! Where a connection's requests go: asked anew for each request, so that a kept connection follows what has changed.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;

use weft_core::fault::FaultKind;
use weft_core::model::{AppProtocol, ServiceKey};
use weft_core::snapshot::Target;
use weft_core::time::Moment;

use crate::feed::ANSWER_DEADLINE;
use crate::forward::Destination;
use crate::route::Route;
use crate::runtime::worker::Worker;
use crate::telemetry::Counter;

/// What a connection was made to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
        match self.known(worker, worker.now())? {
            Some(to) => Ok(to),
            None => self.ask(worker).await,
        }
    }

    /// The destination as known at `now`. `None`: the control plane is to be asked.
    ///
    /// # Errors
    /// Why there is none.
    pub fn known(&self, worker: &Worker, now: Moment) -> Result<Option<Destination>, FaultKind> {
        match self {
            Self::Captured(address) => {
                let found = worker.with_routes(|snapshot, routes| {
                    routes.or_else(self, || match snapshot.outbound_target(*address) {
                        Target::Service { port, pinned } => Ok(Route::new(port, pinned.as_ref())),
                        other @ (Target::Passthrough | Target::Refused(_) | Target::Ask { .. }) => Err(other),
                    })
                });
                found.map_or_else(|target| destination(target, *address, now), |route| Ok(Some(used(route, now))))
            }
            Self::Service(key, number) => worker.with_routes(|snapshot, routes| {
                let route = routes.or_else(self, || {
                    let service = snapshot.service(key).ok_or(FaultKind::NoRoute)?;
                    let port = match number {
                        Some(number) => service.port(number.get()),
                        None => service.ports.first(),
                    };
                    port.map(|port| Route::new(Arc::clone(port), None)).ok_or(FaultKind::NoRoute)
                });
                Ok(Some(Destination::Service(route?)))
            }),
            Self::Local { address, protocol } => {
                Ok(Some(Destination::Local { address: *address, protocol: *protocol }))
            }
            Self::Refused(fault) => Err(*fault),
        }
    }

    /// Asks the control plane where to go, for at most a second.
    ///
    /// # Errors
    /// Why there is no way.
    pub async fn ask(&self, worker: &Worker) -> Result<Destination, FaultKind> {
        // Only a captured destination can be asked about.
        let Self::Captured(address) = self else { return Err(FaultKind::DestinationUnknown) };
        let target = worker.shared.resolver.resolve(*address, ANSWER_DEADLINE).await;
        destination(target, *address, worker.now())?.ok_or(FaultKind::DestinationUnknown)
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

fn destination(target: Target, address: SocketAddr, now: Moment) -> Result<Option<Destination>, FaultKind> {
    match target {
        Target::Service { port, pinned } => Ok(Some(used(Route::new(port, pinned.as_ref()), now))),
        Target::Passthrough => Ok(Some(Destination::Passthrough(address))),
        Target::Refused(fault) => Err(fault),
        Target::Ask { .. } => Ok(None),
    }
}

fn used(route: Rc<Route>, now: Moment) -> Destination {
    route.port.usage.touch(now);
    Destination::Service(route)
}

/// Counts what an operator wants to see of a destination.
pub fn count_destination(worker: &Worker, located: &Result<Destination, FaultKind>) {
    match located {
        Ok(Destination::Passthrough(_)) => worker.telemetry.count(Counter::Passthrough),
        Err(FaultKind::NotInRegistry) => worker.telemetry.count(Counter::RegistryOnlyRefused),
        Ok(Destination::Service(_) | Destination::Local { .. }) | Err(_) => {}
    }
}
