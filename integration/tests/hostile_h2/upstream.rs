//! Applications that attack the proxy before them, over HTTP/2 in the clear.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use weft_integration::assert::wait_for;
use weft_integration::raw::DEADLINE;
use weft_integration::raw::h2::{Event, H2Peer};
use weft_integration::raw::h2_frame::{Frame, code, flag, kind};
use weft_integration::raw::h2_hpack::{Indexing, block, indexed, literal};

use crate::apps::App;
use crate::lab::{FLOOD, Lab, SCRIPTED, Way, get, request, status};

/// What an application answers to a request on this stream, once or for ever.
#[derive(Clone)]
struct Script {
    opening: Arc<dyn Fn(u32) -> Vec<Frame> + Send + Sync>,
    without_end: Arc<dyn Fn(u32) -> Vec<Frame> + Send + Sync>,
}

impl Script {
    fn once(opening: impl Fn(u32) -> Vec<Frame> + Send + Sync + 'static) -> Self {
        Self { opening: Arc::new(opening), without_end: Arc::new(|_| Vec::new()) }
    }

    fn flood(without_end: impl Fn(u32) -> Vec<Frame> + Send + Sync + 'static) -> Self {
        Self { opening: Arc::new(|_| Vec::new()), without_end: Arc::new(without_end) }
    }

    fn after(mut self, opening: impl Fn(u32) -> Vec<Frame> + Send + Sync + 'static) -> Self {
        self.opening = Arc::new(opening);
        self
    }

    async fn play(self, stream: TcpStream) {
        let Ok(mut peer) = H2Peer::server(stream, &[]).await else { return };
        while let Ok(event) = peer.event().await {
            let id = match event {
                Event::Headers { stream, .. } => stream,
                Event::Closed(_) => return,
                Event::Data { .. }
                | Event::Reset { .. }
                | Event::Goaway { .. }
                | Event::Settings(_)
                | Event::SettingsAck
                | Event::Ping(_)
                | Event::Pong(_)
                | Event::WindowUpdate { .. }
                | Event::Other(_) => continue,
            };
            if peer.send((self.opening)(id)).await.is_err() {
                return;
            }
            let unit: Vec<u8> = (self.without_end)(id).iter().flat_map(Frame::encode).collect();
            let many = unit.repeat((64 * 1024 / unit.len().max(1)).max(1));
            // Until the proxy has closed.
            while !many.is_empty() {
                if peer.send_bytes(&many).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn head(id: u32, status: &str, fields: &[(&str, &str)], end: bool) -> Frame {
    Frame::headers(id, block([&[(":status", status)], fields].concat()), end)
}

/// Asks such an application for [`FLOOD`]: every client is told 502, or that its stream is reset where an answer had
/// begun, and each request has a record with one of the faults at the proxy before the application.
async fn everyone_is_told(lab: &Lab, name: &str, script: Script, faults: &[&str]) {
    let _app = App::of(&lab.pair.doors[SCRIPTED].backend, move |stream| script.clone().play(stream));
    let from = lab.proxy(Way::Inbound).records().unwrap().len();
    let mut asked = 0;
    let begun = Instant::now();
    while asked < 3 || begun.elapsed() < FLOOD / 4 {
        let mut client = lab.client(Way::Outbound, SCRIPTED, &[]).await;
        client.send([request(1, "GET", "/", true)]).await.unwrap();
        let over = |event: &Event| {
            matches!(
                event,
                Event::Reset { stream: 1, .. }
                    | Event::Headers { stream: 1, end: true, .. }
                    | Event::Data { stream: 1, end: true, .. }
            )
        };
        let events = client.until(over).await.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let broken = matches!(events.last(), Some(Event::Reset { .. }));
        assert!(broken || status(&events, 1) == "502", "{name}: {events:?}");
        asked += 1;
    }
    // One for each, or more where a request that was not begun was sent once more.
    let found = wait_for("a record for each request", DEADLINE, || async {
        let records = lab.proxy(Way::Inbound).records().unwrap();
        let found: Vec<_> =
            records.into_iter().skip(from).filter_map(|record| Some(record.get("fault")?.clone())).collect();
        if found.len() >= asked { Ok(found) } else { Err(format!("{found:?} for {asked}, {name}")) }
    })
    .await
    .unwrap();
    assert!(found.iter().all(|fault| faults.contains(&fault.as_str().unwrap())), "{name}: {found:?}");
}

#[tokio::test]
async fn floods_by_the_application() {
    let lab = Lab::open().await;
    let of = |frame: fn() -> Frame| Script::flood(move |_| vec![frame()]);
    let begun = |id| vec![head(id, "200", &[], false)];
    let cases = [
        ("cve_2019_9512 PING", of(|| Frame::ping([7; 8], false))),
        ("answers to PING", of(|| Frame::ping([7; 8], true))),
        ("cve_2019_9515 SETTINGS", of(|| Frame::settings(&[]))),
        ("PRIORITY", of(|| Frame::priority(1, 3, 1))),
        ("WINDOW_UPDATE", of(|| Frame::window_update(0, 1))),
        ("unknown frames", of(|| Frame::new(0xfa, 0, 0, [7; 100]))),
        ("cve_2023_35945 GOAWAY", of(|| Frame::goaway(0x7fff_ffff, code::NO_ERROR, &[7; 100]))),
        ("cve_2019_9518 empty DATA", Script::flood(|id| vec![Frame::data(id, [], false)]).after(begun)),
        ("interim responses", Script::flood(|id| vec![head(id, "103", &[("link", "</a>")], false)])),
        (
            "cve_2024_28182 CONTINUATION",
            Script::flood(|id| vec![Frame::continuation(id, b"\x00\x01x\x01y", false)])
                .after(|id| vec![Frame::new(kind::HEADERS, 0, id, [0x88])]),
        ),
        (
            "cve_2024_28182 CONTINUATION without anything",
            Script::flood(|id| vec![Frame::continuation(id, [], false)])
                .after(|id| vec![Frame::new(kind::HEADERS, flag::END_STREAM, id, [0x88])]),
        ),
    ];
    let faults = ["upstream_protocol", "upstream_truncated", "upstream_reset"];
    for (name, script) in cases {
        lab.during(everyone_is_told(&lab, name, script, &faults)).await;
    }
}

#[tokio::test]
async fn cve_2016_6581_bombs_by_the_application() {
    let lab = Lab::open().await;
    let bomb = |status: &'static str, times: usize| {
        move |id| {
            let mut section = block([(":status", status)]);
            literal(&mut section, Indexing::Added, b"x-bomb", &[b'x'; 4000]);
            for _ in 1..times {
                indexed(&mut section, 62);
            }
            Frame::headers(id, section, false).fragmented(16_384)
        }
    };
    let faults = ["upstream_protocol", "upstream_head_too_large"];
    lab.during(everyone_is_told(&lab, "a bomb", Script::once(bomb("200", 12_000)), &faults)).await;
    lab.during(everyone_is_told(&lab, "a large head", Script::once(bomb("200", 30)), &faults)).await;
    lab.during(everyone_is_told(&lab, "interim bombs", Script::flood(bomb("103", 40)), &faults)).await;
    let crumbs = |id| {
        let mut section = block([(":status", "103")]);
        literal(&mut section, Indexing::Added, b"x", b"");
        for _ in 0..3000 {
            indexed(&mut section, 62);
        }
        vec![Frame::headers(id, section, false)]
    };
    lab.during(everyone_is_told(&lab, "interim responses of many fields", Script::flood(crumbs), &faults)).await;
}

#[tokio::test]
async fn answers_that_break_the_protocol() {
    let lab = Lab::open().await;
    let one = |status: &'static str, fields: &'static [(&'static str, &'static str)]| {
        Script::once(move |id| vec![head(id, status, fields, true)])
    };
    let bodied = |fields: &'static [(&'static str, &'static str)], body: &'static str| {
        Script::once(move |id| vec![head(id, "200", fields, false), Frame::data(id, body, true)])
    };
    let first = |frame: fn(u32) -> Frame| Script::once(move |id| vec![frame(id)]);
    let cases = [
        ("a line in a field", one("200", &[("x-a", "b\r\nset-cookie: smuggled")])),
        ("an upper-case name", one("200", &[("X-A", "b")])),
        ("a field of connections", one("200", &[("connection", "close")])),
        ("a coding", one("200", &[("transfer-encoding", "chunked")])),
        ("no status", first(|id| Frame::headers(id, block([("x-a", "b")]), true))),
        ("a status of two digits", one("20", &[])),
        ("a status that is no number", one("2x0", &[])),
        ("a switch of protocols", one("101", &[])),
        ("a request for an answer", first(|id| request(id, "GET", "/", true))),
        ("a status twice", one("200", &[(":status", "200")])),
        ("lengths that disagree", bodied(&[("content-length", "1"), ("content-length", "2")], "ab")),
        ("less than announced", bodied(&[("content-length", "9")], "short")),
        ("more than announced", bodied(&[("content-length", "2")], "HTTP/1.1 200 OK\r\n\r\n")),
        ("a promise", first(|id| Frame::push_promise(id, 2, &block([(":method", "GET")])))),
        ("DATA before the head", first(|id| Frame::data(id, "x", false))),
        ("an answer nobody asked for", first(|id| head(id + 100, "200", &[], true))),
        ("an answer on an even stream", first(|_| head(2, "200", &[], true))),
        ("SETTINGS on a stream", first(|id| Frame::new(kind::SETTINGS, 0, id, []))),
        ("WINDOW_UPDATE of nothing", first(|id| Frame::window_update(id, 0))),
        ("a frame too large", first(|id| Frame::data(id, vec![0; 20_000], false))),
        ("a stream reset", first(|id| Frame::reset(id, code::INTERNAL_ERROR))),
        ("cve_2023_35945 everything refused", first(|id| Frame::reset(id, code::REFUSED_STREAM))),
        ("cve_2023_35945 gone before anything", first(|_| Frame::goaway(0, code::NO_ERROR, b""))),
        ("cve_2023_35945 gone with an error", first(|_| Frame::goaway(0, code::INTERNAL_ERROR, b""))),
    ];
    let faults = ["upstream_protocol", "upstream_truncated", "upstream_reset", "upstream_head_too_large"];
    lab.during(async {
        for (name, script) in cases {
            everyone_is_told(&lab, name, script, &faults).await;
        }
    })
    .await;
    // Whatever was said, the next application there is heard.
    let _app = App::http2(&lab.pair.doors[SCRIPTED].backend);
    let mut client = lab.client(Way::Outbound, SCRIPTED, &[]).await;
    assert_eq!(get(&mut client, 1, "/").await, "200");
}

/// Every second stream of one connection is reset: those between them are answered (a storm of resets is the application's
/// own business).
#[tokio::test]
async fn cve_2023_26964_a_storm_of_resets_by_the_application_ends_nothing_else() {
    let lab = Lab::open().await;
    let script = Script::once(|id| match id % 4 {
        1 => vec![Frame::reset(id, code::CANCEL)],
        _ => vec![head(id, "200", &[], true)],
    });
    let _app = App::of(&lab.pair.doors[SCRIPTED].backend, move |stream| script.clone().play(stream));
    lab.during(async {
        let mut client = lab.client(Way::Inbound, SCRIPTED, &[]).await;
        let (mut answered, mut told) = (0, 0);
        for n in 0..3000 {
            match get(&mut client, 1 + 2 * n, "/").await.as_str() {
                "200" => answered += 1,
                "502" => told += 1,
                other => panic!("{other}"),
            }
        }
        assert!((1490..=1510).contains(&answered) && answered + told == 3000, "{answered} {told}");
    })
    .await;
}
