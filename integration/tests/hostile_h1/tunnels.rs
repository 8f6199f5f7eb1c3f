//! Requests that would become something else half-way: expectations, upgrades, tunnels, and what is sent after them.

use anyhow::ensure;
use weft_integration::raw::{DEADLINE, End, Pair, Plan, Protocol, Wire, find, shown};

use super::lab::{HONEST, Lab, SMUGGLED, is_refusal};
use super::server::{Play, plain};

/// Whether the client gets these answers and the application these bytes.
async fn passes(lab: &mut Lab, sent: &str, answers: usize, reaching: &str) -> anyhow::Result<Wire> {
    lab.server.take();
    let mut wire = lab.client().await?;
    wire.send(sent.as_bytes()).await?;
    wire.read_bytes(answers * HONEST.len()).await?;
    ensure!(wire.received() == HONEST.repeat(answers), "{}", shown(wire.received()));
    let reached = lab.server.take().concat();
    ensure!(reached == reaching.as_bytes(), "{sent:?} arrived as {}", shown(&reached));
    for _ in 0..answers {
        lab.expect([("", 200)], [("", 200)]);
    }
    Ok(wire)
}

/// Servers that meet an expectation they read otherwise wait for a body that the proxy has not sent, or the reverse.
#[tokio::test]
async fn kettle_2025_0cl_expect() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for value in [
        "y 100-continue",
        "100-continue, x",
        "x, 100-continue",
        "100-continue,",
        "100-continue;x",
        "\"100-continue\"",
        "100",
        "",
        "100 continue",
        "100-continu",
        "200-ok",
        "\x0c",
        "100-continue\r\nExpect: x",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: {value}\r\nContent-Length: 0\r\n\r\n{SMUGGLED}");
        let (status, fault) = if value == "\x0c" { (400, "bad_request") } else { (417, "not_implemented") };
        lab.refuses(value, head.as_bytes(), status, fault).await?;
    }
    for name in ["Expect ", " Expect", "Expect\t"] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n{name}: 100-continue\r\n\r\n{SMUGGLED}");
        lab.refuses(name, head.as_bytes(), 400, "bad_request").await?;
    }
    // With nothing to wait for, the next request is the next request.
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for first in [
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ] {
        let both = format!("{first}{next}");
        passes(&mut lab, &both, 2, &both).await?;
    }
    lab.settle().await
}

/// Answered at once, without having been told to go on, a client may send its body or not: the next byte could be either,
/// so there is no next request on this connection, nor a next answer on the one behind it.
#[tokio::test]
async fn kettle_2025_expect_answered_early_ends_the_connection() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for follows in ["", SMUGGLED] {
        let mut wire = lab.client().await?;
        let head = format!(
            "POST /early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            SMUGGLED.len()
        );
        wire.send(head.as_bytes()).await?;
        wire.read_past(b"hi").await?;
        ensure!(find(wire.received(), b"\r\nConnection: close\r\n").is_some(), "{}", shown(wire.received()));
        wire.send(follows.as_bytes()).await.unwrap_or_default();
        wire.half_close().await.unwrap_or_default();
        wire.read_to_end(DEADLINE).await;
        let answers = String::from_utf8_lossy(wire.received()).matches("HTTP/1.1 ").count();
        ensure!(answers == 1, "{}", shown(wire.received()));
        ensure!(lab.server.take().concat() == head.as_bytes());
        lab.expect([("", 200)], [("", 200)]);
        lab.serves_a_bystander().await?;
    }
    lab.settle().await
}

/// Pingora forwarded what follows an upgrade before the server had agreed: it was read as the next request.
#[tokio::test]
async fn cve_2026_2833_bytes_before_101() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let arrives = upgrade;
    // Refused: what follows is a request like any other, and goes through everything that requests go through.
    passes(
        &mut lab,
        &format!("{upgrade}GET /next HTTP/1.1\r\nHost: a\r\n\r\n"),
        2,
        &format!("{arrives}GET /next HTTP/1.1\r\nHost: a\r\n\r\n"),
    )
    .await?;
    drop(lab);
    // Agreed: until then not a byte of it has left; then all of it has, as bytes.
    let pair = Pair::start(Plan::mesh(&[Protocol::Http])).await?;
    let mut client = Wire::connect(pair.doors[0].port).await?;
    client.send(format!("{upgrade}{SMUGGLED}").as_bytes()).await?;
    let mut application = pair.doors[0].backend.accept().await?;
    application.read_past(b"\r\n\r\n").await?;
    application.read_to_end(std::time::Duration::from_millis(300)).await;
    assert_eq!(String::from_utf8_lossy(&plain(application.received())), arrives);
    application
        .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw")
        .await?;
    application.read_past(SMUGGLED.as_bytes()).await?;
    client.read_past(b"\r\n\r\nraw").await?;
    let (text, plain) = (String::from_utf8_lossy(application.received()).into_owned(), plain(application.received()));
    assert_eq!(String::from_utf8_lossy(&plain), format!("{arrives}{SMUGGLED}"));
    assert_eq!(text.matches("x-request-id").count(), 1, "it was carried, not read: {text}");
    Ok(())
}

/// A tunnel to `h2c` would carry requests past every policy.
#[tokio::test]
async fn h2c_smuggling_2020() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let arrives = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Connection: upgrade\r\nUpgrade: H2C",
        "Connection: upgrade\r\nUpgrade: websocket, h2c",
        "Connection: upgrade\r\nUpgrade: h2c, websocket",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c",
        "Connection: upgrade\r\nUpgrade: ,\th2c ,",
        "Connection: x\r\nConnection: upgrade\r\nUpgrade: h2c",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Upgrade: websocket",
        "Connection: HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    ] {
        passes(&mut lab, &format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"), 1, arrives).await?;
    }
    // HTTP/1.0 has no upgrades.
    let mut wire = lab.client().await?;
    wire.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await?;
    ensure!(wire.read_to_end(DEADLINE).await == End::Fin);
    ensure!(find(&lab.server.take().concat(), b"pgrade").is_none());
    lab.expect([("", 200)], [("", 200)]);
    lab.settle().await
}

/// A client that hopes for a tunnel has sent the first bytes of it already. Where it is refused they are no request.
#[tokio::test]
async fn optimistic_connect_is_not_read_on() -> anyhow::Result<()> {
    let closing = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let mut lab = Lab::playing(vec![Play::leave(*closing)]).await?;
    for target in ["a:80", "127.0.0.1:22", "[::1]:443"] {
        let mut wire = lab.client().await?;
        wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{SMUGGLED}").as_bytes()).await?;
        ensure!(wire.read_to_end(DEADLINE).await == End::Fin, "{}", shown(wire.received()));
        is_refusal(wire.received(), 403, "connect_refused")?;
        ensure!(lab.server.take().is_empty());
        lab.expect([("connect_refused", 403)], []);
        lab.serves_a_bystander().await?;
    }
    // The same for an upgrade that a server refuses and closes after: its end is ours.
    let mut wire = lab.client().await?;
    let upgrade = format!("GET /play/0 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n{SMUGGLED}");
    wire.send(upgrade.as_bytes()).await?;
    ensure!(wire.read_to_end(DEADLINE).await == End::Fin, "{}", shown(wire.received()));
    ensure!(String::from_utf8_lossy(wire.received()).matches("HTTP/1.1 ").count() == 1, "{}", shown(wire.received()));
    ensure!(find(&lab.server.take().concat(), b"smuggled").is_none());
    lab.expect([("", 403)], [("", 403)]);
    lab.settle().await
}

/// What is pipelined behind a request that is refused is refused with it, and what was asked before is answered.
#[tokio::test]
async fn desync_2019_pipelined_after_an_error() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let good = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";
    for bad in [
        "GET /bad HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /bad HTTP/1.1\r\n\r\n",
        "POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut wire = lab.client().await?;
        wire.send(format!("{good}{good}{bad}{SMUGGLED}").as_bytes()).await?;
        ensure!(wire.read_to_end(DEADLINE).await == End::Fin, "{}", shown(wire.received()));
        let answers = HONEST.repeat(2);
        ensure!(wire.received().starts_with(&answers), "{}", shown(wire.received()));
        is_refusal(&wire.received()[answers.len()..], 400, "bad_request")?;
        ensure!(lab.server.take().concat() == good.repeat(2).as_bytes());
        lab.expect([("", 200), ("", 200), ("bad_request", 400)], [("", 200), ("", 200)]);
        lab.serves_a_bystander().await?;
    }
    lab.settle().await
}

/// Bytes that begin like TLS, and no TLS follows, do not make a port that speaks HTTP pass them on unread.
#[tokio::test]
async fn cve_2020_8660_tls_sniffing_bypass() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for start in [
        &b"\x16\x03\x01\x00\x05hello"[..],
        b"\x16\x03\x01\xff\xff",
        b"\x80\x2e\x01",
        b"\x00\x00\x12\x04\0\0\0\0\0",
        b"\x05\x01\0",
    ] {
        let bytes = [start, b"\r\n\r\n", SMUGGLED.as_bytes()].concat();
        lab.refuses("TLS at first sight", &bytes, 400, "bad_request").await?;
    }
    lab.settle().await
}
