//! Connections that are used again: what is left on them is never the next client's answer.

use anyhow::{Context as _, ensure};
use weft_integration::raw::shown;

use super::lab::{HONEST, Lab};
use super::server::{Play, Then};

const POISON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// Bytes that follow a response, at once or later: the response passes, the next request goes to a fresh connection.
#[tokio::test]
async fn response_queue_poisoning() -> anyhow::Result<()> {
    let with_poison = |head: &str| [head.as_bytes(), POISON].concat();
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let none = "HTTP/1.1 204 No Content\r\n\r\n";
    let unchanged = "HTTP/1.1 304 Not Modified\r\nContent-Length: 43\r\n\r\n";
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n";
    let late = |head: &str| Play { answer: head.into(), then: Then::Add(POISON) };
    let cases = [
        ("GET", ok, Play::stay(with_poison(ok))),
        ("GET", chunked, Play::stay(with_poison(chunked))),
        ("GET", none, Play::stay(with_poison(none))),
        ("GET", unchanged, Play::stay(with_poison(unchanged))),
        ("GET", ok, Play::stay([ok.as_bytes(), b"\r\n"].concat())),
        ("GET", ok, Play::stay([ok.as_bytes(), b"HTTP/1.1 100 Continue\r\n\r\n"].concat())),
        ("GET", ok, late(ok)),
        ("GET", none, late(none)),
        ("HEAD", head, Play::stay(with_poison(head))),
        ("HEAD", head, late(head)),
    ];
    let mut lab = Lab::playing(cases.iter().map(|(_, _, play)| play.clone()).collect()).await?;
    for (at, (method, passes, play)) in cases.iter().enumerate() {
        let before = lab.server.connections();
        let asked = async {
            let mut wire = lab.client().await?;
            wire.send(format!("{method} /play/{at} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await?;
            wire.read_bytes(passes.len()).await?;
            if play.then != Then::Stay {
                // Until the poison has been found on the idle connection.
                super::lab::until("the connection goes", std::time::Duration::from_secs(10), || {
                    if lab.server.ended() >= before.max(1) { Ok(()) } else { Err("it stays".into()) }
                })
                .await?;
            }
            let from = wire.received().len();
            for _ in 0..2 {
                wire.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await?;
            }
            wire.read_bytes(from + 2 * HONEST.len()).await?;
            let expected = [passes.as_bytes(), HONEST, HONEST].concat();
            ensure!(wire.received() == expected, "{}", shown(wire.received()));
            anyhow::Ok(())
        };
        asked.await.with_context(|| format!("case {at}: {method} {passes:?}"))?;
        ensure!(lab.server.connections() > before, "case {at}: the poisoned connection was used again");
        let status = passes[9..12].parse().unwrap_or_default();
        lab.expect([("", status), ("", 200), ("", 200)], [("", status), ("", 200), ("", 200)]);
    }
    lab.settle().await
}

/// One client's connection that ends in the middle of anything leaves nothing to the next client's.
#[tokio::test]
async fn desync_2022_connections_of_clients_that_left() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for part in [
        "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nabc",
        "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y",
    ] {
        let mut wire = lab.client().await?;
        wire.send(part.as_bytes()).await?;
        super::lab::reaches(&lab.server, b"ab").await?;
        wire.reset()?;
        lab.expect([("downstream_reset", 499)], [("downstream_reset", 499)]);
        for _ in 0..3 {
            lab.serves_a_bystander().await?;
        }
    }
    lab.settle().await
}
