//! HTTP on connections: bytes in and out, no policy.
//!
//! HTTP/1 and HTTP/2 are machines of the core, driven here on a [`Stream`]. Both hand requests to one
//! [`Handler`] as the same [`Request`] and take the same [`Response`], so what decides about a request does not know how
//! it arrived or leaves. Everything of one HTTP/1 exchange runs inside the task of its downstream connection (inside the
//! task of its stream for HTTP/2): a response body read from upstream is polled by the writer downstream, and a request
//! body still on its way is polled along with it. Nothing is spawned or sent through a channel per message, and
//! backpressure needs no code of its own: what is not polled is not read. An exchange has one box, so that connections
//! that wait for their next request hold no room for it.
//!
//! Between sidecars an HTTP/1 connection may be a stream of an HTTP/2 one ([`h2_link`]); nothing above [`Stream`] knows.
//!
//! Every buffer is bounded: a read buffer by the head limit or [`READ_BYTES_MAX`], pending output by
//! [`OUT_BYTES_MAX`] plus one piece of body, HTTP/2 by its windows.

mod body;
mod conn;
mod h1_client;
mod h1_server;
mod h2_client;
mod h2_drive;
mod h2_io;
mod h2_link;
mod h2_server;
mod h2_stream;
mod interim;
mod keepalive;
mod limits;
mod out;
mod respond;
mod rest;
pub(crate) mod spare;
mod standby;
mod upgrade;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::rc::Rc;

use ::http::Method;
use tokio::time::Instant;
use weft_core::fault::FaultKind;
use weft_core::h1::HeadFault;
use weft_core::message::{RequestHead, ResponseHead, Version};

pub use body::{Body, BodyError, Frame};
pub use h1_client::{H1Client, H1ResponseBody, Home};
pub use h1_server::{H1Connection, H1RequestBody, serve_h1};
pub use h2_client::H2Client;
pub use h2_io::H2Body;
pub use h2_link::NoLink;
pub use h2_server::serve_h2;
pub use interim::Interim;
pub use limits::{HttpLimits, OUT_BYTES_MAX, READ_BYTES_MAX};
pub use respond::{fault_response, refusal_response};
pub use upgrade::H2Tunnel;

use crate::io::Stream;

/// A request as a [`Handler`] sees it, or as it goes upstream.
#[derive(Debug)]
pub struct Request {
    /// Head, as received.
    pub head: RequestHead,
    /// Body; [`Body::Empty`] when the message has none.
    pub body: Body,
}

/// A final response.
#[derive(Debug)]
pub struct Response {
    /// Head; its framing fields are rewritten to what the body says when it is sent.
    pub head: ResponseHead,
    /// Body; [`Body::Empty`] when the message has none.
    pub body: Body,
    /// The upstream's side of the tunnel that this response opens: a 101, or a 2xx to CONNECT. Boxed, being rare.
    pub upgrade: Option<Box<Stream>>,
    /// The request was certainly not processed, but nobody except its client has it whole: an HTTP/2 client is told so by
    /// REFUSED_STREAM instead of this response, and may send it again (RFC 9113 section 8.7).
    pub refused: bool,
}

impl Response {
    /// A response without body.
    #[must_use]
    pub const fn new(head: ResponseHead) -> Self {
        Self { head, body: Body::Empty, upgrade: None, refused: false }
    }
}

/// How an exchange ended, as seen at the downstream side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeEnd {
    /// Why it broke after the response head was made; `None` when the whole response was written.
    pub fault: Option<FaultKind>,
    /// Body bytes received from downstream.
    pub bytes_received: u64,
    /// Body bytes sent downstream.
    pub bytes_sent: u64,
    /// gRPC status in the trailers sent downstream.
    pub grpc_status: Option<u16>,
}

/// A head that was refused before a request could be made of it.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Kind for the record.
    pub fault: FaultKind,
    /// What exactly was wrong, when it was the head and not time.
    pub reason: Option<HeadFault>,
    /// Version spoken on the connection.
    pub version: Version,
    /// Method, where it could be read (HTTP/2).
    pub method: Option<Method>,
    /// Status that the client is answered with; none where its stream is reset.
    pub status: Option<u16>,
}

/// Serves the requests of downstream connections.
///
/// One value may serve many connections at once, each request calling [`Self::handle`].
pub trait Handler {
    /// Lives from the response's head to the exchange's end, for the record. Where the downstream leaves first it is
    /// dropped instead of finished.
    type Ticket;

    /// Answers one request. Always answers: faults become responses by [`fault_response`].
    ///
    /// The future is dropped when the downstream resets while it is pending; what it awaits upstream must then cancel by
    /// being dropped, as everything in this module does.
    fn handle(&self, request: Request, interim: &Interim) -> impl Future<Output = (Response, Self::Ticket)>;

    /// The exchange is over: the response was written as a whole, or broke. Says when that was, so that the clock need not
    /// be read again.
    fn finished(&self, ticket: Self::Ticket, end: ExchangeEnd) -> Instant;

    /// A head was refused and answered; called so that it gets a record.
    fn refused(&self, refusal: &Refusal);

    /// The connection broke outside any request, or with all of its requests; called so that it gets a record.
    fn broken(&self, fault: FaultKind);

    /// What serves an HTTP/1 link that comes on a stream of an HTTP/2 connection, as if it had a connection of its own, and
    /// how many workers serve connections like this one. `None`: no links come this way.
    fn link(self: &Rc<Self>) -> Option<(Rc<Self>, usize)> {
        None
    }

    /// Relays a tunnel that a response opened, until both directions have ended.
    fn tunnel(&self, ticket: Self::Ticket, downstream: Stream, upstream: Stream) -> impl Future<Output = ()>;
}

/// Why serving a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeEnd {
    /// The downstream closed between messages, or asked us to.
    Closed,
    /// Nothing came for the idle timeout.
    Idle,
    /// The proxy drains.
    Drained,
    /// Nothing came for [`HttpLimits::hand_back_after`], from this time on. The connection is whole, and may be served on
    /// ([`H1Connection::again`]).
    Waits(Instant),
    /// It became a tunnel, which has ended too.
    Tunnel,
    /// A fault ended it; the request concerned, if any, has had its own record.
    Fault(FaultKind),
}

/// Why a request got no response from upstream.
#[derive(Debug)]
pub struct SendError {
    /// Kind of fault; `DownstreamReset` and `BadBody` when the request's own body broke.
    pub fault: FaultKind,
    /// The upstream has certainly not processed the request: not one byte of it was written, or its HTTP/2 stream was
    /// refused or is above the last one that GOAWAY names. Safe to send again whatever the method.
    pub unsent: bool,
    /// It is unsent and nothing of its body was consumed: the request is still there to be sent.
    pub whole: bool,
}

impl SendError {
    pub(crate) const fn sent(fault: FaultKind) -> Self {
        Self { fault, unsent: false, whole: false }
    }
}
