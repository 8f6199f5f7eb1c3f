//! How what exists reaches the proxies: a pure state machine per proxy, and the stream that drives it.

pub mod proxies;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;

pub use stream::converse;
pub use subscription::{Subscription, TooMany};
