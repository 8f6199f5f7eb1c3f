//! A whole HTTP/1 connection through the server and client drivers: what leaves must be messages, one for one.

use std::rc::Rc;

use bytes::BytesMut;
use http::Method;
use weft_core::h1::{BodyDecoder, Decoded, Limits, RequestParser, ResponseParser};
use weft_core::message::{Asked, BodyFraming};
use weft_proxy::http::{H1Connection, HttpLimits, serve_h1};
use weft_proxy::runtime::drain::drain;

use crate::proxying::{Forward, Shared, connection, on_runtime, parts, talk};

/// The first part is what the client sends; each further one what an upstream says when it hears something.
pub(crate) fn h1(data: &[u8]) {
    let parts = parts(data);
    let forward = Forward::to(&parts[1..]);
    let serving = Rc::clone(&forward);
    let answered = on_runtime(async move {
        let (stream, peer) = connection();
        let (trigger, signal) = drain();
        let signal = signal.here();
        let handler = Shared(serving);
        let limits = HttpLimits::default();
        // The connection ends when it is served.
        let served = async { serve_h1(&H1Connection::new(stream, &limits), &limits, signal, &handler).await };
        let (_, heard) = tokio::join!(served, talk(peer, parts[0]));
        drop(trigger);
        tokio::task::yield_now().await;
        heard
    });
    downstream(&forward, &answered);
    upstream(&forward);
}

/// What the client hears are responses to what was handled, and at most one more for what was refused.
fn downstream(forward: &Forward, heard: &[u8]) {
    let mut buffer = BytesMut::from(heard);
    let methods = forward.methods.borrow();
    let mut finals = 0;
    let mut parser = ResponseParser::new(above());
    while !buffer.is_empty() && forward.tunnels.get() == 0 {
        let method = methods.get(finals).cloned().unwrap_or(Method::GET);
        let asked = Asked { head: method == Method::HEAD, connect: method == Method::CONNECT, upgrade: true };
        let parsed = match parser.parse(&mut buffer, asked) {
            Ok(Some(parsed)) => parsed,
            other => panic!("not a response: {other:?} in {:?} after {finals}", heard.escape_ascii().to_string()),
        };
        if parsed.head.is_interim() {
            continue;
        }
        finals += 1;
        assert!(!parsed.tunnel, "a tunnel that nobody opened");
        if !body(parsed.framing, &mut buffer) {
            break;
        }
    }
    assert!(finals <= methods.len() + forward.refused.get().min(1), "{finals} answers to {methods:?}");
}

/// What upstreams hear are requests, and no more than were sent: a second one inside would be smuggled.
pub(crate) fn upstream(forward: &Forward) {
    let mut requests = 0;
    for heard in forward.upstreams.borrow().iter() {
        let mut buffer = BytesMut::from(heard.borrow().as_slice());
        let mut parser = RequestParser::new(above());
        while !buffer.is_empty() && forward.tunnels.get() == 0 {
            match parser.parse(&mut buffer) {
                Ok(Some(parsed)) => {
                    requests += 1;
                    if !body(parsed.framing, &mut buffer) {
                        break;
                    }
                }
                // A head larger than a socket's buffer may have been cut.
                Ok(None) => return,
                Err(fault) => panic!("not a request: {fault:?} in {:?}", heard.borrow().escape_ascii().to_string()),
            }
        }
    }
    assert!(requests <= forward.sent.get(), "{requests} requests for {} sent", forward.sent.get());
}

/// Reads over a body; false when it is cut off, after which nothing can follow.
fn body(framing: BodyFraming, buffer: &mut BytesMut) -> bool {
    let mut decoder = BodyDecoder::new(framing, above());
    loop {
        match decoder.decode(buffer) {
            Ok(Decoded::Data(_) | Decoded::Trailers(_)) => {}
            Ok(Decoded::End) => return true,
            Ok(Decoded::NeedMore) => return false,
            Err(fault) => panic!("we wrote a body with {fault:?}"),
        }
    }
}

/// What a proxy adds must not make its own parser refuse.
fn above() -> Limits {
    Limits { head_bytes_max: 1 << 20, request_line_bytes_max: 1 << 20, fields_max: 230, trailer_bytes_max: 1 << 20 }
}
