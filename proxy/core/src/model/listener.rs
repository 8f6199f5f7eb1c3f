//! Sockets that static mode and gateways open, in types that cannot hold nonsense.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::{AppProtocol, InboundMode, ServiceKey};

/// One listening socket and what is done with its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Unique in its file; for logs and metrics.
    pub name: Arc<str>,
    /// Where it listens; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// What it does.
    pub role: ListenerRole,
}

/// What a listener does with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Plain reverse proxy in front of a port of a service.
    ReverseProxy(ServiceKey, NonZeroU16),
    /// Accepts in the clear and sends to a port of a service, over mutual TLS where endpoints have an identity.
    Outbound(ServiceKey, NonZeroU16),
    /// Terminates mutual TLS in front of a local port.
    Inbound {
        /// Where the application listens.
        address: SocketAddr,
        /// What it speaks.
        protocol: AppProtocol,
        /// Whether plaintext is accepted.
        mode: InboundMode,
    },
}
