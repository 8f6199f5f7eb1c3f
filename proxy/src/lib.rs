//! The Weft proxy: sidecar and gateway in one binary.
//!
//! Decisions come from `weft-core`; here they are acted on. Worker threads carry traffic and share almost nothing; one
//! control thread keeps configuration, identity and the operator's doors.

pub mod clock;
pub mod entropy;
pub mod identity;
pub mod telemetry;
