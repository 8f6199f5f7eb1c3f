//! What must hold for any input: parsers are total, pieces do not matter, what is written is what was read, and no
//! accepted head can be read in two ways.

use std::slice::from_ref;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::fields::Fields;
use crate::message::{Asked, BodyFraming, ParsedRequest, ParsedResponse};

const ASKED: Asked = Asked { head: false, connect: false, upgrade: true };

/// Bytes made of what heads are made of, and of what attacks on them are made of.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n",
        b"POST /a HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 101 X\r\n",
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding:",
        b"Content-Length:",
        b"chunked",
        b"gzip,",
        b"A: b\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"5",
        b"0",
        b"ffffffffffffffff",
        b"hello",
        b"\x0b",
        b"\xff",
        b"#",
        b"*",
        b"http://a/",
        b"Upgrade: x\r\n",
        b"Connection: upgrade\r\n",
        b"Expect: 100-continue\r\n",
    ];
    prop_oneof![vec(select(pieces), 0..24).prop_map(|pieces| pieces.concat()), vec(any::<u8>(), 0..200),]
}

/// Beginnings that let a parser get far enough to matter.
const LEADS: &[&[u8]] = &[b"", b"POST / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.0\r\n", b"HTTP/1.1 200 OK\r\n"];

/// Cuts bytes at arbitrary places.
fn cut(bytes: &[u8], cuts: &[Index]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    places.sort_unstable();
    places.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

type RequestOutcome = Result<Option<ParsedRequest>, HeadFault>;
type ResponseOutcome = Result<Option<ParsedResponse>, HeadFault>;

fn request_in(pieces: &[Vec<u8>]) -> (RequestOutcome, BytesMut) {
    let (mut parser, mut buffer) = (RequestParser::new(Limits::default()), BytesMut::new());
    let mut outcome = Ok(None);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if outcome == Ok(None) {
            outcome = parser.parse(&mut buffer);
        }
    }
    (outcome, buffer)
}

fn response_in(pieces: &[Vec<u8>]) -> (ResponseOutcome, BytesMut) {
    let (mut parser, mut buffer) = (ResponseParser::new(Limits::default()), BytesMut::new());
    let mut outcome = Ok(None);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if outcome == Ok(None) {
            outcome = parser.parse(&mut buffer, ASKED);
        }
    }
    (outcome, buffer)
}

/// Pieces give what the whole gives. Two liberties for what is refused anyway: a fault inside an unfinished head may
/// show only at its end, and of several faults in one line another one may be named.
fn agree<T: PartialEq + std::fmt::Debug>(
    whole: (Result<Option<T>, HeadFault>, BytesMut),
    pieces: (Result<Option<T>, HeadFault>, BytesMut),
) -> Result<(), TestCaseError> {
    if pieces.0 == Ok(None) {
        prop_assert!(!matches!(whole.0, Ok(Some(_))), "whole {:?} but nothing in pieces", whole.0);
        return Ok(());
    }
    if whole.0.is_err() && pieces.0.is_err() {
        return Ok(());
    }
    prop_assert_eq!(whole.0, pieces.0);
    prop_assert_eq!(whole.1, pieces.1, "what is left");
    Ok(())
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}"
}

/// Fields that decide nothing, as `(name, value)`; values may hold anything that a value may.
fn plain_fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let decides = ["host", "content-length", "transfer-encoding", "expect", "connection", "upgrade"];
    let name =
        token().prop_filter("decides nothing", move |name| !decides.iter().any(|d| name.eq_ignore_ascii_case(d)));
    let byte = prop_oneof![Just(b'\t'), b' '..=b'~', 0x80_u8..=0xff];
    let value = vec(byte, 0..40).prop_map(|bytes| crate::fields::trim_ows(&bytes).to_vec());
    vec((name, value), 0..20)
}

fn write(first: &str, fields: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut head = format!("{first}\r\n").into_bytes();
    for (name, value) in fields {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// An independent reading of an accepted head, line by line: nothing in it may allow another one.
fn is_unambiguous(head: &[u8], request: bool) -> Result<(), TestCaseError> {
    let text = head.strip_suffix(b"\r\n\r\n").expect("ends with an empty line");
    let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l)).collect();
    prop_assert_eq!(lines.join(&b"\r\n"[..]), text, "every line ends with CRLF");
    let count = |name: &str| lines[1..].iter().filter(|l| l.to_ascii_lowercase().starts_with(name.as_bytes())).count();
    prop_assert!(lines.iter().all(|l| !l.contains(&b'\r') && !l.contains(&0) && !l.starts_with(b" ")));
    prop_assert!(
        lines[1..].iter().all(|l| l.iter().position(|b| *b == b':').is_some_and(|at| at > 0 && l[at - 1] != b' '))
    );
    prop_assert!(count("content-length:") <= 1);
    prop_assert!(count("content-length:") + count("transfer-encoding:") <= 1 || !request, "both CL and TE");
    if request {
        let old = lines[0].ends_with(b"HTTP/1.0");
        prop_assert!(count("host:") == 1 || (old && count("host:") == 0));
        prop_assert!(!old || count("transfer-encoding:") == 0);
    }
    Ok(())
}

proptest! {
    #[test]
    fn parsers_are_total_and_pieces_do_not_matter(bytes in hostile(), cuts in vec(any::<Index>(), 0..6)) {
        let drops: Vec<Vec<u8>> = bytes.iter().map(|b| vec![*b]).collect();
        for pieces in [cut(&bytes, &cuts), drops] {
            agree(request_in(from_ref(&bytes)), request_in(&pieces))?;
            agree(response_in(from_ref(&bytes)), response_in(&pieces))?;
        }
    }

    #[test]
    fn accepted_heads_can_be_read_in_one_way_only(bytes in hostile(), lead in select(LEADS)) {
        let bytes = [lead, bytes.as_slice(), b"\r\n\r\n"].concat();
        if let (Ok(Some(_)), rest) = request_in(from_ref(&bytes)) {
            let head = &bytes[..bytes.len() - rest.len()];
            is_unambiguous(head.strip_prefix(b"\r\n").unwrap_or(head), true)?;
        }
        if let (Ok(Some(parsed)), rest) = response_in(from_ref(&bytes)) {
            is_unambiguous(&bytes[..bytes.len() - rest.len()], false)?;
            let both = parsed.head.fields.contains("content-length") && parsed.head.fields.contains("transfer-encoding");
            prop_assert!(!both);
        }
    }

    #[test]
    fn requests_leave_as_they_came(
        method in token(), path in "/[!-\"$-~]{0,40}", fields in plain_fields(), at in any::<Index>(),
        body in select(&["", "Content-Length: 5", "transfer-ENCODING: Chunked"]),
    ) {
        prop_assume!(method != "CONNECT");
        let mut fields = fields;
        fields.insert(at.index(fields.len() + 1), ("hOsT".into(), b"example.com:8080".to_vec()));
        if let Some((name, value)) = body.split_once(": ") {
            fields.insert(at.index(fields.len() + 1), (name.into(), value.into()));
        }
        let head = write(&format!("{method} {path} HTTP/1.1"), &fields);
        let parsed = request_in(from_ref(&head)).0.unwrap().unwrap();
        let expected = match body { "" => BodyFraming::None, "Content-Length: 5" => BodyFraming::Length(5), _ => BodyFraming::Chunked };
        prop_assert_eq!(parsed.framing, expected);
        let mut out = BytesMut::new();
        encode_request_head(&parsed.head, &mut out).unwrap();
        prop_assert_eq!(out.as_ref(), head.as_slice());
    }

    #[test]
    fn responses_leave_as_they_came(
        status in 200_u16..=999, reason in "[ -~\t]{0,30}", fields in plain_fields(), old in any::<bool>(),
    ) {
        let version = if old { "HTTP/1.0" } else { "HTTP/1.1" };
        let head = write(&format!("{version} {status} {reason}"), &fields);
        let parsed = response_in(from_ref(&head)).0.unwrap().unwrap();
        let mut out = BytesMut::new();
        encode_response_head(&parsed.head, &mut out);
        prop_assert_eq!(out.as_ref(), head.as_slice());
    }

    #[test]
    fn lists_behave_like_a_plain_vector(received in plain_fields(), steps in vec((0..5_u8, token(), "[ -~]{0,10}"), 0..20)) {
        let head = write("GET / HTTP/1.1\r\nHost: a", &received);
        let mut fields = request_in(&[head]).0.unwrap().unwrap().head.fields;
        let mut model: Vec<(String, Vec<u8>)> = [("Host".to_owned(), b"a".to_vec())].into_iter().chain(received).collect();
        for (step, name, value) in steps {
            let value = crate::fields::trim_ows(value.as_bytes()).to_vec();
            // Half of the names are ones that are there.
            let name = if step % 2 == 0 { model.first().map_or(name, |(n, _)| n.to_ascii_uppercase()) } else { name };
            let same = |n: &str| n.eq_ignore_ascii_case(&name);
            match step {
                0 | 1 => {
                    fields.set(&name, &value);
                    match model.iter().position(|(n, _)| same(n)) {
                        Some(first) => {
                            model[first].1 = value;
                            let mut index = 0;
                            model.retain(|(n, _)| { index += 1; index - 1 <= first || !same(n) });
                        }
                        None => model.push((name, value)),
                    }
                }
                2 => {
                    let before = model.len();
                    model.retain(|(n, _)| !same(n));
                    prop_assert_eq!(fields.remove(&name), before - model.len());
                }
                3 => { fields.append(&name, &value); model.push((name, value)); }
                _ => { fields.prepend(&name, &value); model.insert(0, (name, value)); }
            }
            prop_assert_eq!(&fields, &model.iter().map(|(n, v)| (n, v)).collect::<Fields>());
        }
    }

    #[test]
    fn body_decoders_are_total(bytes in hostile(), cuts in vec(any::<Index>(), 0..6), length in 0..40_u64) {
        for framing in [BodyFraming::Chunked, BodyFraming::Length(length), BodyFraming::UntilClose, BodyFraming::None] {
            let whole = decode(framing, from_ref(&bytes));
            let pieces = decode(framing, &cut(&bytes, &cuts));
            let unfinished = matches!(&pieces.0, Ok((_, _, false)));
            // As for heads: a fault inside an unfinished trailer section may show only at its end.
            if whole.0.is_err() && (unfinished || pieces.0.is_err()) {
                continue;
            }
            prop_assert_eq!(whole, pieces);
        }
    }

    #[test]
    fn chunked_bodies_arrive_as_sent(
        chunks in vec(vec(any::<u8>(), 0..50), 0..8), trailers in plain_fields(), cuts in vec(any::<Index>(), 0..12),
    ) {
        let forbidden = |n: &str| is_forbidden_trailer(n);
        let trailers: Fields = trailers.iter().filter(|(n, _)| !forbidden(n)).map(|(n, v)| (n, v)).collect();
        let (mut encoder, mut wire) = (BodyEncoder::new(BodyFraming::Chunked), BytesMut::new());
        for chunk in &chunks {
            let frame = encoder.frame(chunk.len()).unwrap();
            wire.extend_from_slice(frame.before());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(frame.after());
        }
        encoder.finish(Some(&trailers), &mut wire).unwrap();
        wire.extend_from_slice(b"GET / next");
        let (got, rest) = decode(BodyFraming::Chunked, &cut(&wire, &cuts));
        let (data, got_trailers, ended) = got.unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(got_trailers.unwrap_or_default(), trailers);
        prop_assert!(ended);
        prop_assert_eq!(rest, &b"GET / next"[..]);
    }
}

proptest! {
    /// A whole connection: pipelined requests with bodies of every framing, cut anywhere, come out one by one.
    #[test]
    fn pipelined_requests_with_bodies_stay_apart(
        sent in vec((vec(vec(any::<u8>(), 1..30), 0..4), any::<bool>()), 1..6), cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut wire = BytesMut::new();
        for (number, (chunks, chunked)) in sent.iter().enumerate() {
            let length = chunks.concat().len() as u64;
            let framing = if *chunked { BodyFraming::Chunked } else { BodyFraming::Length(length) };
            let mut head = crate::message::RequestHead::new(http::Method::PUT, format!("/{number}"));
            head.fields.append("Host", "a");
            declare_framing(&mut head.fields, framing);
            encode_request_head(&head, &mut wire).unwrap();
            let mut body = BodyEncoder::new(framing);
            for chunk in chunks {
                let frame = body.frame(chunk.len()).unwrap();
                wire.extend_from_slice(&[frame.before(), chunk, frame.after()].concat());
            }
            body.finish(None, &mut wire).unwrap();
        }
        let (mut parser, mut body, mut buffer) = (RequestParser::new(Limits::default()), None, BytesMut::new());
        let mut received: Vec<(String, Vec<u8>)> = Vec::new();
        for piece in cut(&wire, &cuts) {
            buffer.extend_from_slice(&piece);
            loop {
                let Some(decoder) = &mut body else {
                    let Some(parsed) = parser.parse(&mut buffer).unwrap() else { break };
                    received.push((String::from_utf8(parsed.head.target.to_vec()).unwrap(), Vec::new()));
                    body = Some(BodyDecoder::new(parsed.framing, Limits::default()));
                    continue;
                };
                match decoder.decode(&mut buffer).unwrap() {
                    Decoded::Data(data) => received.last_mut().unwrap().1.extend_from_slice(&data),
                    Decoded::Trailers(fields) => prop_assert!(false, "no trailers were sent: {:?}", fields),
                    Decoded::End => body = None,
                    Decoded::NeedMore => break,
                }
            }
        }
        let expected: Vec<_> = sent.iter().enumerate().map(|(n, (chunks, _))| (format!("/{n}"), chunks.concat())).collect();
        prop_assert_eq!(received, expected);
        prop_assert!(buffer.is_empty() && body.is_none() && !parser.in_head(&buffer));
    }
}

type Body = (Vec<u8>, Option<Fields>, bool);

/// Decodes a body that arrives in pieces: data, trailers, whether it ended; and what is left.
fn decode(framing: BodyFraming, pieces: &[Vec<u8>]) -> (Result<Body, BodyFault>, BytesMut) {
    let (mut decoder, mut buffer) = (BodyDecoder::new(framing, Limits::default()), BytesMut::new());
    let (mut data, mut trailers, mut ended, mut fault) = (Vec::new(), None, false, None);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while !ended && fault.is_none() {
            match decoder.decode(&mut buffer) {
                Ok(Decoded::Data(bytes)) => data.extend_from_slice(&bytes),
                Ok(Decoded::Trailers(fields)) => trailers = Some(fields),
                Ok(Decoded::End) => ended = true,
                Ok(Decoded::NeedMore) => break,
                Err(found) => fault = Some(found),
            }
        }
    }
    match fault {
        // Where the decoder stopped inside refused bytes is not promised.
        Some(fault) => (Err(fault), BytesMut::new()),
        None => (Ok((data, trailers, ended)), buffer),
    }
}
