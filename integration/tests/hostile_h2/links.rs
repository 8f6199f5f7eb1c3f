//! Links between proxies, which honest clients share with hostile ones. Each hostile client stays within what its own
//! connection bears; all of them together must not end the link for everybody.

use tokio::task::JoinSet;
use weft_integration::raw::h2::Event;
use weft_integration::raw::h2_frame::{Frame, code};
use weft_integration::raw::h2_hpack::block;

use crate::apps::App;
use crate::lab::{H1, H2, Lab, Peer, SCRIPTED, Way, get, request, status};

/// Streams of one hostile client in vain: few enough for its own connection.
const VAIN: u32 = 440;

/// Downloads that a hostile client has open at once; of all of them there is room on one link.
const AT_ONCE: u32 = 20;

/// Of streams in vain: they have reached the other proxy, and are reset there before they are worth anything.
const VAIN_AT_ONCE: u32 = 2;

/// Requests of an honest client that last as long as the attack, so that they are on the link while it happens.
async fn begin(lab: &Lab, door: usize, connections: u32) -> Vec<Peer> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = lab.client(Way::Outbound, door, &[]).await;
        client.send([request(1, "POST", "/", false), Frame::data(1, "half", false)]).await.unwrap();
        client.synchronise().await.unwrap();
        clients.push(client);
    }
    clients
}

async fn end(clients: Vec<Peer>) {
    for mut client in clients {
        client.send([Frame::data(1, "whole", true)]).await.unwrap();
        let over = |event: &Event| {
            matches!(event, Event::Data { end: true, .. } | Event::Headers { end: true, .. } | Event::Reset { .. })
        };
        assert_eq!(status(&client.until(over).await.unwrap(), 1), "200", "cut by what somebody else did");
    }
}

/// So many streams, new in each round.
fn streams(count: u32, round: u32) -> impl Iterator<Item = u32> + Clone {
    (0..count).map(move |n| 1 + 2 * (n + count * round))
}

#[tokio::test]
async fn cve_2023_44487_rapid_resets_by_many_clients_of_one_link() {
    let lab = Lab::open().await;
    let from = lab.proxy(Way::Mesh).records().unwrap().len();
    let honest = begin(&lab, H2, 10).await;
    for _ in 0..6 {
        let mut attacks = JoinSet::new();
        for _ in 0..6 {
            let mut client = lab.client(Way::Outbound, H2, &[]).await;
            attacks.spawn(async move {
                for round in 0..VAIN / VAIN_AT_ONCE {
                    client
                        .send(streams(VAIN_AT_ONCE, round).map(|id| request(id, "GET", "/hang", true)))
                        .await
                        .unwrap();
                    client.synchronise().await.unwrap();
                    client.send(streams(VAIN_AT_ONCE, round).map(|id| Frame::reset(id, code::CANCEL))).await.unwrap();
                }
                client.synchronise().await.unwrap();
            });
        }
        attacks.join_all().await;
    }
    end(honest).await;
    let ended = lab.proxy(Way::Mesh).records().unwrap().split_off(from);
    assert!(ended.iter().all(|record| record["fault"] != "flood"), "no link was ended");
}

/// What is on its way when a client gives a download up comes for a stream that is gone.
#[tokio::test]
async fn downloads_that_clients_give_up_do_not_end_a_link() {
    let lab = Lab::open().await;
    let honest = begin(&lab, H2, 10).await;
    for _ in 0..4 {
        let mut attacks = JoinSet::new();
        for _ in 0..3 {
            let mut client = lab.client(Way::Outbound, H2, &[]).await;
            attacks.spawn(async move {
                for round in 0..20 {
                    client.send(streams(AT_ONCE, round).map(|id| request(id, "GET", "/big", true))).await.unwrap();
                    let last = streams(AT_ONCE, round).last();
                    let flows = |event: &Event| matches!(event, Event::Data { stream, .. } if Some(*stream) == last);
                    client.until(flows).await.unwrap();
                    client.send(streams(AT_ONCE, round).map(|id| Frame::reset(id, code::CANCEL))).await.unwrap();
                }
            });
        }
        attacks.join_all().await;
    }
    end(honest).await;
}

/// The application is slow to take its connection, and meanwhile a body comes byte by byte: by an honest proxy, and by one
/// that passes it on as it comes. Nor does the application have to bear it afterwards.
#[tokio::test]
async fn small_frames_for_an_application_that_is_still_dialled_do_not_end_a_link() {
    const WINDOW: usize = 128 * 1024;
    // Windows are given back by halves: with more than one window half of it has gone to the other proxy, and the rest goes.
    for (way, most) in [(Way::Outbound, WINDOW + WINDOW / 2), (Way::Mesh, WINDOW)] {
        let lab = Lab::open().await;
        let honest = begin(&lab, SCRIPTED, 3).await;
        let mut client = lab.client(way, SCRIPTED, &[]).await;
        client.synchronise().await.unwrap();
        client.send([request(1, "POST", "/", false)]).await.unwrap();
        let mut sent = 0;
        while sent < most - 1024 {
            let room = client.room(1).min(1024);
            if room == 0 {
                client.until(|event| matches!(event, Event::WindowUpdate { .. } | Event::Reset { .. })).await.unwrap();
            }
            client.send((0..room).map(|_| Frame::data(1, [7], false))).await.unwrap();
            sent += room;
        }
        client.synchronise().await.unwrap();
        let _app = App::http2(&lab.pair.doors[SCRIPTED].backend);
        end(honest).await;
        end(vec![client]).await;
        let ended = lab.proxy(Way::Mesh).records().unwrap();
        assert!(ended.iter().all(|record| record["fault"] != "flood"), "{way:?}: a link was ended: {ended:#?}");
    }
}

/// Asks for an HTTP/1 link on a stream.
fn link(stream: u32) -> Frame {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "weft-h1/1"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "weft"),
    ];
    Frame::headers(stream, block(fields), false)
}

/// Neither an application nor a stranger opens one: the form is what it is to who has never offered it. A sidecar's leads
/// to HTTP/1 and nowhere else.
#[tokio::test]
async fn links_are_opened_by_sidecars_only() {
    let lab = Lab::open().await;
    let answered = |event: &Event| {
        matches!(event, Event::Headers { stream: 1, .. } | Event::Reset { stream: 1, .. } | Event::Goaway { .. })
    };
    for way in [Way::Outbound, Way::Inbound] {
        let mut client = lab.client(way, H1, &[]).await;
        client.send([link(1)]).await.unwrap();
        assert_eq!(status(&client.until(answered).await.unwrap(), 1), format!("reset {}", code::PROTOCOL_ERROR));
        assert_eq!(get(&mut client, 3, "/").await, "200", "{way:?}");
    }
    let mut client = lab.client(Way::Mesh, H1, &[]).await;
    client.send([link(1)]).await.unwrap();
    assert_eq!(status(&client.until(answered).await.unwrap(), 1), "200");
    client.send([Frame::data(1, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false)]).await.unwrap();
    let events = client.until(|event| matches!(event, Event::Data { stream: 1, .. })).await.unwrap();
    let refused = |event: &Event| matches!(event, Event::Data { bytes, .. } if bytes.starts_with(b"HTTP/1.1 505 "));
    assert!(events.iter().any(refused), "{events:?}");
    assert_eq!(get(&mut client, 3, "/").await, "200");
}

/// Links that are opened for nothing, again and again, cost nobody else anything, and in the end their connection.
#[tokio::test]
async fn links_opened_in_vain_hurt_nobody() {
    let lab = Lab::open().await;
    let attack = async {
        let mut client = lab.client(Way::Mesh, H1, &[]).await;
        for round in 0..60 {
            let opened = async {
                client.send(streams(90, round).map(link)).await?;
                client.synchronise().await?;
                client.send(streams(90, round).map(|id| Frame::reset(id, code::CANCEL))).await
            };
            // Where they are reset at once, the bound on such streams ends it.
            if opened.await.is_err() {
                return;
            }
        }
    };
    lab.during(attack).await;
    lab.serves(Way::Mesh, H1).await;
}
