//! Work is linear in what a client sends. Processor time is compared, not time: twice as much may cost three times as much,
//! where a quadratic cost would be four times.

use anyhow::{Context as _, ensure};
use weft_integration::raw::{Wire, find, shown};

use super::lab::Lab;
use super::meter::ran;

/// How pieces are taken together depends on what else runs; a quadratic cost shows each time.
const ATTEMPTS: usize = 3;

/// Nanoseconds that both proxies need for one request, the least of some.
async fn cost(lab: &Lab, pieces: &[Vec<u8>]) -> anyhow::Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..5 {
        let before = ran(lab.outbound())? + ran(lab.inbound())?;
        let mut wire: Wire = lab.client().await?;
        for piece in pieces {
            wire.send(piece).await?;
        }
        wire.read_until(|received| find(received, b"\r\n\r\n").is_some()).await?;
        ensure!(wire.received().starts_with(b"HTTP/1.1 "), "{}", shown(wire.received()));
        drop(wire);
        least = least.min(ran(lab.outbound())? + ran(lab.inbound())? - before);
    }
    Ok(least)
}

async fn linear(name: &str, make: impl Fn(usize) -> Vec<Vec<u8>>) -> anyhow::Result<()> {
    let lab = Lab::start().await?;
    cost(&lab, &make(1)).await?;
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let (once, twice) = (cost(&lab, &make(1)).await?, cost(&lab, &make(2)).await?);
        // What is too little to be told from the cost of any request proves nothing, and is none.
        if twice < 3_000_000 || twice <= 3 * once {
            return Ok(());
        }
        seen.push((once, twice));
    }
    anyhow::bail!("{name}: nanoseconds for so much and for twice as much: {seen:?}")
}

fn head(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

/// Envoy scanned all fields for each; here every list that a field may hold, in the longest head there may be.
#[tokio::test]
async fn cve_2019_15226_many_small_fields_and_elements() -> anyhow::Result<()> {
    for (name, begin, element) in [
        ("nominations", "Connection: ", "a,"),
        ("long nominations", "Connection: ", "x-aaaaaaaaaaaaa,"),
        ("empty elements", "Connection: ", ",,"),
        ("codings", "TE: ", "a,"),
        ("transfer codings", "Transfer-Encoding: ", "a,"),
        ("protocols", "Connection: upgrade\r\nUpgrade: ", "a,"),
        ("cookies", "Cookie: ", "a=b; "),
        ("trace state", "tracestate: ", "a=b,"),
        ("trace context", "b3: ", "0-"),
        ("one value", "X: ", "aa"),
    ] {
        let make = |n: usize| vec![head(&format!("{begin}{}\r\n", element.repeat(n * 45_000 / element.len())))];
        linear(name, make).await.context(name)?;
    }
    linear("fields", |n| vec![head(&"a: b\r\n".repeat(95 * n))]).await?;
    linear("fields beyond the bound", |n| vec![head(&"a:b\r\n".repeat(9000 * n))]).await
}

/// Data dribble, of heads and of bodies.
#[tokio::test]
async fn cve_2019_9511_data_dribble() -> anyhow::Result<()> {
    let single = |bytes: Vec<u8>| bytes.chunks(1).map(<[u8]>::to_vec).collect::<Vec<_>>();
    linear("a head byte by byte", |n| single(head(&format!("X: {}\r\n", "y".repeat(1500 * n))))).await?;
    linear("a method byte by byte", |n| {
        single(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(1500 * n)).into())
    })
    .await?;
    linear("trailers byte by byte", |n| {
        let mut pieces = vec![head("Transfer-Encoding: chunked\r\n")];
        pieces.extend(single(format!("0\r\nX: {}\r\n\r\n", "y".repeat(1500 * n)).into()));
        pieces
    })
    .await?;
    linear("chunks of one byte", |n| {
        vec![head("Transfer-Encoding: chunked\r\n"), [b"1\r\na\r\n".repeat(20_000 * n), b"0\r\n\r\n".to_vec()].concat()]
    })
    .await?;
    linear("a body byte by byte", |n| {
        let mut pieces = vec![head(&format!("Content-Length: {}\r\n", 1500 * n))];
        pieces.extend(single("a".repeat(1500 * n).into()));
        pieces
    })
    .await
}
