//! The proxy's hold on the host: redirection rules of the current network namespace, and where a redirected connection
//! wanted to go. What the rules say is decided in [`weft_core::intercept`].

mod apply;
mod init;
mod netlink;
mod orig_dst;

pub use apply::{ApplyError, Ipv6, Plan, apply, plan};
pub use init::{InitArgs, mark};
pub use orig_dst::original_dst;
