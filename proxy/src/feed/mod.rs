//! How a proxy gets to know the mesh: the `Discovery` stream on the control thread, or a file (static mode).
//!
//! The decisions are pure ([`weft_core::sync`], [`weft_core::snapshot::apply`], [`weft_core::interest`]); here they are
//! given a connection, a clock and a place to publish. Readers never wait: they load the snapshot of the moment. Without
//! a control plane the last snapshot serves on.

mod apply;
mod client;
mod resolver;
pub mod static_config;
mod status;
#[cfg(test)]
mod tests;

pub use client::Feed;
pub use resolver::{ANSWER_DEADLINE, Resolver};
pub use status::FeedStatus;
