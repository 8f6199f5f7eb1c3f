//! `:path` and `:authority` as HTTP/2 peers take them.

use std::borrow::Cow;

use crate::authority::Authority;

/// Longest path that peers with 16 bits for positions in it take, as the `http` crate.
pub(super) const PATH_BYTES_MAX: usize = 65_534;

/// Where a byte may stand: bits of [`BYTES`].
const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

static BYTES: [u8; 256] = bytes();

/// What peers take: all that is visible but for what a URI must percent-encode, with the exception of the braces and, in a
/// path, the quotation mark, which clients send. A fragment is none of it.
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time")]
const fn bytes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0x21;
    while byte < table.len() {
        table[byte] = match byte as u8 {
            b'#' | b'<' | b'>' | 0x7f => 0,
            b'"' => IN_PATH,
            b'`' => IN_QUERY,
            _ => IN_PATH | IN_QUERY,
        };
        byte += 1;
    }
    table
}

/// Whether an HTTP/2 peer takes this path and query.
pub(super) fn is_valid(text: &[u8]) -> bool {
    let (mut place, mut bits) = (IN_PATH, 0);
    for byte in text {
        if *byte == b'?' {
            place = IN_QUERY;
        }
        if place_of(*byte) & place == 0 {
            return false;
        }
        bits |= *byte;
    }
    bits.is_ascii() || std::str::from_utf8(text).is_ok()
}

/// The path and query as an HTTP/2 peer takes them, `None` if none would.
pub(super) fn fit(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    let formed = matches!(raw, b"*" | [b'/', ..]) && raw.len() <= PATH_BYTES_MAX;
    if !formed || is_valid(raw) {
        return formed.then_some(Cow::Borrowed(raw));
    }
    let escaped = escaped(raw);
    (escaped.len() <= PATH_BYTES_MAX && is_valid(&escaped)).then_some(Cow::Owned(escaped))
}

/// Percent-encodes the visible bytes that HTTP/2 peers take in no path or query. They are not allowed in a URI, yet
/// HTTP/1 clients send them and their servers answer; none is a delimiter, so no parser can split the path differently
/// for it, and refusing would break what works without a mesh.
fn escaped(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 16);
    for byte in raw {
        match byte {
            b'"' => out.extend_from_slice(b"%22"),
            b'<' => out.extend_from_slice(b"%3C"),
            b'>' => out.extend_from_slice(b"%3E"),
            b'`' => out.extend_from_slice(b"%60"),
            other => out.push(*other),
        }
    }
    out
}

/// An authority as HTTP/2 peers take it: without percent-encoding, which the `http` crate refuses.
pub(super) fn authority(text: &[u8]) -> Option<Authority<'_>> {
    Authority::parse(text).filter(|_| !text.contains(&b'%'))
}

#[allow(clippy::indexing_slicing, reason = "a byte is an index into 256 entries")]
#[inline]
fn place_of(byte: u8) -> u8 {
    BYTES[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `http` crate is what most HTTP/2 peers in Rust read paths with, and what this has to agree with.
    #[test]
    fn agrees_with_the_http_crate() {
        let check = |text: &[u8]| {
            let theirs = http::uri::PathAndQuery::try_from(text).ok();
            let ours = is_valid(text);
            let expected = theirs.is_some_and(|theirs| theirs.as_str().as_bytes() == text);
            assert_eq!(ours, expected, "{}", text.escape_ascii());
        };
        for byte in 0..=255 {
            check(&[b'/', byte]);
            check(&[b'/', b'?', byte]);
            check(&[b'/', b'?', b'?', byte]);
            check(&[b'/', byte, b'?', b'a']);
        }
        check("/b\u{fc}cher?\u{20ac}".as_bytes());
        check(b"*");
    }

    #[test]
    fn fits_what_can_be_fitted() {
        let check = |raw: &[u8], expected: Option<&str>| {
            assert_eq!(fit(raw).as_deref(), expected.map(str::as_bytes), "{}", raw.escape_ascii());
        };
        check(b"/a?b", Some("/a?b"));
        check(b"*", Some("*"));
        check(b"/\"", Some("/\""));
        check(b"/\"?\"`<>", Some("/%22?%22%60%3C%3E"));
        check(b"/a#b", None);
        check(b"/a b", None);
        check(b"/\xff", None);
        check(b"a", None);
        check(b"**", None);
        check(b"", None);
        check(&[b'/'; PATH_BYTES_MAX], Some(&"/".repeat(PATH_BYTES_MAX)));
        check(&[b'/'; PATH_BYTES_MAX + 1], None);
    }
}
