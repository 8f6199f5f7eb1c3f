//! Message heads of HTTP/1: total, the same in pieces, unambiguous, within bounds, and written as they were read.

use bytes::{Bytes, BytesMut};
use http::Method;
use weft_core::h1::{
    FIELDS_MAX, HeadFault, Limits, RequestParser, ResponseParser, encode_request_head, encode_response_head,
};
use weft_core::http2::head;
use weft_core::http2::hpack::{Block, BlockLimits, Decoder, Encoder, TABLE_BYTES_DEFAULT};
use weft_core::message::{Asked, BodyFraming, ParsedRequest, ParsedResponse, Version};
use weft_core::propagate::hop_by_hop::{Upgrade, strip_request, strip_response};
use weft_core::translate::{request_for_h1, response_for_h1};

use crate::reading::{TINY, assert_harmless, feed};

/// Bytes of a client, read as request heads.
pub(crate) fn request(data: &[u8]) {
    for limits in [Limits::default(), TINY] {
        let whole = parse_request(data, limits, false);
        let pieces = parse_request(data, limits, true);
        agree(&whole, &pieces);
        if let (Ok(Some(parsed)), rest) = whole {
            let head = &data[..data.len() - rest.len()];
            let head = head.strip_prefix(b"\r\n").unwrap_or(head);
            assert!(head.len() <= limits.head_bytes_max && parsed.head.fields.len() <= limits.fields_max);
            read_alike(head, &parsed);
            written_as_read(&parsed);
            through_http2(&parsed);
        }
    }
}

type Outcome<T> = (Result<Option<T>, HeadFault>, BytesMut);

fn parse_request(data: &[u8], limits: Limits, singly: bool) -> Outcome<ParsedRequest> {
    let mut parser = RequestParser::new(limits);
    feed(data, singly, |buffer| parser.parse(buffer))
}

/// Pieces give what the whole gives, but that a fault in an unfinished head may show only at its end, and of several
/// faults another one.
fn agree<T: PartialEq + std::fmt::Debug>(whole: &Outcome<T>, pieces: &Outcome<T>) {
    match (&whole.0, &pieces.0) {
        (Ok(Some(_)), _) | (_, Ok(Some(_))) => assert_eq!(whole, pieces, "whole and in pieces"),
        (Ok(None), Err(fault)) => panic!("only in pieces {fault:?}"),
        (Err(_), Err(_) | Ok(None)) | (Ok(None), Ok(None)) => {}
    }
}

/// Reads an accepted head line by line by simple means: the codec must have read the same, and nothing else is possible.
fn read_alike(head: &[u8], parsed: &ParsedRequest) {
    let lines = lines(head);
    let first = [parsed.head.method.as_str().as_bytes(), b" ", &parsed.head.target, b" HTTP/1."].concat();
    assert!(lines[0].starts_with(&first), "{} in {}", first.escape_ascii(), lines[0].escape_ascii());
    assert_eq!(lines[0].ends_with(b"HTTP/1.0"), parsed.head.version == Version::Http10);
    let fields: Vec<_> = lines[1..].iter().map(|line| name_and_value(line)).collect();
    assert!(fields.iter().copied().eq(parsed.head.fields.iter()), "{fields:?}");
    let named = |name: &str| fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).count();
    let (length, coding) = (named("content-length"), named("transfer-encoding"));
    assert!(length <= 1 && (length == 0 || coding == 0), "one framing");
    assert!(named("host") == 1 || (parsed.head.version == Version::Http10 && named("host") == 0));
    match parsed.framing {
        BodyFraming::Chunked => assert!(coding > 0 && parsed.head.version == Version::Http11),
        BodyFraming::Length(_) => assert!(length == 1),
        BodyFraming::None => assert!(length + coding == 0),
        BodyFraming::UntilClose => panic!("a request never ends with its connection"),
    }
}

fn lines(head: &[u8]) -> Vec<&[u8]> {
    let text = head.strip_suffix(b"\r\n\r\n").unwrap();
    let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    assert_eq!(lines.join(&b"\r\n"[..]), text, "each line ends with CRLF");
    assert!(lines.iter().all(|line| !line.contains(&b'\r') && !line.contains(&0)));
    lines
}

fn name_and_value(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = line.iter().position(|b| *b == b':').unwrap();
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let value = &line[colon + 1..];
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    (&line[..colon], &value[start..end])
}

fn written_as_read(parsed: &ParsedRequest) {
    assert_harmless(&parsed.head.fields);
    let mut out = BytesMut::new();
    encode_request_head(&parsed.head, &mut out).unwrap();
    let wire = out.clone().freeze();
    let again = RequestParser::new(generous()).parse(&mut out).unwrap().unwrap();
    assert_eq!(&again, parsed);
    assert!(out.is_empty());
    assert_seen_by_httparse(&wire, &again);
}

/// A head grows by a blank for each `name:value` and by fields that the other version needs, so what is written may be
/// above what was read; a proxy allows its peers that much.
fn generous() -> Limits {
    Limits {
        head_bytes_max: 1 << 20,
        request_line_bytes_max: 1 << 20,
        fields_max: FIELDS_MAX + 16,
        ..Limits::default()
    }
}

fn assert_seen_by_httparse(wire: &Bytes, parsed: &ParsedRequest) {
    let mut slots = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut slots);
    assert_eq!(request.parse(wire), Ok(httparse::Status::Complete(wire.len())));
    assert_eq!(request.method, Some(parsed.head.method.as_str()));
    assert_eq!(request.path.map(str::as_bytes), Some(parsed.head.target.as_ref()));
    let seen = request.headers.iter().map(|header| (header.name.as_bytes(), header.value));
    assert!(seen.eq(parsed.head.fields.iter()));
}

/// What one proxy sends by HTTP/2 the next one takes, and sends to its application as the same request.
fn through_http2(parsed: &ParsedRequest) {
    let mut head = parsed.head.clone();
    strip_request(&mut head, Upgrade::Drop);
    let mut sent = BytesMut::new();
    if Encoder::new().request(&head, "http", &mut sent).is_err() {
        return;
    }
    let ended = parsed.framing.is_empty();
    let arrived = head::request(&mut decoded(&sent), ended, &generous());
    let Ok(mut arrived) = arrived else { panic!("the next proxy refuses {head:?}: {arrived:?}") };
    assert_eq!(arrived.head.method, head.method);
    let default = |host: Option<&[u8]>| host.map(<[u8]>::to_vec);
    assert_eq!(default(arrived.head.host()), default(head.host()), "authority");
    if head.method != Method::CONNECT {
        assert_eq!(spelled(arrived.head.path_and_query()), spelled(head.path_and_query()));
    }
    let framing = if ended { BodyFraming::None } else { arrived.framing };
    if request_for_h1(&mut arrived.head, framing).is_ok() {
        let mut out = BytesMut::new();
        encode_request_head(&arrived.head, &mut out).unwrap();
        let delivered = RequestParser::new(generous()).parse(&mut out).unwrap().unwrap();
        assert!(out.is_empty(), "nothing follows the head");
        assert_eq!(delivered.head.method, head.method);
        assert_eq!(default(delivered.head.host()), default(head.host()));
        assert!(delivered.framing == framing || framing.is_empty(), "{:?} for {framing:?}", delivered.framing);
    }
}

/// The fields of one block, on a connection of their own.
fn decoded(sent: &[u8]) -> Block {
    let mut block = Block::new();
    Decoder::new(TABLE_BYTES_DEFAULT).decode(sent, BlockLimits::of(&generous()), &mut block).unwrap();
    block
}

/// A path with the bytes that no URI may hold as HTTP/2 spells them.
fn spelled(path: &[u8]) -> String {
    let path = path.escape_ascii().to_string().replace("\\\"", "%22");
    path.replace('<', "%3C").replace('>', "%3E").replace('`', "%60")
}

/// Bytes of a server, read as response heads; the first byte says what was asked.
pub(crate) fn response(data: &[u8]) {
    let Some((asked, data)) = asked(data) else { return };
    for limits in [Limits::default(), TINY] {
        let parse = |singly| {
            let mut parser = ResponseParser::new(limits);
            feed(data, singly, |buffer| parser.parse(buffer, asked))
        };
        let whole = parse(false);
        agree(&whole, &parse(true));
        if let (Ok(Some(parsed)), rest) = whole {
            let head = &data[..data.len() - rest.len()];
            assert!(head.len() <= limits.head_bytes_max && parsed.head.fields.len() <= limits.fields_max);
            response_read_alike(head, &parsed);
            response_rules(&parsed, asked);
            response_written_as_read(&parsed, asked);
            response_through_http2(&parsed, asked);
        }
    }
}

/// What a response answers, from the first byte.
pub(crate) fn asked(data: &[u8]) -> Option<(Asked, &[u8])> {
    let (kind, rest) = data.split_first()?;
    let bit = |n: u8| kind & (1 << n) != 0;
    Some((Asked { head: bit(0), connect: bit(1) && !bit(0), upgrade: bit(2) && !bit(1) }, rest))
}

fn response_read_alike(head: &[u8], parsed: &ParsedResponse) {
    let lines = lines(head);
    let text = lines[0].escape_ascii().to_string();
    assert!(text.starts_with(&format!("{} {}", parsed.head.version.as_str(), parsed.head.status)), "{text}");
    assert!((100..1000).contains(&parsed.head.status));
    assert!(lines[0].ends_with(&parsed.head.reason));
    let fields: Vec<_> = lines[1..].iter().map(|line| name_and_value(line)).collect();
    assert!(fields.iter().copied().eq(parsed.head.fields.iter()), "{fields:?}");
}

/// RFC 9112 section 6.3, for each rule once more.
fn response_rules(parsed: &ParsedResponse, asked: Asked) {
    let status = parsed.head.status;
    let bodiless = asked.head || status < 200 || matches!(status, 204 | 304);
    let connected = asked.connect && (200..300).contains(&status);
    assert_eq!(parsed.tunnel, status == 101 || connected);
    assert!(status != 101 || asked.upgrade, "an unsolicited 101");
    if bodiless || connected {
        assert_eq!(parsed.framing, BodyFraming::None);
    }
    let fields = &parsed.head.fields;
    if !connected {
        assert!(!(fields.contains("content-length") && fields.contains("transfer-encoding")));
        assert!(fields.get_all("content-length").count() <= 1);
    }
}

fn response_written_as_read(parsed: &ParsedResponse, asked: Asked) {
    assert_harmless(&parsed.head.fields);
    let mut out = BytesMut::new();
    encode_response_head(&parsed.head, &mut out);
    assert_eq!(ResponseParser::new(generous()).parse(&mut out, asked).unwrap().as_ref(), Some(parsed));
    assert!(out.is_empty());
}

fn response_through_http2(parsed: &ParsedResponse, asked: Asked) {
    let mut head = parsed.head.clone();
    strip_response(&mut head, Upgrade::Drop);
    let mut sent = BytesMut::new();
    if Encoder::new().response(&head, &mut sent).is_err() {
        return;
    }
    let arrived = head::response(&mut decoded(&sent), asked, parsed.framing.is_empty(), &generous());
    let Ok(mut arrived) = arrived else {
        // A length of zero bytes and more is legal where there is no body: answers to HEAD and 304.
        panic!("the next proxy refuses {head:?}: {arrived:?}")
    };
    assert_eq!(arrived.head.status, head.status);
    response_for_h1(&mut arrived.head, arrived.framing);
    let mut out = BytesMut::new();
    encode_response_head(&arrived.head, &mut out);
    let delivered = ResponseParser::new(generous()).parse(&mut out, asked).unwrap().unwrap();
    assert!(out.is_empty() && delivered.head.status == head.status);
    assert_eq!(delivered.tunnel, arrived.tunnel);
}
