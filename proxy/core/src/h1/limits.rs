//! Bounds on what one message may make the proxy hold. Bodies are streamed and need none.

/// Longest message head in bytes, first line and all fields. Larger than the defaults of all common servers (8 KiB to
/// 64 KiB), so the proxy is not what refuses a request its application accepts; small enough that 10,000 connections
/// stalled in their heads stay below 1 GiB.
pub const HEAD_BYTES_MAX: usize = 96 * 1024;

/// Longest request line in bytes, with its line end. RFC 9112 section 3 recommends at least 8000; links with signed
/// tokens reach tens of KiB.
pub const REQUEST_LINE_BYTES_MAX: usize = 64 * 1024;

/// Most fields in a head or trailer section. Browsers send about 20, and 200 keeps linear searches cheap.
pub const FIELDS_MAX: usize = 200;

/// Most fields that any limit can allow; a little above the default, for what proxies add on the way.
pub const FIELDS_ALLOWED_MAX: usize = 232;

/// Longest trailer section in bytes. Trailers are a handful of short fields (gRPC status and message, digests).
pub const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Most bytes of chunk extensions in one body. Nothing in use sends any, but they must be read over; without a bound
/// a body could be extensions for ever.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// Bounds that parsers apply. The default is right for everything but tests and hardened gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole head; default [`HEAD_BYTES_MAX`]. Longer ones are refused with 431.
    pub head_bytes_max: usize,
    /// Bytes of a request line with CRLF; default [`REQUEST_LINE_BYTES_MAX`]. Longer ones are refused with 414.
    pub request_line_bytes_max: usize,
    /// Fields of a head or trailer section; default [`FIELDS_MAX`], at most
    /// [`FIELDS_ALLOWED_MAX`]. More are refused with 431.
    pub fields_max: usize,
    /// Bytes of a trailer section; default [`TRAILER_BYTES_MAX`].
    pub trailer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: HEAD_BYTES_MAX,
            request_line_bytes_max: REQUEST_LINE_BYTES_MAX,
            fields_max: FIELDS_MAX,
            trailer_bytes_max: TRAILER_BYTES_MAX,
        }
    }
}
