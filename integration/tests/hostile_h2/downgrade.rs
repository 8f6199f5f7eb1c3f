//! HTTP/2 messages that would be something else, or more than one, in HTTP/1. Behind the door is an application that speaks
//! HTTP/1; what reaches it is looked at byte by byte.

use std::sync::PoisonError;

use weft_integration::raw::h2::Event;
use weft_integration::raw::h2_frame::Frame;
use weft_integration::raw::h2_hpack::block;
use weft_integration::raw::{Wire, find};

use crate::lab::{H1, Lab, Way, get};

/// Never to be seen by the application.
const EVIL: &str = "smuggled";

/// How the proxy may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// With this status.
    Status(&'static str),
    /// By RST_STREAM of PROTOCOL_ERROR; 400 before it is as good.
    Stream,
}

use Refused::{Status, Stream};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a broken body is recorded as: the second where it is found broken before the request is begun.
const BODY: &[&str] = &["bad_body", "bad_request"];

struct Case {
    name: String,
    frames: Vec<Frame>,
    refused: Refused,
    fault: &'static [&'static str],
}

fn usual(method: &str) -> Fields {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "app.test"), (":path", "/")];
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// A request with fields after the usual ones, without a body.
fn with(name: &str, value: &str, refused: Refused) -> Case {
    let fields = [usual("GET"), vec![(name.as_bytes().to_vec(), value.as_bytes().to_vec())]].concat();
    case(&format!("{name}: {value}"), &fields, refused)
}

/// A request with one of the usual fields changed.
fn changed(name: &str, value: &str, refused: Refused) -> Case {
    let mut fields = usual("GET");
    for field in fields.iter_mut().filter(|(of, _)| of == name.as_bytes()) {
        field.1 = value.as_bytes().to_vec();
    }
    case(&format!("{name}: {value}"), &fields, refused)
}

/// A request without one of the usual fields.
fn without(name: &str, refused: Refused) -> Case {
    let fields: Fields = usual("GET").into_iter().filter(|(of, _)| of != name.as_bytes()).collect();
    case(&format!("no {name}"), &fields, refused)
}

fn case(name: &str, fields: &Fields, refused: Refused) -> Case {
    let frames = vec![Frame::headers(1, block(fields.iter().map(|(n, v)| (n, v))), true)];
    Case { name: name.escape_debug().to_string(), frames, refused, fault: &["bad_request"] }
}

/// A request with fields and then a body, all of it there.
fn with_body(fields: &[(&str, &str)], body: &str, fault: &'static [&'static str]) -> Case {
    let fields = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    let all: Fields = usual("POST").into_iter().chain(fields.clone()).collect();
    let head = Frame::headers(1, block(all.iter().map(|(n, v)| (n, v))), false);
    let name = format!(
        "{:?} and {body:?}",
        fields.map(|(n, v)| [n, v].map(|b| String::from_utf8(b).unwrap())).collect::<Vec<_>>()
    );
    Case { name, frames: vec![head, Frame::data(1, body, true)], refused: Stream, fault }
}

/// A body and trailers.
fn with_trailers(trailers: &[(&str, &str)], end: bool) -> Case {
    let head = Frame::headers(1, block(usual("POST")), false);
    let last = Frame::headers(1, block(trailers.iter().copied()), end);
    let name = format!("trailers {trailers:?}, the end: {end}");
    Case { name, frames: vec![head, Frame::data(1, "body", false), last], refused: Stream, fault: BODY }
}

/// Sends each on a connection of its own, by both ways in the clear.
async fn all_are_refused(cases: impl Fn() -> Vec<Case>) {
    let lab = Lab::open().await;
    for way in [Way::Outbound, Way::Inbound] {
        for case in cases() {
            let from = lab.proxy(way).records().unwrap().len();
            let mut client = lab.client(way, H1, &[]).await;
            client.send(case.frames.clone()).await.unwrap();
            let what = format!("{way:?}, {}", case.name);
            let end = answer(&mut client).await;
            let fits = match case.refused {
                Status(status) => end == status,
                Stream => ["reset 1", "400"].contains(&end.as_str()),
            };
            assert!(fits, "{what}: {end} instead of {:?}", case.refused);
            let faults = lab.faults(way, from, |_| true).await;
            let found: Vec<_> = faults.iter().map(|record| record["fault"].as_str().unwrap()).collect();
            assert!(found.len() == 1 && case.fault.contains(&found[0]), "{what}: {faults:?}");
            assert_eq!(get(&mut client, 3, "/after").await, "200", "the connection after {what}");
            // Somebody else, on a connection of the application that may be the same.
            let mut other = Wire::connect(lab.address(way, H1).port()).await.unwrap();
            other.send(b"GET /other HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
            other.read_past(b"\r\n\r\nok").await.unwrap();
            assert!(other.received().starts_with(b"HTTP/1.1 200"), "after {what}");
            let heard = std::mem::take(&mut *lab.heard.lock().unwrap_or_else(PoisonError::into_inner));
            assert!(find(&heard, EVIL.as_bytes()).is_none(), "{what}: {}", heard.escape_ascii());
        }
    }
}

/// What the client is told of stream 1, or of everything.
async fn answer<S>(client: &mut weft_integration::raw::h2::H2Peer<S>) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match client.event().await.unwrap() {
            Event::Reset { stream: 1, code } => return format!("reset {code}"),
            Event::Goaway { code, .. } => return format!("goaway {code}"),
            Event::Headers { stream: 1, fields, .. } => return String::from_utf8_lossy(&fields[0].1).into_owned(),
            Event::Closed(error) => return format!("closed {error:?}"),
            Event::Headers { .. }
            | Event::Reset { .. }
            | Event::Data { .. }
            | Event::Settings(_)
            | Event::SettingsAck
            | Event::Ping(_)
            | Event::Pong(_)
            | Event::WindowUpdate { .. }
            | Event::Other(_) => {}
        }
    }
}

#[tokio::test]
async fn h2_cl_a_length_that_is_not_the_bodys() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    all_are_refused(|| {
        vec![
            with_body(&[("content-length", "0")], smuggled, BODY),
            with_body(&[("content-length", "4")], smuggled, BODY),
            with_body(&[("content-length", "400")], "short", BODY),
            with_body(&[("content-length", "5"), ("content-length", "5")], "hello", &["bad_request"]),
            with_body(&[("content-length", "5"), ("content-length", "6")], "hello", &["bad_request"]),
            with_body(&[("content-length", "5, 5")], "hello", &["bad_request"]),
            with_body(&[("content-length", "+5")], "hello", &["bad_request"]),
            with_body(&[("content-length", "-5")], "hello", &["bad_request"]),
            with_body(&[("content-length", "0x5")], "hello", &["bad_request"]),
            with_body(&[("content-length", "")], "hello", &["bad_request"]),
            with_body(&[("content-length", "18446744073709551621")], "hello", &["bad_request"]),
            with("content-length", "5", Stream),
        ]
    })
    .await;
}

#[tokio::test]
async fn h2_te_fields_of_http1_connections() {
    let chunked = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    all_are_refused(|| {
        vec![
            with_body(&[("transfer-encoding", "chunked")], chunked, &["bad_request"]),
            with_body(&[("transfer-encoding", "identity")], chunked, &["bad_request"]),
            with_body(&[("transfer-encoding", "\tchunked")], chunked, &["bad_request"]),
            with("connection", "close", Stream),
            with("connection", "x-smuggled", Stream),
            with("keep-alive", "timeout=5", Stream),
            with("proxy-connection", "close", Stream),
            with("upgrade", "websocket", Stream),
            with("http2-settings", "AAMAAABkAARAAAAA", Status("400")),
            with("te", "gzip", Stream),
            with("te", "trailers, gzip", Stream),
        ]
    })
    .await;
}

#[tokio::test]
async fn cve_2019_18802_and_cve_2021_39156_bytes_that_end_a_line_or_a_name() {
    let end = "a\r\nx-smuggled: b";
    all_are_refused(|| {
        let mut cases = vec![
            with("x-a", end, Stream),
            with("x-a", "a\nx-smuggled: b", Stream),
            with("x-a", "a\rx-smuggled: b", Stream),
            with("x-a", "a\0smuggled", Stream),
            with("x-a", "a\r\n\r\nGET /smuggled HTTP/1.1", Stream),
            with("x-a: b\r\nx-smuggled", "c", Stream),
            with("x-a:", "smuggled", Stream),
            with("x-smuggled a", "b", Stream),
            with("x-smuggled\t", "b", Stream),
            with("", "smuggled", Stream),
            with("X-Smuggled", "b", Stream),
            with("x-smuggled\u{e9}", "b", Stream),
            changed(":method", "GET /smuggled HTTP/1.1\r\nx: ", Stream),
            changed(":method", "GET /smuggled", Stream),
            changed(":method", "GET\t", Stream),
            changed(":method", "", Stream),
        ];
        let paths = [
            "/ HTTP/1.1\r\nx-smuggled: b",
            "/\r\nsmuggled",
            "/\nsmuggled",
            "/ smuggled",
            "/\tsmuggled",
            "/\0smuggled",
            "smuggled",
            "http://h/smuggled",
            "*",
            "",
        ];
        cases.extend(paths.map(|path| changed(":path", path, Stream)));
        let authorities = [
            "h\r\nx-smuggled: b",
            "h smuggled",
            "smuggled@h",
            "h/smuggled",
            "h#smuggled",
            "h,smuggled",
            "h:smuggled",
            "",
        ];
        cases.extend(authorities.map(|authority| changed(":authority", authority, Stream)));
        let schemes = ["http\r\nsmuggled", "http smuggled", "ftp", "", "http://smuggled/"];
        cases.extend(schemes.map(|scheme| changed(":scheme", scheme, Stream)));
        cases
    })
    .await;
}

#[tokio::test]
async fn pseudo_fields_that_are_missing_double_late_or_unknown() {
    all_are_refused(|| {
        let mut cases = vec![without(":method", Stream), without(":scheme", Stream), without(":path", Stream)];
        cases.push(without(":authority", Status("400")));
        for (name, value) in
            [(":method", "POST"), (":scheme", "https"), (":path", "/smuggled"), (":authority", "smuggled")]
        {
            cases.push(with(name, value, Stream));
            let mut late = usual("GET");
            late.retain(|(of, _)| of != name.as_bytes());
            late.extend([("x-a", "b"), (name, value)].map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())));
            cases.push(case(&format!("{name} after others"), &late, Stream));
        }
        cases.push(with(":smuggled", "x", Stream));
        cases.push(with(":status", "200", Stream));
        cases.push(with(":protocol", "websocket", Stream));
        cases
    })
    .await;
}

#[tokio::test]
async fn cve_2023_45539_and_2025_hosts_that_disagree() {
    all_are_refused(|| {
        let twice = |values: [&str; 2]| {
            let mut fields = usual("GET");
            fields.retain(|(name, _)| name != b":authority");
            fields.extend(values.map(|value| (b"host".to_vec(), value.as_bytes().to_vec())));
            case(&format!("host {values:?}"), &fields, Status("400"))
        };
        vec![
            with("host", "smuggled", Status("400")),
            with("host", "app.test:81", Status("400")),
            with("host", "app.test, smuggled", Status("400")),
            with("host", "smuggled@app.test", Status("400")),
            with("host", "app.test#smuggled", Status("400")),
            twice(["app.test", "smuggled"]),
            twice(["app.test", "app.test"]),
        ]
    })
    .await;
}

#[tokio::test]
async fn trailers_that_are_more_than_trailers() {
    all_are_refused(|| {
        vec![
            with_trailers(&[("content-length", "4")], true),
            with_trailers(&[("host", "smuggled")], true),
            with_trailers(&[("transfer-encoding", "chunked")], true),
            with_trailers(&[("te", "gzip")], true),
            with_trailers(&[("x-a", "b")], false),
        ]
    })
    .await;
}

/// RFC 9113 sections 8.1 and 8.3.1.
#[tokio::test]
async fn cve_2023_45539_fragments_and_pseudo_fields_in_trailers_are_refused() {
    all_are_refused(|| {
        vec![
            changed(":path", "/public#/smuggled", Stream),
            with_trailers(&[(":path", "/smuggled"), ("x-last", "1")], true),
        ]
    })
    .await;
}
