//! HTTP/1.0 and HTTP/1.1 as a machine over byte buffers, with no I/O (RFC 9112).
//!
//! Request smuggling needs two parsers that read the same bytes differently. So this codec does not repair: whatever
//! RFC 9112 lets a recipient tolerate and another implementation may read otherwise is refused, with a reason of its own
//! ([`HeadFault`], [`BodyFault`]). Apart from that it is transparent: name case, field order, duplicates, reason phrase,
//! raw request-target, interim responses and undeclared trailers all survive a parse and an encode.
//!
//! Tokens are split by `httparse`, which is fast and widely fuzzed but lenient. These leniencies are closed here:
//! - line ends of a bare LF, in all places ([`HeadFault::BareLf`]);
//! - any number of empty lines before a message: one CRLF is skipped before a request (RFC 9112 section 2.2), none
//!   before a response;
//! - status codes below 100; a reason phrase with obs-text, which it drops, is kept;
//! - request-targets in any form, with fragments, for any method.
//!
//! Left out: `Transfer-Encoding` other than `chunked` (nothing speaks it, all parsers differ in it), obs-fold, HTTP/0.9.
//!
//! Buffers belong to the caller, bytes after a message stay in them, so pipelining needs nothing special.

mod body;
mod diagnose;
mod encode;
mod fault;
mod framing;
mod limits;
mod progress;
mod request;
mod response;
mod section;
mod target;

pub(crate) use body::is_forbidden_trailer;
pub use body::{BodyDecoder, Decoded};
pub use encode::{BodyEncoder, Frame, declare_framing, encode_request_head, encode_response_head};
pub use fault::{BodyFault, HeadFault};
pub(crate) use framing::Notes;
pub use framing::persistent;
pub use limits::{
    CHUNK_EXTENSION_BYTES_MAX, FIELDS_ALLOWED_MAX, FIELDS_MAX, HEAD_BYTES_MAX, Limits, REQUEST_LINE_BYTES_MAX,
    TRAILER_BYTES_MAX,
};
pub use request::RequestParser;
pub use response::ResponseParser;

#[cfg(test)]
mod properties;
