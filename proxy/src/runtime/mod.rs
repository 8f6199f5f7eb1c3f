//! The process as a runtime: workers, what they do with connections that only wait, and how they end.

mod accept;
pub mod drain;
pub mod expiry;
mod handover;
mod loads;
mod lot;
mod start;
pub mod worker;

#[cfg(test)]
mod tests;

pub use accept::Door;
pub use loads::Loads;
pub use start::{Listening, Setup, Workers, start};
