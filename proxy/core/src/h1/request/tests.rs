use super::*;

fn parse(bytes: &[u8]) -> Result<Option<ParsedRequest>, HeadFault> {
    RequestParser::new(Limits::default()).parse(&mut BytesMut::from(bytes))
}

#[test]
fn keeps_the_head_as_written() {
    let mut buffer =
        BytesMut::from(&b"GET /a%2Fb?q=1 HTTP/1.1\r\nhOsT: example.com\r\nX-A:  1 \r\nx-a:\r\n\r\nGET /next"[..]);
    let parsed = RequestParser::new(Limits::default()).parse(&mut buffer).unwrap().unwrap();
    assert_eq!(parsed.framing, BodyFraming::None);
    assert_eq!(parsed.head.target, "/a%2Fb?q=1");
    let fields: Vec<_> = parsed.head.fields.iter().collect();
    assert_eq!(fields, [(&b"hOsT"[..], &b"example.com"[..]), (b"X-A", b"1"), (b"x-a", b"")]);
    assert_eq!(buffer, "GET /next");
    assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
}
