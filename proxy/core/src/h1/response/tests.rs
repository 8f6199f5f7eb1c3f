//! Tables of response heads and of the framing rules that depend on the request.

use super::*;
use crate::h1::FIELDS_MAX;
use crate::message::BodyFraming::{Chunked, Length, None as Empty, UntilClose};

const GET: Asked = Asked { head: false, connect: false, upgrade: false };
const HEAD: Asked = Asked { head: true, ..GET };
const CONNECT: Asked = Asked { connect: true, ..GET };
const UPGRADE: Asked = Asked { upgrade: true, ..GET };

fn parse(bytes: &[u8], asked: Asked) -> Result<Option<ParsedResponse>, HeadFault> {
    let whole = ResponseParser::new(Limits::default()).parse(&mut BytesMut::from(bytes), asked);
    let (mut parser, mut buffer, mut drops) = (ResponseParser::new(Limits::default()), BytesMut::new(), Ok(None));
    for byte in bytes {
        buffer.extend_from_slice(&[*byte]);
        drops = parser.parse(&mut buffer, asked);
        if drops != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, drops, "whole and in drops: {:?}", String::from_utf8_lossy(bytes));
    whole
}

#[test]
fn keeps_the_head_as_written() {
    let mut buffer = BytesMut::from(
        &b"HTTP/1.1 299 F\xfcnf  gerade \r\nX-A: 1\r\nset-COOKIE: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\r\nhello"
            [..],
    );
    let parsed = ResponseParser::new(Limits::default()).parse(&mut buffer, GET).unwrap().unwrap();
    assert_eq!((parsed.framing, parsed.tunnel), (Length(5), false));
    assert_eq!((parsed.head.status, parsed.head.version), (299, Version::Http11));
    assert_eq!(parsed.head.reason, &b"F\xfcnf  gerade "[..]);
    let names: Vec<_> = parsed.head.fields.iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"X-A"[..], b"set-COOKIE", b"Set-Cookie", b"Content-Length"]);
    assert_eq!(buffer, "hello");
}

#[test]
fn reads_interim_responses_before_the_final_one() {
    let mut parser = ResponseParser::new(Limits::default());
    let mut buffer = BytesMut::from(
        &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..],
    );
    let mut next = || parser.parse(&mut buffer, GET).unwrap().unwrap();
    let (first, second, last) = (next(), next(), next());
    assert!(first.head.is_interim() && second.head.is_interim() && !last.head.is_interim());
    assert_eq!((first.framing, second.framing, last.framing), (Empty, Empty, Length(0)));
    assert_eq!(second.head.fields.get("link"), Some(&b"a"[..]));
    assert!(buffer.is_empty());
}

#[test]
fn decides_framing() {
    fn check(status: u16, fields: &str, asked: Asked, framing: BodyFraming, tunnel: bool) {
        let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        let parsed = parse(head.as_bytes(), asked).unwrap_or_else(|fault| panic!("{fault}: {head:?}")).unwrap();
        assert_eq!((parsed.framing, parsed.tunnel), (framing, tunnel), "{asked:?} {head:?}");
    }
    let (cl, te) = ("Content-Length: 7\r\n", "Transfer-Encoding: chunked\r\n");
    let both = format!("{cl}{te}");
    check(200, "", GET, UntilClose, false);
    check(200, cl, GET, Length(7), false);
    check(200, te, GET, Chunked, false);
    check(404, "", GET, UntilClose, false);
    check(999, cl, GET, Length(7), false);
    check(200, "", HEAD, Empty, false);
    check(200, cl, HEAD, Empty, false);
    check(200, te, HEAD, Empty, false);
    check(304, "", GET, Empty, false);
    check(304, cl, GET, Empty, false);
    check(304, te, GET, Empty, false);
    check(204, "", GET, Empty, false);
    check(204, "Content-Length: 0\r\n", GET, Empty, false);
    check(100, "", GET, Empty, false);
    check(103, "Content-Length: 0\r\n", GET, Empty, false);
    check(101, "Upgrade: websocket\r\nConnection: Upgrade\r\n", UPGRADE, Empty, true);
    check(200, cl, UPGRADE, Length(7), false);
    check(200, "", CONNECT, Empty, true);
    check(200, cl, CONNECT, Empty, true);
    check(299, te, CONNECT, Empty, true);
    check(200, &both, CONNECT, Empty, true);
    check(407, cl, CONNECT, Length(7), false);
    check(500, "", CONNECT, UntilClose, false);
    check(204, "", CONNECT, Empty, true);
    // Fields that only requests give a meaning to.
    check(200, "Host: a b\r\nHost: c\r\nExpect: x\r\n", GET, UntilClose, false);
}

#[test]
fn refuses_heads() {
    use HeadFault::*;
    let cases: &[(&str, &[u8], HeadFault)] = &[
        ("empty line first", b"\r\nHTTP/1.1 200 OK\r\n\r\n", StatusLine),
        ("LF first", b"\nHTTP/1.1 200 OK\r\n\r\n", StatusLine),
        ("not HTTP", b"SSH-2.0-OpenSSH\r\n\r\n", VersionMalformed),
        ("HTTP/0.9 body", b"<html>\r\n\r\n", VersionMalformed),
        ("ICY", b"ICY 200 OK\r\n\r\n", VersionMalformed),
        ("HTTP/2.0", b"HTTP/2.0 200 OK\r\n\r\n", VersionUnsupported),
        ("HTTP/1.2", b"HTTP/1.2 200 OK\r\n\r\n", VersionUnsupported),
        ("no minor", b"HTTP/1 200 OK\r\n\r\n", VersionMalformed),
        ("two blanks", b"HTTP/1.1  200 OK\r\n\r\n", StatusCode),
        ("two digits", b"HTTP/1.1 20 OK\r\n\r\n", StatusCode),
        ("four digits", b"HTTP/1.1 2000 OK\r\n\r\n", StatusCode),
        ("plus", b"HTTP/1.1 +20 OK\r\n\r\n", StatusCode),
        ("letters", b"HTTP/1.1 2xx OK\r\n\r\n", StatusCode),
        ("no code", b"HTTP/1.1 \r\n\r\n", StatusCode),
        ("code 000", b"HTTP/1.1 000 Zero\r\n\r\n", StatusCode),
        ("code 099", b"HTTP/1.1 099 Low\r\n\r\n", StatusCode),
        ("NUL in reason", b"HTTP/1.1 200 O\0K\r\n\r\n", StatusLine),
        ("escape in reason", b"HTTP/1.1 200 \x1b[2J\r\n\r\n", StatusLine),
        ("bare CR in reason", b"HTTP/1.1 200 O\rK\r\n\r\n", BareCr),
        ("bare LF after status line", b"HTTP/1.1 200 OK\nA: b\r\n\r\n", BareLf),
        ("bare LF after code", b"HTTP/1.1 200\nA: b\r\n\r\n", BareLf),
        ("bare LF after field", b"HTTP/1.1 200 OK\r\nA: b\n\r\n", BareLf),
        ("bare LF at the end", b"HTTP/1.1 200 OK\r\nA: b\r\n\n", BareLf),
        ("obs-fold", b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", ObsFold),
        ("space before colon", b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n", SpaceBeforeColon),
        ("empty name", b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", EmptyName),
        ("no colon", b"HTTP/1.1 200 OK\r\nabc\r\n\r\n", MissingColon),
        ("NUL in value", b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", FieldValue),
        (
            "CL and TE",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            LengthAndTransferEncoding,
        ),
        ("CL twice", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", ContentLengthRepeated),
        ("CL list", b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", ContentLength),
        ("CL sign", b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", ContentLength),
        ("TE unknown", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\n", TransferEncoding),
        ("TE not final", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", TransferEncoding),
        ("TE gzip", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", TransferEncodingUnsupported),
        ("TE in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingForbidden),
        ("TE in 204", b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingForbidden),
        ("TE in 100", b"HTTP/1.1 100 X\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingForbidden),
        ("CL in 204", b"HTTP/1.1 204 X\r\nContent-Length: 3\r\n\r\n", ContentLengthForbidden),
        ("CL in 103", b"HTTP/1.1 103 X\r\nContent-Length: 3\r\n\r\n", ContentLengthForbidden),
        ("CVE-2026-2833 unsolicited 101", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", UnsolicitedUpgrade),
    ];
    for (name, head, expected) in cases {
        assert_eq!(parse(head, GET).unwrap_err(), *expected, "{name}");
    }
    assert_eq!(parse(b"HTTP/1.1 101 X\r\n\r\n", CONNECT), Err(UnsolicitedUpgrade));
}

#[test]
fn accepts_a_missing_reason() {
    for line in ["HTTP/1.1 200 \r\n\r\n", "HTTP/1.1 200\r\n\r\n", "HTTP/1.0 200\r\nA: b\r\n\r\n"] {
        assert_eq!(parse(line.as_bytes(), GET).unwrap().unwrap().head.reason, "", "{line:?}");
    }
}

#[test]
fn bounds_what_it_holds() {
    let value = |len: usize| format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "v".repeat(len));
    assert!(parse(value(90 * 1024).as_bytes(), GET).unwrap().is_some());
    assert_eq!(parse(value(96 * 1024).as_bytes(), GET), Err(HeadFault::HeadTooLarge));
    let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(n));
    assert!(parse(fields(FIELDS_MAX).as_bytes(), GET).unwrap().is_some());
    assert_eq!(parse(fields(FIELDS_MAX + 1).as_bytes(), GET), Err(HeadFault::TooManyFields));
}
