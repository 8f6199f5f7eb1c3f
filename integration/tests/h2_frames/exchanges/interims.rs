//! 1xx before the answer.

use weft_integration::raw::h2_frame::Frame;

use crate::script::{Exchange, Stage, Step, request, response};

pub(crate) fn all() -> Vec<Exchange> {
    let get = || vec![request(1, "GET", "/i", &[], true)];
    let ok = || response(1, "200", &[], true);
    let hint = |n: u32| response(1, "103", &[("link", "</a.css>; rel=preload"), ("x-n", &n.to_string())], false);
    let expect = || request(1, "PUT", "/i", &[("expect", "100-continue"), ("content-length", "5")], false);
    vec![
        Exchange::plain("interim: 100 nobody asked for", get(), vec![response(1, "100", &[], false), ok()]),
        Exchange::plain("interim: 102 with a field", get(), vec![response(1, "102", &[("x-a", "1")], false), ok()]),
        Exchange::plain("interim: early hints, several", get(), [(0..5).map(hint).collect(), vec![ok()]].concat()),
        Exchange::plain("interim: one without a meaning", get(), vec![response(1, "199", &[("x-a", "")], false), ok()]),
        Exchange::new(
            "interim: hints reach the client before the answer is made",
            vec![Step::Send(get()), Step::Await(Stage::Sections(1, 1)), next(), Step::Await(Stage::Over(1))],
            vec![
                Step::Await(Stage::End(1)),
                Step::Send(vec![hint(0)]),
                Step::Await(Stage::End(3)),
                Step::Send(vec![response(1, "200", &[], false), Frame::data(1, "hi", true)]),
                Step::Send(vec![response(3, "200", &[], true)]),
            ],
        ),
        Exchange::new(
            "interim: a body that waits for 100",
            vec![
                Step::Send(vec![expect()]),
                Step::Await(Stage::Sections(1, 1)),
                Step::Send(vec![Frame::data(1, "hello", true)]),
                Step::Await(Stage::End(1)),
            ],
            vec![
                Step::Await(Stage::Sections(1, 1)),
                Step::Send(vec![response(1, "100", &[], false)]),
                Step::Await(Stage::End(1)),
                Step::Send(vec![ok()]),
            ],
        ),
        Exchange::new(
            "interim: a body that waits for 100 is refused",
            vec![Step::Send(vec![expect()]), Step::Await(Stage::End(1)), Step::Send(vec![Frame::reset(1, 8)])],
            vec![
                Step::Await(Stage::Sections(1, 1)),
                Step::Send(vec![response(1, "417", &[], true)]),
                Step::Await(Stage::Reset(1)),
            ],
        ),
        Exchange::new(
            "interim: hints between pieces of the request",
            vec![
                Step::Send(vec![request(1, "POST", "/i", &[], false), Frame::data(1, "a", false)]),
                Step::Await(Stage::Sections(1, 1)),
                Step::Send(vec![Frame::data(1, "b", false)]),
                Step::Await(Stage::Sections(1, 2)),
                Step::Send(vec![Frame::data(1, "c", true)]),
                Step::Await(Stage::End(1)),
            ],
            vec![
                Step::Await(Stage::Bytes(1, 1)),
                Step::Send(vec![hint(0)]),
                Step::Await(Stage::Bytes(1, 2)),
                Step::Send(vec![hint(1)]),
                Step::Await(Stage::End(1)),
                Step::Send(vec![ok()]),
            ],
        ),
    ]
}

/// A second request, by which the server knows that the client has seen what it waited for.
fn next() -> Step {
    Step::Send(vec![request(3, "GET", "/next", &[], true)])
}
