//! HTTP/2 (RFC 9113) as machines over byte buffers, with no I/O.

pub mod connection;
pub mod frame;
pub mod head;
pub mod hpack;
mod path;
mod target;

#[cfg(test)]
mod testing;
