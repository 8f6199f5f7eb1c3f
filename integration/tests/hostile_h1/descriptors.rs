//! Descriptors that run out, and doors that are held.

use std::time::Duration;

use anyhow::ensure;
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};
use weft_integration::raw::{DEADLINE, Plan, Wire, find, shown};

use super::lab::{BYSTANDER, HONEST, Lab, ONE_WORKER};
use super::meter::{Before, Bystander, allow_descriptors};

/// More clients than descriptors, each with a request that needs another one upstream. Who was let in is served, who comes
/// waits at the door, the proxy does not spin, and when they leave it goes on.
#[tokio::test]
async fn cve_2020_8663_descriptors_run_out() -> anyhow::Result<()> {
    allow_descriptors(2000)?;
    let mut lab = Lab::with(Vec::new(), Plan { descriptors: Some(400), ..ONE_WORKER }).await?;
    let before = Before::of(&mut lab).await?;
    let bystander = Bystander::start(&lab).await;
    // The bystander is in.
    sleep(Duration::from_millis(200)).await;
    let mut held = Vec::new();
    for _ in 0..500 {
        let mut wire = lab.client().await?;
        wire.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na").await?;
        held.push(wire);
    }
    let mut late = lab.client().await?;
    late.send(BYSTANDER).await?;
    // The bystander's requests cost time of their own, so a proxy that spins is known by how often its listeners look again.
    let pauses = async |lab: &Lab| lab.outbound().metric("weft_accept_paused_total", &[]).await;
    let (from, begun) = (pauses(&lab).await?, Instant::now());
    sleep(Duration::from_secs(2)).await;
    let (paused, looks_max) = (pauses(&lab).await? - from, 8.0 * begun.elapsed().as_secs_f64() / 0.05);
    ensure!(paused > 0.0, "a pause is counted");
    ensure!(paused <= looks_max, "{paused} attempts to accept in {:?}: no more than {looks_max}", begun.elapsed());
    ensure!(late.received().is_empty(), "there was a place: {}", shown(late.received()));
    before.is_bounded(&lab)?;
    bystander.end(&mut lab).await?;
    for wire in held {
        wire.reset()?;
    }
    late.read_bytes(HONEST.len()).await?;
    ensure!(late.received() == HONEST, "{}", shown(late.received()));
    before.is_back(&lab).await?;
    lab.serves_a_bystander().await?;
    let overloads = lab.outbound().records()?.into_iter().filter(|record| record["fault"] == "overload").count();
    ensure!(overloads == 0, "{overloads} requests that were let in found no descriptor");
    Ok(())
}

/// Whoever holds the status port's connections, reading nothing of what they have asked for, keeps no probe out.
#[tokio::test]
async fn slowloris_2009_of_the_status_port() -> anyhow::Result<()> {
    let lab = Lab::start().await?;
    let port = lab.outbound().status_port().await?;
    let mut held = Vec::new();
    for _ in 0..100 {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        let mut wire = Wire::over(socket.connect(([127, 0, 0, 1], port).into()).await?)?;
        // The doors take requests until their answers find no room; then this is not taken either.
        let asks = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(500);
        tokio::time::timeout(Duration::from_millis(20), wire.send(&asks)).await.unwrap_or(Ok(())).unwrap_or_default();
        held.push(wire);
    }
    for _ in 0..20 {
        let mut probe = Wire::connect(port).await?;
        probe.send(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
        probe.read_to_end(DEADLINE).await;
        ensure!(find(probe.received(), b"200 OK").is_some(), "{}", shown(probe.received()));
    }
    Ok(())
}
