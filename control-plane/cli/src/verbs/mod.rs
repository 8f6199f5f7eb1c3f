//! One file per group of verbs, each a client of the control plane's public API.

pub mod backup;
pub mod proxies;
pub mod resources;
pub mod status;
pub mod token;
