//! HTTP/2 frames that cost their sender nothing.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{advance, timeout};

use super::super::{HttpLimits, serve_h2};
use super::support::{Forward, Proto, Proxy, proxy, read_all, run, run_frozen, upstream};
use crate::io::Stream;
use crate::runtime::drain::drain;

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

/// Sends `frame` again and again without reading; gives the bytes that were taken until nothing moved for a while, or the
/// connection was closed.
async fn flood(socket: &mut TcpStream, frame: &[u8]) -> usize {
    let many = frame.repeat(4096);
    let mut taken = 0;
    while taken < FLOOD_BYTES {
        match timeout(Duration::from_secs(1), socket.write(&many[taken % frame.len()..])).await {
            Ok(Ok(written)) => taken += written,
            Ok(Err(_)) | Err(_) => break,
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
fn who_was_held_back_is_heard_again_once_it_reads() {
    const PINGS: usize = 50_000;
    run(async {
        // Sockets of this family hold less than TCP's; the driver knows sockets, not their family.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let ours = TcpStream::from_std(std::net::TcpStream::from(std::os::fd::OwnedFd::from(ours))).unwrap();
        // No timer of the connection's own looks after it in the time of a test.
        let limits = Rc::new(HttpLimits { ping_interval: Duration::from_secs(3600), ..HttpLimits::default() });
        let (_trigger, signal) = drain();
        let (handler, signal) = (Forward::to(None, &limits), signal.here());
        spawn_local(async move { serve_h2(Stream::plain(ours), &limits, signal, &handler).await });
        let (mut reading, mut writing) = tokio::net::UnixStream::from_std(theirs).unwrap().into_split();
        let says = [PREFACE, &PING.repeat(PINGS)].concat();
        let mut said = 0;
        while let Ok(written) = timeout(Duration::from_secs(1), writing.write(&says[said..])).await {
            said += written.unwrap();
        }
        assert!(said < says.len(), "nothing holds the client back");
        let hearing = async {
            let (mut heard, mut piece) = (0, [0; 4096]);
            // Of the server's first frames some bytes more.
            while heard < PING.len() * PINGS {
                heard += reading.read(&mut piece).await.unwrap();
            }
        };
        let (rest, ()) = tokio::join!(writing.write_all(&says[said..]), hearing);
        rest.unwrap();
    });
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

/// Frames after the preface and SETTINGS; gives the code of the GOAWAY that ends the connection.
async fn ended_by(socket: &mut TcpStream) -> u32 {
    loop {
        let mut header = [0; 9];
        socket.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) * 256 + usize::from(header[2])];
        socket.read_exact(&mut payload).await.unwrap();
        if header[3] == 7 {
            return u32::from_be_bytes(payload[4..8].try_into().unwrap());
        }
    }
}

#[test]
fn cve_2019_9513_and_9518_frames_that_carry_nothing_are_not_taken_for_ever() {
    const PRIORITY: &[u8] = b"\0\0\x05\x02\0\0\0\0\x01\0\0\0\x03\x10";
    const WINDOW_UPDATE: &[u8] = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01";
    const UNKNOWN: &[u8] = b"\0\0\x04\xfa\0\0\0\0\0weft";
    const PONG: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0weft-png";
    for frame in [PRIORITY, WINDOW_UPDATE, UNKNOWN, PONG] {
        run(async move {
            let (proxy, mut socket) = connected().await;
            let many = frame.repeat(4096);
            while socket.write_all(&many).await.is_ok() {}
            proxy.handler.noted("broken flood").await;
        });
    }
}

#[test]
fn cve_2023_44487_resets_of_accepted_streams_are_counted_too() {
    run_frozen(async {
        // Takes requests and answers none.
        let to = upstream(|mut socket, _| async move {
            read_all(&mut socket).await;
        })
        .await;
        let limits = HttpLimits::default();
        let most = u32::try_from(limits.premature_resets_max).unwrap();
        let proxy = proxy(Proto::H2, Some((to, Proto::H1)), limits).await;
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(PREFACE).await.unwrap();
        let mut ids = (1..).step_by(2);
        let mut resets = async |count: u32, lived: Duration| {
            for id in ids.by_ref().take(usize::try_from(count).unwrap()) {
                reset_one(&mut socket, id, lived).await.unwrap();
            }
        };
        // A client that cancels what it has waited for is left in peace; and each such stream makes up for another.
        resets(most + 1, Duration::from_millis(10)).await;
        resets(most, Duration::ZERO).await;
        resets(1, Duration::from_millis(10)).await;
        // The last of these is served still, and ends it.
        resets(2, Duration::ZERO).await;
        proxy.handler.noted("broken flood").await;
    });
    assert_eq!(HttpLimits::default().premature_resets_max, 500);
    assert_eq!(HttpLimits::between_sidecars().premature_resets_max, 4000);
}

/// Opens a stream, waits until it is accepted, and resets it after some time.
async fn reset_one(socket: &mut TcpStream, id: u32, lived: Duration) -> std::io::Result<()> {
    let id = id.to_be_bytes();
    // :method GET, :scheme http, :path /, :authority a; without END_STREAM. The answer to the PING comes after it.
    let head = [&[0, 0, 6, 1, 4], id.as_slice(), &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'], PING].concat();
    socket.write_all(&head).await?;
    let mut header = [0; 9];
    while header[3] != 6 || header[4] != 1 {
        socket.read_exact(&mut header).await?;
        socket.read_exact(&mut vec![0; usize::from(header[1]) * 256 + usize::from(header[2])]).await?;
    }
    advance(lived).await;
    socket.write_all(&[&[0, 0, 4, 3, 0], id.as_slice(), &8_u32.to_be_bytes()].concat()).await
}

#[test]
fn cve_2016_8740_a_head_without_end_is_not_waited_for_for_ever() {
    run(async {
        let limits = HttpLimits {
            head_timeout: Duration::from_millis(50),
            ping_interval: Duration::from_millis(20),
            ..HttpLimits::default()
        };
        let proxy = proxy(Proto::H2, None, limits).await;
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        // HEADERS without END_HEADERS.
        socket.write_all(&[PREFACE, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat()).await.unwrap();
        assert_eq!(ended_by(&mut socket).await, 11);
        proxy.handler.noted("broken head_timeout").await;
    });
}

#[test]
fn streams_that_are_refused_have_a_record() {
    run(async {
        let (proxy, mut socket) = connected().await;
        // GET without :scheme and :path.
        socket.write_all(b"\0\0\x01\x01\x05\0\0\0\x01\x82").await.unwrap();
        proxy.handler.noted("refused bad_request 0").await;
        let mut large = vec![0x82, 0x86, 0x84, 0x41, 0x01, b'a', 0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
        large.extend_from_slice(&[b'y'; 4000]);
        // The same field of 4,000 bytes by its number in the dynamic table.
        large.resize(large.len() + 40, 0xbe);
        let length = u16::try_from(large.len()).unwrap().to_be_bytes();
        let frame = [&[0], length.as_slice(), &[1, 5, 0, 0, 0, 3], &large].concat();
        socket.write_all(&frame).await.unwrap();
        proxy.handler.noted("refused head_too_large 431").await;
    });
}
