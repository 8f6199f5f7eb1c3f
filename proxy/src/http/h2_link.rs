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

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use tokio::time::Instant;

use super::h1_server::serve_h1;
use super::keepalive::InFlight;
use super::{H2Tunnel, Handler, HttpLimits, ServeEnd};
use crate::io::Stream;
use crate::runtime::drain::Draining;

/// `:protocol` of a link: the name that HTTP/1 has inside the mesh.
const PROTOCOL: &str = "weft-h1/1";

/// Over how many connections links may be spread: what a server says when it accepts one.
const WORKERS: HeaderName = HeaderName::from_static("x-weft-workers");

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
pub(super) fn request() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from_static("http://weft/");
    *request.version_mut() = Version::HTTP_2;
    request.extensions_mut().insert(Protocol::from_static(PROTOCOL));
    request
}

/// How many workers a server that accepts a link says to have.
pub(super) fn workers(fields: &HeaderMap) -> usize {
    let said = fields.get(WORKERS).and_then(|value| value.to_str().ok()?.parse().ok());
    said.unwrap_or(1).clamp(1, WORKERS_MAX)
}

/// Whether a stream is to become a link, or something else that is none of HTTP's own.
pub(super) fn is_asked_for(request: &Request<RecvStream>) -> bool {
    request.extensions().get::<Protocol>().is_some()
}

/// A stream that asks to become a link.
pub(super) struct Asked {
    pub(super) request: Request<RecvStream>,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) held: InFlight,
}

/// Serves a link to its end. `workers` are those that more of them may be spread over.
pub(super) async fn serve<H: Handler>(
    asked: Asked,
    limits: &HttpLimits,
    drain: Draining,
    (handler, workers): (Rc<H>, usize),
) {
    let Asked { request, mut respond, held } = asked;
    let begun = Instant::now();
    if request.extensions().get::<Protocol>().is_none_or(|protocol| protocol.as_str() != PROTOCOL) {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return held.end(begun, true);
    }
    let mut response = Response::new(());
    response.headers_mut().insert(WORKERS, HeaderValue::from(workers));
    let Ok(send) = respond.send_response(response, false) else { return held.end(begun, true) };
    let stream = Stream::h2_tunnel(H2Tunnel::new(send, request.into_body(), None));
    let end = serve_h1(stream, limits, drain, &*handler).await;
    // A sidecar that cancels much opens links elsewhere long before it is taken for one that resets for nothing.
    let by_peer = matches!(end, ServeEnd::Closed | ServeEnd::Fault(_));
    held.end(begun, by_peer);
}
