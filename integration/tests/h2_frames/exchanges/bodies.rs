//! DATA, trailers, and answers without either.

use weft_integration::raw::h2_frame::{Frame, setting};

use crate::script::{Exchange, Stage, Step, request, response, trailers};

pub(crate) fn all() -> Vec<Exchange> {
    [requests(), responses(), bodiless(), large(), grpc()].concat()
}

fn ok() -> Vec<Frame> {
    vec![response(1, "200", &[], true)]
}

fn get(path: &str) -> Vec<Frame> {
    vec![request(1, "GET", path, &[], true)]
}

fn requests() -> Vec<Exchange> {
    let post = |fields| request(1, "POST", "/body", fields, false);
    let sets: [(&str, Vec<Frame>); 12] = [
        ("one frame", vec![post(&[]), Frame::data(1, "hello", true)]),
        ("its length is known", vec![post(&[("content-length", "5")]), Frame::data(1, "hello", true)]),
        ("its length is known to be none", vec![request(1, "POST", "/none", &[("content-length", "0")], true)]),
        ("no DATA at all, nothing said", vec![request(1, "POST", "/none", &[], true)]),
        ("many frames, some empty", {
            let piece = |n: u8| [Frame::data(1, [b'a' + n; 3], false), Frame::data(1, [], false)];
            [vec![post(&[])], (0..20).flat_map(piece).collect(), vec![Frame::data(1, "end", true)]].concat()
        }),
        ("an empty frame ends it", vec![post(&[]), Frame::data(1, "hello", false), Frame::data(1, [], true)]),
        ("nothing but an empty frame", vec![post(&[]), Frame::data(1, [], true)]),
        (
            "padding",
            vec![post(&[]).padded(255), Frame::data(1, "a", false).padded(200), Frame::data(1, "b", true).padded(0)],
        ),
        (
            "frames of nothing but padding",
            vec![post(&[]), Frame::data(1, [], false).padded(255), Frame::data(1, [], true).padded(99)],
        ),
        (
            "trailers",
            vec![
                post(&[("trailer", "x-sum")]),
                Frame::data(1, "hello", false),
                trailers(1, &[("x-sum", "1"), ("x-other", ""), ("x-sum", "2")]),
            ],
        ),
        ("trailers and no DATA", vec![post(&[]), trailers(1, &[("x-sum", "0")])]),
        ("of a GET", vec![request(1, "GET", "/query", &[("content-type", "a/b")], false), Frame::data(1, "q", true)]),
    ];
    sets.into_iter().map(|(name, request)| Exchange::plain(format!("request body: {name}"), request, ok())).collect()
}

fn responses() -> Vec<Exchange> {
    let head = |fields| response(1, "200", fields, false);
    let sets: [(&str, Vec<Frame>); 9] = [
        ("one frame", vec![head(&[]), Frame::data(1, "hello", true)]),
        ("its length is known", vec![head(&[("content-length", "5")]), Frame::data(1, "hello", true)]),
        ("its length is known to be none", vec![response(1, "200", &[("content-length", "0")], true)]),
        ("an empty frame ends it", vec![head(&[]), Frame::data(1, "hello", false), Frame::data(1, [], true)]),
        ("nothing but an empty frame", vec![head(&[]), Frame::data(1, [], true)]),
        (
            "padding",
            vec![head(&[]).padded(9), Frame::data(1, "a", false).padded(255), Frame::data(1, [], true).padded(1)],
        ),
        ("trailers", vec![head(&[]), Frame::data(1, "hello", false), trailers(1, &[("x-a", "1"), ("x-a", "2")])]),
        ("trailers and no DATA", vec![head(&[]), trailers(1, &[("x-a", "1")])]),
        ("trailers in CONTINUATION frames", {
            let long = "t".repeat(10_000);
            let mut frames = vec![head(&[]), Frame::data(1, "hello", false)];
            frames.extend(trailers(1, &[("x-long", &long), ("x-more", "1")]).fragmented(3000));
            frames
        }),
    ];
    sets.into_iter()
        .map(|(name, answer)| Exchange::plain(format!("response body: {name}"), get("/body"), answer))
        .collect()
}

/// Answers whose length field announces what does not come.
fn bodiless() -> Vec<Exchange> {
    let head = || vec![request(1, "HEAD", "/h", &[], true)];
    let with = |status, fields, end| vec![response(1, status, fields, end)];
    vec![
        Exchange::plain("HEAD with a length", head(), with("200", &[("content-length", "1234")], true)),
        Exchange::plain("HEAD without", head(), with("200", &[("content-type", "a/b")], true)),
        Exchange::plain("HEAD ended by an empty frame", head(), {
            let mut frames = with("200", &[("content-length", "1234")], false);
            frames.push(Frame::data(1, [], true));
            frames
        }),
        Exchange::plain("HEAD of what is not found", head(), with("404", &[("content-length", "9")], true)),
        Exchange::plain("204", get("/n"), with("204", &[("x-a", "1")], true)),
        Exchange::plain("204 ended by an empty frame", get("/n"), {
            let mut frames = with("204", &[], false);
            frames.push(Frame::data(1, [], true));
            frames
        }),
        Exchange::plain("205", get("/n"), with("205", &[("content-length", "0")], true)),
        Exchange::plain(
            "304 with a length",
            get("/n"),
            with("304", &[("content-length", "99"), ("etag", "\"a\"")], true),
        ),
    ]
}

/// More than any window, either way.
fn large() -> Vec<Exchange> {
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let post = || Step::Send(vec![request(1, "POST", "/large", &[], false)]);
    let answer = || Step::Send(vec![response(1, "200", &[], false)]);
    let mut up = Exchange::new(
        "a million bytes up",
        vec![post(), Step::Body(1, body.clone(), true), Step::Await(Stage::End(1))],
        vec![Step::Await(Stage::End(1)), Step::Send(ok())],
    );
    let mut down = Exchange::new(
        "a million bytes down",
        vec![Step::Send(get("/large")), Step::Await(Stage::End(1))],
        vec![Step::Await(Stage::End(1)), answer(), Step::Body(1, body.clone(), true)],
    );
    let echo = Exchange::new(
        "a million bytes each way, one after the other in pieces",
        [vec![post()], (1..=10).flat_map(|n| up_and_down(&body, n)).collect(), vec![end(), Step::Await(Stage::End(1))]]
            .concat(),
        [
            vec![Step::Await(Stage::Sections(1, 1)), answer()],
            (1..=10)
                .flat_map(|n| {
                    let mut both = up_and_down(&body, n);
                    both.reverse();
                    both
                })
                .collect(),
            vec![Step::Await(Stage::End(1)), end()],
        ]
        .concat(),
    );
    up = up.server_settings(&[(setting::INITIAL_WINDOW_SIZE, 1_000), (setting::MAX_FRAME_SIZE, 100_000)]);
    down = down.client_settings(&[(setting::INITIAL_WINDOW_SIZE, 1_000), (setting::MAX_FRAME_SIZE, 100_000)]);
    vec![up, down, echo]
}

fn end() -> Step {
    Step::Send(vec![Frame::data(1, [], true)])
}

/// A tenth of the body, and the wait for as much as should have come by then.
fn up_and_down(body: &[u8], n: usize) -> Vec<Step> {
    let piece = body.len() / 10;
    let tenth = body.chunks(piece).nth(n - 1).expect("ten pieces").to_vec();
    vec![Step::Body(1, tenth, false), Step::Await(Stage::Bytes(1, n * piece))]
}

fn grpc() -> Vec<Exchange> {
    let call = |body: &[u8]| {
        let fields = [("te", "trailers"), ("content-type", "application/grpc+proto"), ("grpc-timeout", "5S")];
        vec![request(1, "POST", "/weft.test.Echo/Unary", &fields, false), Frame::data(1, body, true)]
    };
    let message = b"\0\0\0\0\x02hi";
    let kind = ("content-type", "application/grpc+proto");
    let status = [("grpc-status", "5"), ("grpc-message", "no%20such"), ("grpc-status-details-bin", "CAUSBG5vbmU=")];
    vec![
        Exchange::plain(
            "gRPC: unary",
            call(message),
            vec![
                response(1, "200", &[kind, ("grpc-encoding", "identity")], false),
                Frame::data(1, message, false),
                trailers(1, &[("grpc-status", "0"), ("x-bin", "AP8=")]),
            ],
        ),
        Exchange::plain(
            "gRPC: trailers only",
            call(message),
            vec![response(1, "200", &[&[kind], status.as_slice()].concat(), true)],
        ),
        Exchange::plain(
            "gRPC: an error after a message",
            call(b""),
            vec![response(1, "200", &[kind], false), Frame::data(1, message, false), trailers(1, &status)],
        ),
    ]
}
