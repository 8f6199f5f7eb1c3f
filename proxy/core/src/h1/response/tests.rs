use super::*;

#[test]
fn keeps_the_head_as_written() {
    let mut buffer = BytesMut::from(&b"HTTP/1.1 200 F\xfcnf\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello"[..]);
    let asked = Asked { head: false, connect: false, upgrade: false };
    let parsed = ResponseParser::new(Limits::default()).parse(&mut buffer, asked).unwrap().unwrap();
    assert_eq!(parsed.framing, BodyFraming::Length(5));
    assert_eq!(parsed.head.reason, &b"F\xfcnf"[..]);
    assert_eq!(buffer, "hello");
}
