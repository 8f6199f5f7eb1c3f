//! Tables of bodies: every row is decoded whole and in single bytes.

use super::*;

/// What a body came to: data, trailers, what was left in the buffer.
type Outcome = Result<(Vec<u8>, Vec<(String, String)>, bool), BodyFault>;

fn drain(
    decoder: &mut BodyDecoder,
    buffer: &mut BytesMut,
    got: &mut (Vec<u8>, Vec<(String, String)>, bool),
) -> Result<(), BodyFault> {
    loop {
        match decoder.decode(buffer)? {
            Decoded::Data(data) => {
                assert!(!data.is_empty(), "data is never empty");
                got.0.extend_from_slice(&data);
            }
            Decoded::Trailers(fields) => {
                let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                got.1.extend(fields.iter().map(|(n, v)| (text(n), text(v))));
            }
            Decoded::End => {
                got.2 = true;
                return Ok(());
            }
            Decoded::NeedMore => return Ok(()),
        }
    }
}

fn decode(framing: BodyFraming, limits: Limits, pieces: &[&[u8]]) -> (Outcome, BytesMut) {
    let mut decoder = BodyDecoder::new(framing, limits);
    let (mut buffer, mut got) = (BytesMut::new(), (Vec::new(), Vec::new(), false));
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if let Err(fault) = drain(&mut decoder, &mut buffer, &mut got) {
            assert_eq!(decoder.decode(&mut buffer), Err(fault), "a fault stays");
            return (Err(fault), buffer);
        }
    }
    assert_eq!(decoder.is_ended(), got.2);
    (Ok(got), buffer)
}

fn both_ways(bytes: &[u8], limits: Limits) -> Outcome {
    let (whole, _) = decode(BodyFraming::Chunked, limits, &[bytes]);
    let drops: Vec<_> = bytes.chunks(1).collect();
    let (dropped, _) = decode(BodyFraming::Chunked, limits, &drops);
    assert_eq!(whole, dropped, "whole and in drops: {:?}", String::from_utf8_lossy(bytes));
    whole
}

fn chunked(bytes: &[u8], data: &str, trailers: &[(&str, &str)], ended: bool) {
    let trailers = trailers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    let expected = Ok((data.as_bytes().to_vec(), trailers, ended));
    assert_eq!(both_ways(bytes, Limits::default()), expected, "{:?}", String::from_utf8_lossy(bytes));
}

fn refused(name: &str, bytes: &[u8], expected: BodyFault) {
    assert_eq!(both_ways(bytes, Limits::default()), Err(expected), "{name}: {:?}", String::from_utf8_lossy(bytes));
}

#[test]
fn decodes_chunks() {
    chunked(b"0\r\n\r\n", "", &[], true);
    chunked(b"5\r\nhello\r\n0\r\n\r\n", "hello", &[], true);
    chunked(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", &[], true);
    chunked(b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", &[], true);
    chunked(b"0000000000000003\r\nabc\r\n0000\r\n\r\n", "abc", &[], true);
    chunked(b"2\r\n\r\n\r\n0\r\n\r\n", "\r\n", &[], true);
    chunked(b"3;a=b\r\nabc\r\n0;last\r\n\r\n", "abc", &[], true);
    chunked(b"3; a=\"b c\" ;d\t\r\nabc\r\n0\r\n\r\n", "abc", &[], true);
    chunked(b"5\r\nhel", "hel", &[], false);
    chunked(b"5\r\nhello", "hello", &[], false);
    chunked(b"5\r\nhello\r\n0\r\n", "hello", &[], false);
    chunked(b"5\r\nhello\r\n0\r\n\r", "hello", &[], false);
    chunked(b"0\r\nA: b\r\n", "", &[], false);
}

#[test]
fn keeps_trailers_announced_or_not() {
    chunked(b"1\r\nx\r\n0\r\nGrpc-Status: 0\r\n\r\n", "x", &[("Grpc-Status", "0")], true);
    chunked(b"0\r\nA: 1\r\na:  2 \r\nB:\r\n\r\n", "", &[("A", "1"), ("a", "2"), ("B", "")], true);
}

#[test]
fn leaves_the_next_message() {
    let (outcome, rest) = decode(BodyFraming::Chunked, Limits::default(), &[b"1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n"]);
    assert!(outcome.unwrap().2);
    assert_eq!(rest, "GET / HTTP/1.1\r\n");
    let (outcome, rest) = decode(BodyFraming::Chunked, Limits::default(), &[b"0\r\nA: b\r\n\r\n\r\nGET"]);
    assert!(outcome.unwrap().2);
    assert_eq!(rest, "\r\nGET");
    let (outcome, rest) = decode(BodyFraming::Length(3), Limits::default(), &[b"ab", b"cGET"]);
    assert_eq!(outcome, Ok((b"abc".to_vec(), Vec::new(), true)));
    assert_eq!(rest, "GET");
    for empty in [BodyFraming::None, BodyFraming::Length(0)] {
        let (outcome, rest) = decode(empty, Limits::default(), &[b"GET"]);
        assert_eq!(outcome, Ok((Vec::new(), Vec::new(), true)));
        assert_eq!(rest, "GET");
    }
}

#[test]
fn refuses_chunk_lines() {
    use BodyFault::*;
    let cases: &[(&str, &[u8], BodyFault)] = &[
        ("RUSTSEC-2021-0079 17 digits", b"10000000000000000\r\n", ChunkSize),
        ("RUSTSEC-2021-0079 wraps to 3", b"f0000000000000003\r\nabc\r\n0\r\n\r\n", ChunkSize),
        ("seventeen zeros", b"00000000000000003\r\n", ChunkSize),
        ("no size", b"\r\nabc", ChunkSize),
        ("no size, extension", b";a\r\n", ChunkSize),
        ("hexadecimal prefix", b"0x3\r\nabc\r\n", ChunkSize),
        ("sign", b"+3\r\nabc\r\n", ChunkSize),
        ("minus", b"-3\r\nabc\r\n", ChunkSize),
        ("not hexadecimal", b"g\r\n", ChunkSize),
        ("underscore", b"1_0\r\n", ChunkSize),
        ("quoted", b"\"3\"\r\n", ChunkSize),
        ("blank before", b" 3\r\nabc\r\n", ChunkSize),
        ("blank after", b"3 \r\nabc\r\n", ChunkSize),
        ("tab after", b"3\t\r\nabc\r\n", ChunkSize),
        ("blank before extension", b"3 ;a\r\nabc\r\n", ChunkSize),
        ("comma", b"3,4\r\n", ChunkSize),
        ("NUL", b"3\0\r\n", ChunkSize),
        ("bare LF", b"3\nabc\r\n", ChunkSize),
        ("bare CR", b"3\rabc\r\n", ChunkExtension),
        ("bare LF for last chunk", b"0\n\r\n", ChunkSize),
        ("CVE-2025-55315 bare LF in extension", b"3;a\nabc\r\n0\r\n\r\n", ChunkExtension),
        ("CVE-2025-55315 bare CR in extension", b"3;a\rb\r\nabc\r\n", ChunkExtension),
        ("LF in quotes", b"3;a=\"\n\"\r\nabc\r\n", ChunkExtension),
        ("CRLF in quotes", b"3;a=\"\r\nb\"\r\n", ChunkEnd),
        ("NUL in extension", b"3;\0\r\n", ChunkExtension),
        ("DEL in extension", b"3;\x7f\r\n", ChunkExtension),
        ("data longer than its chunk", b"3\r\nabcd\r\n", ChunkEnd),
        ("data without CRLF", b"3\r\nabc0\r\n\r\n", ChunkEnd),
        ("LF after data", b"3\r\nabc\n0\r\n\r\n", ChunkEnd),
        ("CR and data after data", b"3\r\nabc\rx", ChunkEnd),
        ("CR CR after data", b"3\r\nabc\r\r\n", ChunkEnd),
        ("two CRLF after data", b"3\r\nabc\r\n\r\n", ChunkSize),
    ];
    for (name, bytes, expected) in cases {
        refused(name, bytes, *expected);
    }
}

#[test]
fn refuses_trailers() {
    use BodyFault::*;
    let cases: &[(&str, &str, BodyFault)] = &[
        ("bare LF end", "\n", TrailerField),
        ("bare CR", "\rA: b", TrailerField),
        ("bare LF after field", "A: b\n\r\n", TrailerField),
        ("bare LF for empty line", "A: b\r\n\n", TrailerField),
        ("bare LF between", "A: b\nC: d\r\n\r\n", TrailerField),
        ("fold", "A: b\r\n c\r\n\r\n", TrailerField),
        ("fold first", " A: b\r\n\r\n", TrailerField),
        ("space before colon", "A : b\r\n\r\n", TrailerField),
        ("empty name", ": b\r\n\r\n", TrailerField),
        ("no colon", "GET / HTTP/1.1\r\n\r\n", TrailerField),
        ("NUL", "A: \0\r\n\r\n", TrailerField),
        ("transfer-encoding", "Transfer-Encoding: chunked\r\n\r\n", TrailerForbidden),
        ("content-length", "A: b\r\nCONTENT-LENGTH: 5\r\n\r\n", TrailerForbidden),
        ("host", "Host: b\r\n\r\n", TrailerForbidden),
        ("connection", "Connection: close\r\n\r\n", TrailerForbidden),
        ("upgrade", "Upgrade: h2c\r\n\r\n", TrailerForbidden),
        ("trailer", "Trailer: a\r\n\r\n", TrailerForbidden),
        ("te", "TE: gzip\r\n\r\n", TrailerForbidden),
        ("expect", "Expect: 100-continue\r\n\r\n", TrailerForbidden),
    ];
    for (name, section, expected) in cases {
        refused(name, format!("1\r\nx\r\n0\r\n{section}").as_bytes(), *expected);
    }
}

#[test]
fn bounds_trailers_and_extensions() {
    let limits = Limits { trailer_bytes_max: 64, fields_max: 3, ..Limits::default() };
    let trailer = |len: usize| format!("0\r\nA: {}\r\n\r\n", "v".repeat(len));
    assert!(both_ways(trailer(57).as_bytes(), limits).unwrap().2);
    assert_eq!(both_ways(trailer(58).as_bytes(), limits), Err(BodyFault::TrailersTooLarge));
    assert_eq!(both_ways(b"0\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n", limits), Err(BodyFault::TooManyTrailers));
    assert!(both_ways(b"0\r\nA:\r\nB:\r\nC:\r\n\r\n", limits).unwrap().2);

    let extension = |len: usize| format!("1;{}\r\nx\r\n", "e".repeat(len - 1));
    let half = extension(CHUNK_EXTENSION_BYTES_MAX / 2);
    assert_eq!(both_ways(half.as_bytes(), limits).unwrap().0, b"x");
    let thrice = half.repeat(3);
    assert_eq!(both_ways(thrice.as_bytes(), limits), Err(BodyFault::ChunkExtensionsTooLong), "summed over the body");
}

#[test]
fn close_ends_only_bodies_without_an_end() {
    fn check(framing: BodyFraming, received: &[u8], expected: Result<(), BodyFault>) {
        let mut decoder = BodyDecoder::new(framing, Limits::default());
        let (mut buffer, mut got) = (BytesMut::from(received), (Vec::new(), Vec::new(), false));
        drain(&mut decoder, &mut buffer, &mut got).unwrap();
        assert_eq!(decoder.closed(), expected, "{framing:?} after {received:?}");
        assert_eq!(decoder.is_ended(), expected.is_ok());
        let after = decoder.decode(&mut buffer);
        assert_eq!(after, expected.map(|()| Decoded::End));
    }
    let truncated = Err(BodyFault::Truncated);
    check(BodyFraming::UntilClose, b"", Ok(()));
    check(BodyFraming::UntilClose, b"abc", Ok(()));
    check(BodyFraming::None, b"", Ok(()));
    check(BodyFraming::Length(3), b"abc", Ok(()));
    check(BodyFraming::Length(3), b"ab", truncated);
    check(BodyFraming::Chunked, b"0\r\n\r\n", Ok(()));
    check(BodyFraming::Chunked, b"", truncated);
    check(BodyFraming::Chunked, b"5", truncated);
    check(BodyFraming::Chunked, b"5\r\nhel", truncated);
    check(BodyFraming::Chunked, b"5\r\nhello", truncated);
    check(BodyFraming::Chunked, b"5\r\nhello\r\n", truncated);
    check(BodyFraming::Chunked, b"5\r\nhello\r\n0\r\n", truncated);
    check(BodyFraming::Chunked, b"0\r\nA: b\r\n", truncated);
}

#[test]
fn expected_bytes_are_those_of_the_length_or_chunk() {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked, Limits::default());
    let mut buffer = BytesMut::from(&b"ff\r\nab"[..]);
    assert_eq!(decoder.bytes_expected(), 0);
    assert_eq!(decoder.decode(&mut buffer), Ok(Decoded::Data(Bytes::from_static(b"ab"))));
    assert_eq!(decoder.bytes_expected(), 253);
    assert_eq!(BodyDecoder::new(BodyFraming::Length(9), Limits::default()).bytes_expected(), 9);
}
