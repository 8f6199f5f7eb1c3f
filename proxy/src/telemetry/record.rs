//! The access record: one JSON object on a line, written once at the end of a request or connection (O7).

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use weft_core::fault::FaultKind;
use weft_core::identity::spiffe::SpiffeId;
use weft_core::model::ServiceKey;
use weft_core::time::Moment;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One HTTP exchange.
    Request,
    /// One connection relayed as bytes, or one that ended before a request.
    Connection,
}

/// Which of the proxy's doors it came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Toward the local workload.
    Inbound,
    /// Away from the local workload.
    Outbound,
    /// From outside the mesh.
    Gateway,
}

impl Direction {
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
    pub request_id: Option<&'a str>,
    /// Trace id, lower-case hex as on the wire.
    pub trace_id: Option<&'a str>,
    /// This hop's span id.
    pub span_id: Option<&'a str>,
    /// The caller's span id.
    pub parent_span_id: Option<&'a str>,
    /// Method.
    pub method: Option<&'a str>,
    /// Path without the query, raw.
    pub path: Option<&'a [u8]>,
    /// `Host` or `:authority`, raw.
    pub authority: Option<&'a [u8]>,
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2`, or `tcp`, `tls`.
    pub protocol: Option<&'a str>,
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
    pub tls_version: Option<&'a str>,
    /// Negotiated key exchange group, for example `X25519MLKEM768`.
    pub tls_group: Option<&'a str>,
    /// Negotiated ALPN of the mesh connection.
    pub alpn: Option<&'a str>,
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

#[derive(Serialize)]
struct Line<'a> {
    time: Shown<humantime::Rfc3339Timestamp>,
    kind: Kind,
    direction: Direction,
    instance_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Shown<&'a ServiceKey>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    downstream_address: Option<Shown<SocketAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_address: Option<Shown<SocketAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_id: Option<Shown<&'a SpiffeId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_id: Option<Shown<&'a SpiffeId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<&'a str>,
    duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_us: Option<u64>,
    bytes_received: u64,
    bytes_sent: u64,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<&'static str>,
}

/// Serialises by `Display`, without a string of its own.
struct Shown<T>(T);

impl<T: std::fmt::Display> Serialize for Shown<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Bytes from the wire; what is not UTF-8 shows as U+FFFD.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

/// Appends the line, newline included.
pub(super) fn write_json(out: &mut Vec<u8>, record: &AccessRecord<'_>, wall: SystemTime, instance_id: &str) {
    let before = out.len();
    let line = Line {
        time: Shown(humantime::format_rfc3339_micros(wall)),
        kind: record.kind,
        direction: record.direction,
        instance_id,
        request_id: record.request_id,
        trace_id: record.trace_id,
        span_id: record.span_id,
        parent_span_id: record.parent_span_id,
        method: record.method,
        path: record.path.map(Raw),
        authority: record.authority.map(Raw),
        protocol: record.protocol,
        status: record.status,
        grpc_status: record.grpc_status,
        service: record.service.map(Shown),
        endpoint: record.endpoint,
        route: record.route,
        downstream_address: record.downstream_address.map(Shown),
        upstream_address: record.upstream_address.map(Shown),
        peer_id: record.peer_id.map(Shown),
        own_id: record.own_id.map(Shown),
        tls_version: record.tls_version,
        tls_group: record.tls_group,
        alpn: record.alpn,
        duration_us: micros(record.finished.since(record.started)),
        upstream_us: record.upstream.map(micros),
        bytes_received: record.bytes_received,
        bytes_sent: record.bytes_sent,
        attempts: record.attempts,
        fault: record.fault.map(FaultKind::code),
        flags: record.fault.map(|fault| fault.appearance().flag),
    };
    // Writing to memory cannot fail; should a value refuse to serialise, no half line may stay.
    if serde_json::to_writer(&mut *out, &line).is_err() || out.write_all(b"\n").is_err() {
        out.truncate(before);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_bytes_stay_one_valid_line() {
        let mut record =
            AccessRecord::new(Kind::Request, Direction::Inbound, Moment::from_nanos(1_000), Moment::from_nanos(5_000));
        record.path = Some(b"/\xff\"\n\\x");
        record.authority = Some(b"a\tb");
        record.fault = Some(FaultKind::NoEndpoint);
        let mut out = b"before\n".to_vec();
        write_json(&mut out, &record, SystemTime::UNIX_EPOCH, "cart-1");
        let text = String::from_utf8(out).unwrap();
        let line = text.strip_prefix("before\n").unwrap().strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["path"], "/\u{fffd}\"\n\\x");
        assert_eq!(value["duration_us"], 4);
        assert_eq!(value["fault"], "no_endpoint");
        assert_eq!(value["time"], "1970-01-01T00:00:00.000000Z");
        assert!(value.get("status").is_none());
    }
}
