//! Frames that cost their sender nothing, without end.

use std::time::Instant;

use serde_json::Value;
use weft_integration::raw::h2_frame::{Frame, code, flag, kind, setting};

use crate::lab::{FLOOD, Flooded, H2, Lab, Way, flood, request};

/// Bytes of one connection's flood, where nothing stops it.
const MOST: usize = 256 << 20;

const WAYS: [Way; 3] = [Way::Outbound, Way::Inbound, Way::Mesh];

/// What one connection sends, piece by piece.
pub(crate) type Pieces = Box<dyn FnMut() -> Vec<u8> + Send>;

/// A fault of the record, and the code of the GOAWAY that goes with it.
pub(crate) type EndsAs = (&'static str, u32);

/// How a connection ends that sends too much of what does nothing.
pub(crate) const AS_FLOOD: EndsAs = ("flood", code::ENHANCE_YOUR_CALM);

/// Floods by every way, for [`FLOOD`] each and over as many connections as the proxy ends. Each end has a record with one
/// of these faults, and its code is said unless it is lost with the connection.
pub(crate) async fn flood_every_way(allowed: &[EndsAs], reads: bool, pieces: impl Fn() -> Pieces) {
    let lab = Lab::open().await;
    let mut ends: Vec<(u32, Flooded)> = Vec::new();
    for way in WAYS {
        let (from, of_way) = (lab.proxy(way).records().unwrap().len(), ends.len());
        lab.during(async {
            let begun = Instant::now();
            while begun.elapsed() < FLOOD {
                ends.push((lab.proxy(way).id(), flood(lab.dial(way, H2).await, &[], reads, MOST, pieces()).await));
            }
        })
        .await;
        let said = |code: u32| allowed.iter().any(|(_, allowed)| *allowed == code);
        for (_, end) in &ends[of_way..] {
            assert!(end.closed && end.sent < MOST && end.goaway.is_none_or(said), "{way:?}: {end:?}");
        }
        let of_connection = |record: &Value| record["kind"] == "connection";
        let allows = |record: &Value| allowed.iter().any(|(fault, _)| record["fault"] == *fault);
        let records = lab.faults(way, from, |record| of_connection(record) && allows(record)).await;
        assert!(records.iter().filter(|record| of_connection(record)).all(allows), "{way:?}: {records:#?}");
        // One for each end at most; of the whole proxy, as the last one of the way before may come late.
        let of_proxy = lab.faults(way, 0, allows).await;
        let recorded = of_proxy.iter().filter(|record| of_connection(record) && allows(record)).count();
        let ended = ends.iter().filter(|(proxy, _)| *proxy == lab.proxy(way).id()).count();
        assert!(recorded <= ended, "{way:?}: {recorded} records of {ended} ends");
        lab.serves(way, H2).await;
    }
}

/// The same frames over and over, after an opening.
fn repeated(opening: &[Frame], unit: &[Frame]) -> Pieces {
    let opening: Vec<u8> = opening.iter().flat_map(Frame::encode).collect();
    let unit: Vec<u8> = unit.iter().flat_map(Frame::encode).collect();
    let many = unit.repeat((64 * 1024 / unit.len()).max(1));
    let mut first = Some(opening).filter(|opening| !opening.is_empty());
    Box::new(move || first.take().unwrap_or_else(|| many.clone()))
}

async fn flood_after(opening: &[Frame], unit: &[Frame]) {
    flood_every_way(&[AS_FLOOD], true, || repeated(opening, unit)).await;
}

async fn flood_of(unit: Frame) {
    flood_after(&[], &[unit]).await;
}

/// The same with a request under way, which is never answered.
async fn flood_behind_a_request(unit: Frame) {
    flood_after(&[request(1, "POST", "/hang", false)], &[unit]).await;
}

#[tokio::test]
async fn cve_2019_9512_ping_flood() {
    flood_of(Frame::ping(*b"weftweft", false)).await;
}

#[tokio::test]
async fn answers_to_pings_that_nobody_sent() {
    flood_of(Frame::ping(*b"weftweft", true)).await;
}

#[tokio::test]
async fn cve_2019_9513_resource_loop() {
    // The same streams put under each other again and again.
    let tree: Vec<_> = (0..50).map(|n| Frame::priority(1 + 2 * n, 1 + 2 * ((n + 7) % 50), 200)).collect();
    flood_after(&[], &tree).await;
}

#[tokio::test]
async fn cve_2019_9515_settings_flood() {
    flood_of(Frame::settings(&[])).await;
}

#[tokio::test]
async fn cve_2020_11080_large_settings() {
    // With streams whose windows each of them changes.
    let settings: Vec<_> = (0..2000).map(|n| (setting::INITIAL_WINDOW_SIZE, 1000 + n % 2)).collect();
    flood_behind_a_request(Frame::settings(&settings)).await;
}

#[tokio::test]
async fn cve_2019_9518_empty_data() {
    flood_behind_a_request(Frame::data(1, [], false)).await;
}

#[tokio::test]
async fn cve_2019_9511_data_dribble() {
    // Padding counts as window and is nothing.
    flood_behind_a_request(Frame::data(1, [], false).padded(0)).await;
}

#[tokio::test]
async fn window_update_flood() {
    flood_behind_a_request(Frame::window_update(1, 1)).await;
    flood_of(Frame::window_update(0, 1)).await;
}

#[tokio::test]
async fn unknown_frame_flood() {
    flood_of(Frame::new(0xfa, 0xff, 0, [7; 100])).await;
}

#[tokio::test]
async fn goaway_flood() {
    flood_behind_a_request(Frame::goaway(0, code::NO_ERROR, &[7; 100])).await;
}

#[tokio::test]
async fn cve_2024_27919_and_30255_and_28182_continuation_flood() {
    let opening = Frame::new(kind::HEADERS, flag::END_STREAM, 1, [0x82, 0x86, 0x84]);
    // RUSTSEC-2024-0332 as well: empty ones, and ones with a field each.
    for fragment in [b"".as_slice(), b"\x00\x01x\x01y"] {
        let unit = Frame::continuation(1, fragment, false);
        flood_after(std::slice::from_ref(&opening), &[unit]).await;
    }
}
