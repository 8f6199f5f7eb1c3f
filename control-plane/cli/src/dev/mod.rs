//! The mesh on one machine: each application in its own network namespace beside its sidecar.
//!
//! `weft dev up`, `weft demo` and the end-to-end harness stand on this module. It starts the same binaries that run
//! anywhere else, with the same flags; nothing in them knows of it.

pub mod cli;
mod confine;
pub mod enter;
pub mod file;
pub mod guard;
pub mod home;
pub mod host_network;
pub mod hosts;
pub mod mesh;
pub mod net;
pub mod plan;
pub mod process;
pub mod ready;
pub mod resources;
pub mod rootless;
pub mod state;
pub mod terminal;
