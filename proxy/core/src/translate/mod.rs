//! HTTP/2 messages as the `h2` crate hands them out and takes them, to and from our heads (RFC 9113 section 8).
//!
//! Downgrading HTTP/2 to HTTP/1 has been a rich source of request smuggling: what a length-prefixed protocol carries
//! harmlessly can end a line or a body in a textual one. So every HTTP/2 head passes the checks of an HTTP/1 head on
//! arrival, whether or not it will be sent as HTTP/1, and policies see the same shape either way:
//! - names with a quotation mark, which the `http` crate takes from HTTP/2 though no token has one, are refused;
//! - connection-specific fields, `te` other than `trailers`, lists or repeats of `content-length` are refused;
//! - `:authority` and `Host` must name the same and only the former is kept; `:path` must be a path;
//! - cookie crumbs are joined (section 8.2.3) and the limits apply to the result, before anything is copied.
//!
//! Guaranteed by the types of the `http` crate and not checked again: names are else lower-case tokens, values hold no CR, LF,
//! NUL or other control character but HTAB, pseudo-headers are not among the fields.
//!
//! Toward HTTP/2 the fields that it forbids are dropped. Fields that `Connection` nominates are hop-by-hop in HTTP/1 too
//! and are gone by then: removing them is the business of propagation, for all versions.

mod for_h1;
mod from_h2;
mod names;
mod to_h2;

pub use for_h1::{request_for_h1, response_for_h1};
pub use from_h2::{request_from_h2, response_from_h2, trailers_from_h2};
pub use to_h2::{request_to_h2, response_to_h2, trailers_to_h2};

/// Whether HTTP/2 forbids the field with this name, whatever its value (RFC 9113 section 8.2.2). `http2-settings` is the
/// companion of the withdrawn h2c upgrade.
fn is_connection_specific(name: &[u8]) -> bool {
    const NAMES: [&str; 6] =
        ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];
    NAMES.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

#[cfg(test)]
mod tests;
