//! Frames that break the protocol: the connection ends, and no stream of anybody else.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use weft_integration::raw::h2::Event;
use weft_integration::raw::h2_frame::{Frame, PAYLOAD_MAX, PREFACE, code, flag, kind, setting};
use weft_integration::raw::h2_hpack::block;

use crate::lab::{H2, Lab, Way, ask, get, request};

const SETTINGS_BAD: [(u16, u32); 4] = [
    (setting::ENABLE_PUSH, 2),
    (setting::INITIAL_WINDOW_SIZE, 0x8000_0000),
    (setting::MAX_FRAME_SIZE, 100),
    (setting::MAX_FRAME_SIZE, 1 << 24),
];

/// What is said, and that is wrong.
fn cases() -> Vec<(String, Vec<u8>)> {
    let opened = |id| request(id, "POST", "/hang", false);
    let whole = |id| request(id, "GET", "/hang", true);
    let section = || block(ask("GET", "/"));
    let cut = |end| Frame::new(kind::HEADERS, end, 1, section());
    let mut cases: Vec<(String, Vec<Frame>)> = [
        ("a stream of the server's", vec![whole(2)]),
        ("a stream that was passed over", vec![whole(5), whole(3)]),
        ("a request on the connection", vec![whole(0)]),
        ("DATA on the connection", vec![Frame::data(0, "x", false)]),
        ("DATA on an idle stream", vec![Frame::data(7, "x", false)]),
        ("DATA after the end", vec![whole(1), Frame::data(1, "x", true)]),
        ("RST_STREAM on the connection", vec![Frame::reset(0, code::CANCEL)]),
        ("RST_STREAM on an idle stream", vec![Frame::reset(7, code::CANCEL)]),
        ("RST_STREAM without code", vec![opened(1), Frame::new(kind::RST_STREAM, 0, 1, [0; 3])]),
        ("WINDOW_UPDATE on an idle stream", vec![Frame::window_update(7, 1)]),
        ("WINDOW_UPDATE of nothing", vec![Frame::window_update(0, 0)]),
        ("WINDOW_UPDATE beyond the largest", vec![Frame::window_update(0, 0x7fff_ffff)]),
        ("WINDOW_UPDATE cut short", vec![Frame::new(kind::WINDOW_UPDATE, 0, 0, [0; 3])]),
        ("PRIORITY on the connection", vec![Frame::priority(0, 1, 1)]),
        ("SETTINGS on a stream", vec![Frame::new(kind::SETTINGS, 0, 1, [])]),
        ("SETTINGS cut short", vec![Frame::new(kind::SETTINGS, 0, 0, [0; 5])]),
        ("SETTINGS acknowledged with words", vec![Frame::new(kind::SETTINGS, flag::ACK, 0, [0; 6])]),
        ("SETTINGS acknowledged twice", vec![Frame::settings_ack(), Frame::settings_ack(), Frame::settings_ack()]),
        ("PING on a stream", vec![Frame::new(kind::PING, 0, 1, [0; 8])]),
        ("PING cut short", vec![Frame::new(kind::PING, 0, 0, [0; 7])]),
        ("GOAWAY on a stream", vec![Frame::new(kind::GOAWAY, 0, 1, [0; 8])]),
        ("GOAWAY cut short", vec![Frame::new(kind::GOAWAY, 0, 0, [0; 7])]),
        ("PUSH_PROMISE of a client", vec![opened(1), Frame::push_promise(1, 2, &section())]),
        ("CONTINUATION of nothing", vec![Frame::continuation(1, section(), true)]),
        ("CONTINUATION of another stream", vec![cut(0), Frame::continuation(3, "", true)]),
        ("PING in the middle of a head", vec![cut(0), Frame::ping([0; 8], false)]),
        ("more padding than there is", vec![Frame::new(kind::HEADERS, flag::PADDED | flag::END_HEADERS, 1, [200, 1])]),
        ("priority cut short", vec![Frame::new(kind::HEADERS, flag::PRIORITY | flag::END_HEADERS, 1, [0; 4])]),
        ("more padding than DATA", vec![opened(1), Frame::new(kind::DATA, flag::PADDED, 1, [9, 1])]),
        ("an entry that no table has", vec![Frame::headers(1, [0xff, 0x7f], true)]),
        ("an entry of number zero", vec![Frame::headers(1, [0x80], true)]),
        ("a number without end", vec![Frame::headers(1, [0xff; 20], true)]),
        ("a table larger than allowed", vec![Frame::headers(1, [0x3f, 0xff, 0xff, 0x7f], true)]),
        ("a string longer than the head", vec![Frame::headers(1, [0x40, 0x7f, 0x7f, b'x'], true)]),
    ]
    .map(|(name, frames)| (name.to_owned(), frames))
    .into();
    cases.extend(SETTINGS_BAD.map(|setting| (format!("SETTINGS {setting:?}"), vec![Frame::settings(&[setting])])));
    let bytes = |frames: Vec<Frame>| frames.iter().flat_map(Frame::encode).collect();
    let mut cases: Vec<(String, Vec<u8>)> = cases.into_iter().map(|(name, frames)| (name, bytes(frames))).collect();
    let large = Frame::data(1, vec![0; PAYLOAD_MAX + 1], false);
    cases.push(("a frame larger than allowed".to_owned(), bytes(vec![opened(1), large])));
    cases
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let lab = Lab::open().await;
    for way in [Way::Outbound, Way::Inbound, Way::Mesh] {
        let mut other = lab.client(way, H2, &[]).await;
        for (at, (name, bytes)) in (0..).zip(cases()) {
            let from = lab.proxy(way).records().unwrap().len();
            let mut client = lab.client(way, H2, &[]).await;
            client.send_bytes(&bytes).await.unwrap();
            let events = client.until(|event| matches!(event, Event::Goaway { .. })).await;
            let events = events.unwrap_or_else(|error| panic!("{way:?}, {name}: {error:#}"));
            let Some(Event::Goaway { code, .. }) = events.last() else { panic!("{events:?}") };
            // The crate says PROTOCOL_ERROR for most; a closer code would be as good.
            let known = [
                code::PROTOCOL_ERROR,
                code::FLOW_CONTROL_ERROR,
                code::STREAM_CLOSED,
                code::FRAME_SIZE_ERROR,
                code::COMPRESSION_ERROR,
            ];
            assert!(known.contains(code), "{way:?}, {name}: {code}");
            let ended = |record: &serde_json::Value| record["kind"] == "connection";
            let faults = lab.faults(way, from, ended).await;
            let connections: Vec<_> = faults.iter().filter(|record| ended(record)).collect();
            assert!(connections.len() == 1 && connections[0]["fault"] == "bad_request", "{way:?}, {name}: {faults:?}");
            assert_eq!(get(&mut other, 1 + 2 * at, "/").await, "200", "{way:?}: somebody else after {name}");
        }
    }
}

/// More than the window of a stream costs that stream.
#[tokio::test]
async fn data_beyond_the_window_ends_its_stream() {
    let lab = Lab::open().await;
    for way in [Way::Outbound, Way::Inbound] {
        let mut client = lab.client(way, H2, &[]).await;
        client.synchronise().await.unwrap();
        client.send([request(1, "POST", "/hang", false)]).await.unwrap();
        // The application reads nothing of `/hang`: two windows of 128 KiB fill, one in each proxy at most.
        client.send((0..64).map(|_| Frame::data(1, vec![0; PAYLOAD_MAX], false))).await.unwrap();
        let reset = |event: &Event| matches!(event, Event::Reset { stream: 1, .. });
        let events = client.until(reset).await.unwrap();
        let expected = Event::Reset { stream: 1, code: code::FLOW_CONTROL_ERROR };
        assert_eq!(events.last(), Some(&expected), "{way:?}");
        assert_eq!(get(&mut client, 3, "/").await, "200", "{way:?}");
    }
}

/// A preface that goes wrong or stops, in the SETTINGS that belong to it too: nobody is served, and it is over when a head is over.
#[tokio::test]
async fn prefaces_that_go_wrong_or_stop() {
    let lab = Lab::open().await;
    let mut wrong = PREFACE.to_vec();
    wrong[20] = b'X';
    let mut cut = [PREFACE, Frame::settings(&[(setting::ENABLE_PUSH, 0)]).encode().as_slice()].concat();
    cut.pop();
    for way in [Way::Outbound, Way::Inbound, Way::Mesh] {
        let (wrong, half) = (wrong.as_slice(), &PREFACE[..10]);
        let answers = [wrong, half, cut.as_slice()].map(|bytes| {
            let lab = &lab;
            async move {
                let mut stream = lab.dial(way, H2).await;
                tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await.unwrap();
                let mut answer = Vec::new();
                let read = stream.read_to_end(&mut answer);
                // Ten seconds are a head's time.
                let ended = tokio::time::timeout(Duration::from_secs(25), read).await;
                assert!(ended.is_ok(), "{way:?}: {:?} goes on", bytes.escape_ascii().to_string());
                answer
            }
        });
        let [wrong, half, cut] = answers;
        for answer in <[Vec<u8>; 3]>::from(tokio::join!(wrong, half, cut)) {
            assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", answer.escape_ascii());
        }
        lab.serves(way, H2).await;
    }
}
