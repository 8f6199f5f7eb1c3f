//! HTTP/1.0 and HTTP/1.1 as a machine over byte buffers, with no I/O (RFC 9112).
//!
//! Request smuggling needs two parsers that read the same bytes differently. So this codec does not repair: whatever
//! RFC 9112 lets a recipient tolerate and another implementation may read otherwise is refused, with a reason of its own
//! ([`HeadFault`], [`BodyFault`]). Apart from that it is transparent: name case, field order, duplicates, reason phrase,
//! raw request-target, interim responses and undeclared trailers all survive a parse and an encode.
//!
//! Tokens are split by `httparse`, which is fast and widely fuzzed but lenient. What it takes, what the codec does about
//! it, and the test in `leniencies.rs` that shows both:
//!
//! | `httparse` takes | the codec | test |
//! |---|---|---|
//! | bare LF as the end of any line of a head | refuses: [`HeadFault::BareLf`] | `bare_line_feeds` |
//! | the same in a trailer section | refuses: [`BodyFault::TrailerField`] | `bare_line_feeds_in_trailers` |
//! | any number of empty lines before a request | skips one CRLF (RFC 9112 section 2.2), refuses more | `empty_lines_before_a_request` |
//! | empty lines before a response | refuses: no rule lets a client skip them | `empty_lines_before_a_response` |
//! | status codes 000 to 099 | refuses: [`HeadFault::StatusCode`] | `status_codes_below_100` |
//! | a reason phrase with obs-text, which it drops | keeps the phrase | `a_reason_with_obs_text_is_not_lost` |
//! | a status line that ends after the code | takes it, and writes the blank that is missing | `a_status_line_without_the_second_blank_gets_it` |
//! | targets of any form for any method, fragments | refuses all but the four forms of RFC 9112 section 3.2 | `targets_of_no_form` |
//! | any visible byte and UTF-8 in a target | keeps them as they are | `bytes_of_a_target_outside_rfc_3986_are_kept` |
//! | any fields, whatever they say together | refuses what frames or routes in two ways | `fields_that_contradict_each_other` |
//! | blanks and control characters after a chunk size | refuses; has its own decoder | `chunk_sizes` |
//! | with options: several blanks, obs-fold, a blank before the colon, broken lines | has none of them on | `leniencies_that_are_switched_off` |
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
mod leniencies;
#[cfg(test)]
mod properties;
