//! Many clients that do little: slow heads, slow bodies, slow readers, and nothing at all. They cost what they are allowed
//! to, others are served meanwhile, and when they are gone so is what they cost.

use std::time::Duration;

use anyhow::ensure;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use weft_integration::raw::h2::H2Peer;
use weft_integration::raw::h2_frame::Frame;
use weft_integration::raw::h2_hpack::block;
use weft_integration::raw::{DEADLINE, End, Plan, Wire, mesh_peer_as, shown};

use super::lab::{BYSTANDER, HONEST, Lab, ONE_WORKER, is_refusal, until};
use super::meter::{Before, Bystander, allow_descriptors};
use super::server::Play;

async fn crowd(lab: &Lab, count: usize, begin: &[u8]) -> anyhow::Result<Vec<Wire>> {
    let mut all = Vec::with_capacity(count);
    for at in 0..count {
        let mut wire = lab.client().await?;
        wire.send(begin).await?;
        all.push(wire);
        if at % 10 == 9 {
            // A crowd, not one burst of handshakes: what is measured is what it does once it is there.
            sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(all)
}

/// Heads that come line by line, and first bytes that never say what they are, have the time that every head has.
#[tokio::test]
async fn slowloris_2009_slow_heads() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let before = Before::of(&mut lab).await?;
    let bystander = Bystander::start(&lab).await;
    let begun = Instant::now();
    let mut slow = crowd(&lab, 150, b"GET / HTTP/1.1\r\nHost: a\r\n").await?;
    let mut undecided = crowd(&lab, 50, b"G").await?;
    while begun.elapsed() < Duration::from_secs(9) {
        sleep(Duration::from_millis(500)).await;
        for wire in &mut slow {
            wire.send(b"X: y\r\n").await?;
        }
        for wire in &mut undecided {
            wire.send(b"E").await?;
        }
        before.is_bounded(&lab)?;
    }
    for wire in &mut slow {
        ensure!(wire.read_to_end(DEADLINE).await == End::Fin, "{:?}", wire.end());
        is_refusal(wire.received(), 408, "head_timeout")?;
        lab.expect([("head_timeout", 408)], []);
    }
    for wire in &mut undecided {
        ensure!(wire.read_to_end(DEADLINE).await != End::Open, "{}", shown(wire.received()));
        lab.expect([("detect_timeout", 0)], []);
    }
    for record in lab.outbound().records()?.iter().filter(|record| record["fault"] == "head_timeout") {
        let took = Duration::from_micros(record["duration_us"].as_u64().unwrap_or(u64::MAX));
        ensure!(took < Duration::from_secs(18), "ten seconds and no more are for a head: {record}");
    }
    bystander.end(&mut lab).await?;
    before.is_back(&lab).await?;
    lab.settle().await
}

/// Bodies may take their time, as uploads do; they hold nothing that others need.
#[tokio::test]
async fn r_u_dead_yet_2011_slow_bodies() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let before = Before::of(&mut lab).await?;
    let bystander = Bystander::start(&lab).await;
    let length = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\na";
    let chunked = b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    let mut slow = crowd(&lab, 100, length).await?;
    let mut in_chunks = crowd(&lab, 100, chunked).await?;
    for _ in 0..10 {
        for wire in &mut slow {
            wire.send(b"a").await?;
        }
        for wire in &mut in_chunks {
            wire.send(b"1\r\na\r\n").await?;
        }
        before.is_bounded(&lab)?;
        sleep(Duration::from_millis(100)).await;
    }
    for wire in slow.into_iter().chain(in_chunks) {
        wire.reset()?;
    }
    bystander.end(&mut lab).await?;
    before.is_back(&lab).await?;
    lab.settle_after_resets(200).await
}

/// Responses that nobody reads wait in bounded buffers, and the application waits with them.
#[tokio::test]
async fn cve_2020_12603_slow_readers() -> anyhow::Result<()> {
    // More than the kernel's buffers hold on the way, grown as they may be.
    let large = [b"HTTP/1.1 200 OK\r\nContent-Length: 134217728\r\n\r\n".to_vec(), vec![b'x'; 128 << 20]].concat();
    let mut lab = Lab::playing(vec![Play::stay(large)]).await?;
    let before = Before::of(&mut lab).await?;
    let bystander = Bystander::start(&lab).await;
    let mut readers = crowd(&lab, 50, b"GET /play/0 HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    for wire in &mut readers {
        // The head, and not much more.
        wire.read_bytes(1).await?;
    }
    for _ in 0..10 {
        sleep(Duration::from_millis(100)).await;
        before.is_bounded(&lab)?;
    }
    for wire in readers {
        wire.reset()?;
    }
    bystander.end(&mut lab).await?;
    before.is_back(&lab).await?;
    lab.settle_after_resets(50).await
}

/// An application that never answers, or never ends its head, holds up only who asked it.
#[tokio::test]
async fn hostile_upstream_slow_heads() -> anyhow::Result<()> {
    let mut lab = Lab::playing(vec![Play::stay("HTTP/1.1 200 OK\r\nX: "), Play::stay("")]).await?;
    let before = Before::of(&mut lab).await?;
    let bystander = Bystander::start(&lab).await;
    let mut waiting = crowd(&lab, 100, b"GET /play/0 HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    waiting.extend(crowd(&lab, 100, b"GET /play/1 HTTP/1.1\r\nHost: a\r\n\r\n").await?);
    until("all have been asked", DEADLINE, || {
        let asked = lab.server.connections();
        if asked > waiting.len() { Ok(()) } else { Err(format!("{asked} connections")) }
    })
    .await?;
    before.is_bounded(&lab)?;
    let ended = lab.server.ended();
    for wire in waiting {
        wire.reset()?;
    }
    until("the application is let go", DEADLINE, || {
        let left = lab.server.ended() - ended;
        if left >= 200 { Ok(()) } else { Err(format!("{left} connections ended")) }
    })
    .await?;
    bystander.end(&mut lab).await?;
    before.is_back(&lab).await?;
    lab.settle_after_resets(200).await
}

/// Connections that were used and are kept, and connections that never said a word.
#[tokio::test]
async fn cve_2020_8663_thousands_of_idle_connections() -> anyhow::Result<()> {
    const EACH: usize = 1000;
    allow_descriptors(2 * EACH as u64 + 1000)?;
    let mut lab = Lab::start().await?;
    let before = Before::of(&mut lab).await?;
    let bystander = Bystander::start(&lab).await;
    let mut used = Vec::new();
    for _ in 0..EACH {
        let mut wire = lab.client().await?;
        wire.send(BYSTANDER).await?;
        wire.read_bytes(HONEST.len()).await?;
        lab.expect([("", 200)], [("", 200)]);
        used.push(wire);
    }
    let silent = crowd(&lab, EACH, b"").await?;
    before.is_bounded(&lab)?;
    // They are kept, all of them.
    for wire in &mut used {
        let from = wire.received().len();
        wire.send(BYSTANDER).await?;
        wire.read_bytes(from + HONEST.len()).await?;
        lab.expect([("", 200)], [("", 200)]);
    }
    before.is_bounded(&lab)?;
    drop((used, silent));
    bystander.end(&mut lab).await?;
    before.is_back(&lab).await?;
    lab.settle().await
}

/// Connections that are opened only to be reset, with a request or part of one on them.
#[tokio::test]
async fn cve_2023_44487_as_connections() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let before = Before::of(&mut lab).await?;
    let bystander = Bystander::start(&lab).await;
    for _ in 0..20 {
        for begin in [
            &b""[..],
            b"GET / HT",
            b"GET / HTTP/1.1\r\nHost: a\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na",
        ] {
            for wire in crowd(&lab, 25, begin).await? {
                wire.reset()?;
            }
        }
        before.is_bounded(&lab)?;
    }
    bystander.end(&mut lab).await?;
    before.is_back(&lab).await?;
    lab.serves_a_bystander().await
}

/// One workload asks more slowly answered requests than the proxy has connections to the application for all; another is
/// served as if there were none. The greedy one gets half of them, on however many connections of his own.
#[tokio::test]
async fn one_peer_with_slow_requests_does_not_starve_the_others() -> anyhow::Result<()> {
    const SHARE: usize = 1024;
    const EACH: u32 = 100;
    const CONNECTIONS: usize = 12;
    allow_descriptors(SHARE as u64 + 1000)?;
    let mut lab = Lab::playing(vec![Play::stay("")]).await?;
    let directory = lab.pair.directory.path();
    lab.pair.authority.write(directory, "greedy", "spiffe://cluster.local/ns/default/sa/greedy", 3600)?;
    let port = lab.pair.doors[0].mesh_port.unwrap_or_default();
    let request = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/play/0")];
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut peer = H2Peer::client(mesh_peer_as(socket, directory, "greedy", "weft-h2/1").await?, &[]).await?;
        peer.send((0..EACH).map(|n| Frame::headers(1 + 2 * n, block(request), true))).await?;
        peer.synchronise().await?;
        held.push(peer);
    }
    let beyond = CONNECTIONS * EACH as usize - SHARE;
    until("all that is beyond his share is refused, and all else asked", DEADLINE, || {
        let records = lab.inbound().records().map_err(|error| format!("{error:#}"))?;
        let refused = records.iter().filter(|record| record["fault"] == "overload" && record["status"] == 503).count();
        // On a busy machine connecting may take too long: such a one is not refused, and asked or not.
        let late = records.iter().filter(|record| record["fault"] == "connect_timeout").count();
        let asked = lab.server.connections();
        let is_shared = (beyond.saturating_sub(late)..=beyond).contains(&refused)
            && (SHARE - late.min(SHARE)..=SHARE + late).contains(&asked);
        if is_shared { Ok(()) } else { Err(format!("{refused} refused, {asked} asked, {late} late")) }
    })
    .await?;
    for _ in 0..3 {
        lab.serves_a_bystander().await?;
    }
    drop(held);
    until("the application is let go", DEADLINE, || {
        let (asked, ended) = (lab.server.connections(), lab.server.ended());
        if ended >= asked { Ok(()) } else { Err(format!("{ended} connections of {asked} ended")) }
    })
    .await?;
    lab.serves_a_bystander().await
}

/// What a burst of connections with bodies made workers hold they give back soon after it, however many there are.
#[tokio::test]
async fn u8_bursts_leave_no_memory() -> anyhow::Result<()> {
    // As many as one caller may have upstream.
    const BURST: usize = 1000;
    // Twice what may stay.
    const HELD_MIN_KIB: u64 = 16 << 10;
    allow_descriptors(2 * BURST as u64 + 1000)?;
    let head = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let part = [&head[..], &[b'a'; 20_000]].concat();
    for workers in ["1", "2"] {
        let plan = Plan { arguments: &["--workers", workers], ..ONE_WORKER };
        let mut lab = Lab::with(Vec::new(), plan).await?;
        let before = Before::of(&mut lab).await?;
        let bystander = Bystander::start(&lab).await;
        let (mut burst, begun) = (Vec::new(), lab.server.connections());
        while burst.len() < BURST {
            burst.extend(crowd(&lab, 50, &part).await?);
            until("the application has been asked", DEADLINE, || {
                let asked = lab.server.connections() - begun;
                if asked >= burst.len() { Ok(()) } else { Err(format!("{asked} connections")) }
            })
            .await?;
        }
        let peak = lab.outbound().memory_kib()?;
        for wire in burst {
            wire.reset()?;
        }
        bystander.end(&mut lab).await?;
        before.is_back(&lab).await?;
        let kept = lab.outbound().memory_kib()?;
        eprintln!("{workers} workers: {peak} KiB, and then {kept} KiB");
        ensure!(peak > kept + HELD_MIN_KIB, "the burst made it hold nothing to give back");
        lab.serves_a_bystander().await?;
    }
    Ok(())
}
