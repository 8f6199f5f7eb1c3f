//! The process as a runtime: workers, and how they end.

pub mod drain;
