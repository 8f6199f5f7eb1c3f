//! The proxy's hold on the host: redirection rules of the current network namespace, and where a redirected connection
//! wanted to go. What the rules say is decided in [`weft_core::intercept`].

mod apply;
mod error;
mod init;
mod iptables;
mod netlink;
mod nft;
mod orig_dst;
mod tool;

pub use apply::{Applied, Backend, Ipv6, Step, apply, plan};
pub use error::ApplyError;
pub use init::{InitArgs, mark};
pub use orig_dst::original_dst;
