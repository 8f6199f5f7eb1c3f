//! Peers that are in no hurry: nothing piles up for them, and nobody waits for them.

use std::time::Duration;

use weft_integration::raw::h2::Event;
use weft_integration::raw::h2_frame::{Frame, code, setting};

use crate::lab::{FLOOD, H1, H2, Lab, Way, get, request};

/// Streams that a client may have open.
const STREAMS: u32 = 100;

fn ids() -> impl Iterator<Item = u32> + Clone {
    (0..STREAMS).map(|n| 1 + 2 * n)
}

/// Answers that are wanted and not read: with windows as large as they can be, and with none.
#[tokio::test]
async fn cve_2019_9517_and_9511_answers_that_nobody_reads() {
    let lab = Lab::open().await;
    for (way, door) in [(Way::Outbound, H2), (Way::Inbound, H2), (Way::Inbound, H1)] {
        for window in [0x7fff_ffff, 0] {
            lab.during(async {
                let mut client = lab.client(way, door, &[(setting::INITIAL_WINDOW_SIZE, window)]).await;
                client.send([Frame::window_update(0, 0x7000_0000)]).await.unwrap();
                client.send(ids().map(|id| request(id, "GET", "/big", true))).await.unwrap();
                // Nothing can be waited for: how long it piles up is the attack.
                tokio::time::sleep(FLOOD * 2).await;
            })
            .await;
        }
    }
}

/// A byte at a time on every stream.
#[tokio::test]
async fn cve_2019_9511_data_dribble_by_windows() {
    let lab = Lab::open().await;
    for way in [Way::Outbound, Way::Inbound] {
        lab.during(async {
            let mut client = lab.client(way, H2, &[(setting::INITIAL_WINDOW_SIZE, 0)]).await;
            client.automatic.windows = false;
            client.send(ids().map(|id| request(id, "GET", "/big", true))).await.unwrap();
            for _ in 0..50 {
                client.send(ids().map(|id| Frame::window_update(id, 1))).await.unwrap();
                let mut bytes = 0;
                while bytes < STREAMS {
                    if let Event::Data { bytes: piece, .. } = client.event().await.unwrap() {
                        assert!(piece.len() <= 1, "more than the window");
                        bytes += u32::try_from(piece.len()).unwrap();
                    }
                }
            }
            client.send(ids().map(|id| Frame::reset(id, code::CANCEL))).await.unwrap();
            client.send([Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)])]).await.unwrap();
            assert_eq!(get(&mut client, 1001, "/").await, "200");
        })
        .await;
    }
}

/// Bodies that begin and do not go on, as many as there may be on each of some connections.
#[tokio::test]
async fn cve_2020_8663_requests_that_are_held_open() {
    let lab = Lab::open().await;
    for way in [Way::Outbound, Way::Inbound] {
        let (before, then) = lab
            .during(async {
                // Here the connections that any traffic needs are there already.
                let before = lab.proxy(way).open_fds().unwrap();
                let mut held = Vec::new();
                for _ in 0..10 {
                    let mut client = lab.client(way, H2, &[]).await;
                    let frames =
                        ids().flat_map(|id| [request(id, "POST", "/hang", false), Frame::data(id, [7; 100], false)]);
                    client.send(frames).await.unwrap();
                    client.synchronise().await.unwrap();
                    held.push(client);
                }
                tokio::time::sleep(FLOOD).await;
                let then = lab.proxy(way).open_fds().unwrap();
                drop(held);
                (before, then)
            })
            .await;
        weft_integration::assert::wait_for("descriptors given back", Duration::from_secs(20), || async {
            let now = lab.proxy(way).open_fds().unwrap();
            // The ten clients' connections are gone; one behind each of them stays for others, and what bystanders leave idle.
            let back = now <= before + 16 && now + 5 <= then;
            if back { Ok(()) } else { Err(format!("{now} of {then} are left, {before} before")) }
        })
        .await
        .unwrap();
    }
}

/// A body for which the application opens no window: the client is held back.
#[tokio::test]
async fn bodies_that_the_application_does_not_read() {
    let lab = Lab::open().await;
    for way in [Way::Outbound, Way::Inbound] {
        lab.during(async {
            let mut client = lab.client(way, H2, &[]).await;
            client.synchronise().await.unwrap();
            client.send(ids().map(|id| request(id, "POST", "/hang", false))).await.unwrap();
            let (mut sent, mut still) = (0, 0);
            // Until the windows are used up and stay so.
            while still < 5 {
                let before = sent;
                for id in ids() {
                    let room = client.room(id).min(16_384);
                    client.send((room > 0).then(|| Frame::data(id, vec![0; room], false))).await.unwrap();
                    sent += room;
                }
                let came = client.event_within(Duration::from_millis(100)).await.unwrap();
                still = if sent == before && came.is_none() { still + 1 } else { 0 };
                assert!(sent < 512 << 20, "{way:?}: nothing holds the client back");
            }
        })
        .await;
    }
}
