//! Streams that are given up: by whom, when, and with which code.

use weft_integration::raw::h2_frame::{Frame, code};

use crate::script::{Exchange, Stage, Step, request, response, trailers};

const CODES: [u32; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0xdead_beef];

pub(crate) fn all() -> Vec<Exchange> {
    let each = CODES.into_iter().flat_map(|code| {
        [server_before_its_answer(code), server_within_its_answer(code), client_within_the_answer(code)]
    });
    each.chain(client()).chain(server()).collect()
}

fn get() -> Step {
    Step::Send(vec![request(1, "GET", "/reset", &[], true)])
}

fn open(path: &str) -> Step {
    Step::Send(vec![request(1, "POST", path, &[], false), Frame::data(1, "some", false)])
}

fn some(fields: &[(&str, &str)]) -> Step {
    Step::Send(vec![response(1, "200", fields, false), Frame::data(1, "some", false)])
}

fn reset(code: u32) -> Step {
    Step::Send(vec![Frame::reset(1, code)])
}

/// A second stream, by whose answer the client knows that the server has the first.
fn other() -> Step {
    Step::Send(vec![request(3, "GET", "/other", &[], true)])
}

fn answer_other() -> Step {
    Step::Send(vec![response(3, "200", &[], true)])
}

fn server_before_its_answer(code: u32) -> Exchange {
    Exchange::new(
        format!("reset: by the server before its answer, code {code}"),
        vec![open("/reset"), Step::Await(Stage::Over(1))],
        vec![Step::Await(Stage::Bytes(1, 4)), reset(code)],
    )
}

fn server_within_its_answer(code: u32) -> Exchange {
    Exchange::new(
        format!("reset: by the server within its answer, code {code}"),
        vec![get(), Step::Await(Stage::Reset(1))],
        vec![Step::Await(Stage::End(1)), some(&[]), reset(code)],
    )
}

fn client_within_the_answer(code: u32) -> Exchange {
    Exchange::new(
        format!("reset: by the client within the answer, code {code}"),
        vec![open("/reset"), Step::Await(Stage::Bytes(1, 4)), reset(code)],
        vec![Step::Await(Stage::Bytes(1, 4)), some(&[]), Step::Await(Stage::Reset(1))],
    )
}

fn client() -> Vec<Exchange> {
    vec![
        Exchange::new(
            "reset: the client cancels while it waits for the answer",
            vec![get(), other(), Step::Await(Stage::End(3)), reset(code::CANCEL)],
            vec![Step::Await(Stage::End(1)), Step::Await(Stage::End(3)), answer_other(), Step::Await(Stage::Reset(1))],
        ),
        Exchange::new(
            "reset: the client cancels in its body, before the answer",
            vec![open("/reset"), other(), Step::Await(Stage::End(3)), reset(code::CANCEL)],
            vec![
                Step::Await(Stage::Bytes(1, 4)),
                Step::Await(Stage::End(3)),
                answer_other(),
                Step::Await(Stage::Reset(1)),
            ],
        ),
        Exchange::new(
            "reset: the client cancels an answer to a whole request",
            vec![get(), Step::Await(Stage::Bytes(1, 4)), reset(code::CANCEL)],
            vec![Step::Await(Stage::End(1)), some(&[]), Step::Await(Stage::Reset(1))],
        ),
        Exchange::new(
            "reset: the client cancels an answer whose body has not begun",
            vec![get(), Step::Await(Stage::Sections(1, 1)), reset(code::CANCEL)],
            vec![
                Step::Await(Stage::End(1)),
                Step::Send(vec![response(1, "200", &[], false)]),
                Step::Await(Stage::Reset(1)),
            ],
        ),
        Exchange::new(
            "reset: the client cancels after a hint",
            vec![get(), Step::Await(Stage::Sections(1, 1)), reset(code::CANCEL)],
            vec![
                Step::Await(Stage::End(1)),
                Step::Send(vec![response(1, "103", &[], false)]),
                Step::Await(Stage::Reset(1)),
            ],
        ),
    ]
}

fn server() -> Vec<Exchange> {
    let whole = || Step::Send(vec![response(1, "413", &[], false), Frame::data(1, "too much", true)]);
    let grpc = [("content-type", "application/grpc")];
    let call = Step::Send(vec![request(1, "POST", "/a.B/C", &grpc, false), Frame::data(1, "some", false)]);
    vec![
        Exchange::new(
            "reset: a whole early answer, then NO_ERROR",
            vec![open("/early"), Step::Await(Stage::End(1)), Step::Await(Stage::Reset(1))],
            vec![Step::Await(Stage::Bytes(1, 4)), whole(), reset(code::NO_ERROR)],
        ),
        Exchange::new(
            "reset: a whole early answer without body, then NO_ERROR",
            vec![open("/early"), Step::Await(Stage::End(1)), Step::Await(Stage::Reset(1))],
            vec![
                Step::Await(Stage::Bytes(1, 4)),
                Step::Send(vec![response(1, "403", &[], true)]),
                reset(code::NO_ERROR),
            ],
        ),
        Exchange::new(
            "reset: a whole early answer with trailers, then NO_ERROR",
            vec![open("/early"), Step::Await(Stage::End(1)), Step::Await(Stage::Reset(1))],
            vec![
                Step::Await(Stage::Bytes(1, 4)),
                some(&[]),
                Step::Send(vec![trailers(1, &[("grpc-status", "8")]), Frame::reset(1, code::NO_ERROR)]),
            ],
        ),
        Exchange::new(
            "reset: a whole early answer, and the client stops its request",
            vec![open("/early"), Step::Await(Stage::End(1)), reset(code::CANCEL)],
            vec![Step::Await(Stage::Bytes(1, 4)), whole(), Step::Await(Stage::Reset(1))],
        ),
        Exchange::new(
            "reset: the server gives up after a hint",
            vec![get(), Step::Await(Stage::Over(1))],
            vec![
                Step::Await(Stage::End(1)),
                Step::Send(vec![response(1, "103", &[], false)]),
                reset(code::INTERNAL_ERROR),
            ],
        ),
        Exchange::new(
            "reset: the server gives a gRPC call up before its answer",
            vec![call, Step::Await(Stage::Over(1))],
            vec![Step::Await(Stage::Bytes(1, 4)), reset(code::INTERNAL_ERROR)],
        ),
        Exchange::new(
            "reset: the others go on",
            vec![
                Step::Send(vec![request(1, "GET", "/1", &[], true), request(3, "GET", "/3", &[], true)]),
                Step::Await(Stage::Reset(1)),
                Step::Await(Stage::End(3)),
            ],
            vec![
                Step::Await(Stage::End(1)),
                Step::Await(Stage::End(3)),
                some(&[]),
                Step::Send(vec![response(3, "200", &[], false), Frame::data(3, "a", false)]),
                reset(code::INTERNAL_ERROR),
                Step::Send(vec![Frame::data(3, "b", true)]),
            ],
        ),
    ]
}
