use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use http::{Request, Response};

use super::*;
use crate::fields::Fields;
use crate::h1::{BodyFault, HeadFault, Limits, RequestParser, encode_request_head, encode_response_head};
use crate::message::{Asked, BodyFraming, ParsedRequest, ParsedResponse, RequestHead, ResponseHead, Version};

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn h2_request(method: &str, uri: &str, fields: Pairs<'_>) -> http::request::Parts {
    let mut builder = Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn from_h2(method: &str, uri: &str, fields: Pairs<'_>, end: bool) -> Result<ParsedRequest, HeadFault> {
    request_from_h2(&h2_request(method, uri, fields), None, end, &Limits::default())
}

fn h1_request(text: &str) -> ParsedRequest {
    RequestParser::new(Limits::default()).parse(&mut BytesMut::from(text)).unwrap().unwrap()
}

fn on_wire(head: &RequestHead) -> String {
    let mut out = BytesMut::new();
    encode_request_head(head, &mut out).unwrap();
    String::from_utf8(out.to_vec()).unwrap()
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
    assert_eq!(head.fields, list(&[("x-b", "1"), ("x-b", "3"), ("cookie", "a=1; b=2; c"), ("x-a", "2")]));
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
        ("CONNECT", "/", &[], AuthorityMissing),
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
fn limits_apply_after_cookies_are_joined() {
    let limits = Limits { fields_max: 3, head_bytes_max: 150, ..Limits::default() };
    let check = |fields: Pairs<'_>, expected: Result<(), HeadFault>| {
        let parts = h2_request("GET", "http://a/", fields);
        assert_eq!(request_from_h2(&parts, None, true, &limits).map(drop), expected, "{fields:?}");
    };
    let crumb = ("cookie", "a=1234567890");
    check(&[crumb; 8], Ok(()));
    check(&[crumb; 40], Err(HeadFault::HeadTooLarge));
    check(&[crumb, ("a", ""), ("b", ""), crumb], Ok(()));
    check(&[crumb, ("a", ""), ("b", ""), ("c", "")], Err(HeadFault::TooManyFields));
    let long = "v".repeat(200);
    check(&[("a", &long)], Err(HeadFault::HeadTooLarge));
    let parts = h2_request("GET", &format!("http://a/{long}"), &[]);
    assert_eq!(request_from_h2(&parts, None, true, &limits), Err(HeadFault::HeadTooLarge));
    let limits = Limits { request_line_bytes_max: 100, ..limits };
    assert_eq!(request_from_h2(&parts, None, true, &limits), Err(HeadFault::TargetTooLong));
    let parts = Response::builder().header("a", long).body(()).unwrap().into_parts().0;
    let asked = Asked::by(&RequestHead::new(http::Method::GET, "/"));
    assert_eq!(response_from_h2(&parts, asked, true, &limits), Err(HeadFault::HeadTooLarge));
}

/// CVE-2026-47774: thousands of one-byte references to one large cookie crumb.
#[test]
fn a_cookie_bomb_is_refused_before_it_is_built() {
    let mut parts = h2_request("GET", "http://a/", &[]);
    let crumb = http::HeaderValue::from_str(&"c".repeat(4000)).unwrap();
    for _ in 0..5000 {
        parts.headers.append("cookie", crumb.clone());
    }
    assert_eq!(request_from_h2(&parts, None, true, &Limits::default()), Err(HeadFault::HeadTooLarge));
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
fn extended_connect_needs_http_2() {
    let parts = h2_request("CONNECT", "https://a/chat", &[]);
    let ParsedRequest { mut head, .. } = request_from_h2(&parts, Some("websocket"), false, &Limits::default()).unwrap();
    assert_eq!((head.path(), head.protocol.as_deref()), (&b"/chat"[..], Some(&b"websocket"[..])));
    assert_eq!(request_to_h2(&head, "https").unwrap().uri(), "https://a/chat");
    assert_eq!(request_for_h1(&mut head, BodyFraming::None), Err(HeadFault::UpgradeOverHttp2));
}

#[test]
fn a_request_without_authority_cannot_become_http_11() {
    let mut head = h1_request("GET / HTTP/1.0\r\n\r\n").head;
    assert_eq!(request_for_h1(&mut head, BodyFraming::None), Err(HeadFault::AuthorityMissing));
    head.authority = Some(Bytes::from_static(b"10.0.0.1:80"));
    request_for_h1(&mut head, BodyFraming::None).unwrap();
    assert_eq!(on_wire(&head), "GET / HTTP/1.1\r\nhost: 10.0.0.1:80\r\n\r\n");
}

#[test]
fn http_1_heads_stay_as_they_are_but_for_framing() {
    let text = "POST /a HTTP/1.1\r\nX-b: 1\r\nhOST: a\r\nContent-LENGTH: 3\r\nTE: gzip\r\n\r\n";
    let ParsedRequest { mut head, framing } = h1_request(text);
    request_for_h1(&mut head, framing).unwrap();
    assert_eq!(on_wire(&head), text);
}

#[test]
fn sends_h1_requests_as_h2() {
    fn check(text: &str, uri: &str, expected: Pairs<'_>) {
        let request = request_to_h2(&h1_request(text).head, "http").unwrap();
        assert_eq!(request.uri(), uri, "{text}");
        let got: Vec<_> = request.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(got, expected, "{text}");
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
    let connect = request_to_h2(&h1_request("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").head, "http").unwrap();
    assert_eq!((connect.uri().authority().unwrap().as_str(), connect.uri().scheme()), ("a:443", None));
    let options = request_to_h2(&h1_request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").head, "http").unwrap();
    assert_eq!(options.uri().path(), "*");
}

#[test]
fn refuses_h1_requests_that_h2_cannot_carry() {
    fn check(text: &str, expected: HeadFault) {
        assert_eq!(request_to_h2(&h1_request(text).head, "http").unwrap_err(), expected, "{text}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(65_500));
    request_to_h2(&h1_request(&long).head, "http").unwrap();
    let long = RequestHead { target: Bytes::from("/".repeat(65_535)), ..h1_request(&long).head };
    assert_eq!(request_to_h2(&long, "http").unwrap_err(), HeadFault::TargetNotTranslatable);
    check("GET / HTTP/1.0\r\n\r\n", HeadFault::AuthorityMissing);
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        HeadFault::UpgradeOverHttp2,
    );
    let mut head = h1_request("GET / HTTP/1.1\r\nHost: a\r\n\r\n").head;
    assert_eq!(request_to_h2(&head, "not a scheme").unwrap_err(), HeadFault::Scheme);
    head.target = Bytes::from_static(b"/a#b");
    assert_eq!(request_to_h2(&head, "http").unwrap_err(), HeadFault::TargetNotTranslatable);
    head.authority = Some(Bytes::from_static(b"a b"));
    assert_eq!(request_to_h2(&head, "http").unwrap_err(), HeadFault::AuthorityInvalid);
}

fn h2_response(status: u16, fields: Pairs<'_>, asked: Asked, end: bool) -> Result<ParsedResponse, HeadFault> {
    let mut builder = Response::builder().status(status).version(http::Version::HTTP_2);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    response_from_h2(&builder.body(()).unwrap().into_parts().0, asked, end, &Limits::default())
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
    let parsed = h2_response(200, &[("set-cookie", "a"), ("x", "1"), ("set-cookie", "b")], GET, true).unwrap();
    assert_eq!(parsed.head.fields, list(&[("set-cookie", "a"), ("set-cookie", "b"), ("x", "1")]));
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
    let response = response_to_h2(&head).unwrap();
    assert_eq!(response.status(), 201);
    let names: Vec<_> = response.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-a", "host"]);
    assert_eq!(response_to_h2(&ResponseHead::new(101)).unwrap_err(), HeadFault::UpgradeOverHttp2);
    assert_eq!(response_to_h2(&ResponseHead::new(42)).unwrap_err(), HeadFault::StatusCode);
}

#[test]
fn trailers_go_both_ways() {
    let pairs: Pairs<'_> = &[("grpc-status", "0"), ("x", "1"), ("x", "2")];
    let map =
        trailers_to_h2(&list(&[("Grpc-Status", "0"), ("X", "1"), ("Host", "a"), ("x", "2"), ("Connection", "x")]));
    assert_eq!(trailers_from_h2(&map, &Limits::default()), Ok(list(pairs)));
    let forbidden: HeaderMap = [(http::header::CONTENT_LENGTH, "1".parse().unwrap())].into_iter().collect();
    assert_eq!(trailers_from_h2(&forbidden, &Limits::default()), Err(BodyFault::TrailerForbidden));
    let limits = Limits { fields_max: 2, ..Limits::default() };
    assert_eq!(trailers_from_h2(&map, &limits), Err(BodyFault::TooManyTrailers));
    let limits = Limits { trailer_bytes_max: 20, ..Limits::default() };
    assert_eq!(trailers_from_h2(&map, &limits), Err(BodyFault::TrailersTooLarge));
}

/// Header values as HPACK can carry them: anything but control characters, blanks at the ends included.
fn h2_fields() -> impl proptest::strategy::Strategy<Value = HeaderMap> {
    use proptest::prelude::*;
    const NAMES: &[&str] =
        &["x", "cookie", "content-length", "te", "host", "expect", "transfer-encoding", "connection", "accept"];
    const VALUES: &[&str] =
        &["", "5", "0", "5, 5", "trailers", "a", "A:80", "100-continue", "chunked", "a=1; b", "close"];
    let value = prop_oneof![
        proptest::sample::select(VALUES).prop_map(|v| v.as_bytes().to_vec()),
        proptest::collection::vec(prop_oneof![Just(b'\t'), b' '..=b'~', 0x80_u8..=0xff], 0..20),
    ];
    proptest::collection::vec((proptest::sample::select(NAMES), value), 0..8).prop_map(|pairs| {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, http::HeaderValue::from_bytes(&value).unwrap());
        }
        map
    })
}

proptest::proptest! {
    /// Whatever HTTP/2 request is accepted is exactly one HTTP/1 request, of the same framing and meaning.
    #[test]
    fn a_downgrade_never_smuggles(
        method in proptest::sample::select(&["GET", "POST", "HEAD", "DELETE", "X"][..]),
        path in "/[!$-;=?-_a-~]{0,20}", fields in h2_fields(), end in proptest::bool::ANY,
    ) {
        let mut parts = h2_request(method, "http://a/", &[]);
        parts.uri = http::Uri::builder().scheme("http").authority("a").path_and_query(path.as_str()).build().unwrap();
        parts.headers = fields;
        let Ok(ParsedRequest { mut head, framing }) = request_from_h2(&parts, None, end, &Limits::default()) else {
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
        let (parts, ()) = request_to_h2(&before.head, "http").unwrap().into_parts();
        let after = request_from_h2(&parts, None, !body, &Limits::default()).unwrap();
        proptest::prop_assert_eq!(after.framing, before.framing);
        proptest::prop_assert_eq!(&after.head.target, &before.head.target);
        proptest::prop_assert_eq!(after.head.host(), before.head.host());
        proptest::prop_assert_eq!(after.head.fields.get(&name), Some(value.as_bytes()));
        proptest::prop_assert_eq!(after.head.fields.len() + 1, before.head.fields.len());
    }
}

/// Names as `h2` makes them: every byte that it lets in must be one that HTTP/1 lets through, or be refused here.
#[test]
fn field_names_from_h2_are_tokens() {
    for byte in 0..=u8::MAX {
        let Ok(name) = http::HeaderName::from_lowercase(&[b'x', byte]) else { continue };
        let mut parts = h2_request("GET", "http://a/", &[]);
        parts.headers.insert(name.clone(), http::HeaderValue::from_static("b"));
        let request = request_from_h2(&parts, None, true, &Limits::default()).map(drop);
        let mut parts = Response::new(()).into_parts().0;
        parts.headers.insert(name.clone(), http::HeaderValue::from_static("b"));
        let asked = Asked { head: false, connect: false, upgrade: false };
        let response = response_from_h2(&parts, asked, true, &Limits::default()).map(drop);
        let trailers = trailers_from_h2(&parts.headers, &Limits::default()).map(drop);
        let token = crate::fields::is_token(name.as_str().as_bytes());
        let expected = if token { Ok(()) } else { Err(HeadFault::FieldName) };
        assert_eq!((request, response), (expected, expected), "{name}");
        assert_eq!(trailers, if token { Ok(()) } else { Err(BodyFault::TrailerField) }, "{name}");
    }
}
