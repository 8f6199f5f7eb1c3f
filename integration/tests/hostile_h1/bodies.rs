//! Requests whose body breaks its framing after the head has gone on: the application must see a broken request, never an
//! end that the client did not send, and never what follows.

use anyhow::{Context as _, ensure};
use weft_integration::raw::{DEADLINE, End, shown};

use super::lab::{HONEST, Lab, SMUGGLED, is_refusal, reaches};

const HEAD: &str = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// After a good first chunk comes `fault` and then what would be smuggled.
async fn refuses_chunks(faults: &[&str]) -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for fault in faults {
        broken(&mut lab, fault).await.with_context(|| format!("{fault:?}"))?;
    }
    lab.settle().await
}

async fn broken(lab: &mut Lab, fault: &str) -> anyhow::Result<()> {
    let mut wire = lab.client().await?;
    wire.send(format!("{HEAD}3\r\nabc\r\n").as_bytes()).await?;
    reaches(&lab.server, b"3\r\nabc\r\n").await?;
    let ended = lab.server.ended();
    wire.send(format!("{fault}{SMUGGLED}").as_bytes()).await?;
    ensure!(wire.read_to_end(DEADLINE).await == End::Fin, "{:?} after {}", wire.end(), shown(wire.received()));
    is_refusal(wire.received(), 400, "bad_body")?;
    // The application's connection is cut: the request is broken, not ended.
    super::lab::until("the application's connection ends", DEADLINE, || {
        if lab.server.ended() > ended { Ok(()) } else { Err("it stays".into()) }
    })
    .await?;
    let reached = lab.server.take().concat();
    let whole = format!("{HEAD}3\r\nabc\r\n");
    ensure!(reached.starts_with(whole.as_bytes()), "reached the application: {}", shown(&reached));
    // Chunks that were good before the fault may have passed; an end and the rest never.
    let rest = String::from_utf8_lossy(&reached[whole.len()..]).into_owned();
    ensure!(!rest.contains("0\r\n") && !rest.contains("smuggled"), "reached the application: {rest:?}");
    lab.expect([("bad_body", 400)], [("downstream_reset", 499)]);
    lab.serves_a_bystander().await
}

/// Sizes that overflow, or that some readers take for numbers.
#[tokio::test]
async fn rustsec_2021_0079_chunk_sizes() -> anyhow::Result<()> {
    refuses_chunks(&[
        "10000000000000003\r\nabc\r\n",
        "00000000000000003\r\nabc\r\n",
        "f0000000000000003\r\nabc\r\n",
        "ffffffffffffffffff\r\nabc\r\n",
        "-1\r\nabc\r\n",
        "+3\r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "3h\r\nabc\r\n",
        "g\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "3\t\r\nabc\r\n",
        "\t3\r\nabc\r\n",
        "3_0\r\nabc\r\n",
        "3.0\r\nabc\r\n",
        "\r\n",
        "\r\n3\r\nabc\r\n",
        "\0\r\n",
        "3\0\r\nabc\r\n",
        "zz\r\n",
    ])
    .await
}

/// A line end inside an extension that one reader skips and the next one honours.
#[tokio::test]
async fn cve_2025_55315_line_ends_of_chunks() -> anyhow::Result<()> {
    refuses_chunks(&[
        "3;\nabc\r\n0\r\n\r\n",
        "3;x\nabc\r\n",
        "3;x\rabc\r\n",
        "3;x\r\rabc\r\n",
        "3;x\0\r\nabc\r\n",
        "3;x=\"\n\"\r\nabc\r\n",
        "3\nabc\r\n",
        "3\rabc\r\n",
        "3\r\r\nabc\r\n",
        "3\n\r\nabc\r\n",
        "3\r\nabc\n",
        "3\r\nabc\r",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\r\r\n",
        "3\r\nabc \r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\n\n",
    ])
    .await
}

#[tokio::test]
async fn http_garden_trailers_that_would_frame_or_route() -> anyhow::Result<()> {
    refuses_chunks(&[
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nhost: b\r\n\r\n",
        "0\r\nConnection: close\r\n\r\n",
        "0\r\nUpgrade: x\r\n\r\n",
        "0\r\nExpect: 100-continue\r\n\r\n",
        "0\r\nTE: trailers\r\n\r\n",
        "0\r\nx: y\r\ncontent-length: 0\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        "0\r\nx: y\0\r\n\r\n",
        "0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ])
    .await
}

/// Everything in a chunked body that no byte of content pays for has a bound.
#[tokio::test]
async fn cve_2019_9518_chunks_that_carry_nothing() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for (name, fault) in [
        ("one extension without end", format!("3;{}", "x".repeat(1 << 20))),
        ("extensions on every chunk", "1;xxxxxxxxxxxxxxxx\r\na\r\n".repeat(1 << 16)),
        ("a trailer without end", format!("0\r\nx: {}", "y".repeat(1 << 20))),
        ("trailers without end", format!("0\r\n{}", "x: y\r\n".repeat(1 << 17))),
        ("too many trailers", format!("0\r\n{}\r\n", "x: y\r\n".repeat(201))),
    ] {
        broken(&mut lab, &fault).await.context(name)?;
    }
    lab.settle().await
}

/// A trailer is no place to say who calls; what says so is dropped, whatever its spelling.
#[tokio::test]
async fn cve_2024_45806_identity_in_trailers() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let mut wire = lab.client().await?;
    let trailers =
        "x-forwarded-client-cert: evil\r\nX_Forwarded_Client_Cert: evil\r\nx-weft-client-id: evil\r\nx-sum: 1\r\n";
    wire.send(format!("{HEAD}3\r\nabc\r\n0\r\n{trailers}\r\n").as_bytes()).await?;
    wire.read_bytes(HONEST.len()).await?;
    let expected = format!("{HEAD}3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(lab.server.take().concat(), expected.as_bytes());
    lab.expect([("", 200)], [("", 200)]);
    lab.settle().await
}

/// A body that the client cuts short is cut short for the application too.
#[tokio::test]
async fn cve_2019_15605_bodies_cut_short() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for (head, part) in [
        ("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", "abc"),
        ("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n", "abc"),
        (HEAD, "3\r\nabc\r\n"),
        (HEAD, "3\r\nabc\r\n"),
    ] {
        let mut wire = lab.client().await?;
        wire.send(format!("{head}{part}").as_bytes()).await?;
        reaches(&lab.server, part.as_bytes()).await?;
        let ended = lab.server.ended();
        wire.half_close().await?;
        ensure!(wire.read_to_end(DEADLINE).await == End::Fin, "{:?}", wire.end());
        is_refusal(wire.received(), 499, "downstream_reset")?;
        super::lab::until("the application's connection ends", DEADLINE, || {
            if lab.server.ended() > ended { Ok(()) } else { Err("it stays".into()) }
        })
        .await?;
        assert_eq!(lab.server.take().concat(), format!("{head}{part}").as_bytes());
        lab.expect([("downstream_reset", 499)], [("downstream_reset", 499)]);
        lab.serves_a_bystander().await?;
    }
    lab.settle().await
}

/// Pingora took the rest of a body that nobody had read for the next request. Here the application answers before the body
/// comes; the rest is carried to it, however long, and what follows is the next request.
#[tokio::test]
async fn cve_2025_4366_undrained_body_on_a_reused_connection() -> anyhow::Result<()> {
    const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for size in [SMUGGLED.len() * 3, 1 << 20] {
        let mut lab = Lab::start().await?;
        let mut wire = lab.client().await?;
        let head = format!("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
        wire.send(head.as_bytes()).await?;
        wire.read_bytes(HONEST.len()).await?;
        let body = SMUGGLED.repeat(size / SMUGGLED.len() + 1);
        wire.send(&body.as_bytes()[..size]).await?;
        wire.send(NEXT.as_bytes()).await?;
        wire.half_close().await?;
        wire.read_to_end(DEADLINE).await;
        let answers = String::from_utf8_lossy(wire.received()).matches("HTTP/1.1 ").count();
        ensure!(answers == 2, "{size}: {}", shown(wire.received()));
        for _ in 0..answers {
            lab.expect([("", 200)], [("", 200)]);
        }
        let requests = [lab.outbound().records()?, lab.inbound().records()?].concat();
        ensure!(requests.iter().all(|record| record["path"] != "/smuggled"), "{requests:?}");
        lab.settle().await?;
    }
    Ok(())
}
