//! The process as a runtime: workers, and how they end.

pub mod drain;
pub mod expiry;
mod start;
pub mod worker;

#[cfg(test)]
mod tests;

pub use start::{Door, Listening, Setup, Workers, start};
