//! Attackers that are no clients of a sidecar: strangers in the clear, a workload that speaks for its own proxy, and whoever
//! comes to a gateway. Each proxy judges for itself what it is sent.

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_integration::raw::{DEADLINE, End, Pair, Plan, Protocol, Proxy, Wire, find, mesh_peer, shown};

use super::lab::{BYSTANDER, HONEST, ONE_WORKER, SMUGGLED, is_refusal};
use super::server::Server;

/// What every proxy refuses, whoever sends it.
const REFUSED: [(&str, u64, &str); 14] = [
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400, "bad_request"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "not_implemented"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
    ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\n\r\n", 417, "not_implemented"),
    ("GET / HTTP/2.7\r\nHost: a\r\n\r\n", 505, "version_not_supported"),
];

/// Sends to a port and reads until the end.
async fn in_the_clear(port: u16, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut wire = Wire::connect(port).await?;
    wire.send(bytes).await.unwrap_or_default();
    ensure!(wire.read_to_end(DEADLINE).await == End::Fin, "{:?} after {}", wire.end(), shown(wire.received()));
    Ok(wire.received().to_owned())
}

/// One record for each refusal, and nothing of them at the application.
async fn recorded(proxy: &Proxy, server: &Server) -> anyhow::Result<()> {
    for fault in ["bad_request", "not_implemented", "version_not_supported"] {
        let expected = REFUSED.iter().filter(|(_, _, of)| *of == fault).count();
        let count = || proxy.records().map(|all| all.iter().filter(|record| record["fault"] == fault).count());
        super::lab::until(fault, DEADLINE, || match count() {
            Ok(found) if found == expected => Ok(()),
            found => Err(format!("{found:?} records, not {expected}")),
        })
        .await?;
    }
    let reached = server.take().concat();
    ensure!(find(&reached, b"smuggled").is_none() && find(&reached, b"POST").is_none(), "{}", shown(&reached));
    Ok(())
}

#[tokio::test]
async fn gateways_judge_their_clients() -> anyhow::Result<()> {
    let plan = Plan { arguments: ONE_WORKER.arguments, ..Plan::single(&[Protocol::Http]) };
    let pair = Pair::start(plan).await?;
    let server = Server::start(&pair.doors[0].backend, Vec::new());
    for (head, status, fault) in REFUSED {
        let got = in_the_clear(pair.doors[0].port, format!("{head}{SMUGGLED}").as_bytes()).await?;
        is_refusal(&got, status, fault).context(head)?;
    }
    recorded(&pair.outbound, &server).await?;
    // And believe nothing of what only proxies say.
    let claims = "X-Weft-Client-Id: evil\r\nx_weft_error: evil\r\nX-Envoy-Max-Retries: evil\r\nl5d-dst-override: evil\r\n\
        x-forwarded-client-cert: evil\r\nX_Forwarded_Client_Cert: evil\r\nForwarded: for=evil\r\nX_Forwarded_For: evil\r\n\
        X-Forwarded-Proto: evil\r\nX-Forwarded-Host: evil\r\n";
    let head =
        format!("GET / HTTP/1.1\r\nHost: a\r\n{claims}Connection: x-forwarded-for, x-forwarded-proto, close\r\n\r\n");
    server.take();
    let got = in_the_clear(pair.doors[0].port, head.as_bytes()).await?;
    ensure!(got.ends_with(b"\r\n\r\nhi"), "{}", shown(&got));
    let reached = server.so_far().concat();
    ensure!(find(&reached, b"evil").is_none(), "{}", shown(&reached));
    ensure!(find(&reached, b"x-forwarded-for: 127.0.0.1\r\n").is_some(), "{}", shown(&reached));
    Ok(())
}

#[tokio::test]
async fn inbound_judges_strangers() -> anyhow::Result<()> {
    let pair = Pair::start(Plan { permissive: true, ..ONE_WORKER }).await?;
    let (door, inbound) = (&pair.doors[0], pair.inbound.as_ref().context("a pair")?);
    let server = Server::start(&door.backend, Vec::new());
    let port = door.mesh_port.context("a pair")?;
    for (head, status, fault) in REFUSED {
        let got = in_the_clear(port, format!("{head}{SMUGGLED}").as_bytes()).await?;
        is_refusal(&got, status, fault).context(head)?;
    }
    recorded(inbound, &server).await?;
    let claims = "X-Weft-Client-Id: evil\r\nX-WEFT_any: evil\r\nx-envoy-retry-on: evil\r\nL5D-retry-http: evil\r\n\
        x-forwarded-client-cert: evil\r\nx_forwarded_client_cert: evil\r\n";
    server.take();
    let got = in_the_clear(port, format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{claims}\r\n").as_bytes())
        .await?;
    ensure!(got.ends_with(b"\r\n\r\nhi"), "{}", shown(&got));
    let reached = server.so_far().concat();
    ensure!(find(&reached, b"evil").is_none() && find(&reached, b"client").is_none(), "{}", shown(&reached));
    Ok(())
}

/// A workload with an identity of the mesh, but without its proxy: it says to the other proxy what its own would not.
#[tokio::test]
async fn inbound_judges_peers_with_an_identity() -> anyhow::Result<()> {
    let pair = Pair::start(ONE_WORKER).await?;
    let (door, inbound) = (&pair.doors[0], pair.inbound.as_ref().context("a pair")?);
    let server = Server::start(&door.backend, Vec::new());
    let port = door.mesh_port.context("a pair")?;
    for (head, status, fault) in REFUSED {
        let got = as_a_peer(&pair, port, format!("{head}{SMUGGLED}").as_bytes()).await.context(head)?;
        is_refusal(&got, status, fault).context(head)?;
    }
    recorded(inbound, &server).await?;
    let claims = "X-Weft-Client-Id: evil\r\nx_weft_client_id: evil\r\nx-forwarded-client-cert: URI=evil\r\n\
        Connection: close, x-forwarded-client-cert, x-weft-client-id\r\n";
    server.take();
    let got = as_a_peer(&pair, port, format!("GET / HTTP/1.1\r\nHost: a\r\n{claims}\r\n").as_bytes()).await?;
    ensure!(got.ends_with(b"\r\n\r\nhi"), "{}", shown(&got));
    let reached = server.so_far().concat();
    ensure!(find(&reached, b"evil").is_none(), "{}", shown(&reached));
    ensure!(find(&reached, b"x-weft-client-id: spiffe://cluster.local/ns/default/sa/client\r\n").is_some());
    // Its sidecar's neighbours are served as before.
    let mut wire = Wire::connect(door.port).await?;
    wire.send(BYSTANDER).await?;
    wire.read_bytes(HONEST.len()).await?;
    ensure!(wire.received() == HONEST);
    Ok(())
}

/// Bytes over mutual TLS, as an outbound proxy speaks HTTP/1; what comes back until the end.
async fn as_a_peer(pair: &Pair, port: u16, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut tls = mesh_peer(socket, pair.directory.path(), "weft-h1/1").await?;
    tls.write_all(bytes).await?;
    let mut got = Vec::new();
    timeout(DEADLINE, tls.read_to_end(&mut got)).await.context("it stays open")??;
    Ok(got)
}
