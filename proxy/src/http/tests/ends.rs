//! Peers that leave, and peers that are gone.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, advance};

use super::support::*;
use crate::http::HttpLimits;

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// HEADERS with `:method GET`, `:scheme http`, `:authority a` and this path, of one byte behind its slash.
fn get(stream: u8, path: u8) -> Vec<u8> {
    [&[0, 0, 9, 1, 5, 0, 0, 0, stream, 0x82, 0x86, 0x41, 0x01, b'a', 0x04, 0x02, b'/', path][..]].concat()
}

/// A client that leaves while megabytes are owed to it, which it does not read: what it has asked for is given up at once,
/// not when its time to read is over.
#[test]
fn a_client_that_leaves_is_worked_for_no_more() {
    run(async {
        let hangs = Rc::new(Cell::new(false));
        let hanging = Rc::clone(&hangs);
        let to = upstream(move |mut socket, _| {
            let hanging = Rc::clone(&hanging);
            async move {
                if read_head(&mut socket).await.starts_with("GET /h") {
                    hanging.set(true);
                    return std::future::pending().await;
                }
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await.unwrap();
                while socket.write_all(&[0; 64 * 1024]).await.is_ok() {}
            }
        })
        .await;
        let limits = HttpLimits { linger_timeout: Duration::from_secs(3600), ..HttpLimits::default() };
        let proxy = proxy(Proto::H2, Some((to, Proto::H1)), limits).await;
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        // Windows of 2^31-1 bytes, for streams and the connection.
        let windows = b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0";
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), windows].concat();
        socket.write_all(&[hello, get(1, b'b'), get(3, b'h')].concat()).await.unwrap();
        while !hangs.get() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // What is owed fills all buffers on the way when no more of it moves.
        let mut owed = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = socket.peek(&mut vec![0; 64 << 20]).await.unwrap();
            if now == owed && now > 100_000 {
                break;
            }
            owed = now;
        }
        socket.shutdown().await.unwrap();
        proxy.handler.noted("cancelled").await;
        drop(socket);
    });
}

/// The last that is heard of a sidecar is the beginning of an answer, right behind a PING: it is given up a PING's interval
/// and timeout later, not after one timeout more.
#[test]
fn a_sidecar_that_is_gone_is_noticed_in_time_whenever_it_goes() {
    run_frozen(async {
        let to = upstream(|mut socket, _| async move {
            socket.write_all(SETTINGS).await.unwrap();
            socket.read_exact(&mut [0; 24]).await.unwrap();
            let mut header = [0; 9];
            while header[3] != 6 {
                socket.read_exact(&mut header).await.unwrap();
                socket.read_exact(&mut vec![0; usize::from(header[1]) * 256 + usize::from(header[2])]).await.unwrap();
            }
            // `:status 103`, and no word more.
            socket.write_all(b"\0\0\x05\x01\x04\0\0\0\x01\x08\x03103").await.unwrap();
            read_all(&mut socket).await.unwrap_or_default();
        })
        .await;
        let limits = HttpLimits::between_sidecars();
        let (interval, timeout) = (limits.ping_interval, limits.ping_timeout);
        assert!(interval + timeout < Duration::from_secs(15));
        let proxy = proxy(Proto::H1, Some((to, Proto::H2)), limits).await;
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        while proxy.handler.opened.get() == 0 {
            yield_now().await;
        }
        // Until the connection is open and the PING has come.
        let early = async {
            loop {
                advance(Duration::from_millis(100)).await;
                std::thread::sleep(Duration::from_millis(1));
                yield_now().await;
            }
        };
        tokio::select! {
            head = read_head(&mut client) => assert!(head.starts_with("HTTP/1.1 103 "), "{head}"),
            () = early => {}
        }
        let begun = Instant::now();
        for wait in [interval, timeout] {
            advance(wait).await;
            for _ in 0..100 {
                yield_now().await;
            }
        }
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 502 "));
        assert!(begun.elapsed() <= interval + timeout, "{:?}", begun.elapsed());
    });
}
