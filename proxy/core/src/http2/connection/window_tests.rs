//! Windows, as both ends of a connection see them.

use std::rc::Rc;

use proptest::prelude::*;

use super::tests::{Pair, data, read, said, send, server, tell};
use super::*;
use crate::http2::frame::{PAYLOAD_MAX, WINDOW_DEFAULT, kind};
use crate::message::ResponseHead;

const WINDOW: u32 = tests::WINDOW;

/// A client whose windows grow, and a server that answers it with a body, far apart.
struct Far {
    pair: Pair,
    surplus: Rc<Surplus>,
    /// Streams: the client's name and the server's.
    streams: Vec<(Key, Key)>,
    /// Frames that the client has sent, by kind.
    frames: [usize; 10],
}

impl Far {
    fn new(streams: usize, surplus: u32) -> Self {
        let surplus = Rc::new(Surplus::new(surplus));
        let mut config = tests::config(Role::Client);
        config.connection_window = 3 * WINDOW + CONNECTION_SURPLUS_MAX;
        let mut pair = Pair {
            client: Connection::new(config).growing(Rc::clone(&surplus)),
            server: Connection::new(tests::config(Role::Server)),
        };
        pair.talk();
        let streams = (0..streams)
            .map(|_| {
                let (key, theirs) = pair.ask(true);
                pair.server.send_response(theirs, &ResponseHead::new(200), false).unwrap();
                (key, theirs)
            })
            .collect();
        pair.talk();
        Self { pair, surplus, streams, frames: [0; 10] }
    }

    /// The server sends all it may on this stream, up to so many bytes; gives what is on its way then.
    fn leaves(&mut self, stream: usize, most: usize) -> Vec<u8> {
        let (_, theirs) = self.streams[stream];
        let (mut way, mut sent) = (Vec::new(), 0);
        while sent < most {
            let more = send(&mut self.pair.server, theirs, &vec![0; (most - sent).min(PAYLOAD_MAX)], false);
            let output = self.pair.server.output().to_vec();
            self.pair.server.written(output.len());
            while self.pair.server.grant_turns() {}
            way.extend(output);
            sent += more;
            if more == 0 {
                break;
            }
        }
        way
    }

    /// It comes, and is read as it does; gives how much it was.
    fn comes(&mut self, stream: usize, way: &[u8]) -> usize {
        let (key, _) = self.streams[stream];
        let mut got = 0;
        for piece in way.chunks(20_000) {
            tell(&mut self.pair.client, piece).unwrap();
            got += read(&mut self.pair.client, key).len();
        }
        got
    }

    /// The server hears what the client has said.
    fn back(&mut self) {
        let output = self.pair.client.output().to_vec();
        for (head, _) in said(&mut self.pair.client) {
            self.frames[usize::from(head.kind)] += 1;
        }
        tell(&mut self.pair.server, &output).unwrap();
    }

    /// One way there and one way back; how much the client has got.
    fn round(&mut self, stream: usize) -> usize {
        let way = self.leaves(stream, usize::MAX);
        let got = self.comes(stream, &way);
        self.back();
        got
    }

    fn lent(&self, of: u32) -> u32 {
        of - self.surplus.left()
    }

    /// The client does not want a stream any more.
    fn leave(&mut self, stream: usize) {
        let (key, theirs) = self.streams[stream];
        self.pair.client.let_go(key);
        self.pair.talk();
        self.pair.server.let_go(theirs);
    }
}

#[test]
fn a_window_grows_as_long_as_its_sender_stands_still() {
    let all = 16 << 20;
    let mut far = Far::new(1, all);
    let first = far.round(0);
    assert_eq!(first, WINDOW as usize);
    let rounds: Vec<_> = (0..40).map(|_| far.round(0)).collect();
    let last = rounds[39];
    assert!(last >= STREAM_WINDOW_MAX as usize / 2, "{rounds:?}");
    assert!(rounds[9] > 4 * first, "it does not take long: {rounds:?}");
    assert_eq!(far.lent(all), STREAM_WINDOW_MAX - WINDOW);
    far.leave(0);
    assert_eq!(far.surplus.left(), all, "it was borrowed");
}

#[test]
fn a_window_whose_sender_never_stands_still_does_not_grow() {
    let all = 16 << 20;
    let mut far = Far::new(1, all);
    let body = 64 << 20;
    let mut got = 0;
    while got < body {
        // Little is under way at any time.
        let way = far.leaves(0, 20_000);
        got += far.comes(0, &way);
        far.back();
    }
    assert_eq!(far.surplus.left(), all);
    let pings = far.frames[usize::from(kind::PING)];
    assert!(pings <= 10 + (body >> 20), "{pings} questions");
    let updates = far.frames[usize::from(kind::WINDOW_UPDATE)];
    assert!(updates <= 2 * body / (64 * 1024), "{updates} windows given back");
}

/// Small messages have nothing to do with it.
#[test]
fn small_messages_cost_no_frame_more() {
    let mut far = Far::new(1, 16 << 20);
    let (mut pair, mut frames) = (far.pair, 0);
    far.streams.clear();
    for _ in 0..1000 {
        let (key, theirs) = pair.ask(true);
        pair.server.send_response(theirs, &ResponseHead::new(200), false).unwrap();
        assert_eq!(send(&mut pair.server, theirs, &[0; 1000], true), 1000);
        let output = pair.server.output().to_vec();
        pair.server.written(output.len());
        tell(&mut pair.client, &output).unwrap();
        assert_eq!(read(&mut pair.client, key).len(), 1000);
        frames += frames_of(&mut pair);
        pair.client.let_go(key);
        pair.server.let_go(theirs);
        pair.talk();
    }
    assert!(frames <= 1000 * 1000 / (64 * 1024), "{frames} frames for what came");
}

fn frames_of(pair: &mut Pair) -> usize {
    let output = pair.client.output().to_vec();
    let count = said(&mut pair.client).len();
    tell(&mut pair.server, &output).unwrap();
    count
}

#[test]
fn a_reader_that_falls_behind_gives_back_what_was_borrowed() {
    let all = 16 << 20;
    let mut far = Far::new(1, all);
    (0..40).for_each(|_| _ = far.round(0));
    assert!(far.lent(all) > 0);
    let (key, _) = far.streams[0];
    for _ in 0..10 {
        // It reads when nothing more comes.
        let way = far.leaves(0, usize::MAX);
        for piece in way.chunks(20_000) {
            tell(&mut far.pair.client, piece).unwrap();
        }
        read(&mut far.pair.client, key);
        far.back();
    }
    assert_eq!(far.surplus.left(), all);
    let way = far.leaves(0, usize::MAX);
    assert_eq!(far.comes(0, &way), WINDOW as usize, "and has what everybody has");
}

/// What windows are larger than at first is bounded for a connection, and for all of a worker.
#[test]
fn windows_together_do_not_grow_beyond_what_there_is() {
    let all = 16 << 20;
    let mut far = Far::new(3, all);
    for _ in 0..60 {
        (0..3).for_each(|stream| _ = far.round(stream));
    }
    let lent = far.lent(all);
    assert!(lent > CONNECTION_SURPLUS_MAX / 2 && lent <= CONNECTION_SURPLUS_MAX, "{lent}");
    drop(far.pair);
    assert_eq!(far.surplus.left(), all, "with the connection everything comes back");

    let mut far = Far::new(3, WINDOW + 10);
    for _ in 0..60 {
        (0..3).for_each(|stream| _ = far.round(stream));
    }
    assert_eq!(far.surplus.left(), 10, "one has grown");
}

/// Streams that nobody ever reads hold what they have always held.
#[test]
fn many_that_do_not_read_hold_no_more() {
    let all = 16 << 20;
    let mut far = Far::new(3, all);
    for stream in 0..3 {
        let way = far.leaves(stream, usize::MAX);
        for piece in way.chunks(20_000) {
            tell(&mut far.pair.client, piece).unwrap();
        }
        far.back();
        assert!(far.leaves(stream, usize::MAX).is_empty());
    }
    assert_eq!(far.surplus.left(), all);
}

/// More than was promised is no more borne for that windows grow.
#[test]
fn a_window_that_could_grow_is_a_window() {
    let mut server = server().growing(Rc::new(Surplus::new(16 << 20)));
    tell(&mut server, &tests::ask(1, false)).unwrap();
    for _ in 0..9 {
        tell(&mut server, &data(1, &[0; PAYLOAD_MAX], false)).unwrap();
    }
    let reset = said(&mut server).into_iter().any(|(head, _)| head.kind == kind::RST_STREAM);
    assert!(reset);
    const { assert!(WINDOW > WINDOW_DEFAULT) };
}

proptest! {
    /// Whoever reads and hears late or soon: nobody sends more than is promised, nobody waits for ever, and nothing that was
    /// borrowed is lost.
    #[test]
    fn windows_hold_in_any_order(
        steps in prop::collection::vec((0..4_u8, 0..3_usize, 1..400_000_usize), 0..120),
        all in 0..(8_u32 << 20),
    ) {
        let mut far = Far::new(3, all);
        let mut ways: [Vec<u8>; 3] = Default::default();
        for (step, stream, bytes) in steps {
            match step {
                // Only in whole frames, as streams share the way.
                0 => {
                    let way = far.leaves(stream, bytes);
                    ways[stream].extend(way);
                }
                1 => {
                    let way = std::mem::take(&mut ways[stream]);
                    tell(&mut far.pair.client, &way).unwrap();
                }
                2 => {
                    let (key, _) = far.streams[stream];
                    if let std::task::Poll::Ready(Some(Ok(data))) = far.pair.client.poll_data(key, &tests::idle()) {
                        far.pair.client.read(key, data.len());
                    }
                }
                _ => far.back(),
            }
            prop_assert!(far.lent(all) <= CONNECTION_SURPLUS_MAX.min(all));
        }
        for (stream, way) in ways.iter().enumerate() {
            tell(&mut far.pair.client, way).unwrap();
            let (key, _) = far.streams[stream];
            if let std::task::Poll::Ready(Some(Ok(data))) = far.pair.client.poll_data(key, &tests::idle()) {
                far.pair.client.read(key, data.len());
            }
        }
        far.back();
        for stream in 0..3 {
            prop_assert!(far.round(stream) >= WINDOW as usize / 2, "it goes on");
        }
        drop(far.pair);
        prop_assert_eq!(far.surplus.left(), all);
    }
}
