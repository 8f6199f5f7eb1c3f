//! How what exists reaches the proxies: a pure state machine per proxy, and the stream that drives it.

mod gather;
mod parcel;
pub mod proxies;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;
mod told;
pub mod wire;

pub use stream::converse;
pub use subscription::{Push, Subscription, TooMany};
