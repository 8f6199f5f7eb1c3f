//! Fields by which one peer would speak for another, or for the proxies.

use anyhow::ensure;
use weft_integration::raw::{find, shown};

use super::lab::{HONEST, Lab};

/// Sends a head and gives back what the application got, as it is.
async fn passes(lab: &mut Lab, head: &str) -> anyhow::Result<Vec<u8>> {
    let mut wire = lab.client().await?;
    lab.server.take();
    wire.send(head.as_bytes()).await?;
    wire.read_bytes(HONEST.len()).await?;
    ensure!(wire.received() == HONEST, "{}", shown(wire.received()));
    lab.expect([("", 200)], [("", 200)]);
    Ok(lab.server.so_far().concat())
}

/// A nomination in `Connection` makes a proxy remove a field that the next one relies on.
#[tokio::test]
async fn cve_2020_25017_connection_cannot_remove_what_others_rely_on() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let fields = [
        "Authorization: b",
        "Cookie: c=d",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Proto: https",
        "Forwarded: for=x",
        "X-Real-IP: 1.2.3.4",
        "Content-Type: text/plain",
        "Range: bytes=0-1",
        "Cache-Control: no-store",
        "Origin: null",
        "Idempotency-Key: k",
        "Sec-Fetch-Site: none",
        "grpc-timeout: 1S",
        "Via: 1.1 x",
        "Early-Data: 1",
        "baggage: a=b",
    ];
    let names: Vec<&str> = fields.iter().filter_map(|field| field.split(':').next()).collect();
    let always =
        "host, content-length, x-forwarded-client-cert, x-weft-client-id, x-request-id, traceparent, x-b3-traceid";
    let lines = format!("Host: a\r\n{}\r\nContent-Length: 0\r\n", fields.join("\r\n"));
    for nominated in [names.join(", ").to_uppercase(), names.join(",,") + ", close"] {
        let head = format!("GET / HTTP/1.1\r\n{lines}Connection: {nominated}, {always}\r\n\r\n");
        let mut wire = lab.client().await?;
        lab.server.take();
        wire.send(head.as_bytes()).await?;
        wire.read_bytes(HONEST.len()).await?;
        let got = lab.server.so_far().concat();
        for field in fields.iter().chain(&["Host: a", "Content-Length: 0"]) {
            ensure!(find(&got, format!("\r\n{field}\r\n").as_bytes()).is_some(), "{field} is gone: {}", shown(&got));
        }
        for added in ["x-forwarded-client-cert: By=", "x-weft-client-id: spiffe:", "x-request-id: ", "traceparent: "] {
            ensure!(find(&got, format!("\r\n{added}").as_bytes()).is_some(), "{added} is gone: {}", shown(&got));
        }
        lab.expect([("", 200)], [("", 200)]);
    }
    // What is the sender's own to name is removed, thousands of names cost nobody anything.
    let many: String = (0..10_000).map(|n| format!("x-{n},")).collect();
    let got = passes(&mut lab, &format!("GET / HTTP/1.1\r\nHost: a\r\nx-1: y\r\nConnection: {many}x\r\n\r\n")).await?;
    ensure!(find(&got, b"x-1: y").is_none(), "{}", shown(&got));
    lab.settle().await
}

/// Envoy believed its own fields from strangers. What says who called is what the inbound proxy has verified, and that alone.
#[tokio::test]
async fn cve_2024_45806_internal_headers_of_peers() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for name in [
        "x-forwarded-client-cert",
        "X-Forwarded-Client-Cert",
        "x_forwarded_client_cert",
        "X_Forwarded-Client_Cert",
        "x-weft-client-id",
        "X-WEFT-CLIENT-ID",
        "x_weft_client_id",
        "X-Weft_Client-Id",
    ] {
        let got =
            passes(&mut lab, &format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: evil\r\n{name}: evil2\r\n\r\n")).await?;
        ensure!(find(&got, b"evil").is_none(), "{name}: {}", shown(&got));
        let text = String::from_utf8_lossy(&got).to_lowercase();
        for told in ["client-cert: ", "client-id: "] {
            ensure!(text.matches(told).count() == 1, "{name}: {text}");
        }
    }
    lab.settle().await
}

/// Linkerd let a client choose the values of metric labels, and with them the memory of the proxy.
#[tokio::test]
async fn cve_2025_43915_metric_labels_are_not_the_clients() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let ask = |n: u32| {
        format!(
            "M{n} /path-{n}?q HTTP/1.1\r\nHost: host-{n}.example\r\nUser-Agent: agent-{n}\r\nX-Request-Id: id-{n}\r\n\r\n"
        )
    };
    passes(&mut lab, &ask(100_000)).await?;
    let series = async |lab: &Lab| -> anyhow::Result<Vec<String>> {
        let mut all = Vec::new();
        for proxy in [lab.outbound(), lab.inbound()] {
            let text = proxy.metrics().await?;
            all.extend(text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())));
        }
        Ok(all)
    };
    for proxy in [lab.outbound(), lab.inbound()] {
        // An answer may arrive a moment before its request is counted.
        proxy.record(0, |record| record["status"] == 200).await?;
    }
    let before = series(&lab).await?;
    let mut wire = lab.client().await?;
    for n in 0..500 {
        let seen = wire.received().len();
        wire.send(ask(n).as_bytes()).await?;
        wire.read_bytes(seen + HONEST.len()).await?;
        lab.expect([("", 200)], [("", 200)]);
    }
    let after = series(&lab).await?;
    assert_eq!(before, after, "no series came for what a client says");
    assert!(!after.iter().any(|line| line.contains("host-") || line.contains("path-") || line.contains("M100000")));
    lab.settle().await
}
