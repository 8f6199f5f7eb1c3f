//! The table of fields that every peer knows (RFC 7541 appendix A).

use super::field::{FIELD_BYTES, Field, Kind, Name, Pseudo, Shape};
use crate::fields::Known;

/// Index of the first field of the dynamic table.
pub(super) const DYNAMIC: usize = FIXED.len() + 1;

struct Fixed {
    line: &'static str,
    shape: Shape,
}

macro_rules! fixed {
    ($name:literal, $value:literal, $kind:expr, $known:expr) => {
        Fixed {
            line: concat!($name, ": ", $value, "\r\n"),
            shape: Shape {
                name: Name { len: small($name.len()), kind: $kind, known: $known },
                sound: true,
                // Of an authority there is only the name, with no value.
                fit: !$value.is_empty(),
                size: small($name.len() + $value.len() + FIELD_BYTES),
            },
        }
    };
}

#[allow(clippy::cast_possible_truncation, reason = "a few dozen bytes; evaluated at compile time")]
const fn small(len: usize) -> u32 {
    len as u32
}

/// The field with this index, from 1.
pub(super) fn field(index: usize) -> Option<Field<'static>> {
    let fixed = FIXED.get(index.checked_sub(1)?)?;
    Some(Field { line: fixed.line.as_bytes(), shape: fixed.shape })
}

/// Index of the first field with this name, in any case of its letters.
pub(super) fn index_of(name: &[u8]) -> Option<usize> {
    // The length dismisses most names.
    let candidates: &[usize] = match name.len() {
        3 => &[21, 60],
        4 => &[33, 34, 37, 38, 45, 59],
        5 => &[4, 22, 50],
        6 => &[19, 32, 35, 54],
        7 => &[2, 6, 8, 36, 51, 52],
        8 => &[39, 42, 46],
        10 => &[1, 55, 58],
        11 => &[53],
        12 => &[31, 47],
        13 => &[18, 23, 24, 30, 41, 44],
        14 => &[15, 28],
        15 => &[16, 17],
        16 => &[26, 27, 29, 61],
        17 => &[40, 57],
        18 => &[48],
        19 => &[25, 43, 49],
        25 => &[56],
        27 => &[20],
        _ => &[],
    };
    candidates.iter().copied().find(|index| field(*index).is_some_and(|field| is_named(&field, name)))
}

/// Index of the field with this name and value, where `first` is the first with this name.
pub(super) fn find(first: usize, name: &[u8], value: &[u8]) -> Option<usize> {
    let fields = (first..DYNAMIC).map_while(|index| field(index).filter(|field| is_named(field, name)));
    let found = fields.enumerate().find(|(_, field)| !value.is_empty() && field.value() == value);
    found.map(|(after, _)| first + after)
}

fn is_named(field: &Field<'_>, name: &[u8]) -> bool {
    let own = field.name();
    own.first().copied() == name.first().map(u8::to_ascii_lowercase) && own.eq_ignore_ascii_case(name)
}

#[rustfmt::skip]
static FIXED: [Fixed; 61] = [
    fixed!(":authority", "", Kind::Pseudo(Pseudo::Authority), None),
    fixed!(":method", "GET", Kind::Pseudo(Pseudo::Method), None),
    fixed!(":method", "POST", Kind::Pseudo(Pseudo::Method), None),
    fixed!(":path", "/", Kind::Pseudo(Pseudo::Path), None),
    fixed!(":path", "/index.html", Kind::Pseudo(Pseudo::Path), None),
    fixed!(":scheme", "http", Kind::Pseudo(Pseudo::Scheme), None),
    fixed!(":scheme", "https", Kind::Pseudo(Pseudo::Scheme), None),
    fixed!(":status", "200", Kind::Pseudo(Pseudo::Status), None),
    fixed!(":status", "204", Kind::Pseudo(Pseudo::Status), None),
    fixed!(":status", "206", Kind::Pseudo(Pseudo::Status), None),
    fixed!(":status", "304", Kind::Pseudo(Pseudo::Status), None),
    fixed!(":status", "400", Kind::Pseudo(Pseudo::Status), None),
    fixed!(":status", "404", Kind::Pseudo(Pseudo::Status), None),
    fixed!(":status", "500", Kind::Pseudo(Pseudo::Status), None),
    fixed!("accept-charset", "", Kind::Plain, None),
    fixed!("accept-encoding", "gzip, deflate", Kind::Plain, None),
    fixed!("accept-language", "", Kind::Plain, None),
    fixed!("accept-ranges", "", Kind::Plain, None),
    fixed!("accept", "", Kind::Plain, None),
    fixed!("access-control-allow-origin", "", Kind::Plain, None),
    fixed!("age", "", Kind::Plain, None),
    fixed!("allow", "", Kind::Plain, None),
    fixed!("authorization", "", Kind::Plain, None),
    fixed!("cache-control", "", Kind::Plain, None),
    fixed!("content-disposition", "", Kind::Plain, None),
    fixed!("content-encoding", "", Kind::Plain, None),
    fixed!("content-language", "", Kind::Plain, None),
    fixed!("content-length", "", Kind::Plain, Some(Known::ContentLength)),
    fixed!("content-location", "", Kind::Plain, None),
    fixed!("content-range", "", Kind::Plain, None),
    fixed!("content-type", "", Kind::Plain, Some(Known::ContentType)),
    fixed!("cookie", "", Kind::Cookie, None),
    fixed!("date", "", Kind::Plain, None),
    fixed!("etag", "", Kind::Plain, None),
    fixed!("expect", "", Kind::Plain, Some(Known::Expect)),
    fixed!("expires", "", Kind::Plain, None),
    fixed!("from", "", Kind::Plain, None),
    fixed!("host", "", Kind::Plain, Some(Known::Host)),
    fixed!("if-match", "", Kind::Plain, None),
    fixed!("if-modified-since", "", Kind::Plain, None),
    fixed!("if-none-match", "", Kind::Plain, None),
    fixed!("if-range", "", Kind::Plain, None),
    fixed!("if-unmodified-since", "", Kind::Plain, None),
    fixed!("last-modified", "", Kind::Plain, None),
    fixed!("link", "", Kind::Plain, None),
    fixed!("location", "", Kind::Plain, None),
    fixed!("max-forwards", "", Kind::Plain, None),
    fixed!("proxy-authenticate", "", Kind::Plain, None),
    fixed!("proxy-authorization", "", Kind::Plain, None),
    fixed!("range", "", Kind::Plain, None),
    fixed!("referer", "", Kind::Plain, None),
    fixed!("refresh", "", Kind::Plain, None),
    fixed!("retry-after", "", Kind::Plain, None),
    fixed!("server", "", Kind::Plain, None),
    fixed!("set-cookie", "", Kind::Plain, None),
    fixed!("strict-transport-security", "", Kind::Plain, None),
    fixed!("transfer-encoding", "", Kind::ConnectionSpecific, Some(Known::TransferEncoding)),
    fixed!("user-agent", "", Kind::Plain, None),
    fixed!("vary", "", Kind::Plain, None),
    fixed!("via", "", Kind::Plain, None),
    fixed!("www-authenticate", "", Kind::Plain, None),];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_them_is_what_would_be_told_anew() {
        for index in 1..DYNAMIC {
            let field = field(index).unwrap();
            assert_eq!(Name::of(field.name()), field.shape.name, "{index}");
            let fit = super::super::field::is_fit(field.shape.name.kind, field.value());
            assert!(field.shape.fit == fit || !matches!(field.shape.name.kind, Kind::Pseudo(_)), "{index}");
            let size = field.name().len() + field.value().len() + FIELD_BYTES;
            assert_eq!(field.shape.size as usize, size, "{index}");
            let first = index_of(field.name()).unwrap();
            assert!(first <= index && super::field(first).unwrap().name() == field.name(), "{index}");
            assert_eq!(index_of(&field.name().to_ascii_uppercase()), Some(first));
        }
        assert!(field(0).is_none() && field(DYNAMIC).is_none());
        assert_eq!(index_of(b"x-request-id"), None);
        assert_eq!(find(8, b":status", b"404"), Some(13));
        assert_eq!(find(16, b"Accept-Encoding", b"gzip, deflate"), Some(16));
        assert_eq!(find(2, b":method", b"PUT"), None);
        assert_eq!(find(61, b"www-authenticate", b""), None);
        assert_eq!(index_of(b""), None);
    }
}
