use bytes::{Bytes, BytesMut};
use http::Method;

use super::*;
use crate::h1::{RequestParser, encode_request_head, encode_response_head};
use crate::http2::hpack::{BlockLimits, Decoder, Encoder};
use crate::http2::testing::literals;
use crate::translate::tests::{h1_request, on_wire};
use crate::translate::{request_for_h1, response_for_h1};

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn block_of<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>, limits: &Limits) -> Block {
    let mut block = Block::new();
    Decoder::new(4096).decode(&literals(fields), BlockLimits::of(limits), &mut block).unwrap();
    block
}

fn as_bytes<'a>(fields: Pairs<'a>) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    fields.iter().map(|(name, value)| (*name, value.as_bytes()))
}

/// A request for `uri`: scheme, authority and path; path alone; or, for CONNECT, an authority.
fn h2_block(method: &str, uri: &str, fields: Pairs<'_>, limits: &Limits) -> Block {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("http", uri));
    let slash = if uri == "*" { 0 } else { rest.find('/').unwrap_or(rest.len()) };
    let (authority, path) = rest.split_at(slash);
    let mut all = vec![(":method", method)];
    if method != "CONNECT" {
        all.extend([(":scheme", scheme), (":path", path)]);
    }
    if !authority.is_empty() {
        all.push((":authority", authority));
    }
    all.extend_from_slice(fields);
    block_of(as_bytes(&all), limits)
}

fn from_h2(method: &str, uri: &str, fields: Pairs<'_>, end: bool) -> Result<ParsedRequest, HeadFault> {
    let limits = Limits::default();
    request(&mut h2_block(method, uri, fields, &limits), end, &limits)
}

fn list(pairs: Pairs<'_>) -> Fields {
    pairs.iter().copied().collect()
}

#[test]
fn takes_over_requests() {
    let fields = [
        ("x-b", "1"),
        ("cookie", "a=1"),
        ("x-a", " 2 "),
        ("cookie", "b=2"),
        ("x-b", "3"),
        ("cookie", " "),
        ("cookie", "c"),
    ];
    let ParsedRequest { head, framing } = from_h2("POST", "https://A.example:444/p%2F?q", &fields, false).unwrap();
    assert_eq!(head.target, "/p%2F?q");
    assert_eq!(head.host(), Some(&b"A.example:444"[..]), "as written");
    assert_eq!((head.scheme.as_deref(), head.version), (Some(&b"https"[..]), Version::Http2));
    assert_eq!(framing, BodyFraming::Chunked);
    assert_eq!(head.fields, list(&[("x-b", "1"), ("cookie", "a=1; b=2; c"), ("x-a", "2"), ("x-b", "3")]));
}

#[test]
fn frames_requests_by_stream_and_length() {
    fn check(method: &str, fields: Pairs<'_>, end: bool, expected: Result<BodyFraming, HeadFault>) {
        assert_eq!(from_h2(method, "http://a/", fields, end).map(|p| p.framing), expected, "{fields:?} {end}");
    }
    check("GET", &[], true, Ok(BodyFraming::None));
    check("GET", &[], false, Ok(BodyFraming::Chunked));
    check("PUT", &[("content-length", "5")], false, Ok(BodyFraming::Length(5)));
    check("PUT", &[("content-length", "0")], true, Ok(BodyFraming::None));
    check("PUT", &[("content-length", "5")], true, Err(HeadFault::LengthWithoutBody));
    check("PUT", &[("content-length", "5"), ("content-length", "5")], false, Err(HeadFault::ContentLengthRepeated));
    check("PUT", &[("content-length", "5, 5")], false, Err(HeadFault::ContentLength));
    check("PUT", &[("content-length", "+5")], false, Err(HeadFault::ContentLength));
    check("PUT", &[("content-length", "")], false, Err(HeadFault::ContentLength));
}

#[test]
fn refuses_requests_that_a_downgrade_would_smuggle() {
    use HeadFault::*;
    let cases: &[(&str, &str, Pairs<'_>, HeadFault)] = &[
        ("GET", "http://a/", &[("connection", "close")], ConnectionSpecific),
        ("GET", "http://a/", &[("keep-alive", "1")], ConnectionSpecific),
        ("GET", "http://a/", &[("proxy-connection", "close")], ConnectionSpecific),
        ("GET", "http://a/", &[("upgrade", "h2c")], ConnectionSpecific),
        ("GET", "http://a/", &[("http2-settings", "AAMAAABk")], ConnectionSpecific),
        // H2.TE (2021)
        ("POST", "http://a/", &[("transfer-encoding", "chunked")], ConnectionSpecific),
        ("GET", "http://a/", &[("te", "gzip")], TeNotTrailers),
        ("GET", "http://a/", &[("te", "trailers, chunked")], TeNotTrailers),
        ("GET", "http://a/", &[("expect", "x")], Expectation),
        ("GET", "http://a/", &[("host", "b")], HostMismatch),
        ("GET", "http://a/", &[("host", "a:81")], HostMismatch),
        ("GET", "http://a/", &[("host", "a"), ("host", "a")], HostRepeated),
        ("GET", "http://a/", &[("host", "a/b")], HostInvalid),
        ("GET", "http://a/", &[("host", "")], HostInvalid),
        ("GET", "http://u@a/", &[], AuthorityInvalid),
        ("GET", "http://u:p@a/", &[], AuthorityInvalid),
        ("GET", "http://a:0/", &[], AuthorityInvalid),
        ("GET", "http://a:/", &[], AuthorityInvalid),
        ("GET", "ftp://a/", &[], Scheme),
        ("GET", "/", &[], AuthorityMissing),
        ("GET", "*", &[("host", "a")], Path),
        ("CONNECT", "a", &[], ConnectTarget),
        ("CONNECT", "u@a:1", &[], AuthorityInvalid),
        ("CONNECT", "", &[], AuthorityMissing),
        ("GET", "http://a%41/", &[], AuthorityInvalid),
        ("GET", "http://a", &[], Path),
        ("GET", "http://a/#b", &[], Path),
        ("GET", "http://a/b c", &[], Path),
        ("GET", "http://a/<", &[], Path),
        ("GET", "http://a/?\"", &[], Path),
        ("GET", "http://a/", &[("a\"", "b")], FieldName),
        ("GET", "http://a/", &[("A", "b")], FieldName),
        ("GET", "http://a/", &[("", "b")], FieldName),
        ("GET", "http://a/", &[("a b", "c")], FieldName),
        ("GET", "http://a/", &[("a", "b\r\nc: d")], FieldValue),
        ("GET", "http://a/", &[("a", "b\0")], FieldValue),
        ("GET", "http://a\n/", &[], FieldValue),
        ("G T", "http://a/", &[], Method),
        ("", "http://a/", &[], Method),
        ("GET", "http://a/", &[(":path", "/b")], PseudoRepeated),
        ("GET", "http://a/", &[("a", "b"), (":path", "/b")], PseudoLate),
        ("GET", "http://a/", &[(":unknown", "b")], PseudoUnknown),
        ("GET", "http://a/", &[(":", "b")], PseudoUnknown),
        ("GET", "http://a/", &[(":status", "200")], PseudoUnknown),
        ("GET", "http://a/", &[(":protocol", "websocket")], PseudoUnknown),
        ("CONNECT", "a:1", &[(":path", "/")], PseudoUnknown),
        ("CONNECT", "a:1", &[(":scheme", "http")], PseudoUnknown),
        ("CONNECT", "a:1", &[("content-length", "3")], BodyOnConnect),
        ("CONNECT", "a:1", &[("host", "b:1")], HostMismatch),
    ];
    for (method, uri, fields, expected) in cases {
        let got = from_h2(method, uri, fields, false).map(|p| p.head);
        assert_eq!(got, Err(*expected), "{method} {uri} {fields:?}");
    }
    from_h2("GET", "http://a/", &[("te", "Trailers"), ("host", "A:80")], true).unwrap();
    from_h2("GET", "/", &[("host", "a")], true).unwrap();
    from_h2("OPTIONS", "*", &[("host", "a")], true).unwrap();
    from_h2("CONNECT", "a:1", &[], false).unwrap();
}

#[test]
fn pseudo_fields_that_must_be_there() {
    let without = |name: &str| {
        let all = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
        let rest: Vec<_> = all.into_iter().filter(|(n, _)| *n != name).collect();
        let limits = Limits::default();
        request(&mut block_of(as_bytes(&rest), &limits), true, &limits).map(drop)
    };
    assert_eq!(without(""), Ok(()));
    assert_eq!(without(":method"), Err(HeadFault::PseudoMissing));
    assert_eq!(without(":scheme"), Err(HeadFault::PseudoMissing));
    assert_eq!(without(":authority"), Err(HeadFault::AuthorityMissing));
    assert_eq!(without(":path"), Err(HeadFault::PseudoMissing));
}

#[test]
fn limits_apply_after_cookies_are_joined() {
    let limits = Limits { fields_max: 3, head_bytes_max: 150, ..Limits::default() };
    let generous = Limits { head_bytes_max: 10_000, ..limits };
    let check = |fields: Pairs<'_>, expected: Result<(), HeadFault>| {
        let mut block = h2_block("GET", "http://a/", fields, &generous);
        assert_eq!(request(&mut block, true, &limits).map(drop), expected, "{fields:?}");
    };
    let crumb = ("cookie", "a=1234567890");
    check(&[crumb; 8], Ok(()));
    check(&[crumb; 40], Err(HeadFault::HeadTooLarge));
    check(&[crumb, ("a", ""), ("b", ""), crumb], Ok(()));
    check(&[crumb, ("a", ""), ("b", ""), ("c", "")], Err(HeadFault::TooManyFields));
    // One crumb is a field like others; each further one is its value and the joint.
    let exactly = 150 - "/".len() - "a".len() - "cookie: \r\n".len();
    check(&[("cookie", &"c".repeat(exactly))], Ok(()));
    check(&[("cookie", &"c".repeat(exactly + 1))], Err(HeadFault::HeadTooLarge));
    check(&[("cookie", &"c".repeat(exactly - 3)), ("cookie", "d")], Ok(()));
    check(&[("cookie", &"c".repeat(exactly - 2)), ("cookie", "d")], Err(HeadFault::HeadTooLarge));
    let long = "v".repeat(200);
    check(&[("a", &long)], Err(HeadFault::HeadTooLarge));
    let far = format!("http://a/{long}");
    assert_eq!(request(&mut h2_block("GET", &far, &[], &generous), true, &limits), Err(HeadFault::HeadTooLarge));
    let limits = Limits { request_line_bytes_max: 100, ..limits };
    assert_eq!(request(&mut h2_block("GET", &far, &[], &generous), true, &limits), Err(HeadFault::TargetTooLong));
    let mut block = block_of(as_bytes(&[(":status", "200"), ("a", &long)]), &generous);
    let asked = Asked::by(&RequestHead::new(Method::GET, "/"));
    assert_eq!(response(&mut block, asked, true, &limits), Err(HeadFault::HeadTooLarge));
}

/// CVE-2026-47774: thousands of one-byte references to one large cookie crumb.
#[test]
fn a_cookie_bomb_is_refused_before_it_is_built() {
    let crumb = "c".repeat(4000);
    let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    fields.extend([("cookie", crumb.as_str()); 5000]);
    let mut block = block_of(as_bytes(&fields), &Limits::default());
    assert_eq!(request(&mut block, true, &Limits::default()), Err(HeadFault::HeadTooLarge));
}

#[test]
fn writes_h2_requests_as_http_11() {
    fn check(method: &str, uri: &str, fields: Pairs<'_>, end: bool, expected: &str) {
        let ParsedRequest { mut head, framing } = from_h2(method, uri, fields, end).unwrap();
        request_for_h1(&mut head, framing).unwrap();
        let wire = on_wire(&head);
        assert_eq!(wire, expected);
        let parsed = RequestParser::new(Limits::default()).parse(&mut BytesMut::from(wire.as_str()));
        assert_eq!(parsed.unwrap().unwrap().framing.is_empty(), end, "our own parser takes it: {wire}");
    }
    check("GET", "http://a/b?c", &[("x", "1")], true, "GET /b?c HTTP/1.1\r\nhost: a\r\nx: 1\r\n\r\n");
    check("GET", "https://A:81/", &[("host", "a:81")], true, "GET / HTTP/1.1\r\nhost: A:81\r\n\r\n");
    check("GET", "/", &[("x", "1"), ("host", "a")], true, "GET / HTTP/1.1\r\nx: 1\r\nhost: a\r\n\r\n");
    check("POST", "http://a/", &[], true, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    check("POST", "http://a/", &[], false, "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    check(
        "PUT",
        "http://a/",
        &[("content-length", "3")],
        false,
        "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n",
    );
    check(
        "GET",
        "http://a/",
        &[("te", "trailers")],
        true,
        "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n",
    );
    check("OPTIONS", "*", &[("host", "a")], true, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    check("CONNECT", "a:443", &[], true, "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n");
}

#[test]
fn extended_connect_goes_on() {
    let limits = Limits::default();
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/chat"),
    ];
    let arrived = || request(&mut block_of(as_bytes(&fields), &limits), false, &limits).unwrap();
    let mut head = arrived().head;
    assert_eq!((head.path(), head.protocol.as_deref()), (&b"/chat"[..], Some(&b"websocket"[..])));
    assert_eq!(sent(&head, "http"), Ok(arrived()));
    assert_eq!(request_for_h1(&mut head, BodyFraming::None), Err(HeadFault::UpgradeOverHttp2));
}

/// The head as the next proxy reads it.
fn sent(head: &RequestHead, scheme: &str) -> Result<ParsedRequest, HeadFault> {
    let (mut out, limits) = (BytesMut::new(), Limits::default());
    Encoder::new().request(head, scheme, &mut out)?;
    let mut block = Block::new();
    Decoder::new(4096).decode(&out, BlockLimits::of(&limits), &mut block).unwrap();
    request(&mut block, false, &limits)
}

#[test]
fn sends_h1_requests_as_h2() {
    fn check(text: &str, uri: &str, expected: Pairs<'_>) {
        let head = sent(&h1_request(text).head, "http").unwrap().head;
        let text_of = |part: Option<&[u8]>| String::from_utf8(part.unwrap_or_default().to_vec()).unwrap();
        let parts = [head.scheme.as_deref(), Some(b"://"), head.authority.as_deref(), Some(head.path_and_query())];
        assert_eq!(parts.map(text_of).concat(), uri, "{text}");
        assert_eq!(head.fields, list(expected), "{text}");
    }
    check(
        "GET /a?b HTTP/1.1\r\nHost: A:81\r\nX-Y: 1\r\nx-y: 2\r\n\r\n",
        "http://A:81/a?b",
        &[("x-y", "1"), ("x-y", "2")],
    );
    check(
        "GET /<\"`a`\">|^{}\\?\"<`>'[] HTTP/1.1\r\nHost: a\r\n\r\n",
        "http://a/%3C%22%60a%60%22%3E|^{}\\?%22%3C%60%3E'[]",
        &[],
    );
    check("GET /b\u{fc}cher HTTP/1.1\r\nHost: a\r\n\r\n", "http://a/b\u{fc}cher", &[]);
    check("GET https://a/b HTTP/1.1\r\nHost: a\r\n\r\n", "https://a/b", &[]);
    check("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "http://a/", &[]);
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
        "http://a/",
        &[],
    );
    check("GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, Trailers\r\n\r\n", "http://a/", &[("te", "trailers")]);
    check("GET / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\n\r\n", "http://a/", &[]);
    check("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "http://a/", &[]);
    check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "http://a/", &[("content-length", "3")]);
    let connect = sent(&h1_request("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").head, "http").unwrap().head;
    assert_eq!((connect.authority.as_deref(), connect.scheme), (Some(&b"a:443"[..]), None));
    let options = sent(&h1_request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").head, "http").unwrap().head;
    assert_eq!(options.path(), b"*");
}

#[test]
fn refuses_h1_requests_that_h2_cannot_carry() {
    fn check(text: &str, expected: HeadFault) {
        assert_eq!(sent(&h1_request(text).head, "http").unwrap_err(), expected, "{text}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(65_500));
    sent(&h1_request(&long).head, "http").unwrap();
    let long = RequestHead { target: Bytes::from("/".repeat(65_535)), ..h1_request(&long).head };
    assert_eq!(sent(&long, "http").unwrap_err(), HeadFault::TargetNotTranslatable);
    check("GET / HTTP/1.0\r\n\r\n", HeadFault::AuthorityMissing);
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        HeadFault::UpgradeOverHttp2,
    );
    let mut head = h1_request("GET / HTTP/1.1\r\nHost: a\r\n\r\n").head;
    assert_eq!(sent(&head, "not a scheme").unwrap_err(), HeadFault::Scheme);
    head.target = Bytes::from_static(b"/a#b");
    assert_eq!(sent(&head, "http").unwrap_err(), HeadFault::TargetNotTranslatable);
    head.authority = Some(Bytes::from_static(b"a b"));
    assert_eq!(sent(&head, "http").unwrap_err(), HeadFault::AuthorityInvalid);
}

fn h2_response(status: u16, fields: Pairs<'_>, asked: Asked, end: bool) -> Result<ParsedResponse, HeadFault> {
    let (status, limits) = (status.to_string(), Limits::default());
    let all = [&[(":status", status.as_str())], fields].concat();
    response(&mut block_of(as_bytes(&all), &limits), asked, end, &limits)
}

#[test]
fn takes_over_responses() {
    const GET: Asked = Asked { head: false, connect: false, upgrade: false };
    let (head, connect) = (Asked { head: true, ..GET }, Asked { connect: true, ..GET });
    let check = |status, fields: Pairs<'_>, asked, end, expected: Result<(BodyFraming, bool), HeadFault>| {
        let got = h2_response(status, fields, asked, end).map(|p| (p.framing, p.tunnel));
        assert_eq!(got, expected, "{status} {fields:?} {asked:?} {end}");
    };
    let length: Pairs<'_> = &[("content-length", "5")];
    check(200, &[], GET, false, Ok((BodyFraming::Chunked, false)));
    check(200, &[], GET, true, Ok((BodyFraming::Length(0), false)));
    check(200, &[("content-length", "0")], GET, true, Ok((BodyFraming::Length(0), false)));
    check(200, &[], head, true, Ok((BodyFraming::None, false)));
    check(200, length, GET, false, Ok((BodyFraming::Length(5), false)));
    check(200, length, GET, true, Err(HeadFault::LengthWithoutBody));
    check(200, length, head, true, Ok((BodyFraming::None, false)));
    check(304, length, GET, true, Ok((BodyFraming::None, false)));
    check(204, &[], GET, true, Ok((BodyFraming::None, false)));
    check(103, &[], GET, false, Ok((BodyFraming::None, false)));
    check(200, &[], connect, false, Ok((BodyFraming::None, true)));
    check(502, &[], connect, false, Ok((BodyFraming::Chunked, false)));
    check(101, &[], Asked { upgrade: true, ..GET }, false, Err(HeadFault::UnsolicitedUpgrade));
    check(200, &[("transfer-encoding", "chunked")], GET, false, Err(HeadFault::ConnectionSpecific));
    check(200, &[("connection", "close")], GET, false, Err(HeadFault::ConnectionSpecific));
    check(200, &[("content-length", "a")], GET, false, Err(HeadFault::ContentLength));
    check(99, &[], GET, false, Err(HeadFault::StatusCode));
    check(1000, &[], GET, false, Err(HeadFault::StatusCode));
    check(200, &[(":status", "200")], GET, false, Err(HeadFault::PseudoRepeated));
    check(200, &[(":path", "/")], GET, false, Err(HeadFault::PseudoUnknown));
    check(200, &[(":method", "GET")], GET, false, Err(HeadFault::PseudoUnknown));
    let mut block = block_of(as_bytes(&[("a", "b")]), &Limits::default());
    assert_eq!(response(&mut block, GET, true, &Limits::default()), Err(HeadFault::PseudoMissing));
    let parsed = h2_response(200, &[("set-cookie", "a"), ("x", "1"), ("set-cookie", "b")], GET, true).unwrap();
    assert_eq!(parsed.head.fields, list(&[("set-cookie", "a"), ("x", "1"), ("set-cookie", "b")]));
}

#[test]
fn writes_h2_responses_as_http_11() {
    let asked = Asked { head: false, connect: false, upgrade: false };
    let ParsedResponse { mut head, framing, .. } = h2_response(404, &[("x", "1")], asked, false).unwrap();
    response_for_h1(&mut head, framing);
    let mut out = BytesMut::new();
    encode_response_head(&head, &mut out);
    assert_eq!(out, "HTTP/1.1 404 Not Found\r\nx: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    // A response that ended with its head must not keep an HTTP/1 client waiting.
    let ParsedResponse { mut head, framing, .. } = h2_response(200, &[("grpc-status", "5")], asked, true).unwrap();
    response_for_h1(&mut head, framing);
    assert_eq!(head.fields, list(&[("grpc-status", "5"), ("Content-Length", "0")]));
    let mut kept = ResponseHead { reason: Bytes::from_static(b"Gone Fishing"), ..ResponseHead::new(404) };
    response_for_h1(&mut kept, BodyFraming::None);
    assert_eq!(kept.reason, "Gone Fishing");
}

#[test]
fn sends_responses_as_h2() {
    let mut head = ResponseHead::new(201);
    head.fields = list(&[("X-A", "1"), ("Connection", "close"), ("Transfer-Encoding", "chunked"), ("Host", "kept")]);
    let mut out = BytesMut::new();
    Encoder::new().response(&head, &mut out).unwrap();
    let (mut block, limits) = (Block::new(), Limits::default());
    Decoder::new(4096).decode(&out, BlockLimits::of(&limits), &mut block).unwrap();
    assert_eq!(block.status(), Some(201));
    let asked = Asked { head: false, connect: false, upgrade: false };
    let read = response(&mut block, asked, false, &limits).unwrap().head;
    assert_eq!(read.fields, list(&[("x-a", "1"), ("host", "kept")]));
    let refused = |status| Encoder::new().response(&ResponseHead::new(status), &mut BytesMut::new());
    assert_eq!(refused(101), Err(HeadFault::UpgradeOverHttp2));
    assert_eq!((refused(42), refused(1000)), (Err(HeadFault::StatusCode), Err(HeadFault::StatusCode)));
}

#[test]
fn trailers_go_both_ways() {
    let sent = list(&[("Grpc-Status", "0"), ("X", "1"), ("Host", "a"), ("x", "2"), ("Connection", "x")]);
    let mut out = BytesMut::new();
    Encoder::new().trailers(&sent, &mut out);
    let read = |limits: &Limits| {
        let mut block = Block::new();
        Decoder::new(4096).decode(&out, BlockLimits::of(limits), &mut block).unwrap();
        trailers(&mut block, limits)
    };
    let limits = Limits::default();
    assert_eq!(read(&limits), Ok(list(&[("grpc-status", "0"), ("x", "1"), ("x", "2")])));
    assert_eq!(read(&Limits { fields_max: 2, ..limits }), Err(BodyFault::TooManyTrailers));
    assert_eq!(read(&Limits { trailer_bytes_max: 20, ..limits }), Err(BodyFault::TrailersTooLarge));
    assert_eq!(read(&Limits { head_bytes_max: 0, fields_max: 1, ..limits }), Err(BodyFault::TrailersTooLarge));
    let check = |fields: Pairs<'_>, expected| {
        assert_eq!(trailers(&mut block_of(as_bytes(fields), &limits), &limits), Err(expected), "{fields:?}");
    };
    check(&[("content-length", "1")], BodyFault::TrailerForbidden);
    check(&[("te", "trailers")], BodyFault::TrailerForbidden);
    check(&[("te", "gzip")], BodyFault::TrailerForbidden);
    check(&[("connection", "close")], BodyFault::TrailerForbidden);
    check(&[(":status", "200")], BodyFault::TrailerField);
    check(&[("a", "b"), (":path", "/")], BodyFault::TrailerField);
    check(&[("A", "b")], BodyFault::TrailerField);
    check(&[("a", "\n")], BodyFault::TrailerField);
}

/// Fields as HPACK can carry them: values of anything but control characters, blanks at the ends included.
fn h2_fields() -> impl proptest::strategy::Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    use proptest::prelude::*;
    const NAMES: &[&str] =
        &["x", "cookie", "content-length", "te", "host", "expect", "transfer-encoding", "connection", "accept"];
    const VALUES: &[&str] =
        &["", "5", "0", "5, 5", "trailers", "a", "A:80", "100-continue", "chunked", "a=1; b", "close"];
    let value = prop_oneof![
        proptest::sample::select(VALUES).prop_map(|v| v.as_bytes().to_vec()),
        proptest::collection::vec(prop_oneof![Just(b'\t'), b' '..=b'~', 0x80_u8..=0xff], 0..20),
    ];
    proptest::collection::vec((proptest::sample::select(NAMES), value), 0..8)
}

proptest::proptest! {
    /// Whatever HTTP/2 request is accepted is exactly one HTTP/1 request, of the same framing and meaning.
    #[test]
    fn a_downgrade_never_smuggles(
        method in proptest::sample::select(&["GET", "POST", "HEAD", "DELETE", "X"][..]),
        path in "/[!$-;=?-_a-~]{0,20}", fields in h2_fields(), end in proptest::bool::ANY,
    ) {
        let limits = Limits::default();
        let pseudo = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path.as_str())];
        let all = as_bytes(&pseudo).chain(fields.iter().map(|(name, value)| (*name, value.as_slice())));
        let Ok(ParsedRequest { mut head, framing }) = request(&mut block_of(all, &limits), end, &limits) else {
            return Ok(());
        };
        request_for_h1(&mut head, framing).unwrap();
        let mut wire = BytesMut::new();
        encode_request_head(&head, &mut wire).unwrap();
        let read = RequestParser::new(Limits::default()).parse(&mut wire).unwrap().unwrap();
        proptest::prop_assert!(wire.is_empty(), "one message and nothing after it");
        proptest::prop_assert_eq!(read.framing.is_empty(), framing.is_empty());
        proptest::prop_assert_eq!(&read.head.fields, &head.fields);
        proptest::prop_assert_eq!((read.head.method, read.head.target), (head.method, head.target));
    }

    /// What leaves as HTTP/2 and arrives again means the same.
    #[test]
    fn an_upgrade_and_back_changes_nothing(
        path in "/[!$-;=?-_a-~]{0,20}", name in "[a-z-]{1,12}", value in "[!-~]{0,20}", body in proptest::bool::ANY,
    ) {
        let names = ["connection", "keep-alive", "host", "upgrade", "te", "expect", "transfer-encoding", "content-length"];
        proptest::prop_assume!(!names.contains(&name.as_str()));
        let length = if body { "Content-Length: 7\r\n" } else { "" };
        let before = h1_request(&format!("PUT {path} HTTP/1.1\r\nHost: a:81\r\n{length}{name}: {value}\r\n\r\n"));
        let after = sent(&before.head, "http").unwrap();
        proptest::prop_assert_eq!(after.framing, if body { BodyFraming::Length(7) } else { BodyFraming::Chunked });
        proptest::prop_assert_eq!(&after.head.target, &before.head.target);
        proptest::prop_assert_eq!(after.head.host(), before.head.host());
        proptest::prop_assert_eq!(after.head.fields.get(&name), Some(value.as_bytes()));
        proptest::prop_assert_eq!(after.head.fields.len() + 1, before.head.fields.len());
    }
}

/// Every byte that HPACK can carry in a name is one that HTTP/1 lets through, or refused.
#[test]
fn field_names_from_h2_are_tokens() {
    let limits = Limits::default();
    for byte in 0..=u8::MAX {
        let name = [b'x', byte];
        let literal = [&[0, 2], &name[..], &[1, b'b']].concat();
        let read = |pseudo: Pairs<'_>| {
            let bytes = [literals(as_bytes(pseudo)), literal.clone()].concat();
            let mut block = Block::new();
            Decoder::new(4096).decode(&bytes, BlockLimits::of(&limits), &mut block).unwrap();
            block
        };
        let get = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
        let token = crate::fields::is_token(&name) && !byte.is_ascii_uppercase();
        let expected = if token { Ok(()) } else { Err(HeadFault::FieldName) };
        assert_eq!(request(&mut read(&get), true, &limits).map(drop), expected, "{byte}");
        let asked = Asked { head: false, connect: false, upgrade: false };
        assert_eq!(response(&mut read(&[(":status", "200")]), asked, true, &limits).map(drop), expected, "{byte}");
        let expected = if token { Ok(()) } else { Err(BodyFault::TrailerField) };
        assert_eq!(trailers(&mut read(&[]), &limits).map(drop), expected, "{byte}");
    }
}

/// What resets a stream because it has no meaning in HTTP/2, and what a client gets an answer to.
#[test]
fn malformed_heads_are_told_from_refused_ones() {
    for fault in [HeadFault::FieldName, HeadFault::FieldValue, HeadFault::PseudoLate, HeadFault::PseudoMissing] {
        assert!(is_malformed(fault), "{fault}");
    }
    for fault in
        [HeadFault::HeadTooLarge, HeadFault::HostMismatch, HeadFault::ConnectionSpecific, HeadFault::ContentLength]
    {
        assert!(!is_malformed(fault), "{fault}");
    }
}
