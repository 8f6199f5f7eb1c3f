//! How what exists reaches the proxies: a pure state machine per proxy, and the stream that drives it.

pub mod proxies;
mod stream;
mod subscription;

pub use stream::converse;
pub use subscription::{Subscription, TooMany};
