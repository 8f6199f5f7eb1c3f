use bytes::{Bytes, BytesMut};

use super::*;
use crate::h1::{HeadFault, Limits, RequestParser, encode_request_head};
use crate::message::{BodyFraming, ParsedRequest, RequestHead};

pub(crate) fn h1_request(text: &str) -> ParsedRequest {
    RequestParser::new(Limits::default()).parse(&mut BytesMut::from(text)).unwrap().unwrap()
}

pub(crate) fn on_wire(head: &RequestHead) -> String {
    let mut out = BytesMut::new();
    encode_request_head(head, &mut out).unwrap();
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn extended_connect_needs_http_2() {
    let mut head = h1_request("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").head;
    head.protocol = Some(Bytes::from_static(b"websocket"));
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
