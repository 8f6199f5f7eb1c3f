//! Little bytes that become many fields.

use weft_integration::raw::h2::Event;
use weft_integration::raw::h2_frame::Frame;
use weft_integration::raw::h2_hpack::{Indexing, block, indexed, literal};

use crate::floods::{AS_FLOOD, flood_every_way};
use crate::lab::{H1, H2, Lab, Way, ask, get, status};

/// The newest entry of the dynamic table.
const NEWEST: u64 = 62;

/// A request whose last field is put into the dynamic table and named `times` in all.
fn repeating(path: &str, name: &str, value: &[u8], times: usize) -> Vec<u8> {
    let mut out = block(ask("GET", path));
    literal(&mut out, Indexing::Added, name.as_bytes(), value);
    for _ in 1..times {
        indexed(&mut out, NEWEST);
    }
    out
}

async fn bomb(path: &'static str, name: &'static str, value: Vec<u8>, times: usize) {
    let request = Frame::headers(1, repeating(path, name, &value, times), true);
    let bytes: Vec<u8> = request.fragmented(16_384).iter().flat_map(Frame::encode).collect();
    flood_every_way(&[AS_FLOOD], true, move || {
        let bytes = bytes.clone();
        Box::new(move || bytes.clone())
    })
    .await;
}

#[tokio::test]
async fn cve_2016_6581_hpack_bomb() {
    // 16 KiB that stand for 48 MiB.
    bomb("/", "x-bomb", vec![b'x'; 4000], 12_000).await;
}

#[tokio::test]
async fn cve_2026_47774_cookie_crumbs_without_end() {
    bomb("/", "cookie", vec![], 60_000).await;
}

/// What may be asked: crumbs count with their overhead before they are joined, and as one field after. Answered with 431
/// on the stream; the connection goes on.
#[tokio::test]
async fn cve_2026_47774_and_cve_2019_15226_too_much_for_one_head_is_431() {
    let lab = Lab::open().await;
    let many = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| (format!("x-{n}"), "y".to_owned())).collect();
        let fields = ask("GET", "/").into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        block(fields.chain(names))
    };
    let cases = [
        ("crumbs below the bound", repeating("/", "cookie", b"a=b", 1000), "200"),
        ("crumbs beyond it", repeating("/", "cookie", b"a=b", 4000), "431"),
        ("large crumbs beyond it", repeating("/", "cookie", &[b'c'; 4000], 40), "431"),
        ("a large field often", repeating("/", "x-large", &[b'x'; 4000], 40), "431"),
        ("199 fields", many(190), "200"),
        ("many small fields", many(2000), "431"),
    ];
    for way in [Way::Outbound, Way::Inbound, Way::Mesh] {
        for door in [H2, H1] {
            for (name, section, expected) in &cases {
                // One connection for each: its table is its own.
                let from = lab.proxy(way).records().unwrap().len();
                let mut client = lab.client(way, door, &[]).await;
                client.send(Frame::headers(1, section.clone(), true).fragmented(16_384)).await.unwrap();
                let over = |event: &Event| {
                    matches!(
                        event,
                        Event::Headers { end: true, .. } | Event::Data { end: true, .. } | Event::Reset { .. }
                    )
                };
                let said = status(&client.until(over).await.unwrap(), 1);
                assert_eq!(said, *expected, "{way:?} {door} {name}");
                assert_eq!(get(&mut client, 3, "/").await, "200", "{way:?} {door} after {name}");
                if *expected == "431" {
                    let faults = lab.faults(way, from, |record| record["status"] == 431).await;
                    assert!(faults.len() == 1 && faults[0]["fault"] == "head_too_large", "{name}: {faults:?}");
                }
            }
        }
    }
}

/// As many requests at once as there may be, each as large as it may be, held open: a bomb that waits.
#[tokio::test]
async fn cve_2026_47774_bombs_that_are_held() {
    let lab = Lab::open().await;
    let crumbs = ("cookie", b"".to_vec(), 2600);
    let values = ("x-large", vec![b'x'; 4000], 22);
    for way in [Way::Outbound, Way::Inbound] {
        for (name, value, times) in [&crumbs, &values] {
            lab.during(async {
                let mut client = lab.client(way, H2, &[]).await;
                for n in 0..100 {
                    let section = repeating("/hang", name, value, *times);
                    client.send(Frame::headers(1 + 2 * n, section, true).fragmented(16_384)).await.unwrap();
                }
                client.synchronise().await.unwrap();
                // Until both proxies have taken them.
                let inbound = lab.pair.inbound.as_ref().unwrap();
                weft_integration::assert::wait_for("requests held", weft_integration::raw::DEADLINE, || async {
                    let held = inbound.metric("weft_requests_in_flight", &[]).await.unwrap();
                    if held >= 100.0 { Ok(()) } else { Err(format!("{held} are")) }
                })
                .await
                .unwrap();
            })
            .await;
        }
    }
}
