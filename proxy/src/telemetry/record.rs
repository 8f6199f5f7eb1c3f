//! The access record: what is said of one request or connection, once, at its end (O7).

use std::net::SocketAddr;
use std::time::Duration;

use weft_core::fault::FaultKind;
use weft_core::identity::spiffe::SpiffeId;
use weft_core::model::ServiceKey;
use weft_core::propagate::request_id::RequestId;
use weft_core::propagate::trace::{SpanId, TraceId};
use weft_core::time::Moment;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One HTTP exchange.
    Request,
    /// One connection relayed as bytes, or one that ended before a request.
    Connection,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Request, Self::Connection];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Connection => "connection",
        }
    }
}

/// Which of the proxy's doors it came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Toward the local workload.
    Inbound,
    /// Away from the local workload.
    Outbound,
    /// From outside the mesh.
    Gateway,
}

impl Direction {
    pub(super) const ALL: [Self; 3] = [Self::Inbound, Self::Outbound, Self::Gateway];

    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

/// Everything said about one finished request or connection. Absent facts are `None` and left out of the line.
#[derive(Clone, Debug)]
pub struct AccessRecord<'a> {
    /// Request or connection.
    pub kind: Kind,
    /// Door.
    pub direction: Direction,
    /// When it began.
    pub started: Moment,
    /// When it ended.
    pub finished: Moment,
    /// `x-request-id`.
    pub request_id: Option<&'a RequestId>,
    /// Trace id, lower-case hex as on the wire.
    pub trace_id: Option<TraceId>,
    /// This hop's span id.
    pub span_id: Option<SpanId>,
    /// The caller's span id.
    pub parent_span_id: Option<SpanId>,
    /// Method.
    pub method: Option<&'a str>,
    /// Path without the query, raw.
    pub path: Option<&'a [u8]>,
    /// `Host` or `:authority`, raw.
    pub authority: Option<&'a [u8]>,
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2`, or `tcp`, `tls`.
    pub protocol: Option<&'static str>,
    /// Status sent downstream.
    pub status: Option<u16>,
    /// gRPC status sent downstream.
    pub grpc_status: Option<u16>,
    /// Service addressed.
    pub service: Option<&'a ServiceKey>,
    /// Endpoint chosen.
    pub endpoint: Option<&'a str>,
    /// Route matched.
    pub route: Option<&'a str>,
    /// Peer address downstream.
    pub downstream_address: Option<SocketAddr>,
    /// Peer address upstream.
    pub upstream_address: Option<SocketAddr>,
    /// Identity that the mesh peer proved.
    pub peer_id: Option<&'a SpiffeId>,
    /// Our own identity.
    pub own_id: Option<&'a SpiffeId>,
    /// For example `TLSv1.3`.
    pub tls_version: Option<&'static str>,
    /// Negotiated key exchange group, for example `X25519MLKEM768`.
    pub tls_group: Option<&'static str>,
    /// Negotiated ALPN of the mesh connection.
    pub alpn: Option<&'static str>,
    /// Time to the upstream's response head.
    pub upstream: Option<Duration>,
    /// Body or stream bytes from downstream.
    pub bytes_received: u64,
    /// Body or stream bytes to downstream.
    pub bytes_sent: u64,
    /// Attempts made upstream.
    pub attempts: u32,
    /// Why it failed.
    pub fault: Option<FaultKind>,
}

impl AccessRecord<'_> {
    /// A record with nothing known but its door and times.
    #[must_use]
    pub const fn new(kind: Kind, direction: Direction, started: Moment, finished: Moment) -> Self {
        Self {
            kind,
            direction,
            started,
            finished,
            request_id: None,
            trace_id: None,
            span_id: None,
            parent_span_id: None,
            method: None,
            path: None,
            authority: None,
            protocol: None,
            status: None,
            grpc_status: None,
            service: None,
            endpoint: None,
            route: None,
            downstream_address: None,
            upstream_address: None,
            peer_id: None,
            own_id: None,
            tls_version: None,
            tls_group: None,
            alpn: None,
            upstream: None,
            bytes_received: 0,
            bytes_sent: 0,
            attempts: 0,
            fault: None,
        }
    }
}
