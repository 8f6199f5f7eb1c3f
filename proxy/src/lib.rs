//! The Weft proxy: sidecar and gateway in one binary.
//!
//! Decisions come from `weft-core`; here they are acted on. Worker threads carry traffic and share almost nothing; one
//! control thread keeps configuration, identity and the operator's doors.

pub mod application;
pub mod bootstrap;
pub mod boxed;
pub mod clock;
mod descriptors;
pub mod diagnostics;
pub mod dial;
pub mod dns;
pub mod doors;
pub mod entropy;
pub mod exchange;
pub mod feed;
pub mod forward;
pub mod http;
pub mod http_path;
pub mod identity;
pub mod inbound;
pub mod intercept;
pub mod io;
pub mod l4;
pub mod log;
pub mod net;
pub mod outbound;
pub mod pages;
pub mod panics;
pub mod peek;
pub mod pool;
pub mod registration;
pub mod report;
pub mod route;
pub mod run;
pub mod runtime;
pub mod site;
pub mod supervise;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod waiting;

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
