//! Which protocol a connection speaks, from its first bytes (T7).
//!
//! The mesh is transparent: an application names no protocol, so the proxy reads ahead until it is certain. Certain means
//! that no further byte could change the answer; the shell may then act on it at once. Two kinds of mistake are possible
//! and both are avoided on the side of safety: what a lenient server could take for HTTP is called HTTP here even when it
//! is malformed (a blank line first, several spaces, a missing version), because the strict parser then refuses it in the
//! open, while calling it opaque would carry it past every HTTP policy. And TLS is called the mesh's only when it offers
//! exactly one of our ALPN names, because terminating an application's own TLS would break it.
//!
//! Everything is bounded by [`PREFIX_BYTES_MAX`] and total: any bytes have an answer.

mod hello;
mod http1;
mod server;

pub use hello::{ClientHello, MeshAlpn};
pub use server::{ServerFirst, first_server_bytes};

/// Bytes after which an answer is certain, whatever they are. A ClientHello with post-quantum keys, encrypted SNI and a
/// large session ticket takes about 4 KiB; an HTTP request line is decided much earlier with a usual method.
pub const PREFIX_BYTES_MAX: usize = 16 * 1024;

/// What an HTTP/2 client sends first (RFC 9113 section 3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a client say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// An HTTP/1 request, or what a lenient server could take for one.
    Http1,
    /// The HTTP/2 preface (prior knowledge).
    Http2,
    /// A whole and well-formed TLS ClientHello.
    Tls(ClientHello),
    /// Anything else.
    Opaque,
    /// Not certain yet. What it looks like needs at least this many more bytes (one or more); good for sizing a buffer.
    /// Judge again after every read all the same: any byte can show that it is something else.
    NeedMore(usize),
}

/// Judges the bytes received so far, all of them from the connection's first on. `eof`: no more will come, so whatever is
/// not certain is opaque. What could still become a request after [`PREFIX_BYTES_MAX`] is one: the parser refuses it.
#[must_use]
pub fn detect(prefix: &[u8], eof: bool) -> Detected {
    let full = prefix.len() >= PREFIX_BYTES_MAX;
    let detected = match prefix {
        [] => Detected::NeedMore(1),
        [hello::RECORD_HANDSHAKE, ..] => hello::detect(prefix),
        _ => match http2(prefix) {
            Some(detected) => detected,
            None => {
                let detected = http1::detect(prefix);
                let could_be = matches!(detected, Detected::NeedMore(_));
                if could_be && full && !eof { Detected::Http1 } else { detected }
            }
        },
    };
    let no_more = eof || full;
    if no_more && matches!(detected, Detected::NeedMore(_)) { Detected::Opaque } else { detected }
}

/// `None` when the bytes are not the preface, nor the beginning of it.
fn http2(prefix: &[u8]) -> Option<Detected> {
    if prefix.starts_with(HTTP2_PREFACE) {
        return Some(Detected::Http2);
    }
    HTTP2_PREFACE.starts_with(prefix).then(|| Detected::NeedMore(HTTP2_PREFACE.len() - prefix.len()))
}

#[cfg(test)]
mod tests;
