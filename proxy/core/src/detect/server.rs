//! What a server says first, for connections whose client is silent (T9, U7).
//!
//! Most servers that speak first (SMTP, MySQL, SSH) are opaque. But an HTTP/2 server may send its SETTINGS before the
//! client's preface arrives (RFC 9113 section 3.4), and an HTTP/1 server that is tired of waiting sends a 408; neither
//! makes the connection opaque.

/// Length of a frame header (RFC 9113 section 4.1).
const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 4;
/// Most settings a first frame is believed to have; six are defined, and extensions added a few.
const SETTINGS_MAX: u32 = 64;
const STATUS_LINE: &[u8] = b"HTTP/1.";

/// What the first bytes of a server say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFirst {
    /// A protocol in which the server speaks first: relay bytes.
    Opaque,
    /// HTTP/2 SETTINGS: the client will speak HTTP/2.
    Http2Settings,
    /// An HTTP/1 status line before any request.
    Http1,
    /// Not certain yet. At the end of the stream this means opaque.
    NeedMore,
}

/// Judges the bytes a server sent so far, from the first on. At most nine are looked at.
#[must_use]
pub fn first_server_bytes(bytes: &[u8]) -> ServerFirst {
    if bytes.starts_with(STATUS_LINE) {
        return ServerFirst::Http1;
    }
    if STATUS_LINE.starts_with(bytes) {
        return ServerFirst::NeedMore;
    }
    match (could_be_settings(bytes), bytes.len() >= FRAME_HEADER) {
        (true, true) => ServerFirst::Http2Settings,
        (true, false) => ServerFirst::NeedMore,
        (false, _) => ServerFirst::Opaque,
    }
}

/// A header of a SETTINGS frame, or the beginning of one: small, of whole settings, no ACK, on stream 0.
fn could_be_settings(bytes: &[u8]) -> bool {
    let length_fits = match bytes {
        [a, b, c, ..] => {
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            length.is_multiple_of(6) && length <= 6 * SETTINGS_MAX
        }
        [a, b] => *a == 0 && *b <= 1,
        [a] => *a == 0,
        [] => true,
    };
    let is = |at: usize, expected: u8| bytes.get(at).is_none_or(|b| *b == expected);
    // The top bit of the stream identifier is reserved and ignored by recipients; no server sets it.
    length_fits && is(3, SETTINGS) && is(4, 0) && (5..FRAME_HEADER).all(|at| is(at, 0))
}
