//! What `httparse` takes that the codec refuses or reads otherwise: one test for each row of the table in [`super`].
//!
//! Each row first shows that the tokeniser takes the bytes, so that one it has given up is noticed and struck off.

use bytes::BytesMut;

use super::*;
use crate::message::{Asked, BodyFraming, ParsedRequest, ParsedResponse};

const ASKED: Asked = Asked { head: false, connect: false, upgrade: false };
const HOST: &str = "Host: a\r\n\r\n";

/// What the codec makes of a request that the tokeniser takes.
fn request(text: impl AsRef<[u8]>) -> Result<ParsedRequest, HeadFault> {
    let text = text.as_ref();
    let mut slots = [httparse::EMPTY_HEADER; 8];
    let tokens = httparse::Request::new(&mut slots).parse(text);
    assert_eq!(tokens, Ok(httparse::Status::Complete(text.len())), "{}", text.escape_ascii());
    RequestParser::new(Limits::default()).parse(&mut BytesMut::from(text)).map(|parsed| parsed.expect("whole"))
}

/// The same for a response.
fn response(text: impl AsRef<[u8]>) -> Result<ParsedResponse, HeadFault> {
    let text = text.as_ref();
    let mut slots = [httparse::EMPTY_HEADER; 8];
    let tokens = httparse::Response::new(&mut slots).parse(text);
    assert_eq!(tokens, Ok(httparse::Status::Complete(text.len())), "{}", text.escape_ascii());
    ResponseParser::new(Limits::default()).parse(&mut BytesMut::from(text), ASKED).map(|parsed| parsed.expect("whole"))
}

fn written(parsed: &ParsedResponse) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_response_head(&parsed.head, &mut out);
    out.to_vec()
}

#[test]
fn bare_line_feeds() {
    for text in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\n\r\n",
    ] {
        assert_eq!(request(text), Err(HeadFault::BareLf), "{text:?}");
    }
    for text in ["HTTP/1.1 200 OK\n\r\n", "HTTP/1.1 200\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\n\n"] {
        assert_eq!(response(text), Err(HeadFault::BareLf), "{text:?}");
    }
}

#[test]
fn bare_line_feeds_in_trailers() {
    for section in ["A: b\n\r\n", "A: b\r\n\n", "A: b\nC: d\r\n\r\n"] {
        let mut slots = [httparse::EMPTY_HEADER; 8];
        assert!(httparse::parse_headers(section.as_bytes(), &mut slots).is_ok_and(|s| s.is_complete()), "{section:?}");
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked, Limits::default());
        let got = decoder.decode(&mut BytesMut::from(format!("0\r\n{section}").as_str()));
        assert_eq!(got, Err(BodyFault::TrailerField), "{section:?}");
    }
}

#[test]
fn empty_lines_before_a_request() {
    assert!(request(format!("\r\nGET / HTTP/1.1\r\n{HOST}")).is_ok(), "one is skipped");
    assert_eq!(request(format!("\r\n\r\nGET / HTTP/1.1\r\n{HOST}")), Err(HeadFault::EmptyLine));
    assert_eq!(request(format!("\nGET / HTTP/1.1\r\n{HOST}")), Err(HeadFault::BareLf));
}

#[test]
fn empty_lines_before_a_response() {
    for text in ["\r\nHTTP/1.1 200 OK\r\n\r\n", "\nHTTP/1.1 200 OK\r\n\r\n"] {
        assert_eq!(response(text), Err(HeadFault::StatusLine), "{text:?}");
    }
}

#[test]
fn status_codes_below_100() {
    for code in ["000", "099"] {
        assert_eq!(response(format!("HTTP/1.1 {code} OK\r\n\r\n")), Err(HeadFault::StatusCode), "{code}");
    }
}

#[test]
fn a_reason_with_obs_text_is_not_lost() {
    let head = b"HTTP/1.1 200 sch\xf6n\r\n\r\n";
    let mut slots = [httparse::EMPTY_HEADER; 8];
    let mut tokens = httparse::Response::new(&mut slots);
    tokens.parse(head).unwrap();
    assert_eq!(tokens.reason, Some(""), "dropped by the tokeniser");
    assert_eq!(written(&response(head).unwrap()), head);
}

/// RFC 9112 section 4 wants the blank even before an empty phrase; servers leave it out, and no reader is misled.
#[test]
fn a_status_line_without_the_second_blank_gets_it() {
    assert_eq!(written(&response("HTTP/1.1 200\r\nA: b\r\n\r\n").unwrap()), b"HTTP/1.1 200 \r\nA: b\r\n\r\n");
}

#[test]
fn targets_of_no_form() {
    for (target, expected) in [
        ("/a#b", HeadFault::Target),
        ("a", HeadFault::Target),
        ("a:80", HeadFault::Target),
        ("ftp://a/", HeadFault::Target),
        ("?a", HeadFault::Target),
        ("http://a?b", HeadFault::Target),
        ("http://u@a/", HeadFault::TargetAuthority),
        ("http:///", HeadFault::TargetAuthority),
        ("*", HeadFault::AsteriskTarget),
    ] {
        assert_eq!(request(format!("GET {target} HTTP/1.1\r\n{HOST}")), Err(expected), "{target}");
    }
    assert_eq!(request(format!("CONNECT /a HTTP/1.1\r\n{HOST}")), Err(HeadFault::ConnectTarget));
}

/// No delimiter of HTTP is among them, so every parser finds the same target; what it means is the application's business.
#[test]
fn bytes_of_a_target_outside_rfc_3986_are_kept() {
    let target = "/\"<>\\^`{|}\u{e9}%zz";
    let parsed = request(format!("GET {target} HTTP/1.1\r\n{HOST}")).unwrap();
    assert_eq!(parsed.head.target, target);
    let mut out = BytesMut::new();
    encode_request_head(&parsed.head, &mut out).unwrap();
    assert_eq!(out, format!("GET {target} HTTP/1.1\r\n{HOST}"));
}

/// The tokeniser interprets no field.
#[test]
fn fields_that_contradict_each_other() {
    let with = |fields: &str| request(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n")).map(|parsed| parsed.framing);
    assert_eq!(with("A: b"), Err(HeadFault::HostMissing));
    assert_eq!(with("Host: a\r\nHost: a"), Err(HeadFault::HostRepeated));
    assert_eq!(with("Host: a,b"), Err(HeadFault::HostInvalid));
    assert_eq!(with("Host: a\r\nContent-Length: 1\r\nContent-Length: 1"), Err(HeadFault::ContentLengthRepeated));
    assert_eq!(with("Host: a\r\nContent-Length: +1"), Err(HeadFault::ContentLength));
    assert_eq!(
        with("Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked"),
        Err(HeadFault::LengthAndTransferEncoding)
    );
    assert_eq!(with("Host: a\r\nTransfer-Encoding: xchunked"), Err(HeadFault::TransferEncoding));
    assert_eq!(with("Host: a\r\nExpect: 200-ok"), Err(HeadFault::Expectation));
}

/// RFC 9112 section 7.1: `httparse::parse_chunk_size` takes blanks after the size and reads over what follows a semicolon;
/// it is not used.
#[test]
fn chunk_sizes() {
    for line in ["5 \r\n", "5\t\r\n", "5;\x01\r\n"] {
        assert!(httparse::parse_chunk_size(line.as_bytes()).is_ok_and(|s| s.is_complete()), "{line:?}");
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked, Limits::default());
        let got = decoder.decode(&mut BytesMut::from(format!("{line}hello\r\n0\r\n\r\n").as_str()));
        assert!(matches!(got, Err(BodyFault::ChunkSize | BodyFault::ChunkExtension)), "{line:?}: {got:?}");
    }
}

/// The tokeniser can be told to take these; it is not, and a change of its defaults must not pass unseen.
#[test]
fn leniencies_that_are_switched_off() {
    let refused = |text: &str, expected: HeadFault| {
        let got = RequestParser::new(Limits::default()).parse(&mut BytesMut::from(text));
        assert_eq!(got, Err(expected), "{text:?}");
    };
    refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", HeadFault::RequestLine);
    refused("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", HeadFault::RequestLine);
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", HeadFault::ObsFold);
    refused("GET / HTTP/1.1\r\nHost: a\r\nB c\r\n\r\n", HeadFault::MissingColon);
    let refused = |text: &str, expected: HeadFault| {
        let got = ResponseParser::new(Limits::default()).parse(&mut BytesMut::from(text), ASKED);
        assert_eq!(got, Err(expected), "{text:?}");
    };
    refused("HTTP/1.1  200 OK\r\n\r\n", HeadFault::StatusCode);
    refused("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HeadFault::SpaceBeforeColon);
    refused("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", HeadFault::ObsFold);
    refused("HTTP/1.1 200 OK\r\nA b\r\n\r\n", HeadFault::MissingColon);
}
