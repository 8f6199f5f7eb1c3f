//! Tables of request heads. A row that repeats a published attack carries its identifier.

use super::*;
use crate::h1::{FIELDS_ALLOWED_MAX, FIELDS_MAX};
use crate::message::BodyFraming::{Chunked, Length, None as Empty};

fn parse(bytes: &[u8]) -> Result<Option<ParsedRequest>, HeadFault> {
    RequestParser::new(Limits::default()).parse(&mut BytesMut::from(bytes))
}

/// The outcome when bytes arrive one at a time: the first fault or head, else `None`.
fn parse_in_drops(bytes: &[u8]) -> Result<Option<ParsedRequest>, HeadFault> {
    let (mut parser, mut buffer) = (RequestParser::new(Limits::default()), BytesMut::new());
    for byte in bytes {
        buffer.extend_from_slice(&[*byte]);
        if let Some(parsed) = parser.parse(&mut buffer)? {
            return Ok(Some(parsed));
        }
    }
    Ok(None)
}

fn refused(name: &str, head: &[u8], expected: HeadFault) {
    assert_eq!(parse(head).unwrap_err(), expected, "{name}: {:?}", String::from_utf8_lossy(head));
    assert_eq!(parse_in_drops(head).unwrap_err(), expected, "{name} in drops: {:?}", String::from_utf8_lossy(head));
}

/// `lines` stand between a good first line with `Host` and the end of the head.
fn refused_fields(name: &str, lines: &str, expected: HeadFault) {
    refused(name, format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").as_bytes(), expected);
}

fn accepted_fields(lines: &str, expected: BodyFraming) -> RequestHead {
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let parsed = parse(head.as_bytes()).unwrap_or_else(|fault| panic!("{fault}: {head:?}")).expect("whole head");
    assert_eq!(parsed.framing, expected, "{head:?}");
    assert_eq!(parse_in_drops(head.as_bytes()).unwrap(), Some(parsed.clone()), "{head:?}");
    parsed.head
}

#[test]
fn keeps_the_head_as_written() {
    let mut buffer = BytesMut::from(
        &b"GET /a%2Fb/../c?q=1&x HTTP/1.1\r\nhOsT: example.com\r\nX-A: \t 1\t \r\nx-a:\r\nX_b: \xff\"\r\n\r\nGET /next"
            [..],
    );
    let parsed = RequestParser::new(Limits::default()).parse(&mut buffer).unwrap().unwrap();
    assert_eq!(parsed.framing, Empty);
    assert_eq!(parsed.head.target, "/a%2Fb/../c?q=1&x");
    assert_eq!((parsed.head.path(), parsed.head.query()), (&b"/a%2Fb/../c"[..], Some(&b"q=1&x"[..])));
    let fields: Vec<_> = parsed.head.fields.iter().collect();
    let expected: [(&[u8], &[u8]); 4] = [(b"hOsT", b"example.com"), (b"X-A", b"1"), (b"x-a", b""), (b"X_b", b"\xff\"")];
    assert_eq!(fields, expected);
    assert_eq!(buffer, "GET /next", "bytes of the next request stay");
}

#[test]
fn waits_for_whole_heads() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n";
    for len in 0..head.len() {
        assert_eq!(parse(&head[..len]), Ok(None), "{len} bytes");
    }
    assert!(parse(head).unwrap().is_some());
}

#[test]
fn reads_pipelined_requests_one_by_one() {
    let mut parser = RequestParser::new(Limits::default());
    let mut buffer = BytesMut::from(
        &b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHo"[..],
    );
    assert_eq!(parser.parse(&mut buffer).unwrap().unwrap().head.target, "/1");
    assert_eq!(parser.parse(&mut buffer).unwrap().unwrap().head.target, "/2", "after one empty line");
    assert_eq!(parser.parse(&mut buffer), Ok(None));
    assert!(parser.in_head(&buffer));
    buffer.extend_from_slice(b"st: a\r\n\r\n");
    assert_eq!(parser.parse(&mut buffer).unwrap().unwrap().head.target, "/3");
    assert!(!parser.in_head(&buffer));
}

#[test]
fn accepts_all_forms_of_targets() {
    fn check(line: &str, host: &str, authority: Option<&str>, scheme: Option<&str>, path: &str) {
        let head = format!("{line}\r\n{host}\r\n");
        let parsed = parse(head.as_bytes()).unwrap_or_else(|fault| panic!("{fault}: {head:?}")).expect("whole head");
        let text = |bytes: Option<Bytes>| bytes.map(|b| String::from_utf8(b.to_vec()).unwrap());
        assert_eq!(text(parsed.head.authority.clone()).as_deref(), authority, "{head:?}");
        assert_eq!(text(parsed.head.scheme.clone()).as_deref(), scheme, "{head:?}");
        assert_eq!(parsed.head.path_and_query(), path.as_bytes(), "{head:?}");
    }
    check("GET / HTTP/1.1", "Host: a\r\n", None, None, "/");
    check("GET //a//b HTTP/1.1", "Host: a\r\n", None, None, "//a//b");
    check("GET /\\<>`|^{}\" HTTP/1.1", "Host: a\r\n", None, None, "/\\<>`|^{}\"");
    check("GET /b\u{fc}cher HTTP/1.1", "Host: a\r\n", None, None, "/b\u{fc}cher");
    check("GET /?http://b/ HTTP/1.1", "Host: a\r\n", None, None, "/?http://b/");
    check("OPTIONS * HTTP/1.1", "Host: a\r\n", None, None, "*");
    check("GET http://a HTTP/1.1", "Host: a\r\n", Some("a"), Some("http"), "/");
    check("GET HTTP://A:80/x?y HTTP/1.1", "Host: a\r\n", Some("A:80"), Some("HTTP"), "/x?y");
    check("GET https://a:443/ HTTP/1.1", "Host: a\r\n", Some("a:443"), Some("https"), "/");
    check("GET http://[::1]:81/ HTTP/1.1", "Host: [::1]:81\r\n", Some("[::1]:81"), Some("http"), "/");
    check("GET http://a/ HTTP/1.0", "", Some("a"), Some("http"), "/");
    check("CONNECT a:443 HTTP/1.1", "Host: a:443\r\n", Some("a:443"), None, "");
    check("CONNECT a:443 HTTP/1.1", "Host: a\r\n", Some("a:443"), None, "");
    check("CONNECT [::1]:1 HTTP/1.0", "", Some("[::1]:1"), None, "");
    check("GET / HTTP/1.0", "", None, None, "/");
    check("M-SEARCH / HTTP/1.1", "Host: a\r\n", None, None, "/");
    check("get / HTTP/1.1", "Host: a\r\n", None, None, "/");
}

#[test]
fn refuses_first_lines() {
    use HeadFault::*;
    let cases: &[(&str, &str, HeadFault)] = &[
        ("no method", " / HTTP/1.1", Method),
        ("method with bracket", "GE[T / HTTP/1.1", Method),
        ("method with colon", "GET: / HTTP/1.1", Method),
        ("method with control", "G\x01T / HTTP/1.1", Method),
        ("method with high byte", "G\u{e9}T / HTTP/1.1", Method),
        ("method after tab", "\tGET / HTTP/1.1", Method),
        ("method with quote", "\"GET\" / HTTP/1.1", Method),
        ("tab after method", "GET\t/ HTTP/1.1", Method),
        ("two blanks after method", "GET  / HTTP/1.1", RequestLine),
        ("two blanks before version", "GET /  HTTP/1.1", RequestLine),
        ("trailing blank", "GET / HTTP/1.1 ", RequestLine),
        ("blank in target", "GET /a b HTTP/1.1", RequestLine),
        ("no target", "GET HTTP/1.1", RequestLine),
        ("HTTP/0.9", "GET /", RequestLine),
        ("method alone", "GET", RequestLine),
        ("NUL in target", "GET /\0 HTTP/1.1", Target),
        ("tab in target", "GET /\t HTTP/1.1", Target),
        ("DEL in target", "GET /\x7f HTTP/1.1", Target),
        ("vertical tab in target", "GET /\x0b HTTP/1.1", Target),
        ("CVE-2023-45539 fragment", "GET /a#b HTTP/1.1", Target),
        ("CVE-2023-45539 fragment alone", "GET # HTTP/1.1", Target),
        ("relative path", "GET a/b HTTP/1.1", Target),
        ("query alone", "GET ?a HTTP/1.1", Target),
        ("backslash first", "GET \\a HTTP/1.1", Target),
        ("authority-form without CONNECT", "GET a:80 HTTP/1.1", Target),
        ("foreign scheme", "GET ftp://a/ HTTP/1.1", Target),
        ("scheme without slashes", "GET http:a HTTP/1.1", Target),
        ("scheme with one slash", "GET http:/a HTTP/1.1", Target),
        ("file scheme", "GET file:///etc/passwd HTTP/1.1", Target),
        ("javascript scheme", "GET javascript:x HTTP/1.1", Target),
        ("absolute without path but query", "GET http://a?b HTTP/1.1", Target),
        ("absolute with fragment", "GET http://a/#b HTTP/1.1", Target),
        ("absolute without host", "GET http:///a HTTP/1.1", TargetAuthority),
        ("absolute with userinfo", "GET http://u@a/ HTTP/1.1", TargetAuthority),
        ("absolute with credentials", "GET http://u:p@a/ HTTP/1.1", TargetAuthority),
        ("absolute with bad port", "GET http://a:x/ HTTP/1.1", TargetAuthority),
        ("absolute with backslash host", "GET http://a\\b/ HTTP/1.1", TargetAuthority),
        ("absolute and other host", "GET http://b/ HTTP/1.1", HostMismatch),
        ("absolute and other port", "GET http://a:81/ HTTP/1.1", HostMismatch),
        ("absolute https and default port of http", "GET https://a:80/ HTTP/1.1", HostMismatch),
        ("asterisk with GET", "GET * HTTP/1.1", AsteriskTarget),
        ("asterisk with something", "OPTIONS *a HTTP/1.1", Target),
        ("CONNECT with path", "CONNECT / HTTP/1.1", ConnectTarget),
        ("CONNECT without port", "CONNECT a HTTP/1.1", ConnectTarget),
        ("CONNECT with empty port", "CONNECT a: HTTP/1.1", ConnectTarget),
        ("CONNECT with port 0", "CONNECT a:0 HTTP/1.1", ConnectTarget),
        ("CONNECT with absolute-form", "CONNECT http://a:80/ HTTP/1.1", ConnectTarget),
        ("CONNECT with userinfo", "CONNECT u@a:80 HTTP/1.1", ConnectTarget),
        ("CONNECT with asterisk", "CONNECT * HTTP/1.1", ConnectTarget),
        ("CONNECT to another host", "CONNECT b:80 HTTP/1.1", HostMismatch),
        ("HTTP/2 preface", "PRI * HTTP/2.0", VersionUnsupported),
        ("HTTP/1.2", "GET / HTTP/1.2", VersionUnsupported),
        ("HTTP/0.9 written", "GET / HTTP/0.9", VersionUnsupported),
        ("HTTP/9.9", "GET / HTTP/9.9", VersionUnsupported),
        ("two digits", "GET / HTTP/1.10", VersionMalformed),
        ("no minor", "GET / HTTP/1", VersionMalformed),
        ("comma for dot", "GET / HTTP/1,1", VersionMalformed),
        ("lower case", "GET / http/1.1", VersionMalformed),
        ("other protocol", "GET / RTSP/1.0", VersionMalformed),
        ("leading zero", "GET / HTTP/01.1", VersionMalformed),
        ("version with tab", "GET / HTTP/1.1\t", VersionMalformed),
        ("ICY", "ICY 200 OK", VersionMalformed),
    ];
    for (name, line, expected) in cases {
        refused(name, format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), *expected);
    }
    refused("target not UTF-8", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", Target);
}

#[test]
fn refuses_line_ends_but_crlf() {
    use HeadFault::*;
    let cases: &[(&str, &[u8], HeadFault)] = &[
        ("bare LF after request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf),
        ("bare LF after field", b"GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", BareLf),
        ("bare LF after last field", b"GET / HTTP/1.1\r\nHost: a\n\r\n", BareLf),
        ("bare LF after empty value", b"GET / HTTP/1.1\r\nHost: a\r\nB:\nC: d\r\n\r\n", BareLf),
        ("bare LF after blanks", b"GET / HTTP/1.1\r\nHost: a\r\nB: c \t\nC: d\r\n\r\n", BareLf),
        ("bare LF for the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf),
        ("all bare LF", b"GET / HTTP/1.1\nHost: a\n\n", BareLf),
        ("bare LF and no field", b"GET / HTTP/1.0\n\r\n", BareLf),
        ("bare CR in request line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", BareCr),
        ("bare CR for request line end", b"GET / HTTP/1.1\rHost: a\r\n\r\n", BareCr),
        ("bare CR in value", b"GET / HTTP/1.1\r\nHost: a\r\nB: c\rd: e\r\n\r\n", BareCr),
        ("bare CR in name", b"GET / HTTP/1.1\r\nHost: a\r\nB\r: c\r\n\r\n", BareCr),
        ("bare CR before CRLF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", BareCr),
        ("bare CR line", b"GET / HTTP/1.1\r\nHost: a\r\n\rB: c\r\n\r\n", BareCr),
        ("LF CR", b"GET / HTTP/1.1\n\rHost: a\r\n\r\n", BareLf),
        ("LF before request", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLf),
        ("CR before request", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareCr),
        ("two empty lines before request", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", EmptyLine),
        ("empty line and LF before request", b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", EmptyLine),
    ];
    for (name, head, expected) in cases {
        refused(name, head, *expected);
    }
}

#[test]
fn refuses_field_lines() {
    use HeadFault::*;
    let cases: &[(&str, &str, HeadFault)] = &[
        ("obs-fold", "A: b\r\n c", ObsFold),
        ("obs-fold with tab", "A: b\r\n\tc", ObsFold),
        ("obs-fold of framing", "Transfer-Encoding:\r\n chunked", ObsFold),
        ("fold of blanks only", "A: b\r\n \r\nC: d", ObsFold),
        ("space before colon", "Transfer-Encoding : chunked", SpaceBeforeColon),
        ("tab before colon", "Content-Length\t: 1", SpaceBeforeColon),
        ("CVE-2019-16276 space before colon", "Host : b", SpaceBeforeColon),
        ("CVE-2023-25725 empty name", ": a", EmptyName),
        ("empty name and value", ":", EmptyName),
        ("no colon", "Chunked", MissingColon),
        ("no colon, blank", "Transfer-Encoding chunked", MissingColon),
        ("blank in name", "Content Length: 1", FieldName),
        ("NUL in name", "A\0B: c", FieldName),
        ("control in name", "A\x0bB: c", FieldName),
        ("high byte in name", "\u{e9}: c", FieldName),
        ("bracket in name", "A[0]: c", FieldName),
        ("slash in name", "A/B: c", FieldName),
        ("quotes in name", "\"A\": c", FieldName),
        ("parenthesis in name", "A(: c", FieldName),
        ("pseudo-header", ":authority: b", EmptyName),
        ("CVE-2019-9900 NUL in value", "A: b\0c", FieldValue),
        ("CVE-2019-18802 control in value", "Transfer-Encoding: \x0bchunked", FieldValue),
        ("vertical tab after value", "Transfer-Encoding: chunked\x0b", FieldValue),
        ("form feed in value", "A: \x0c", FieldValue),
        ("backspace in value", "A: \x08", FieldValue),
        ("DEL in value", "A: \x7f", FieldValue),
        ("escape in value", "A: \x1b[0m", FieldValue),
    ];
    for (name, lines, expected) in cases {
        refused_fields(name, lines, *expected);
    }
    refused("fold before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", ObsFold);
}

#[test]
fn refuses_framing_that_could_be_read_twice() {
    use HeadFault::*;
    let long_name = format!("Content-Length0{}: 1\r\nContent-Length: 10, 1", "a".repeat(255));
    let cases: &[(&str, &str, HeadFault)] = &[
        ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked", LengthAndTransferEncoding),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 6", LengthAndTransferEncoding),
        ("CL 0 with TE", "Content-Length: 0\r\nTransfer-Encoding: chunked", LengthAndTransferEncoding),
        ("RUSTSEC-2021-0078 plus sign", "Content-Length: +3", ContentLength),
        ("minus sign", "Content-Length: -1", ContentLength),
        ("CVE-2023-40225 empty length", "Content-Length:", ContentLength),
        ("blank length", "Content-Length: \t ", ContentLength),
        ("CVE-2021-40346 list behind a long name", &long_name, ContentLength),
        ("equal list", "Content-Length: 5, 5", ContentLength),
        ("trailing comma", "Content-Length: 5,", ContentLength),
        ("hexadecimal", "Content-Length: 0x5", ContentLength),
        ("octal letter", "Content-Length: 0o5", ContentLength),
        ("fraction", "Content-Length: 5.0", ContentLength),
        ("exponent", "Content-Length: 1e1", ContentLength),
        ("underscore", "Content-Length: 1_0", ContentLength),
        ("blank inside", "Content-Length: 1 0", ContentLength),
        ("semicolon", "Content-Length: 5;a", ContentLength),
        ("quoted", "Content-Length: \"5\"", ContentLength),
        ("other digits", "Content-Length: \u{665}", ContentLength),
        ("CVE-2019-18801 2^64", "Content-Length: 18446744073709551616", ContentLength),
        ("many digits", "Content-Length: 99999999999999999999999999", ContentLength),
        ("repeated, equal", "Content-Length: 5\r\nContent-Length: 5", ContentLengthRepeated),
        ("repeated, different", "Content-Length: 5\r\ncontent-length: 6", ContentLengthRepeated),
        ("CVE-2019-18277 unknown coding", "Transfer-Encoding: xchunked", TransferEncoding),
        ("chunked last in a comment", "Transfer-Encoding: x (chunked)", TransferEncoding),
        ("identity", "Transfer-Encoding: identity", TransferEncoding),
        ("gzip alone", "Transfer-Encoding: gzip", TransferEncoding),
        ("chunked not last", "Transfer-Encoding: chunked, identity", TransferEncoding),
        ("chunked not last, two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", TransferEncoding),
        ("chunked twice", "Transfer-Encoding: chunked, chunked", TransferEncoding),
        ("chunked twice, two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", TransferEncoding),
        ("empty", "Transfer-Encoding:", TransferEncoding),
        ("empty element first", "Transfer-Encoding: ,chunked", TransferEncoding),
        ("empty element last", "Transfer-Encoding: chunked,", TransferEncoding),
        ("quoted chunked", "Transfer-Encoding: \"chunked\"", TransferEncoding),
        ("single quotes", "Transfer-Encoding: 'chunked'", TransferEncoding),
        ("parameter", "Transfer-Encoding: chunked;q=1", TransferEncoding),
        ("semicolon", "Transfer-Encoding: chunked;", TransferEncoding),
        ("blank inside", "Transfer-Encoding: chu nked", TransferEncoding),
        ("colon first", "Transfer-Encoding: :chunked", TransferEncoding),
        ("high byte", "Transfer-Encoding: \u{a0}chunked", TransferEncoding),
        ("long s", "Transfer-Encoding: \u{17f}chunked", TransferEncoding),
        ("cow", "Transfer-Encoding: cow", TransferEncoding),
        ("gzip and chunked", "Transfer-Encoding: gzip, chunked", TransferEncodingUnsupported),
        (
            "gzip and chunked, two lines",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            TransferEncodingUnsupported,
        ),
        ("CVE-2019-20372 bad TE and CL", "Transfer-Encoding: x\r\nContent-Length: 3", LengthAndTransferEncoding),
        ("0.CL by an odd expectation", "Expect: y 100-continue\r\nContent-Length: 3", Expectation),
        ("expectation list", "Expect: 100-continue, x", Expectation),
        ("empty expectation", "Expect:", Expectation),
    ];
    for (name, lines, expected) in cases {
        refused_fields(name, lines, *expected);
    }
    refused(
        "CVE-2026-2835 TE in HTTP/1.0",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        TransferEncodingForbidden,
    );
    refused(
        "TE and CL in HTTP/1.0",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        TransferEncodingForbidden,
    );
    refused("CONNECT with length", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 4\r\n\r\n", BodyOnConnect);
    refused(
        "CONNECT chunked",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n",
        BodyOnConnect,
    );
}

#[test]
fn decides_framing() {
    accepted_fields("", Empty);
    accepted_fields("Content-Length: 0\r\n", Length(0));
    accepted_fields("Content-Length: 18446744073709551615\r\n", Length(u64::MAX));
    accepted_fields("Content-Length: \t 0005 \t\r\n", Length(5));
    accepted_fields("cOnTeNt-LeNgTh:7\r\n", Length(7));
    accepted_fields("Transfer-Encoding: chunked\r\n", Chunked);
    accepted_fields("transfer-encoding:\tCHUNKED \r\n", Chunked);
    accepted_fields("Content-Length-X: a\r\nX-Transfer-Encoding: b\r\n", Empty);
    let head = accepted_fields("Expect: 100-Continue\r\nContent-Length: 1\r\n", Length(1));
    assert!(head.expects_continue());
}

#[test]
fn refuses_hosts() {
    use HeadFault::*;
    let cases: &[(&str, &str, HeadFault)] = &[
        ("none", "", HostMissing),
        ("empty", "Host:\r\n", HostInvalid),
        ("two", "Host: a\r\nHost: b\r\n", HostRepeated),
        ("two equal", "Host: a\r\nhost: a\r\n", HostRepeated),
        ("list", "Host: a, b\r\n", HostInvalid),
        ("blank inside", "Host: a b\r\n", HostInvalid),
        ("userinfo", "Host: u@a\r\n", HostInvalid),
        ("path", "Host: a/b\r\n", HostInvalid),
        ("URL", "Host: http://a\r\n", HostInvalid),
        ("query", "Host: a?b\r\n", HostInvalid),
        ("fragment", "Host: a#b\r\n", HostInvalid),
        ("backslash", "Host: a\\b\r\n", HostInvalid),
        ("port not a number", "Host: a:b\r\n", HostInvalid),
        ("port too large", "Host: a:65536\r\n", HostInvalid),
        ("port empty", "Host: a:\r\n", HostInvalid),
        ("two ports", "Host: a:1:2\r\n", HostInvalid),
        ("open bracket", "Host: [::1\r\n", HostInvalid),
        ("bare IPv6", "Host: ::1\r\n", HostInvalid),
        ("high byte", "Host: b\u{fc}cher\r\n", HostInvalid),
    ];
    for (name, lines, expected) in cases {
        refused(name, format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes(), *expected);
    }
    refused("invalid even in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", HostInvalid);
    refused("absolute-form does not replace Host", b"GET http://a/ HTTP/1.1\r\n\r\n", HostMissing);
}

#[test]
fn bounds_what_it_holds() {
    let limits = Limits { head_bytes_max: 200, request_line_bytes_max: 60, fields_max: 3, ..Limits::default() };
    let check = |head: &str, expected: Result<bool, HeadFault>| {
        let mut whole = RequestParser::new(limits);
        let got = whole.parse(&mut BytesMut::from(head)).map(|parsed| parsed.is_some());
        assert_eq!(got, expected, "{} bytes: {head:?}", head.len());
        let (mut drops, mut buffer, mut got) = (RequestParser::new(limits), BytesMut::new(), Ok(false));
        for byte in head.bytes() {
            buffer.extend_from_slice(&[byte]);
            got = drops.parse(&mut buffer).map(|parsed| parsed.is_some());
            if got != Ok(false) {
                break;
            }
        }
        assert_eq!(got, expected, "in drops, {} bytes: {head:?}", head.len());
    };
    let with_path = |len: usize, rest: &str| format!("GET /{} HTTP/1.1\r\n{rest}", "p".repeat(len));
    let with_value = |len: usize, rest: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nV: {}{rest}", "v".repeat(len));
    check(&with_path(44, "Host: a\r\n\r\n"), Ok(true));
    check(&with_path(45, "Host: a\r\n\r\n"), Err(HeadFault::TargetTooLong));
    check(&with_path(45, ""), Err(HeadFault::TargetTooLong));
    check(&"G".repeat(59), Ok(false));
    check(&"G".repeat(60), Err(HeadFault::TargetTooLong));
    check(&with_value(168, "\r\n\r\n"), Ok(true));
    check(&with_value(169, "\r\n\r\n"), Err(HeadFault::HeadTooLarge));
    check(&with_value(300, ""), Err(HeadFault::HeadTooLarge));
    check("GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\n\r\n", Ok(true));
    check("GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\n\r\n", Err(HeadFault::TooManyFields));
}

#[test]
fn default_limits_hold() {
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(n - 1));
    assert!(parse(fields(FIELDS_MAX).as_bytes()).unwrap().is_some());
    assert_eq!(parse(fields(FIELDS_MAX + 1).as_bytes()), Err(HeadFault::TooManyFields));
    let value = |len: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "v".repeat(len));
    assert!(parse(value(95 * 1024).as_bytes()).unwrap().is_some());
    assert_eq!(parse(value(96 * 1024).as_bytes()), Err(HeadFault::HeadTooLarge));
    let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "t".repeat(len));
    assert!(parse(target(65_000).as_bytes()).unwrap().is_some());
    assert_eq!(parse(target(66_000).as_bytes()), Err(HeadFault::TargetTooLong));
}

#[test]
fn limits_above_the_storage_are_cut() {
    let mut parser = RequestParser::new(Limits { fields_max: usize::MAX, ..Limits::default() });
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_ALLOWED_MAX));
    assert_eq!(parser.parse(&mut BytesMut::from(head.as_str())), Err(HeadFault::TooManyFields));
}

#[test]
fn a_bad_request_line_is_refused_before_the_head_is_whole() {
    for line in ["GET / HTTP/3.0\r\n", "G[T / HTTP/1.1\r\n", "GET /\r\n"] {
        assert!(parse(line.as_bytes()).is_err(), "{line:?}");
        assert!(parse_in_drops(line.as_bytes()).is_err(), "{line:?} in drops");
    }
}
