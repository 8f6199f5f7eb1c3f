//! `weft`: the command line of the mesh, a client of the control plane's public API, and the mesh on one machine
//! ([`dev`]) that the demo and the end-to-end tests stand on.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line's output is its purpose")]

pub mod binaries;
pub mod cli;
pub mod client;
pub mod demo;
pub mod dev;
pub mod resource;
pub mod table;
pub mod verbs;
