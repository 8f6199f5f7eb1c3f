//! Streams that end as soon as they begin, whoever ends them.

use weft_integration::raw::h2::Event;
use weft_integration::raw::h2_frame::{Frame, PAYLOAD_MAX, code, kind, setting};
use weft_integration::raw::h2_hpack::block;

use crate::floods::{AS_FLOOD, EndsAs, Pieces, flood_every_way};
use crate::lab::{H1, H2, Lab, Way, ask, get, request};

/// Frames of a hundred streams at a time, each new.
fn streams(frames: impl Fn(u32) -> Vec<Frame> + Send + 'static) -> Pieces {
    let mut next = 1;
    Box::new(move || {
        let first = next;
        next += 200;
        (first..next).step_by(2).flat_map(&frames).flat_map(|frame| frame.encode()).collect()
    })
}

async fn flood_of_streams(allowed: &[EndsAs], frames: impl Fn(u32) -> Vec<Frame> + Copy + Send + 'static) {
    flood_every_way(allowed, true, move || streams(frames)).await;
}

#[tokio::test]
async fn cve_2023_44487_rapid_reset() {
    let frames = |id| vec![request(id, "GET", "/hang", true), Frame::reset(id, code::CANCEL)];
    flood_of_streams(&[AS_FLOOD], frames).await;
}

/// Each reset comes when its stream has been accepted and is on its way to the application.
#[tokio::test]
async fn cve_2023_44487_rapid_reset_of_accepted_streams() {
    let lab = Lab::open().await;
    for (way, door) in [(Way::Outbound, H2), (Way::Inbound, H2), (Way::Inbound, H1)] {
        let from = lab.proxy(way).records().unwrap().len();
        lab.during(async {
            let mut client = lab.client(way, door, &[]).await;
            for n in 0..5000 {
                let frames = [request(1 + 2 * n, "GET", "/hang", true), Frame::ping(*b"accepted", false)];
                let sent = client.send(frames).await;
                // Whether the end comes as GOAWAY or as a reset is the network's choice.
                let over = |event: &Event| matches!(event, Event::Pong(_) | Event::Goaway { .. } | Event::Closed(_));
                let events = client.until(over).await;
                let accepted = events.is_ok_and(|events| matches!(events.last(), Some(Event::Pong(_))));
                if sent.is_err() || !accepted || client.send([Frame::reset(1 + 2 * n, code::CANCEL)]).await.is_err() {
                    return;
                }
            }
            panic!("{way:?}: nothing holds the client back");
        })
        .await;
        let faults = lab.faults(way, from, |record| record["fault"] == "flood").await;
        assert_eq!(faults.iter().filter(|record| record["kind"] == "connection").count(), 1, "{way:?}");
    }
}

#[tokio::test]
async fn cve_2019_9514_reset_flood() {
    // Each request is malformed, so that the proxy resets it; with the answers read, and not (RUSTSEC-2024-0003).
    let frames = |id| vec![Frame::headers(id, block([(":method", "GET")]), true)];
    for reads in [true, false] {
        flood_every_way(&[AS_FLOOD], reads, move || streams(frames)).await;
    }
}

/// Requests that are sound, are on their way, and are then reset by the proxy for what follows them.
#[tokio::test]
async fn cve_2025_8671_made_you_reset_by_window_overflow() {
    let frames = |id| vec![request(id, "POST", "/hang", false), Frame::window_update(id, 0x7fff_ffff)];
    flood_of_streams(&[AS_FLOOD], frames).await;
}

/// As above, when the request has come whole and only its answer is owed.
#[tokio::test]
async fn cve_2025_8671_made_you_reset_after_the_whole_request() {
    let frames = |id| vec![request(id, "GET", "/hang", true), Frame::window_update(id, 0x7fff_ffff)];
    flood_of_streams(&[AS_FLOOD], frames).await;
}

#[tokio::test]
async fn cve_2025_8671_made_you_reset_by_priority_of_itself() {
    let frames = |id| vec![request(id, "POST", "/hang", false), Frame::priority(id, id, 1)];
    flood_of_streams(&[AS_FLOOD], frames).await;
}

#[tokio::test]
async fn cve_2025_8671_made_you_reset_by_more_than_announced() {
    let frames = |id| {
        let fields = [ask("POST", "/hang"), vec![("content-length", "1")]].concat();
        vec![Frame::headers(id, block(fields), false), Frame::data(id, "two", false)]
    };
    flood_of_streams(&[AS_FLOOD], frames).await;
}

/// These the proxy takes for errors of the connection (RFC 9113 section 5.4 lets it), so that one is enough.
#[tokio::test]
async fn cve_2025_8671_made_you_reset_by_errors_of_the_connection() {
    // The resets before the error are counted too, and which is noticed first depends on how the frames arrive.
    let faults = [code::PROTOCOL_ERROR, code::FRAME_SIZE_ERROR, code::STREAM_CLOSED].map(|code| ("bad_request", code));
    let ends = [faults.as_slice(), &[AS_FLOOD]].concat();
    let zero = |id| vec![request(id, "POST", "/hang", false), Frame::window_update(id, 0)];
    flood_of_streams(&ends, zero).await;
    // On a stream that was refused, being one too many, a second head is one on a closed stream.
    let again = |id| vec![request(id, "POST", "/hang", false), request(id, "POST", "/hang", false)];
    flood_of_streams(&ends, again).await;
    let short = |id| vec![request(id, "POST", "/hang", false), Frame::new(kind::PRIORITY, 0, id, [0; 4])];
    flood_of_streams(&ends, short).await;
    let late = |id| vec![request(id, "POST", "/hang", true), Frame::data(id, "late", false)];
    flood_of_streams(&ends, late).await;
}

/// All streams at once, again and again: neither quadratic nor a flood, as none of them was in vain.
#[tokio::test]
async fn cve_2021_32778_and_cve_2023_26964_resets_of_many_streams_at_once() {
    let lab = Lab::open().await;
    for way in [Way::Outbound, Way::Inbound, Way::Mesh] {
        lab.during(async {
            let mut client = lab.client(way, H2, &[]).await;
            for round in 0..20 {
                let streams = (0..100).map(|n| 1 + 2 * (n + 100 * round));
                client.send(streams.clone().map(|id| request(id, "GET", "/hang", true))).await.unwrap();
                client.synchronise().await.unwrap();
                // Long enough for what a client may give up on.
                tokio::time::sleep(std::time::Duration::from_millis(15)).await;
                client.send(streams.map(|id| Frame::reset(id, code::CANCEL))).await.unwrap();
            }
            assert_eq!(get(&mut client, 9001, "/").await, "200", "{way:?}");
        })
        .await;
    }
}

/// More than the 100 at once that the proxy allows: the rest is refused, unprocessed; a few is a misunderstanding.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let lab = Lab::open().await;
    for way in [Way::Outbound, Way::Inbound, Way::Mesh] {
        let from = lab.proxy(way).records().unwrap().len();
        let mut client = lab.client(way, H2, &[(setting::INITIAL_WINDOW_SIZE, 0)]).await;
        client.send((0..120).map(|n| request(1 + 2 * n, "GET", "/hang", true))).await.unwrap();
        let mut refused = 0;
        while refused < 20 {
            if let Event::Reset { stream, code } = client.event().await.unwrap() {
                assert!(stream > 200 && code == code::REFUSED_STREAM, "{stream} {code}");
                refused += 1;
            }
        }
        lab.faults(way, from, |record| record["fault"] == "overload").await;
        client.send([Frame::reset(1, code::CANCEL)]).await.unwrap();
        client.automatic.windows = true;
        client.synchronise().await.unwrap();
        client.send([Frame::window_update(0, u32::try_from(PAYLOAD_MAX).unwrap())]).await.unwrap();
        client.send([Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)])]).await.unwrap();
        assert_eq!(get(&mut client, 1001, "/").await, "200", "{way:?}");
    }
}
