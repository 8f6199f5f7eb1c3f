//! The Weft proxy: sidecar and gateway in one binary.
//!
//! Decisions come from `weft-core`; here they are acted on. Worker threads carry traffic and share almost nothing; one
//! control thread keeps configuration, identity and the operator's doors.

pub mod bootstrap;
pub mod clock;
pub mod diagnostics;
pub mod doors;
pub mod entropy;
pub mod feed;
pub mod http;
pub mod identity;
pub mod intercept;
pub mod io;
pub mod log;
pub mod net;
pub mod registration;
pub mod runtime;
pub mod tcp;
pub mod telemetry;
pub mod tls;

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
