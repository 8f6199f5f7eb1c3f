//! An application that answers what it should not. Its own proxy finds the fault; the client gets an error of the mesh's, or
//! a response that visibly breaks off, and never what follows.

use anyhow::{Context as _, ensure};
use weft_integration::raw::{DEADLINE, End, find, shown};

use super::lab::{HONEST, Lab};
use super::server::{Play, Then};

/// What an application would have the next client believe.
const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// Each head is refused: 502 of the mesh's own, and the client's connection is as good as before.
async fn refuses(heads: &[&str]) -> anyhow::Result<()> {
    refuses_as("upstream_protocol", heads).await
}

async fn refuses_as(fault: &str, heads: &[&str]) -> anyhow::Result<()> {
    let plays = heads.iter().map(|head| Play::stay(format!("{head}{POISON}"))).collect();
    let mut lab = Lab::playing(plays).await?;
    let mut wire = lab.client().await?;
    for (at, head) in heads.iter().enumerate() {
        let asked = async {
            let ended = lab.server.ended();
            let from = wire.received().len();
            wire.send(
                format!("GET /play/{at} HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
            )
            .await?;
            wire.read_until(|received| received[from..].ends_with(HONEST)).await?;
            let got = &wire.received()[from..];
            let text = String::from_utf8_lossy(got).into_owned();
            ensure!(text.starts_with("HTTP/1.1 502 ") && text.matches("HTTP/1.1 ").count() == 2, "{}", shown(got));
            ensure!(text.contains(&format!("x-weft-error: {fault}\r\n")), "not {fault}: {text}");
            ensure!(!text.contains("poison"), "{text}");
            super::lab::until("the application's connection ends", DEADLINE, || {
                if lab.server.ended() > ended { Ok(()) } else { Err("it stays".into()) }
            })
            .await
        };
        asked.await.with_context(|| shown(head.as_bytes()))?;
        lab.expect([("", 502), ("", 200)], [(fault, 502), ("", 200)]);
        lab.serves_a_bystander().await?;
    }
    lab.settle().await
}

/// Each response breaks after its head: the client sees it break, and nothing after the break.
async fn breaks(fault: &str, plays: Vec<Play>) -> anyhow::Result<()> {
    let mut lab = Lab::playing(plays.clone()).await?;
    for (at, play) in plays.iter().enumerate() {
        let asked = async {
            let mut wire = lab.client().await?;
            wire.send(
                format!("GET /play/{at} HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
            )
            .await?;
            ensure!(wire.read_to_end(DEADLINE).await != End::Open, "it stays open after {}", shown(wire.received()));
            let text = String::from_utf8_lossy(wire.received()).into_owned();
            ensure!(text.starts_with("HTTP/1.1 200 ") && text.matches("HTTP/1.1 ").count() == 1, "{text}");
            ensure!(!text.contains("poison") && !text.contains("\r\n0\r\n"), "it looks whole: {text}");
            anyhow::Ok(())
        };
        asked.await.with_context(|| shown(&play.answer))?;
        lab.expect([("upstream_truncated", 200)], [(fault, 200)]);
        lab.serves_a_bystander().await?;
    }
    lab.settle().await
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

#[tokio::test]
async fn cve_2019_20372_responses_framed_twice() -> anyhow::Result<()> {
    refuses(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n",
    ])
    .await
}

#[tokio::test]
async fn cve_2019_18802_response_heads_that_are_none() -> anyhow::Result<()> {
    refuses(&[
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nhi",
        "HTTP/1.1 200 OK\rContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 2\r\n\r\nhi",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        " HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 +20 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "ICY 200 OK\r\n\r\nhi",
        "hello world\r\n\r\n",
        "\0\0\0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ])
    .await
}

#[tokio::test]
async fn cve_2019_18801_response_heads_without_end() -> anyhow::Result<()> {
    let value = format!("{OK}X: {}", "x".repeat(1 << 18));
    let many = format!("{OK}{}\r\n", "a: b\r\n".repeat(300));
    let endless = format!("{OK}{}", "a: b\r\n".repeat(1 << 16));
    let reason = format!("HTTP/1.1 200 {}", "x".repeat(1 << 18));
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: {}", "x".repeat(1 << 18));
    refuses_as("upstream_head_too_large", &[&value, &many, &endless, &reason, &hint]).await
}

/// Responses that break their framing half-way.
#[tokio::test]
async fn rustsec_2021_0079_chunks_of_responses() -> anyhow::Result<()> {
    let faults = [
        "zz\r\n",
        "10000000000000002\r\nhi\r\n",
        "-2\r\nhi\r\n",
        "0x2\r\nhi\r\n",
        " 2\r\nhi\r\n",
        "2 \r\nhi\r\n",
        "2\nhi\r\n",
        "2;\nhi\r\n",
        "2;x\rhi\r\n",
        "2\r\nhi\n",
        "2\r\nhi",
        "2\r\nhiz\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        "0\r\nset-cookie\r\n\r\n",
    ];
    let begin = format!("{OK}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut plays: Vec<Play> = faults.iter().map(|fault| Play::stay(format!("{begin}{fault}{POISON}"))).collect();
    for endless in [format!("0\r\n{}", "x: y\r\n".repeat(1 << 14)), format!("1;{}", "x".repeat(1 << 17))] {
        plays.push(Play::stay(format!("{begin}{endless}")));
    }
    breaks("upstream_protocol", plays).await
}

#[tokio::test]
async fn cve_2019_15605_responses_cut_short() -> anyhow::Result<()> {
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    let plays = [
        format!("{OK}Content-Length: 20\r\n\r\n"),
        format!("{OK}Content-Length: 20\r\n\r\nhi"),
        format!("{OK}Content-Length: 18446744073709551615\r\n\r\nhi"),
        chunked.clone(),
        format!("{chunked}5"),
        format!("{chunked}5\r\nhi"),
        format!("{chunked}2\r\nhi\r\n"),
        format!("{chunked}2\r\nhi\r\n0\r\n"),
        format!("{chunked}2\r\nhi\r\n0\r\nx: y\r\n"),
    ];
    breaks("upstream_truncated", plays.into_iter().map(Play::leave).collect()).await
}

/// Interim responses are hints; a server that sends nothing else is given up, and one that sends them to nobody who reads
/// fills no memory.
#[tokio::test]
async fn unsolicited_1xx_floods() -> anyhow::Result<()> {
    const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let endless = |hint: &'static [u8]| Play { answer: hint.to_vec(), then: Then::Repeat(hint) };
    let long = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(90_000)).leak();
    let mut lab = Lab::playing(vec![endless(HINT), endless(CONTINUE), endless(long.as_bytes())]).await?;
    for play in 0..3 {
        let mut wire = lab.client().await?;
        wire.send(format!("GET /play/{play} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await?;
        wire.read_until(|received| find(received, b"(upstream_protocol)\n").is_some()).await?;
        let text = String::from_utf8_lossy(wire.received()).into_owned();
        ensure!(
            text.matches("HTTP/1.1 10").count() <= 32 && text.matches("HTTP/1.1 502 ").count() == 1,
            "{}",
            shown(text.as_bytes())
        );
        lab.expect([("", 502)], [("upstream_protocol", 502)]);
        lab.serves_a_bystander().await?;
    }
    lab.settle().await
}

/// An application cannot have its proxy remove what protects the client.
#[tokio::test]
async fn cve_2020_25017_connection_cannot_remove_protections() -> anyhow::Result<()> {
    let fields = "Set-Cookie: a=b; HttpOnly\r\nContent-Security-Policy: x\r\nStrict-Transport-Security: y\r\nX-Frame-Options: DENY\r\n\
        Cache-Control: private\r\nVary: *\r\nLocation: /z\r\nAccess-Control-Allow-Origin: c\r\n";
    let nominated = "set-cookie, content-security-policy, STRICT-transport-security, x-frame-options, cache-control, vary, \
        location, access-control-allow-origin, content-length, x-own";
    let answer = format!("{OK}{fields}X-Own: z\r\nConnection: {nominated}\r\nContent-Length: 2\r\n\r\nhi");
    let mut lab = Lab::playing(vec![Play::stay(answer)]).await?;
    let mut wire = lab.client().await?;
    wire.send(b"GET /play/0 HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    wire.read_past(b"\r\n\r\nhi").await?;
    let expected = format!("{OK}{fields}Content-Length: 2\r\n\r\nhi");
    assert_eq!(String::from_utf8_lossy(wire.received()), expected);
    lab.expect([("", 200)], [("", 200)]);
    lab.settle().await
}

/// What the first proxy lets in, the second does not refuse for what the first has written it with: heads and trailers at
/// the bound, which grow by a blank after each colon.
#[tokio::test]
async fn heads_and_trailers_at_the_bound_pass_both_proxies() -> anyhow::Result<()> {
    let fields = |count: usize, total: usize| {
        let mut lines: String = (0..count - 1).map(|n| format!("x{n:03}:y\r\n")).collect();
        let filler = total - lines.len() - "last:\r\n".len();
        lines += &format!("last:{}\r\n", "z".repeat(filler));
        lines
    };
    let begin = format!("{OK}Transfer-Encoding:chunked\r\n");
    let head = format!("{begin}{}\r\n", fields(199, (96 << 10) - begin.len() - 2));
    ensure!(head.len() == 96 << 10);
    let trailers = format!("{}\r\n", fields(200, (16 << 10) - 2));
    let answer = format!("{head}2\r\nhi\r\n0\r\n{trailers}");
    let mut lab = Lab::playing(vec![Play::stay(answer.clone())]).await?;
    let mut wire = lab.client().await?;
    wire.send(b"GET /play/0 HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    wire.read_until(|received| received.ends_with(b"z\r\n\r\n") && find(received, b"hi\r\n0\r\n").is_some()).await?;
    assert_eq!(wire.received().len(), answer.len() + 400, "a blank for each field");
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}");
    let from = wire.received().len();
    wire.send(request.as_bytes()).await?;
    wire.read_bytes(from + HONEST.len()).await?;
    ensure!(wire.received().ends_with(HONEST), "{}", shown(&wire.received()[from..]));
    lab.expect([("", 200), ("", 200)], [("", 200), ("", 200)]);
    lab.settle().await
}
