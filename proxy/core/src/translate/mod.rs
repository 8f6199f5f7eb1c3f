//! Heads that came from HTTP/2 made fit for HTTP/1. How they come out of HTTP/2, and go into it, is the business of
//! [`crate::http2::head`] and [`crate::http2::hpack`].

mod for_h1;

pub use for_h1::{request_for_h1, response_for_h1};

#[cfg(test)]
pub(crate) mod tests;
