//! Peers that speak byte by byte or frame by frame, to say what no library says.

pub mod h2;
pub mod h2_frame;
pub mod h2_hpack;
