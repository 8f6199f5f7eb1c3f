//! HTTP/1 links between sidecars as streams of one HTTP/2 connection.
//!
//! Many HTTP/1 requests in flight between two sidecars cost a TLS record and a system call each, and each way, when every
//! one has a connection of its own; as frames of one connection they leave together. Their messages are not translated:
//! a link is a stream opened by extended CONNECT (RFC 8441) with `:protocol` [`PROTOCOL`], and its bytes are those of an
//! HTTP/1 connection, so nothing that HTTP/1 can say is lost. A link outlives its requests and lies in the same pool as
//! connections do; one request costs one DATA frame each way.
//!
//! A server offers links by `SETTINGS_ENABLE_CONNECT_PROTOCOL`, only to who has proven an identity for the mesh's HTTP/2
//! and only toward the port the connection was made for; to everyone else `:protocol` is the protocol error that it always
//! was. It cannot come from an application either: no CONNECT is forwarded with it.

use std::rc::Rc;

use ::http::Method;
use bytes::Bytes;
use tokio::time::Instant;
use weft_core::fields::Fields;
use weft_core::http2::frame::Reason;
use weft_core::message::{RequestHead, ResponseHead, Version};

use super::h1_server::{H1Connection, serve_h1};
use super::h2_stream::H2Stream;
use super::keepalive::InFlight;
use super::{H2Tunnel, Handler, HttpLimits, ServeEnd};
use crate::io::Stream;
use crate::runtime::drain::Draining;

/// `:protocol` of a link: the name that HTTP/1 has inside the mesh.
const PROTOCOL: &str = "weft-h1/1";

/// Over how many connections links may be spread: what a server says when it accepts one.
const WORKERS: &str = "x-weft-workers";

/// Most that is believed of that.
const WORKERS_MAX: usize = 64;

/// Why there is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLink {
    /// The peer takes none.
    Refused,
    /// Its connection ends, or takes no more streams.
    Gone,
}

/// Asks for a link.
pub(super) fn request() -> RequestHead {
    RequestHead {
        version: Version::Http2,
        scheme: Some(Bytes::from_static(b"http")),
        authority: Some(Bytes::from_static(b"weft")),
        protocol: Some(Bytes::from_static(PROTOCOL.as_bytes())),
        ..RequestHead::new(Method::CONNECT, Bytes::from_static(b"/"))
    }
}

/// How many workers a server that accepts a link says to have.
pub(super) fn workers(fields: &Fields) -> usize {
    let said = fields.get_str(WORKERS).and_then(|value| value.parse().ok());
    said.unwrap_or(1).clamp(1, WORKERS_MAX)
}

/// Whether a stream is to become a link, or something else that is none of HTTP's own.
pub(super) const fn is_asked_for(request: &RequestHead) -> bool {
    request.protocol.is_some()
}

/// A stream that asks to become a link.
pub(super) struct Asked {
    pub(super) request: RequestHead,
    pub(super) stream: H2Stream,
    pub(super) held: InFlight,
}

/// Serves a link to its end. `workers` are those that more of them may be spread over.
pub(super) async fn serve<H: Handler>(
    asked: Asked,
    limits: &HttpLimits,
    drain: Draining,
    (handler, workers): (Rc<H>, usize),
) {
    let Asked { request, stream, held } = asked;
    let begun = Instant::now();
    if request.protocol.as_deref() != Some(PROTOCOL.as_bytes()) {
        stream.reset(Reason::PROTOCOL_ERROR);
        return held.end(begun, true);
    }
    drop(request);
    let mut response = ResponseHead::new(200);
    response.fields.append(WORKERS, workers.to_string());
    if stream.send_response(&response, false).is_err() || stream.broken().is_some() {
        return held.end(begun, true);
    }
    drop(response);
    let stream = Stream::h2_tunnel(H2Tunnel::new(stream, None));
    let end = serve_h1(&H1Connection::new(stream, limits), limits, drain, &*handler).await;
    // A sidecar that cancels much opens links elsewhere long before it is taken for one that resets for nothing.
    let by_peer = matches!(end, ServeEnd::Closed | ServeEnd::Fault(_));
    held.end(begun, by_peer);
}
