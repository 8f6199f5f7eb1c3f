//! The gRPC services. Each is a thin shell: it reads who calls from [`peer::Peer`], checks its input, asks the module
//! that decides, and answers.

pub mod config;
pub mod diagnostics;
pub mod discovery;
pub mod identity;
pub mod names;
pub mod operator;
pub mod peer;
pub mod registry;
