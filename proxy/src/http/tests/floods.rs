//! HTTP/2 frames that cost their sender nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::HttpLimits;
use super::support::{Proto, Proxy, proxy, run};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0weft-png";
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";

/// More than the buffers of two sockets hold.
const FLOOD_BYTES: usize = 64 << 20;

async fn connected() -> (Proxy, TcpStream) {
    let proxy = proxy(Proto::H2, None, HttpLimits::default()).await;
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    socket.write_all(PREFACE).await.unwrap();
    (proxy, socket)
}

/// Sends `frame` again and again without reading; gives the bytes that were taken until nothing moved for a while.
async fn flood(socket: &mut TcpStream, frame: &[u8]) -> usize {
    let many = frame.repeat(4096);
    let mut taken = 0;
    while taken < FLOOD_BYTES {
        match timeout(Duration::from_secs(1), socket.write(&many[taken % frame.len()..])).await {
            Ok(written) => taken += written.unwrap(),
            Err(_) => break,
        }
    }
    taken
}

#[test]
fn cve_2019_9512_and_9515_answers_nobody_reads_are_not_piled_up() {
    for (name, frame) in [("PING", PING), ("SETTINGS", SETTINGS)] {
        run(async move {
            let (_proxy, mut socket) = connected().await;
            let taken = flood(&mut socket, frame).await;
            assert!(taken < FLOOD_BYTES, "{name}: nothing holds the client back");
        });
    }
}

#[test]
fn cve_2024_27316_a_head_of_endless_fragments_is_cut_off() {
    run(async {
        let (proxy, mut socket) = connected().await;
        // HEADERS and then CONTINUATION, none of them with END_HEADERS.
        socket.write_all(b"\0\0\x01\x01\0\0\0\0\x01\x82").await.unwrap();
        let fragment = b"\0\0\0\x09\0\0\0\0\x01".repeat(1024);
        // The proxy may be gone before all of it is written.
        while socket.write_all(&fragment).await.is_ok() {}
        proxy.handler.noted("broken flood").await;
    });
}

#[test]
fn frames_that_break_the_protocol_are_noted_as_the_clients_fault() {
    run(async {
        let (proxy, mut socket) = connected().await;
        // DATA on stream 0.
        socket.write_all(b"\0\0\x01\0\0\0\0\0\0x").await.unwrap();
        proxy.handler.noted("broken bad_request").await;
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert!(rest.windows(4).any(|bytes| bytes == [8, 7, 0, 0]), "GOAWAY in {rest:?}");
    });
}
