//! Messages as our codec reads them.

use bytes::BytesMut;
use weft_core::h1::{Limits, RequestParser, ResponseParser};
use weft_core::message::{Asked, BodyFraming, Version};

use super::{Body, Reading, Seen, list};
use crate::reading::read_body;

/// All requests of a connection.
pub(super) fn requests(data: &[u8]) -> Reading {
    let mut parser = RequestParser::new(Limits::default());
    let (mut seen, mut rest) = (Vec::new(), data.to_vec());
    loop {
        let start = data.len() - rest.len();
        let mut buffer = BytesMut::from(rest.as_slice());
        let parsed = match parser.parse(&mut buffer) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Reading { seen, refused: None },
            Err(fault) => return Reading { seen, refused: Some((fault, start)) },
        };
        let head = &parsed.head;
        let (body, after) = body(parsed.framing, &buffer);
        let broken = matches!(body, Body::Broken(_));
        let target = if head.target.starts_with(b"/") { head.target.clone() } else { absolute(head).into() };
        let first = format!("{} {}", head.method, target.escape_ascii());
        let minor = u8::from(head.version == Version::Http11);
        let last = !head.keeps_alive();
        seen.push(Seen { first, minor, fields: list(&head.fields), body });
        if broken || last {
            return Reading { seen, refused: None };
        }
        rest = after;
    }
}

/// Authority and path, whatever the form.
fn absolute(head: &weft_core::message::RequestHead) -> Vec<u8> {
    let authority = head.authority.as_deref().unwrap_or_default();
    [authority, b" ", head.path_and_query()].concat()
}

/// The final response, after any interim ones.
pub(super) fn response(data: &[u8], asked: Asked) -> Reading {
    let (mut parser, mut buffer) = (ResponseParser::new(Limits::default()), BytesMut::from(data));
    loop {
        let start = data.len() - buffer.len();
        let parsed = match parser.parse(&mut buffer, asked) {
            Ok(Some(parsed)) if parsed.head.is_interim() => continue,
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Reading { seen: Vec::new(), refused: None },
            Err(fault) => return Reading { seen: Vec::new(), refused: Some((fault, start)) },
        };
        let (body, _) = body(parsed.framing, &buffer);
        let minor = u8::from(parsed.head.version == Version::Http11);
        let seen = Seen { first: parsed.head.status.to_string(), minor, fields: list(&parsed.head.fields), body };
        return Reading { seen: vec![seen], refused: None };
    }
}

/// The body, and what follows it.
fn body(framing: BodyFraming, bytes: &[u8]) -> (Body, Vec<u8>) {
    if framing.is_empty() {
        return (Body::Whole { data: Vec::new(), trailers: Vec::new() }, bytes.to_vec());
    }
    let read = read_body(framing, Limits::default(), bytes, false);
    if !read.ended && framing != BodyFraming::UntilClose {
        return (Body::Broken(read.fault), Vec::new());
    }
    let trailers = read.trailers.map(|trailers| list(&trailers)).unwrap_or_default();
    (Body::Whole { data: read.data, trailers }, read.rest)
}
