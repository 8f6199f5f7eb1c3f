//! The access record: one JSON object on a line, written once at the end of a request or connection (O7).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use weft_core::fault::FaultKind;
use weft_core::identity::spiffe::SpiffeId;
use weft_core::model::ServiceKey;
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
    const fn as_str(self) -> &'static str {
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

/// Appends the line, newline included.
///
/// Written member by member and not by a serializer of structures: it is written for every request, and escaping names that
/// need none took more than anything else of the proxy's own work.
pub(super) fn write_json(out: &mut Vec<u8>, record: &AccessRecord<'_>, wall: SystemTime, instance_id: &str) {
    out.reserve(LINE_BYTES);
    let mut line = Line { out };
    line.out.push(b'{');
    line.shown("time", Some(humantime::format_rfc3339_micros(wall)));
    line.text("kind", Some(record.kind.as_str()));
    line.text("direction", Some(record.direction.as_str()));
    line.text("instance_id", Some(instance_id));
    line.text("request_id", record.request_id);
    line.shown("trace_id", record.trace_id);
    line.shown("span_id", record.span_id);
    line.shown("parent_span_id", record.parent_span_id);
    line.text("method", record.method);
    line.raw("path", record.path);
    line.raw("authority", record.authority);
    line.text("protocol", record.protocol);
    line.number("status", record.status);
    line.number("grpc_status", record.grpc_status);
    line.shown("service", record.service);
    line.text("endpoint", record.endpoint);
    line.text("route", record.route);
    line.shown("downstream_address", record.downstream_address);
    line.shown("upstream_address", record.upstream_address);
    line.shown("peer_id", record.peer_id);
    line.shown("own_id", record.own_id);
    line.text("tls_version", record.tls_version);
    line.text("tls_group", record.tls_group);
    line.text("alpn", record.alpn);
    line.number("duration_us", Some(micros(record.finished.since(record.started))));
    line.number("upstream_us", record.upstream.map(micros));
    line.number("bytes_received", Some(record.bytes_received));
    line.number("bytes_sent", Some(record.bytes_sent));
    line.number("attempts", Some(record.attempts));
    line.text("fault", record.fault.map(FaultKind::code));
    line.text("flags", record.fault.map(|fault| fault.appearance().flag));
    line.out.extend_from_slice(b"}\n");
}

/// An ordinary line fits.
const LINE_BYTES: usize = 1024;

/// A JSON object that is being written; what is absent is left out.
struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl Line<'_> {
    /// The member's name, which needs no escaping.
    fn member(&mut self, name: &str) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.member(name);
        self.out.push(b'"');
        escape(self.out, value);
        self.out.push(b'"');
    }

    /// Bytes from the wire; what is not UTF-8 shows as U+FFFD.
    fn raw(&mut self, name: &str, value: Option<&[u8]>) {
        self.text(name, value.map(String::from_utf8_lossy).as_deref());
    }

    /// By `Display`, without a string of its own.
    fn shown(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        let Some(value) = value else { return };
        self.member(name);
        self.out.push(b'"');
        // Writing to memory cannot fail.
        if write!(Escaped(self.out), "{value}").is_err() {
            tracing::debug!(name, "a value does not show itself");
        }
        self.out.push(b'"');
    }

    fn number(&mut self, name: &str, value: Option<impl itoa::Integer>) {
        let Some(value) = value else { return };
        self.member(name);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

struct Escaped<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

/// The inside of a JSON string (RFC 8259, 7).
fn escape(out: &mut Vec<u8>, text: &str) {
    let special = |b: &u8| *b < b' ' || matches!(b, b'"' | b'\\');
    // No early exit, so that the compiler vectorises the loop; hardly any text needs more.
    if !text.as_bytes().iter().fold(false, |any, b| any | special(b)) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..b' ' => {
                let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Any text is read back by somebody else's reader as it was.
        #[test]
        fn strings_are_those_of_json(text: String, bytes: Vec<u8>) {
            let at = Moment::from_nanos(0);
            let mut record = AccessRecord::new(Kind::Request, Direction::Gateway, at, at);
            record.endpoint = Some(&text);
            record.path = Some(&bytes);
            let mut out = Vec::new();
            write_json(&mut out, &record, SystemTime::UNIX_EPOCH, &text);
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(value["endpoint"].as_str(), Some(text.as_str()));
            prop_assert_eq!(value["instance_id"].as_str(), Some(text.as_str()));
            prop_assert_eq!(value["path"].as_str().unwrap(), String::from_utf8_lossy(&bytes));
            prop_assert_eq!(value["kind"].as_str(), Some("request"));
        }
    }

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
