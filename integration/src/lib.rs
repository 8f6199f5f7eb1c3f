//! What the end-to-end tests and the demo stand on: sample applications and the harness.
//!
//! The harness drives the same code as `weft dev`, so what the scenarios prove is what a user runs.

pub mod apps;
pub mod assert;
pub mod authority;
pub mod mesh;
pub mod process;
pub mod raw;
pub mod records;
pub mod samples;
pub mod unprivileged;
