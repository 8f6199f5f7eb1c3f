//! `weft-control-plane serve`: what is built at start, and which service stands behind which door.

use std::sync::Arc;

use crate::bootstrap::ServeArgs;
use crate::doors::services::Services;
use crate::store::Store;

/// What every service of the control plane shares.
#[derive(Clone, Debug)]
pub struct Plane {
    /// The flags.
    pub args: Arc<ServeArgs>,
    /// What survives a restart.
    pub store: Arc<dyn Store>,
}

/// Behind the TLS door: `Identity`, `Registry`, `Discovery`, `Diagnostics` (Attend). Any of them but `Identity` demands
/// [`crate::api::peer::Peer::of`].
#[must_use]
pub fn proxy_services(_plane: &Plane) -> Services {
    Services::default()
}

/// Behind the operators' socket: `Config`, `Operator`, `Diagnostics` (Ask, Proxies).
#[must_use]
pub fn operator_services(_plane: &Plane) -> Services {
    Services::default()
}
