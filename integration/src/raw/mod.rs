//! Peers that speak byte by byte or frame by frame, to say what no library says, on either side of real proxies.
//!
//! [`Pair`] runs the proxies, [`Wire`] is a client's or backend's connection, [`Backend`] the application's port.

mod backend;
pub mod h2;
pub mod h2_frame;
pub mod h2_hpack;
mod mesh_peer;
mod pair;
mod proxy;
mod wire;

pub use backend::{Backend, Served};
pub use mesh_peer::{mesh_config, mesh_peer, mesh_peer_as};
pub use pair::{CLIENT_ID, Door, Pair, Plan, Protocol, SERVER_ID};
pub use proxy::Proxy;
pub use wire::{DEADLINE, End, Step, Wire, find, shown};
