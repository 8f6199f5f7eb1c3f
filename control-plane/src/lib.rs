//! The Weft control plane: certificate authority, registry and push in one process.
//!
//! It sits beside traffic, never in it: proxies keep serving what they know while it is away. What must survive it is in
//! [`store`]; everything else is rebuilt from there. Callers come through one of two doors (TLS on 15012, the operators'
//! Unix socket), which say who they are before any service sees them.

pub mod api;
pub mod backup;
pub mod bootstrap;
pub mod ca;
pub mod doors;
pub mod metrics;
pub mod names;
pub mod panics;
pub mod push;
pub mod registry;
pub mod resource;
pub mod serve;
pub mod shutdown;
pub mod store;
pub mod tokens;
