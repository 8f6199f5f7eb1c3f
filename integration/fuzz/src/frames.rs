//! Sequences of HTTP/2 frames against the server and client drivers, translated to HTTP/1 on the other side.
//!
//! Random bytes hardly ever make a frame, so an input is a script of frames: one byte of kind, one of flags, one of stream,
//! one of length, then the payload. Kinds above those of RFC 9113 write what is hard to find by chance: a header block from
//! lines of text, a frame whose length lies, bytes as they are.

use std::rc::Rc;

use bytes::Bytes;
use http::Method;
use weft_core::fields::Fields;
use weft_core::h1::{Limits, ResponseParser, encode_response_head};
use weft_core::message::{Asked, RequestHead, Version};
use weft_core::translate::response_for_h1;
use weft_proxy::http::{Body, Frame, H2Client, HttpLimits, Interim, Request, serve_h2};
use weft_proxy::runtime::drain::drain;

use crate::proxying::{Forward, Shared, connection, on_runtime, parts, talk};
use crate::reading::assert_harmless;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const HEADERS: u8 = 1;
const FRAME_MAX: usize = 16 * 1024;

/// Kinds of a script beyond frames.
const TEXT: u8 = 16;
const LYING: u8 = 17;
const RAW: u8 = 18;
const KINDS: u8 = 19;

/// The first part is a client's script; each further one what an upstream says when it hears something.
pub(crate) fn server(data: &[u8]) {
    let parts = parts(data);
    let (script, heads) = frames(parts[0]);
    let says = [PREFACE, &SETTINGS, &script].concat();
    let forward = Forward::to(&parts[1..]);
    let serving = Rc::clone(&forward);
    let heard = on_runtime(async move {
        let (stream, peer) = connection();
        let (trigger, signal) = drain();
        let signal = signal.here();
        let handler = Rc::new(Shared(serving));
        let limits = Rc::new(HttpLimits::default());
        let (_, heard) = tokio::join!(serve_h2(stream, &limits, signal, &handler), talk(peer, &says));
        drop(trigger);
        heard
    });
    let handled = forward.methods.borrow().len();
    assert!(handled <= heads, "{handled} requests of {heads} heads");
    well_formed(&heard);
    crate::connection::upstream(&forward);
}

/// A server's script, to a client that asks four things at once.
pub(crate) fn client(data: &[u8]) {
    let says = [&SETTINGS, frames(data).0.as_slice()].concat();
    on_runtime(async move {
        let (stream, peer) = connection();
        let asking = async move {
            let limits = HttpLimits::default();
            let Ok(client) = H2Client::connect(stream, &limits, "http").await else { return };
            let large = Body::Full(Bytes::from(vec![b'a'; 100_000]));
            tokio::join!(
                ask(&client, Method::GET, Body::Empty),
                ask(&client, Method::POST, large),
                ask(&client, Method::HEAD, Body::Empty),
                ask(&client, Method::CONNECT, Body::Empty),
            );
        };
        let ((), heard) = tokio::join!(asking, talk(peer, &says));
        well_formed(heard.strip_prefix(PREFACE).unwrap_or(&heard));
    });
}

async fn ask(client: &H2Client, method: Method, body: Body) {
    let asked = Asked { head: method == Method::HEAD, connect: method == Method::CONNECT, upgrade: false };
    let mut head = RequestHead::new(method, if asked.connect { "a:1" } else { "/" });
    (head.version, head.authority) = (Version::Http2, Some(Bytes::from_static(b"a:1")));
    let Ok(mut response) = client.send(&mut Request { head, body }, &Interim::none()).await else { return };
    assert!((200..1000).contains(&response.head.status) && response.head.status != 101);
    assert_harmless(&response.head.fields);
    assert!(response.upgrade.is_none() || (asked.connect && response.head.status < 300));
    if response.upgrade.is_none() {
        as_http1(&response.head, &response.body, asked);
    }
    let (mut len, announced) = (0, response.body.framing());
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| response.body.poll_frame(cx)).await {
        match frame {
            Frame::Data(data) => len += data.len() as u64,
            Frame::Trailers(trailers) => trailers_harmless(&trailers),
        }
    }
    if let weft_core::message::BodyFraming::Length(length) = announced {
        assert!(len <= length, "{len} bytes of {length}");
    }
}

fn trailers_harmless(trailers: &Fields) {
    assert_harmless(trailers);
    assert!(["content-length", "transfer-encoding", "host"].iter().all(|name| !trailers.contains(*name)));
}

/// As an HTTP/1 client would get it: one head, with the framing that was meant.
fn as_http1(head: &weft_core::message::ResponseHead, body: &Body, asked: Asked) {
    let mut head = head.clone();
    let bodiless = asked.head || matches!(head.status, 204 | 304);
    let framing = if bodiless { weft_core::message::BodyFraming::None } else { body.framing() };
    response_for_h1(&mut head, framing);
    let mut out = bytes::BytesMut::new();
    encode_response_head(&head, &mut out);
    let limits = Limits { head_bytes_max: 1 << 20, fields_max: 232, ..Limits::default() };
    let parsed = ResponseParser::new(limits).parse(&mut out, Asked { connect: false, ..asked }).unwrap().unwrap();
    assert!(out.is_empty() && parsed.head.status == head.status);
}

/// Whole frames only, none longer than a peer that asked for nothing allows, none of a kind that we do not send.
fn well_formed(mut heard: &[u8]) {
    while let Some((header, rest)) = heard.split_at_checked(9) {
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        assert!(len <= 1 << 24 && header[3] <= 9, "{header:?}");
        assert!(len <= FRAME_MAX || header[3] == 0 || header[3] == HEADERS, "{header:?}");
        assert_eq!(header[5] & 0x80, 0, "a reserved bit");
        let Some((_, next)) = rest.split_at_checked(len) else { return };
        heard = next;
    }
}

/// The frames of a script, and how many of them may begin a request.
fn frames(mut script: &[u8]) -> (Vec<u8>, usize) {
    let (mut out, mut heads) = (Vec::new(), 0);
    while let [kind, flags, stream, len, rest @ ..] = script {
        let kind = kind % KINDS;
        let (payload, after) = rest.split_at(usize::from(*len).min(rest.len()));
        script = after;
        let stream = u32::from(*stream).to_be_bytes();
        match kind {
            RAW => {
                heads += payload.len();
                out.extend_from_slice(payload);
            }
            TEXT => {
                heads += 1;
                frame(&mut out, HEADERS, *flags, stream, &block(payload), 0);
            }
            LYING => {
                heads += payload.len() + 1;
                frame(&mut out, *flags % 10, 4, stream, payload, 1);
            }
            kind => {
                heads += usize::from(kind == HEADERS);
                frame(&mut out, kind, *flags, stream, payload, 0);
            }
        }
    }
    (out, heads)
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: [u8; 4], payload: &[u8], lie: usize) {
    let len = u32::try_from(payload.len() + lie).unwrap_or_default().to_be_bytes();
    out.extend_from_slice(&len[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream);
    out.extend_from_slice(payload);
}

/// Lines `name: value` as HPACK literals that are not indexed (RFC 7541 section 6.2.2). A line may hold any other byte.
fn block(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        let colon = line.iter().skip(1).position(|b| *b == b':').map_or(line.len(), |at| at + 1);
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        out.push(0);
        for part in [name, value.strip_prefix(b" ").unwrap_or(value)] {
            let (len, more) = (part.len().min(127), part.len().saturating_sub(127));
            out.push(u8::try_from(len).unwrap_or_default());
            if len == 127 {
                // Lengths here stay below 255, so that one more byte or two hold the rest.
                if more >= 128 {
                    out.push(u8::try_from(more % 128).unwrap_or_default() | 128);
                }
                out.push(u8::try_from(if more >= 128 { more / 128 } else { more }).unwrap_or_default());
            }
            out.extend_from_slice(part);
        }
    }
    out
}
