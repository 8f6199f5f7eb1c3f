//! How callers get in: TLS for proxies, a Unix socket for operators, a plain status port for probes and scrapers.
//!
//! A door knows who calls and says so as [`crate::api::peer::Peer`]; what callers may do is decided behind it.

pub mod connection;
pub mod grpc;
pub mod own_certificate;
pub mod services;
pub mod shares;
pub mod socket;
pub mod status;
pub mod tls;
