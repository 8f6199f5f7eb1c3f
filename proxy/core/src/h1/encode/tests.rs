use super::*;
use bytes::Bytes;
use http::Method;

fn text(out: &BytesMut) -> String {
    String::from_utf8_lossy(out).into_owned()
}

#[test]
fn writes_heads() {
    let mut out = BytesMut::new();
    let mut head = RequestHead::new(Method::GET, "/a?b");
    head.fields = [("hOst", "a"), ("X", ""), ("x", "2")].into_iter().collect();
    encode_request_head(&head, &mut out).unwrap();
    assert_eq!(text(&out), "GET /a?b HTTP/1.1\r\nhOst: a\r\nX: \r\nx: 2\r\n\r\n");

    for (version, written) in
        [(Version::Http10, "HTTP/1.0"), (Version::Http11, "HTTP/1.1"), (Version::Http2, "HTTP/1.1")]
    {
        out.clear();
        let head = ResponseHead { version, reason: Bytes::from_static(b"I'm Fine"), ..ResponseHead::new(204) };
        encode_response_head(&head, &mut out);
        assert_eq!(text(&out), format!("{written} 204 I'm Fine\r\n\r\n"));
    }
    out.clear();
    encode_response_head(&ResponseHead::new(999), &mut out);
    assert_eq!(text(&out), "HTTP/1.1 999 \r\n\r\n");
}

#[test]
fn never_splits_a_message() {
    let mut out = BytesMut::new();
    for target in ["", "/a b", "/\r\nX: y", "/\0", "/\x7f", "/ HTTP/1.1\r\n\r\nGET /"] {
        assert_eq!(encode_request_head(&RequestHead::new(Method::GET, target), &mut out), Err(HeadFault::Target));
        assert!(out.is_empty(), "nothing is written for {target:?}");
    }
    let head = ResponseHead { reason: Bytes::from_static(b"OK\r\nX: y"), ..ResponseHead::new(200) };
    encode_response_head(&head, &mut out);
    assert_eq!(text(&out), "HTTP/1.1 200 \r\n\r\n");
}

#[test]
fn frames_chunks() {
    for (len, line) in [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (4096, "1000\r\n"), (0xabcdef, "abcdef\r\n")] {
        let frame = BodyEncoder::new(BodyFraming::Chunked).frame(len).unwrap();
        assert_eq!((frame.before(), frame.after()), (line.as_bytes(), &b"\r\n"[..]));
    }
    let longest = BodyEncoder::new(BodyFraming::Chunked).frame(usize::MAX).unwrap();
    assert_eq!(longest.before(), format!("{:x}\r\n", usize::MAX).as_bytes());
    for (framing, len) in [(BodyFraming::Chunked, 0), (BodyFraming::Length(5), 5), (BodyFraming::UntilClose, 5)] {
        let frame = BodyEncoder::new(framing).frame(len).unwrap();
        assert_eq!((frame.before(), frame.after()), (&b""[..], &b""[..]), "{framing:?}");
    }
}

#[test]
fn holds_a_body_to_its_announced_length() {
    fn check(framing: BodyFraming, pieces: &[usize], framed: Result<(), BodyFault>, finished: Result<(), BodyFault>) {
        let mut encoder = BodyEncoder::new(framing);
        let outcome = pieces.iter().try_for_each(|len| encoder.frame(*len).map(drop));
        assert_eq!(outcome, framed, "{framing:?} {pieces:?}");
        if framed.is_ok() {
            assert_eq!(encoder.finish(None, &mut BytesMut::new()), finished, "{framing:?} {pieces:?}");
        }
    }
    check(BodyFraming::Length(5), &[2, 3], Ok(()), Ok(()));
    check(BodyFraming::Length(5), &[2, 0], Ok(()), Err(BodyFault::Truncated));
    check(BodyFraming::Length(5), &[], Ok(()), Err(BodyFault::Truncated));
    check(BodyFraming::Length(5), &[2, 4], Err(BodyFault::TooLong), Ok(()));
    check(BodyFraming::None, &[], Ok(()), Ok(()));
    check(BodyFraming::None, &[1], Err(BodyFault::TooLong), Ok(()));
    check(BodyFraming::UntilClose, &[1, usize::MAX, 7], Ok(()), Ok(()));
    check(BodyFraming::Chunked, &[1, usize::MAX, 7], Ok(()), Ok(()));
}

#[test]
fn ends_chunked_bodies_with_trailers() {
    fn check(framing: BodyFraming, trailers: Option<&[(&str, &str)]>, expected: &str) {
        let mut out = BytesMut::new();
        let fields: Option<Fields> = trailers.map(|pairs| pairs.iter().copied().collect());
        BodyEncoder::new(framing).finish(fields.as_ref(), &mut out).unwrap();
        assert_eq!(text(&out), expected);
    }
    check(BodyFraming::Chunked, None, "0\r\n\r\n");
    check(BodyFraming::Chunked, Some(&[]), "0\r\n\r\n");
    check(BodyFraming::Chunked, Some(&[("Grpc-Status", "0"), ("a", "b")]), "0\r\nGrpc-Status: 0\r\na: b\r\n\r\n");
    check(BodyFraming::UntilClose, Some(&[("a", "b")]), "");
    check(BodyFraming::None, Some(&[("a", "b")]), "");
}

#[test]
fn declares_one_framing_only() {
    fn check(framing: BodyFraming, before: &[(&str, &str)], after: &[(&str, &str)]) {
        let mut fields: Fields = before.iter().copied().collect();
        declare_framing(&mut fields, framing);
        assert_eq!(fields, after.iter().copied().collect(), "{framing:?} {before:?}");
    }
    let (cl, te) = (("content-length", "5"), ("transfer-encoding", "chunked"));
    check(BodyFraming::Chunked, &[], &[("Transfer-Encoding", "chunked")]);
    check(BodyFraming::Chunked, &[cl, te], &[te]);
    check(
        BodyFraming::Chunked,
        &[("TE", "a"), ("TRANSFER-ENCODING", "Chunked")],
        &[("TE", "a"), ("TRANSFER-ENCODING", "Chunked")],
    );
    check(BodyFraming::Chunked, &[("transfer-encoding", "gzip, chunked")], &[te]);
    check(BodyFraming::Length(5), &[te], &[("Content-Length", "5")]);
    check(BodyFraming::Length(5), &[cl, ("A", "b")], &[cl, ("A", "b")]);
    check(BodyFraming::Length(5), &[("CONTENT-length", "005")], &[("CONTENT-length", "005")]);
    check(BodyFraming::Length(6), &[cl, cl], &[("content-length", "6")]);
    check(BodyFraming::None, &[cl, te], &[cl]);
    check(BodyFraming::UntilClose, &[cl, te], &[]);
}
