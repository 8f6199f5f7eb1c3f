//! Two ends that talk to each other, and one that is told frames by hand.

use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::Method;
use proptest::prelude::*;

use super::*;
use crate::http2::frame::{FrameHead, HEADER_BYTES, PAYLOAD_MAX, flag, kind, put_frame};
use crate::http2::hpack::Block;
use crate::message::{RequestHead, ResponseHead};

pub(super) const WINDOW: u32 = 128 * 1024;

pub(super) fn config(role: Role) -> Config {
    Config {
        role,
        message: Limits::default(),
        list_bytes_max: 100_000,
        streams_max: 3,
        stream_window: WINDOW,
        connection_window: 3 * WINDOW,
        connect_protocol: false,
        pending_resets_max: 5,
        resets_remembered_max: 10,
        interims_max: 4,
    }
}

pub(super) fn idle() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Frames with their payloads.
fn frames(mut bytes: &[u8]) -> Vec<(FrameHead, Vec<u8>)> {
    let mut frames = Vec::new();
    bytes = bytes.strip_prefix(PREFACE.as_slice()).unwrap_or(bytes);
    while let Some(head) = bytes.first_chunk() {
        let head = FrameHead::parse(head);
        frames.push((head, bytes[HEADER_BYTES..HEADER_BYTES + head.length].to_vec()));
        bytes = &bytes[HEADER_BYTES + head.length..];
    }
    frames
}

pub(super) fn said(connection: &mut Connection) -> Vec<(FrameHead, Vec<u8>)> {
    let all = frames(connection.output());
    connection.written(connection.output().len());
    all
}

/// Kind, stream and code of what was said, but for windows and acknowledgements.
fn codes(connection: &mut Connection) -> Vec<(u8, u32, u32)> {
    let code = |head: &FrameHead, payload: &[u8]| match head.kind {
        kind::RST_STREAM => frame::number(payload).unwrap(),
        kind::GOAWAY => frame::number(&payload[4..]).unwrap(),
        _ => 0,
    };
    said(connection)
        .iter()
        .filter(|(head, _)| !matches!(head.kind, kind::WINDOW_UPDATE | kind::SETTINGS))
        .map(|(head, payload)| (head.kind, head.stream, code(head, payload)))
        .collect()
}

/// A server that has been greeted.
pub(super) fn server() -> Connection {
    let mut server = Connection::new(config(Role::Server));
    let mut hello = BytesMut::from(PREFACE.as_slice());
    frame::put_settings(&mut hello, &[]);
    put_frame(&mut hello, kind::SETTINGS, flag::ACK, 0, &[]);
    tell(&mut server, &hello).unwrap();
    said(&mut server);
    server
}

pub(super) fn tell(connection: &mut Connection, bytes: &[u8]) -> Result<(), Fatal> {
    connection.begin_turn();
    let taken = connection.receive(bytes, &mut Block::new())?;
    assert_eq!(taken, bytes.len());
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_frame(&mut out, kind, flags, stream, payload);
    out.to_vec()
}

/// `GET /` or, where the stream is to go on, a request without END_STREAM.
pub(super) fn ask(stream: u32, end: bool) -> Vec<u8> {
    let end = if end { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, end | flag::END_HEADERS, stream, &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'])
}

pub(super) fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), stream, bytes)
}

fn opened(connection: &mut Connection) -> Key {
    connection.next_opened().expect("a stream").key
}

pub(super) fn read(connection: &mut Connection, key: Key) -> Bytes {
    match connection.poll_data(key, &idle()) {
        Poll::Ready(Some(Ok(data))) => {
            connection.read(key, data.len());
            data
        }
        other @ (Poll::Ready(_) | Poll::Pending) => panic!("{other:?}"),
    }
}

/// Client and server that know each other.
pub(super) struct Pair {
    pub(super) client: Connection,
    pub(super) server: Connection,
}

impl Pair {
    fn new() -> Self {
        let mut pair =
            Self { client: Connection::new(config(Role::Client)), server: Connection::new(config(Role::Server)) };
        pair.talk();
        pair
    }

    /// Until nobody has anything to say.
    pub(super) fn talk(&mut self) {
        while !self.client.output().is_empty() || !self.server.output().is_empty() {
            let (from_client, from_server) = (self.client.output().to_vec(), self.server.output().to_vec());
            self.client.written(from_client.len());
            self.server.written(from_server.len());
            tell(&mut self.server, &from_client).unwrap();
            tell(&mut self.client, &from_server).unwrap();
            self.client.grant_turns();
            self.server.grant_turns();
        }
    }

    pub(super) fn ask(&mut self, end: bool) -> (Key, Key) {
        assert!(self.client.poll_ready(&mut Place::default(), &idle()).is_ready());
        let mut head = RequestHead::new(if end { Method::GET } else { Method::POST }, "/");
        head.authority = Some(Bytes::from_static(b"a"));
        let key = self.client.send_request(&head, "http", end).unwrap();
        self.talk();
        let Opened { key: theirs, request } = self.server.next_opened().expect("a stream");
        assert_eq!(request.unwrap().head.target, "/");
        (key, theirs)
    }
}

pub(super) fn send(connection: &mut Connection, key: Key, bytes: &[u8], end: bool) -> usize {
    match connection.poll_room(key, bytes.len(), &idle()) {
        Poll::Ready(Ok(room)) => {
            connection.send_data(key, [bytes], room, end && room == bytes.len());
            room
        }
        Poll::Ready(Err(broken)) => panic!("{broken:?}"),
        Poll::Pending => 0,
    }
}

#[test]
fn a_request_and_its_response_go_to_and_fro() {
    let mut pair = Pair::new();
    let (key, theirs) = pair.ask(false);
    assert_eq!(send(&mut pair.client, key, b"body", true), 4);
    pair.talk();
    assert_eq!(read(&mut pair.server, theirs), "body");
    assert!(pair.server.is_read(theirs));
    pair.server.send_response(theirs, &ResponseHead::new(103), false).unwrap();
    pair.server.send_response(theirs, &ResponseHead::new(200), false).unwrap();
    assert_eq!(send(&mut pair.server, theirs, b"answer", false), 6);
    let mut trailers = crate::fields::Fields::new();
    trailers.append("grpc-status", "0");
    pair.server.send_trailers(theirs, &trailers).unwrap();
    pair.talk();
    assert_eq!(pair.client.next_interim(key).unwrap().status, 103);
    let Poll::Ready(Ok(response)) = pair.client.poll_response(key, &idle()) else { panic!("no response") };
    assert_eq!(response.head.status, 200);
    assert_eq!(read(&mut pair.client, key), "answer");
    assert!(matches!(pair.client.poll_data(key, &idle()), Poll::Ready(None)));
    assert_eq!(pair.client.next_trailers(key).unwrap().get_str("grpc-status"), Some("0"));
    assert_eq!((pair.client.open(), pair.server.open()), (0, 0));
    pair.client.let_go(key);
    pair.server.let_go(theirs);
    pair.talk();
    assert_eq!((pair.client.resets_sent(), pair.server.resets_sent()), (0, 0), "nothing was cut");
}

#[test]
fn windows_hold_senders_back_and_are_given_back() {
    let mut pair = Pair::new();
    let (key, theirs) = pair.ask(false);
    let all = vec![7; 1 << 20];
    let (mut sent, mut got) = (0, 0);
    while got < all.len() {
        let before = sent;
        loop {
            let more = send(&mut pair.client, key, &all[sent..], true);
            sent += more;
            pair.talk();
            if more == 0 || sent == all.len() {
                break;
            }
        }
        assert!(sent - got <= WINDOW as usize, "{sent} beyond the window after {got}");
        assert!(sent > before || sent == all.len(), "it stands still at {sent}");
        got += read(&mut pair.server, theirs).len();
        pair.talk();
    }
    assert!(pair.server.is_read(theirs));
}

/// What nobody has read of a stream that is over is given back to the connection.
#[test]
fn streams_that_nobody_reads_cost_the_connection_nothing() {
    let mut pair = Pair::new();
    for _ in 0..50 {
        let (key, theirs) = pair.ask(false);
        while send(&mut pair.client, key, &[0; PAYLOAD_MAX], false) > 0 {
            pair.talk();
        }
        pair.server.let_go(theirs);
        pair.talk();
        assert!(pair.client.broken(key).is_some());
        pair.client.let_go(key);
        pair.talk();
    }
}

#[test]
fn all_streams_have_their_turn() {
    let mut pair = Pair::new();
    let streams: Vec<_> = (0..3).map(|_| pair.ask(true).1).collect();
    for key in &streams {
        pair.server.send_response(*key, &ResponseHead::new(200), false).unwrap();
    }
    let mut sent = [0; 3];
    // The first fills the output; nobody reads.
    while send(&mut pair.server, streams[0], &[0; PAYLOAD_MAX], false) > 0 {}
    for key in &streams[1..] {
        assert_eq!(send(&mut pair.server, *key, &[0; PAYLOAD_MAX], false), 0);
    }
    for _ in 0..6 {
        let out = pair.server.output().len();
        pair.server.written(out);
        while pair.server.grant_turns() {}
        for (key, sent) in streams.iter().zip(&mut sent) {
            *sent += send(&mut pair.server, *key, &[0; PAYLOAD_MAX], false);
        }
    }
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(*least > 0 && most - least <= 2 * PAYLOAD_MAX, "{sent:?}");
}

#[test]
fn one_stream_too_many_is_refused_and_what_follows_it_ignored() {
    let mut server = server();
    for stream in [1, 3, 5, 7] {
        tell(&mut server, &ask(stream, false)).unwrap();
    }
    assert_eq!(server.next_unseen(), Some(Unseen::TooMany));
    assert_eq!(codes(&mut server), [(kind::RST_STREAM, 7, Reason::REFUSED_STREAM.0)]);
    let before = server.receive_window;
    for _ in 0..100 {
        tell(&mut server, &data(7, &[0; 4096], false)).unwrap();
    }
    tell(&mut server, &ask(7, true)).unwrap();
    assert!(before - server.receive_window < 64 * 1024, "the window is given back");
    assert_eq!(codes(&mut server), []);
}

#[test]
fn what_is_on_its_way_for_a_stream_that_was_reset_is_ignored() {
    let mut server = server();
    tell(&mut server, &ask(1, false)).unwrap();
    let key = opened(&mut server);
    server.reset(key, Reason::CANCEL);
    let late = [data(1, b"x", false), frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), ask(1, true)].concat();
    tell(&mut server, &late).unwrap();
    server.let_go(key);
    tell(&mut server, &data(1, b"x", true)).unwrap();
    assert_eq!(codes(&mut server), [(kind::RST_STREAM, 1, Reason::CANCEL.0)]);
}

#[test]
fn going_away_takes_two_steps_and_then_ignores_new_streams() {
    let mut server = server();
    tell(&mut server, &ask(1, true)).unwrap();
    server.go_away();
    let words = said(&mut server);
    assert_eq!(words.iter().map(|(head, _)| head.kind).collect::<Vec<_>>(), [kind::GOAWAY, kind::PING]);
    assert_eq!(words[0].1[..4], [0x7f, 0xff, 0xff, 0xff]);
    tell(&mut server, &ask(3, true)).unwrap();
    tell(&mut server, &frame(kind::PING, flag::ACK, 0, &words[1].1)).unwrap();
    assert_eq!(said(&mut server)[0].1[..4], [0, 0, 0, 3], "the last stream that was taken");
    tell(&mut server, &[ask(5, false), data(5, b"x", false), frame(kind::RST_STREAM, 0, 5, &[0; 4])].concat()).unwrap();
    let keys = [opened(&mut server), opened(&mut server)];
    assert!(server.next_opened().is_none() && !server.is_finished());
    for key in keys {
        server.send_response(key, &ResponseHead::new(200), true).unwrap();
        server.let_go(key);
    }
    assert!(server.is_finished());
}

#[test]
fn goaway_leaves_streams_unprocessed() {
    let mut pair = Pair::new();
    let (first, second) = (pair.ask(true).0, pair.ask(true).0);
    tell(&mut pair.client, &frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).unwrap();
    assert_eq!(pair.client.broken(first), None);
    assert_eq!(pair.client.broken(second), Some(Broken::Unprocessed));
    assert!(!pair.client.takes_streams() && !pair.client.is_finished());
    assert!(matches!(pair.client.poll_ready(&mut Place::default(), &idle()), Poll::Ready(Err(_))));
}

#[test]
fn the_peers_first_window_changes_those_of_open_streams() {
    let mut pair = Pair::new();
    let (_, theirs) = pair.ask(true);
    pair.server.send_response(theirs, &ResponseHead::new(200), false).unwrap();
    let window = |to: u32| frame(kind::SETTINGS, 0, 0, &[&[0, 4], to.to_be_bytes().as_slice()].concat());
    tell(&mut pair.server, &window(10)).unwrap();
    assert_eq!(send(&mut pair.server, theirs, b"0123456789abc", false), 10);
    tell(&mut pair.server, &window(5)).unwrap();
    assert_eq!(send(&mut pair.server, theirs, b"abc", false), 0, "it is below zero");
    tell(&mut pair.server, &window(12)).unwrap();
    assert_eq!(send(&mut pair.server, theirs, b"abc", false), 2);
    assert_eq!(tell(&mut pair.server, &window(0x8000_0000)), Err(Fatal(Reason::FLOW_CONTROL_ERROR)));
}

/// However fast they are read.
#[test]
fn a_request_has_so_many_interim_responses_and_no_more() {
    let mut pair = Pair::new();
    let (asked, other) = (pair.ask(true), pair.ask(true));
    for _ in 0..pair.client.config.interims_max {
        pair.server.send_response(asked.1, &ResponseHead::new(102), false).unwrap();
        pair.talk();
        assert_eq!(pair.client.next_interim(asked.0).map(|head| head.status), Some(102));
    }
    pair.server.send_response(asked.1, &ResponseHead::new(102), false).unwrap();
    pair.talk();
    assert!(pair.client.next_interim(asked.0).is_none());
    assert_eq!(pair.client.broken(asked.0), Some(Broken::Head(HeadFault::StatusCode)));
    assert_eq!((pair.client.broken(other.0), pair.client.ended()), (None, None), "nobody else's fault");
}

#[test]
fn who_is_reset_while_it_waits_to_send_leaves_nothing_in_the_line() {
    let mut server = server();
    tell(&mut server, &ask(1, true)).unwrap();
    let first = opened(&mut server);
    let all = usize::try_from(WINDOW_DEFAULT).unwrap();
    for piece in vec![0; all].chunks(PAYLOAD_MAX) {
        server.send_data(first, [piece], piece.len(), false);
    }
    said(&mut server);
    for stream in (3..6000).step_by(2) {
        tell(&mut server, &ask(stream, true)).unwrap();
        let key = opened(&mut server);
        assert!(server.poll_room(key, 1, &idle()).is_pending());
        tell(&mut server, &frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())).unwrap();
        server.let_go(key);
        assert!(server.waiting.len() < 10, "{} wait", server.waiting.len());
    }
}

#[test]
fn an_empty_body_is_not_none() {
    let mut server = server();
    tell(&mut server, &[ask(1, false), data(1, b"", true), ask(3, true)].concat()).unwrap();
    let (empty, none) = (opened(&mut server), opened(&mut server));
    assert!(!server.is_read(empty) && server.is_read(none));
    assert!(matches!(server.poll_data(empty, &idle()), Poll::Ready(None)));
    assert!(server.is_read(empty));
}

#[test]
fn a_body_is_as_long_as_announced() {
    for (bytes, end) in [(b"ab".as_slice(), true), (b"abcd", false)] {
        let mut server = server();
        let block = [&[0x83, 0x86, 0x84, 0x41, 0x01, b'a', 0x0f, 0x0d, 1, b'3'][..]].concat();
        tell(&mut server, &frame(kind::HEADERS, flag::END_HEADERS, 1, &block)).unwrap();
        tell(&mut server, &data(1, bytes, end)).unwrap();
        let key = opened(&mut server);
        assert_eq!(server.broken(key), Some(Broken::Misused(Reason::PROTOCOL_ERROR)));
        assert_eq!(codes(&mut server), [(kind::RST_STREAM, 1, 1)]);
    }
}

#[test]
fn more_than_the_window_costs_the_stream_and_more_than_that_the_connection() {
    let mut server = server();
    tell(&mut server, &ask(1, false)).unwrap();
    for _ in 0..9 {
        tell(&mut server, &data(1, &[0; PAYLOAD_MAX], false)).unwrap();
    }
    assert_eq!(codes(&mut server), [(kind::RST_STREAM, 1, Reason::FLOW_CONTROL_ERROR.0)]);
    let mut server = self::server();
    for stream in [1, 3, 5] {
        tell(&mut server, &ask(stream, false)).unwrap();
        for _ in 0..8 {
            tell(&mut server, &data(stream, &[0; PAYLOAD_MAX], false)).unwrap();
        }
    }
    assert_eq!(tell(&mut server, &data(5, b"x", false)), Err(Fatal(Reason::FLOW_CONTROL_ERROR)));
}

/// Each breaks the connection, and how (RFC 9113 sections 4 to 6).
#[test]
fn faults_of_the_connection_end_it() {
    let settings =
        |id: u8, value: u32| frame(kind::SETTINGS, 0, 0, &[&[0, id], value.to_be_bytes().as_slice()].concat());
    let protocol = [
        ask(2, true),
        ask(0, true),
        data(0, b"x", false),
        data(7, b"x", false),
        frame(kind::HEADERS, flag::PADDED | flag::END_HEADERS, 1, &[200, 1]),
        frame(kind::HEADERS, flag::PADDED | flag::PRIORITY | flag::END_HEADERS, 1, &[1, 0, 0, 0, 0, 0]),
        frame(kind::PRIORITY, 0, 0, &[0; 5]),
        frame(kind::RST_STREAM, 0, 0, &[0; 4]),
        frame(kind::RST_STREAM, 0, 7, &[0; 4]),
        frame(kind::SETTINGS, 0, 1, &[]),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        settings(2, 2),
        settings(5, 100),
        settings(5, 1 << 24),
        settings(8, 2),
        frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0; 4]),
        frame(kind::PING, 0, 1, &[0; 8]),
        frame(kind::GOAWAY, 0, 1, &[0; 8]),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(kind::WINDOW_UPDATE, 0, 7, &[0, 0, 0, 1]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[0x82]),
        [frame(kind::HEADERS, 0, 1, &[0x82]), frame(kind::PING, 0, 0, &[0; 8])].concat(),
        [frame(kind::HEADERS, 0, 1, &[0x82]), frame(kind::CONTINUATION, 0, 3, &[])].concat(),
    ];
    let size = [
        frame(kind::DATA, 0, 1, &[0; PAYLOAD_MAX + 1]),
        frame(kind::DATA, flag::PADDED, 1, &[]),
        frame(kind::HEADERS, flag::PADDED | flag::END_HEADERS, 1, &[]),
        frame(kind::HEADERS, flag::PRIORITY | flag::END_HEADERS, 1, &[0; 4]),
        frame(kind::HEADERS, flag::PADDED | flag::PRIORITY | flag::END_HEADERS, 1, &[0; 5]),
        frame(kind::PRIORITY, 0, 1, &[0; 4]),
        frame(kind::RST_STREAM, 0, 1, &[0; 3]),
        frame(kind::SETTINGS, 0, 0, &[0; 5]),
        frame(kind::PING, 0, 0, &[0; 7]),
        frame(kind::GOAWAY, 0, 0, &[0; 7]),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
    ];
    let closed = [[ask(1, true), data(1, b"x", true)].concat(), [ask(5, true), ask(3, true)].concat()];
    let window = [frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), settings(4, 0x8000_0000)];
    let calm = [
        [vec![frame(kind::HEADERS, 0, 1, &[0x82])], vec![frame(kind::CONTINUATION, 0, 1, &[]); 1000]].concat().concat(),
        [vec![frame(kind::HEADERS, 0, 1, &[0x82])], vec![frame(kind::CONTINUATION, 0, 1, &[0; PAYLOAD_MAX]); 20]]
            .concat()
            .concat(),
    ];
    let compression = [frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x80])];
    let cases: [(Reason, &[Vec<u8>]); 6] = [
        (Reason::PROTOCOL_ERROR, &protocol),
        (Reason::FRAME_SIZE_ERROR, &size),
        (Reason::STREAM_CLOSED, &closed),
        (Reason::FLOW_CONTROL_ERROR, &window),
        (Reason::ENHANCE_YOUR_CALM, &calm),
        (Reason::COMPRESSION_ERROR, &compression),
    ];
    for (reason, cases) in cases {
        for bytes in cases {
            let mut server = server();
            let start = bytes[..bytes.len().min(40)].escape_ascii().to_string();
            assert_eq!(tell(&mut server, bytes), Err(Fatal(reason)), "{start}");
            assert_eq!(codes(&mut server).last(), Some(&(kind::GOAWAY, 0, reason.0)), "{start}");
            assert!(!server.may_read());
        }
    }
}

/// Each costs its stream (RFC 9113 sections 5.1, 6.3, 6.9 and 8.1.1), until there are too many.
#[test]
fn faults_of_a_stream_end_it() {
    let faults = [
        (frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]), Reason::PROTOCOL_ERROR),
        (frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]), Reason::FLOW_CONTROL_ERROR),
        (frame(kind::PRIORITY, 0, 1, &[0; 4]), Reason::FRAME_SIZE_ERROR),
        (ask(1, false), Reason::PROTOCOL_ERROR),
    ];
    for (fault, reason) in faults {
        let mut server = server();
        tell(&mut server, &[ask(1, false), fault].concat()).unwrap();
        assert_eq!(codes(&mut server), [(kind::RST_STREAM, 1, reason.0)]);
    }
    let mut server = server();
    let malformed = |stream| frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &[0x82]);
    let outcome = (0..2000).map(|n| tell(&mut server, &malformed(2 * n + 1))).find(Result::is_err);
    assert_eq!(outcome, Some(Err(Fatal(Reason::ENHANCE_YOUR_CALM))));
}

/// A whole request makes up for nothing: what its sender does afterwards still has its stream reset (CVE-2025-8671).
#[test]
fn whole_requests_do_not_make_up_for_streams_that_their_sender_has_reset() {
    let overflow = |stream| frame(kind::WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
    let mut server = server();
    let mut outcome = Ok(());
    for stream in (1..6000).step_by(2) {
        outcome = tell(&mut server, &ask(stream, true)).and_then(|()| {
            let key = opened(&mut server);
            let outcome = tell(&mut server, &overflow(stream));
            assert!(server.broken(key).is_some());
            server.let_go(key);
            outcome
        });
        said(&mut server);
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome, Err(Fatal(Reason::ENHANCE_YOUR_CALM)));
    // Those that end well do.
    let mut server = self::server();
    for stream in (1..12_000).step_by(4) {
        tell(&mut server, &[ask(stream, true), ask(stream + 2, true)].concat()).unwrap();
        let [misused, well] = [opened(&mut server), opened(&mut server)];
        tell(&mut server, &overflow(stream)).unwrap();
        server.send_response(well, &ResponseHead::new(200), true).unwrap();
        server.let_go(misused);
        server.let_go(well);
        said(&mut server);
    }
}

/// Nobody has to have seen a stream for its sender to make us reset it.
#[test]
fn streams_that_are_misused_unseen_are_counted_as_reset() {
    let mut server = server();
    let misused = |stream| [ask(stream, true), frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])].concat();
    for n in 0..5 {
        tell(&mut server, &misused(2 * n + 1)).unwrap();
    }
    assert_eq!(tell(&mut server, &misused(11)), Err(Fatal(Reason::ENHANCE_YOUR_CALM)));
}

/// A client that says half of its first frame has not said it.
#[test]
fn who_has_said_half_of_its_settings_has_not_greeted() {
    let mut server = Connection::new(config(Role::Server));
    let hello = [PREFACE.as_slice(), &frame(kind::SETTINGS, 0, 0, &[0; 6])].concat();
    let (half, rest) = hello.split_at(hello.len() - 1);
    tell(&mut server, half).unwrap();
    assert!(!server.is_greeted());
    tell(&mut server, rest).unwrap();
    assert!(server.is_greeted());
}

#[test]
fn streams_that_are_reset_unseen_are_counted() {
    let mut server = server();
    let reset = |stream| [ask(stream, true), frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    for n in 0..5 {
        tell(&mut server, &reset(2 * n + 1)).unwrap();
    }
    while server.next_opened().is_some() {}
    for n in 5..10 {
        tell(&mut server, &reset(2 * n + 1)).unwrap();
    }
    assert_eq!(tell(&mut server, &reset(21)), Err(Fatal(Reason::ENHANCE_YOUR_CALM)));
}

#[test]
fn who_reads_no_answers_is_not_read() {
    let mut server = server();
    let mut pings = 0;
    while server.may_read() {
        tell(&mut server, &frame(kind::PING, 0, 0, &[0; 8])).unwrap();
        pings += 1;
        assert!(pings < 10_000);
    }
    said(&mut server);
    assert!(server.may_read());
}

#[test]
fn a_peer_that_says_nothing_of_use_is_overdrawn() {
    let mut server = server();
    while !server.is_overdrawn() {
        tell(&mut server, &frame(0xfa, 0, 0, &[0; 100])).unwrap();
    }
    server.passed(60_000);
    assert!(!server.is_overdrawn(), "time makes up for it");
}

proptest! {
    /// However the bytes are cut, what comes of them is the same.
    #[test]
    fn bytes_may_be_cut_anywhere(size in 1..64_usize) {
        let mut padded = vec![2, b'p', b'a', b'd', 0, 0];
        padded[0] = 2;
        let all = [
            ask(1, false),
            data(1, b"hello", false),
            frame(kind::DATA, flag::PADDED, 1, &padded),
            frame(0xfa, 0, 0, &[1; 30]),
            frame(kind::HEADERS, flag::END_STREAM, 3, &[0x82, 0x86]),
            frame(kind::CONTINUATION, flag::END_HEADERS, 3, &[0x84, 0x41, 0x01, b'a']),
            data(1, b"", true),
        ]
        .concat();
        let mut server = server();
        for piece in all.chunks(size) {
            tell(&mut server, piece).unwrap();
        }
        let key = opened(&mut server);
        prop_assert_eq!(read(&mut server, key), "hellopad");
        prop_assert!(server.is_read(key));
        prop_assert!(server.next_opened().unwrap().request.is_ok());
        prop_assert!(server.is_between_frames());
    }

    /// Nothing that comes makes it panic, or keep more than it may.
    #[test]
    fn whatever_comes_is_borne(pieces in prop::collection::vec((0..12_u8, any::<u8>(), 0..8_u32, prop::collection::vec(any::<u8>(), 0..40)), 0..60)) {
        let mut server = server();
        for (kind, flags, stream, payload) in pieces {
            if tell(&mut server, &frame(kind, flags, stream, &payload)).is_err() {
                break;
            }
            while let Some(Opened { key, .. }) = server.next_opened() {
                server.send_response(key, &ResponseHead::new(200), true).unwrap();
                server.let_go(key);
            }
        }
        prop_assert!(server.open() <= 3);
        server.close();
    }
}
