//! Directions that end apart, streams side by side, and frames that belong to the connection.

use weft_integration::raw::h2_frame::{Frame, code, setting};

use crate::script::{Exchange, Stage, Step, request, response, trailers};

pub(crate) fn all() -> Vec<Exchange> {
    [halves(), many(), connection(), windows()].concat()
}

fn open() -> Step {
    Step::Send(vec![request(1, "POST", "/s", &[], false)])
}

fn data(bytes: &str, end: bool) -> Step {
    Step::Send(vec![Frame::data(1, bytes, end)])
}

fn answer() -> Step {
    Step::Send(vec![response(1, "200", &[], false)])
}

fn halves() -> Vec<Exchange> {
    let mut ping = vec![open()];
    let mut pong = vec![Step::Await(Stage::Sections(1, 1)), answer()];
    for n in 1..=20 {
        ping.extend([data("ping", false), Step::Await(Stage::Bytes(1, n * 4))]);
        pong.extend([Step::Await(Stage::Bytes(1, n * 4)), data("pong", false)]);
    }
    ping.extend([data("", true), Step::Await(Stage::End(1))]);
    pong.extend([Step::Await(Stage::End(1)), Step::Send(vec![trailers(1, &[("grpc-status", "0")])])]);
    vec![
        Exchange::new("stream: both directions in turns", ping, pong),
        Exchange::new(
            "stream: the answer begins before the request's body",
            vec![open(), Step::Await(Stage::Bytes(1, 5)), data("late", true), Step::Await(Stage::End(1))],
            vec![
                Step::Await(Stage::Sections(1, 1)),
                answer(),
                data("early", false),
                Step::Await(Stage::End(1)),
                data("", true),
            ],
        ),
        Exchange::new(
            "stream: the server ends first, the client goes on",
            vec![open(), data("a", false), Step::Await(Stage::End(1)), data("b", false), data("c", true)],
            vec![Step::Await(Stage::Bytes(1, 1)), answer(), data("done", true), Step::Await(Stage::End(1))],
        ),
        Exchange::new(
            "stream: the client ends first, the server goes on",
            vec![open(), data("a", true), Step::Await(Stage::Bytes(1, 1)), next(), Step::Await(Stage::End(1))],
            vec![
                Step::Await(Stage::End(1)),
                answer(),
                data("1", false),
                Step::Await(Stage::End(3)),
                Step::Send(vec![response(3, "200", &[], true)]),
                data("2", false),
                data("3", true),
            ],
        ),
        Exchange::new(
            "stream: a head alone reaches the client at once",
            vec![open(), Step::Await(Stage::Sections(1, 1)), data("then", true), Step::Await(Stage::End(1))],
            vec![Step::Await(Stage::Sections(1, 1)), answer(), Step::Await(Stage::End(1)), data("", true)],
        ),
    ]
}

fn next() -> Step {
    Step::Send(vec![request(3, "GET", "/next", &[], true)])
}

fn many() -> Vec<Exchange> {
    let streams: Vec<u32> = (0..90).map(|n| n * 2 + 1).collect();
    let requests = streams.iter().map(|stream| {
        let body = Frame::data(*stream, format!("body {stream}"), true);
        vec![request(*stream, "POST", &format!("/{stream}"), &[], false), body]
    });
    let answers = streams.iter().rev().map(|stream| {
        vec![response(*stream, "200", &[], false), Frame::data(*stream, format!("answer {stream}"), true)]
    });
    let ends = || streams.iter().map(|stream| Step::Await(Stage::End(*stream)));
    let mixed = |kind: &str| {
        let round = |n: usize| {
            streams
                .iter()
                .take(20)
                .map(|stream| Frame::data(*stream, format!("{kind} {n} "), n == 9))
                .collect::<Vec<_>>()
        };
        (0..10).map(round).map(Step::Send).collect::<Vec<_>>()
    };
    let heads = |head: fn(u32) -> Frame| Step::Send(streams.iter().take(20).map(|stream| head(*stream)).collect());
    let twenty = || ends().take(20).collect::<Vec<_>>();
    vec![
        Exchange::new(
            "streams: ninety at once, answered backwards",
            [vec![Step::Send(requests.flatten().collect())], ends().collect()].concat(),
            [ends().collect(), vec![Step::Send(answers.flatten().collect())]].concat(),
        ),
        Exchange::new(
            "streams: twenty, with their frames mixed both ways",
            [vec![heads(|stream| request(stream, "POST", "/m", &[], false))], mixed("up"), twenty()].concat(),
            [twenty(), vec![heads(|stream| response(stream, "200", &[], false))], mixed("down")].concat(),
        ),
    ]
}

/// Frames that mean something to the next hop only, or nothing.
fn connection() -> Vec<Exchange> {
    let get = || request(1, "GET", "/c", &[], true);
    let ok = || response(1, "200", &[], true);
    let unknown = |stream| Frame::new(0xf5, 0xff, stream, "what is this?");
    let plain = |name: &str, request, answer| Exchange::plain(format!("connection: {name}"), request, answer);
    let unknown_settings = [(0x0a0a, 7), (0xffff, u32::MAX), (setting::HEADER_TABLE_SIZE, 0)];
    vec![
        plain("frames of unknown types", vec![unknown(0), get(), unknown(0)], vec![unknown(0), unknown(1), ok()]),
        plain(
            "PRIORITY, before and after",
            vec![Frame::priority(1, 0, 9), get(), Frame::priority(3, 1, 0)],
            vec![ok()],
        ),
        plain(
            "PING both ways",
            vec![Frame::ping(*b"by clnt.", false), get()],
            vec![Frame::ping(*b"by serv.", false), ok()],
        ),
        plain(
            "SETTINGS once more",
            vec![Frame::settings(&[(4, 70_000)]), get(), Frame::settings(&[])],
            vec![Frame::settings(&[(3, 50)]), ok()],
        ),
        plain("settings nobody knows", vec![get()], vec![ok()])
            .client_settings(&unknown_settings)
            .server_settings(&unknown_settings),
        Exchange::new(
            "connection: GOAWAY while an answer is under way",
            vec![Step::Send(vec![get()]), Step::Await(Stage::End(1))],
            vec![
                Step::Await(Stage::End(1)),
                Step::Send(vec![
                    Frame::goaway(0x7fff_ffff, code::NO_ERROR, b"soon"),
                    response(1, "200", &[], false),
                    Frame::data(1, "to the end", true),
                ]),
            ],
        )
        .without_last(),
    ]
}

fn windows() -> Vec<Exchange> {
    vec![
        Exchange::new(
            "window: no reader of a stream's body, and another stream goes on",
            vec![
                Step::Send(vec![request(1, "GET", "/slow", &[], true)]),
                Step::Await(Stage::Sections(1, 1)),
                Step::Send(vec![request(3, "GET", "/quick", &[], true), Frame::window_update(3, 100)]),
                Step::Await(Stage::End(3)),
                Step::Send(vec![Frame::window_update(1, 100)]),
                Step::Await(Stage::End(1)),
            ],
            vec![
                Step::Await(Stage::End(1)),
                Step::Send(vec![response(1, "200", &[], false)]),
                Step::Await(Stage::End(3)),
                Step::Send(vec![response(3, "200", &[], false)]),
                Step::Body(3, b"quick".to_vec(), true),
                Step::Body(1, b"slow".to_vec(), true),
            ],
        )
        .client_settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]),
        Exchange::new(
            "window: one byte at a time",
            vec![Step::Send(vec![request(1, "GET", "/slow", &[], true)]), Step::Await(Stage::End(1))],
            vec![
                Step::Await(Stage::End(1)),
                Step::Send(vec![response(1, "200", &[], false)]),
                Step::Body(1, vec![b'x'; 300], true),
            ],
        )
        .client_settings(&[(setting::INITIAL_WINDOW_SIZE, 1)]),
    ]
}
