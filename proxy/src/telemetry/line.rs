//! The line of an access record: one JSON object.
//!
//! Written member by member and not by a serializer of structures: it is written for every request, and was a fifth of
//! the proxy's own work. So names come with their punctuation as constants, what hardly changes between lines is kept,
//! and text is looked through eight bytes at a time for what JSON wants escaped.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_core::fault::FaultKind;
use weft_core::identity::spiffe::SpiffeId;
use weft_core::model::ServiceKey;
use weft_core::propagate::request_id::RequestId;
use weft_core::propagate::trace::{SpanId, TraceId};
use weft_core::text::push_ipv4;

use super::record::{AccessRecord, Direction, Kind};

/// An ordinary line fits.
const LINE_BYTES: usize = 1024;

/// Writes the lines of one worker.
#[derive(Debug)]
pub(super) struct Lines {
    /// What follows the time, for each kind and direction.
    openings: Vec<(Kind, Direction, Vec<u8>)>,
    second: RefCell<Second>,
}

/// A second of wall time as text, without its zone.
#[derive(Debug, Default)]
struct Second {
    since_epoch: u64,
    text: String,
}

/// Appends `,"name":"value"`, the value by `push`; nothing of what is absent.
macro_rules! text {
    ($out:ident, $name:literal, $value:expr, $push:expr) => {
        if let Some(value) = $value {
            $out.extend_from_slice(concat!(",\"", $name, "\":\"").as_bytes());
            $push($out, value);
            $out.push(b'"');
        }
    };
}

/// Appends `,"name":number`.
macro_rules! number {
    ($out:ident, $name:literal, $value:expr) => {
        if let Some(value) = $value {
            $out.extend_from_slice(concat!(",\"", $name, "\":").as_bytes());
            $out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
    };
}

impl Lines {
    /// For records of this instance.
    pub(super) fn new(instance_id: &str) -> Self {
        let opening = |kind: Kind, direction: Direction| {
            let mut out = Vec::new();
            let line = &mut out;
            text!(line, "kind", Some(kind.as_str()), push_fixed);
            text!(line, "direction", Some(direction.as_str()), push_fixed);
            text!(line, "instance_id", Some(instance_id), push_str);
            (kind, direction, out)
        };
        let openings = Kind::ALL.into_iter().flat_map(|kind| Direction::ALL.map(|direction| opening(kind, direction)));
        Self { openings: openings.collect(), second: RefCell::default() }
    }

    /// Appends the line, newline included.
    pub(super) fn write(&self, out: &mut Vec<u8>, record: &AccessRecord<'_>, wall: SystemTime) {
        out.reserve(LINE_BYTES);
        out.extend_from_slice(b"{\"time\":\"");
        self.push_time(out, wall);
        out.push(b'"');
        let opening =
            self.openings.iter().find(|(kind, direction, _)| (*kind, *direction) == (record.kind, record.direction));
        out.extend_from_slice(opening.map(|(.., text)| &text[..]).unwrap_or_default());
        text!(out, "request_id", record.request_id, push_request_id);
        text!(out, "trace_id", record.trace_id, push_trace);
        text!(out, "span_id", record.span_id, push_span);
        text!(out, "parent_span_id", record.parent_span_id, push_span);
        text!(out, "method", record.method, push_str);
        text!(out, "path", record.path, push_raw);
        text!(out, "authority", record.authority, push_raw);
        text!(out, "protocol", record.protocol, push_fixed);
        number!(out, "status", record.status);
        number!(out, "grpc_status", record.grpc_status);
        text!(out, "service", record.service, push_service);
        text!(out, "endpoint", record.endpoint, push_str);
        text!(out, "route", record.route, push_str);
        text!(out, "downstream_address", record.downstream_address, push_address);
        text!(out, "upstream_address", record.upstream_address, push_address);
        text!(out, "peer_id", record.peer_id, push_id);
        text!(out, "own_id", record.own_id, push_id);
        text!(out, "tls_version", record.tls_version, push_fixed);
        text!(out, "tls_group", record.tls_group, push_fixed);
        text!(out, "alpn", record.alpn, push_fixed);
        number!(out, "duration_us", Some(micros(record.finished.since(record.started))));
        number!(out, "upstream_us", record.upstream.map(micros));
        number!(out, "bytes_received", Some(record.bytes_received));
        number!(out, "bytes_sent", Some(record.bytes_sent));
        number!(out, "attempts", Some(record.attempts));
        text!(out, "fault", record.fault.map(FaultKind::code), push_fixed);
        text!(out, "flags", record.fault.map(|fault| fault.appearance().flag), push_fixed);
        out.extend_from_slice(b"}\n");
    }

    /// RFC 3339 with microseconds. The date is worked out once in a second.
    fn push_time(&self, out: &mut Vec<u8>, wall: SystemTime) {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = &mut *self.second.borrow_mut();
        if second.text.is_empty() || second.since_epoch != since.as_secs() {
            second.since_epoch = since.as_secs();
            second.text.clear();
            // Writing to memory cannot fail, and the year 10000 is far.
            write!(second.text, "{}", humantime::format_rfc3339_seconds(wall)).unwrap_or_default();
            second.text.truncate("2026-01-02T03:04:05".len());
        }
        out.extend_from_slice(second.text.as_bytes());
        // Six digits, with zeros in front.
        let mut digits = itoa::Buffer::new();
        out.push(b'.');
        out.extend_from_slice(digits.format(1_000_000 + since.subsec_micros()).get(1..).unwrap_or_default().as_bytes());
        out.push(b'Z');
    }
}

fn push_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            push_ipv4(out, *address.ip());
            out.push(b':');
            out.extend_from_slice(itoa::Buffer::new().format(address.port()).as_bytes());
        }
        SocketAddr::V6(address) => out.extend_from_slice(address.to_string().as_bytes()),
    }
}

/// Text that needs no escaping: our own words.
fn push_fixed(out: &mut Vec<u8>, text: &'static str) {
    out.extend_from_slice(text.as_bytes());
}

fn push_str(out: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        push_escaped(out, text);
    }
}

/// Bytes from the wire; what is not UTF-8 shows as U+FFFD.
fn push_raw(out: &mut Vec<u8>, bytes: &[u8]) {
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
    } else {
        push_escaped(out, &String::from_utf8_lossy(bytes));
    }
}

fn push_request_id(out: &mut Vec<u8>, id: &RequestId) {
    // Of letters, digits and marks that JSON takes as they are.
    out.extend_from_slice(id.as_bytes());
}

fn push_trace(out: &mut Vec<u8>, id: TraceId) {
    id.push_to(out);
}

fn push_span(out: &mut Vec<u8>, id: SpanId) {
    id.push_to(out);
}

fn push_service(out: &mut Vec<u8>, service: &ServiceKey) {
    push_str(out, &service.namespace);
    out.push(b'/');
    push_str(out, &service.name);
}

fn push_id(out: &mut Vec<u8>, id: &SpiffeId) {
    for (before, part) in
        [("spiffe://", id.trust_domain().as_str()), ("/ns/", id.namespace()), ("/sa/", id.service_account())]
    {
        out.extend_from_slice(before.as_bytes());
        // Made of letters, digits and `.-_` only.
        out.extend_from_slice(part.as_bytes());
    }
}

/// Whether JSON takes these bytes as they are: ASCII without control characters, quotation marks and backslashes.
fn is_plain(bytes: &[u8]) -> bool {
    let special = |b: &u8| !b.is_ascii() || *b < b' ' || matches!(b, b'"' | b'\\');
    match bytes.last_chunk() {
        // The last eight bytes overlap with those before, which costs less than looking at up to seven one by one.
        Some(last) => bytes.as_chunks().0.iter().all(|word| is_plain_word(*word)) && is_plain_word(*last),
        None => match (bytes.first_chunk(), bytes.last_chunk()) {
            (Some([a, b, c, d]), Some([e, f, g, h])) => is_plain_word([*a, *b, *c, *d, *e, *f, *g, *h]),
            _ => !bytes.iter().any(special),
        },
    }
}

/// As [`is_plain`] for eight bytes at once (after Mycroft: a byte of a word is zero exactly if subtracting one borrows).
const fn is_plain_word(word: [u8; 8]) -> bool {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    const fn borrows(word: u64, less: u8) -> u64 {
        word.wrapping_sub(all(less)) & !word
    }
    let word = u64::from_ne_bytes(word);
    let special = word | borrows(word, b' ') | borrows(word ^ all(b'"'), 1) | borrows(word ^ all(b'\\'), 1);
    special & all(0x80) == 0
}

/// The inside of a JSON string (RFC 8259, 7).
fn push_escaped(out: &mut Vec<u8>, text: &str) {
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
    use proptest::prelude::*;
    use weft_core::time::Moment;

    use super::*;

    fn line(record: &AccessRecord<'_>, instance_id: &str, before: &[u8]) -> Vec<u8> {
        let mut out = before.to_vec();
        Lines::new(instance_id).write(&mut out, record, UNIX_EPOCH + Duration::from_micros(1_000_000_007));
        out
    }

    proptest! {
        /// Any text is read back by somebody else's reader as it was.
        #[test]
        fn strings_are_those_of_json(text: String, bytes: Vec<u8>) {
            let at = Moment::from_nanos(0);
            let mut record = AccessRecord::new(Kind::Request, Direction::Gateway, at, at);
            record.endpoint = Some(&text);
            record.path = Some(&bytes);
            let out = line(&record, &text, b"");
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(value["endpoint"].as_str(), Some(text.as_str()));
            prop_assert_eq!(value["instance_id"].as_str(), Some(text.as_str()));
            prop_assert_eq!(value["path"].as_str().unwrap(), String::from_utf8_lossy(&bytes));
            prop_assert_eq!(value["kind"].as_str(), Some("request"));
        }

        /// Words at a time sees what a byte at a time sees.
        #[test]
        fn plain_text_is_told(bytes in prop::collection::vec(prop_oneof![30 => b' '..=b'~', 1 => any::<u8>()], 0..40)) {
            let plain = bytes.iter().all(|b| (b' '..0x80).contains(b) && !b"\"\\".contains(b));
            prop_assert_eq!(is_plain(&bytes), plain);
        }
    }

    #[test]
    fn hostile_bytes_stay_one_valid_line() {
        let mut record =
            AccessRecord::new(Kind::Request, Direction::Inbound, Moment::from_nanos(1_000), Moment::from_nanos(5_000));
        record.path = Some(b"/\xff\"\n\\x");
        record.authority = Some(b"a\tb");
        record.fault = Some(FaultKind::NoEndpoint);
        let text = String::from_utf8(line(&record, "cart-1", b"before\n")).unwrap();
        let line = text.strip_prefix("before\n").unwrap().strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["path"], "/\u{fffd}\"\n\\x");
        assert_eq!(value["duration_us"], 4);
        assert_eq!(value["fault"], "no_endpoint");
        assert_eq!(value["time"], "1970-01-01T00:16:40.000007Z");
        assert!(value.get("status").is_none());
    }

    #[test]
    fn addresses_are_written_as_the_formatter_does() {
        for address in ["10.0.0.7:0", "255.255.255.255:65535", "0.0.0.0:80", "[2001:db8::1]:443"] {
            let mut out = Vec::new();
            push_address(&mut out, address.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), address);
        }
    }

    #[test]
    fn every_member_has_its_form() {
        let id = |account| SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap();
        let (peer, own, request_id) = (id("cart"), id("web"), RequestId::parse(b"a-1").unwrap());
        let service = ServiceKey { namespace: "shop".into(), name: "cart".into() };
        let moment = |us: u64| Moment::from_nanos(us * 1000);
        let record = AccessRecord {
            request_id: Some(&request_id),
            trace_id: TraceId::parse(b"00000000000000000000000000000abc"),
            span_id: SpanId::parse(b"00000000000000ff"),
            parent_span_id: SpanId::parse(b"0100000000000000"),
            method: Some("GET"),
            path: Some(b"/things"),
            authority: Some(b"cart:80"),
            protocol: Some("HTTP/1.1"),
            status: Some(200),
            grpc_status: Some(0),
            service: Some(&service),
            endpoint: Some("cart-7"),
            route: Some("shop/cart:80"),
            downstream_address: Some("[2001:db8::1]:443".parse().unwrap()),
            upstream_address: Some("192.0.2.10:65535".parse().unwrap()),
            peer_id: Some(&peer),
            own_id: Some(&own),
            tls_version: Some("TLSv1.3"),
            tls_group: Some("X25519"),
            alpn: Some("h2"),
            upstream: Some(Duration::from_micros(3)),
            bytes_received: 12,
            bytes_sent: 345,
            attempts: 1,
            fault: Some(FaultKind::NoEndpoint),
            ..AccessRecord::new(Kind::Connection, Direction::Outbound, moment(10), moment(20))
        };
        let expected = concat!(
            r#"{"time":"1970-01-01T00:16:40.000007Z","kind":"connection","direction":"outbound","instance_id":"web-1","#,
            r#""request_id":"a-1","trace_id":"00000000000000000000000000000abc","span_id":"00000000000000ff","#,
            r#""parent_span_id":"0100000000000000","method":"GET","path":"/things","authority":"cart:80","#,
            r#""protocol":"HTTP/1.1","status":200,"grpc_status":0,"service":"shop/cart","endpoint":"cart-7","#,
            r#""route":"shop/cart:80","downstream_address":"[2001:db8::1]:443","upstream_address":"192.0.2.10:65535","#,
            r#""peer_id":"spiffe://cluster.local/ns/shop/sa/cart","own_id":"spiffe://cluster.local/ns/shop/sa/web","#,
            r#""tls_version":"TLSv1.3","tls_group":"X25519","alpn":"h2","duration_us":10,"upstream_us":3,"#,
            r#""bytes_received":12,"bytes_sent":345,"attempts":1,"fault":"no_endpoint","flags":"UH"}"#,
            "\n",
        );
        assert_eq!(String::from_utf8(line(&record, "web-1", b"")).unwrap(), expected);
    }
}
