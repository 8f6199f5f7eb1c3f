//! HTTP/1 links on streams of one HTTP/2 connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ::http::{Method, Request};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

use super::h2_streams::{body_of, request};
use super::support::*;
use crate::http::limits::surplus;
use crate::http::{H2Client, HttpLimits, NoLink, ServeEnd};
use crate::io::Stream;

const HI: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

async fn linking(to: SocketAddr) -> Proxy {
    let proxy = proxy(Proto::H2, Some((to, Proto::H1)), HttpLimits::between_sidecars()).await;
    proxy.handler.links.set(Some(3));
    proxy
}

async fn connect(proxy: &Proxy) -> H2Client {
    connect_to(proxy.address).await
}

async fn connect_to(address: SocketAddr) -> H2Client {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    H2Client::connect(Stream::plain(socket), &HttpLimits::between_sidecars(), "http").await.unwrap()
}

async fn open(client: &H2Client) -> Stream {
    let (link, workers) = client.open_link().await.unwrap();
    assert_eq!(workers, 3);
    link
}

async fn until(link: &mut Stream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let byte = link.read_u8().await;
        seen.push(byte.unwrap_or_else(|e| panic!("{e} after {:?}, before {end:?}", String::from_utf8_lossy(&seen))));
    }
    String::from_utf8(seen).unwrap()
}

async fn ask(link: &mut Stream) -> String {
    link.write_all(GET).await.unwrap();
    until(link, "hi").await
}

#[test]
fn many_links_carry_many_requests_each() {
    run(async {
        let proxy = linking(answering(HI).await).await;
        let client = connect(&proxy).await;
        let mut links = Vec::new();
        for _ in 0..20 {
            links.push(open(&client).await);
        }
        for _ in 0..3 {
            for link in &mut links {
                assert!(ask(link).await.starts_with("HTTP/1.1 200 OK\r\n"));
            }
        }
        assert_eq!(client.in_flight(), 20);
        drop(links);
        assert_eq!(client.in_flight(), 0);
    });
}

/// Whatever a link's client says first: it is HTTP/1 that is spoken there, and refused as on a connection.
#[test]
fn a_link_is_judged_as_a_connection_is() {
    run(async {
        let proxy = linking(answering(HI).await).await;
        let client = connect(&proxy).await;
        let mut link = open(&client).await;
        link.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        assert!(until(&mut link, "\r\n\r\n").await.starts_with("HTTP/1.1 505 "), "no HTTP/2 inside");
        proxy.handler.noted("refused version_not_supported").await;
        let mut link = open(&client).await;
        link.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.unwrap();
        assert!(until(&mut link, "\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        ask(&mut open(&client).await).await;
    });
}

async fn bare(proxy: &Proxy) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(proxy.address).await.unwrap();
    let (send, connection) = client::handshake(socket).await.unwrap();
    spawn_local(async move { connection.await.unwrap_or_default() });
    send
}

fn asking_for(protocol: &'static str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "http://weft/".parse().unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

/// To who has not proven that he is a sidecar the form is what it is without links: an error of its stream.
#[test]
fn links_are_for_whom_they_are_offered() {
    run(async {
        let proxy = proxy(Proto::H2, Some((answering(HI).await, Proto::H1)), HttpLimits::default()).await;
        assert_eq!(connect(&proxy).await.open_link().await.unwrap_err(), NoLink::Refused);
        let mut client = bare(&proxy).await.ready().await.unwrap();
        let (response, _stream) = client.send_request(asking_for("weft-h1/1"), false).unwrap();
        assert_eq!(response.await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
        let (response, _) = client.send_request(request(Method::GET), true).unwrap();
        assert_eq!(body_of(response.await.unwrap().into_body()).await.unwrap().0, "hi");
        assert_eq!(proxy.handler.opened.get(), 1, "nothing of it went on");
    });
}

#[test]
fn no_other_protocol_is_taken() {
    run(async {
        let proxy = linking(answering(HI).await).await;
        let mut client = bare(&proxy).await.ready().await.unwrap();
        for protocol in ["websocket", "weft-h1/10", "weft-tcp/1", "connect-udp"] {
            let (response, _stream) = client.send_request(asking_for(protocol), false).unwrap();
            assert_eq!(response.await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR), "{protocol}");
        }
        let (response, _) = client.send_request(request(Method::GET), true).unwrap();
        assert_eq!(body_of(response.await.unwrap().into_body()).await.unwrap().0, "hi");
        assert_eq!(proxy.handler.opened.get(), 1, "nothing of them went on");
    });
}

/// A response that ends with its connection ends with its link, and one that is cut is seen to be.
#[test]
fn the_end_of_a_link_is_that_of_a_connection() {
    run(async {
        let to = upstream(|mut socket, number| async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\nwhole").await.unwrap();
            if number == 1 {
                socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
            }
        })
        .await;
        let proxy = linking(to).await;
        let client = connect(&proxy).await;
        for whole in [true, false] {
            let mut link = open(&client).await;
            // HTTP/1.0: nothing but the end of the connection says that it is whole.
            link.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
            let mut seen = Vec::new();
            let read = link.read_to_end(&mut seen).await;
            assert_eq!(read.is_ok(), whole, "{}", String::from_utf8_lossy(&seen));
            if whole {
                assert!(String::from_utf8(seen).unwrap().ends_with("\r\n\r\nwhole"));
            }
        }
    });
}

#[test]
fn a_client_that_resets_cancels_upstream() {
    run(async {
        let gone: Rc<RefCell<bool>> = Rc::default();
        let noticed = Rc::clone(&gone);
        let to = upstream(move |mut socket, _| {
            let noticed = Rc::clone(&noticed);
            async move {
                read_head(&mut socket).await;
                // No answer; the end of the connection is awaited.
                socket.read_to_end(&mut Vec::new()).await.unwrap_or_default();
                *noticed.borrow_mut() = true;
            }
        })
        .await;
        let proxy = linking(to).await;
        let client = connect(&proxy).await;
        let mut links = Vec::new();
        for half_closed in [false, true] {
            let mut link = open(&client).await;
            link.write_all(GET).await.unwrap();
            if half_closed {
                link.shutdown().await.unwrap();
            }
            links.push(link);
        }
        while proxy.handler.opened.get() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for link in links {
            drop(link);
            proxy.handler.noted("cancelled").await;
            proxy.handler.log.borrow_mut().clear();
        }
        while !*gone.borrow() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
}

/// Idle links end with the drain, exchanges in flight are finished first, and the connection ends after them.
#[test]
fn draining_finishes_what_is_on_links() {
    run(async {
        let go = Rc::new(tokio::sync::Notify::new());
        let gone = Rc::clone(&go);
        let to = upstream(move |mut socket, _| {
            let go = Rc::clone(&gone);
            async move {
                while let Some(head) = try_read_head(&mut socket).await {
                    if head.starts_with("POST") {
                        go.notified().await;
                    }
                    socket.write_all(HI.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let mut limits = HttpLimits::between_sidecars();
        limits.linger_timeout = Duration::from_millis(50);
        let proxy = proxy(Proto::H2, Some((to, Proto::H1)), limits).await;
        proxy.handler.links.set(Some(3));
        let client = connect(&proxy).await;
        let (mut idle, mut busy) = (open(&client).await, open(&client).await);
        busy.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        while proxy.handler.opened.get() < 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        ask(&mut idle).await;
        proxy.trigger.start();
        assert!(!matches!(idle.read(&mut [0; 8]).await, Ok(1..)), "an idle link ends");
        assert!(proxy.ends.borrow().is_empty(), "the connection does not, yet");
        go.notify_one();
        let answer = until(&mut busy, "hi").await;
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
        drop((idle, busy));
        proxy.handler.noted("end ").await;
        assert_eq!(*proxy.ends.borrow(), [ServeEnd::Drained]);
        assert_eq!(client.open_link().await.unwrap_err(), NoLink::Gone);
        assert!(!client.is_usable());
    });
}

/// Large bodies both ways, a reader that stalls, and small messages beside them.
#[test]
fn links_do_not_hold_each_other_up() {
    const LARGE: usize = 10 << 20;
    run(async {
        let to = upstream(|mut socket, _| async move {
            while let Some(head) = try_read_head(&mut socket).await {
                if head.starts_with("GET") {
                    socket.write_all(HI.as_bytes()).await.unwrap();
                    continue;
                }
                let mut body = vec![0; LARGE];
                socket.read_exact(&mut body).await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                socket.write_all(head.as_bytes()).await.unwrap();
                // A reader that stalls does not take all of it.
                socket.write_all(&body).await.unwrap_or_default();
            }
        })
        .await;
        let proxy = linking(to).await;
        let client = connect(&proxy).await;
        let body: Vec<u8> = (0..LARGE).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
        let mut stalled = open(&client).await;
        stalled.write_all(post.as_bytes()).await.unwrap();
        stalled.write_all(&body).await.unwrap();
        let large = async {
            let mut link = open(&client).await;
            link.write_all(post.as_bytes()).await.unwrap();
            link.write_all(&body).await.unwrap();
            until(&mut link, "\r\n\r\n").await;
            let mut back = vec![0; LARGE];
            link.read_exact(&mut back).await.unwrap();
            assert!(back == body, "what came back is what went out");
        };
        let small = async {
            let mut link = open(&client).await;
            for _ in 0..200 {
                ask(&mut link).await;
            }
        };
        tokio::join!(large, small);
        until(&mut stalled, "\r\n\r\n").await;
    });
}

/// A body that comes in many small frames while its reader stalls is kept out of what frames on one connection may cost.
#[test]
fn small_pieces_that_nobody_reads_do_not_end_the_connection() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            while let Some(head) = try_read_head(&mut socket).await {
                if head.starts_with("POST") {
                    // Takes no body.
                    return std::future::pending().await;
                }
                socket.write_all(HI.as_bytes()).await.unwrap();
            }
        })
        .await;
        let proxy = linking(to).await;
        let client = connect(&proxy).await;
        let mut honest = open(&client).await;
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let mut link = open(&client).await;
            link.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
            stalled.push(link);
        }
        for _ in 0..6_000 {
            for link in &mut stalled {
                let sending = link.write_all(b"1\r\nx\r\n");
                // A window that is full by now is as good.
                tokio::time::timeout(Duration::from_millis(1), sending).await.unwrap_or(Ok(())).unwrap();
            }
        }
        ask(&mut honest).await;
        assert!(client.is_usable());
    });
}

#[test]
fn links_of_one_connection_are_bounded() {
    run(async {
        let proxy = linking(answering(HI).await).await;
        let client = connect(&proxy).await;
        let most = client.streams_max();
        let mut links = Vec::new();
        for _ in 0..most {
            links.push(open(&client).await);
        }
        // One more waits until there is room; here that it does not come at once is all that can be seen.
        let more = tokio::time::timeout(Duration::from_millis(100), client.open_link()).await;
        assert!(more.is_err(), "{most} are all");
        links.pop();
        ask(&mut open(&client).await).await;
    });
}

/// Passes bytes on both ways, each a while later than it came.
async fn far_away(to: SocketAddr, later: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pass_on = move |mut from: OwnedReadHalf, mut to: OwnedWriteHalf| async move {
        let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
        let reading = async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                queue.send((Instant::now() + later, buffer[..count].to_vec())).unwrap();
            }
        };
        let writing = async move {
            while let Some((at, bytes)) = queued.recv().await {
                sleep_until(at).await;
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(reading, writing);
    };
    spawn_local(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            spawn_local(pass_on(from_near, to_far));
            spawn_local(pass_on(from_far, to_near));
        }
    });
    address
}

/// A large body to a sidecar far away and back, beside small messages: it comes whole, and faster than the window that
/// streams begin with lets it.
#[test]
fn the_windows_of_links_grow_and_bodies_come_whole() {
    const LARGE: usize = 64 << 20;
    let piece: Vec<u8> = (0..LARGE / 64).map(|at| u8::try_from(at % 251).unwrap()).collect();
    run(async move {
        let (sent, echoed) = (Rc::new(piece), Rc::new(RefCell::new(Vec::new())));
        let (expected, seen) = (Rc::clone(&sent), Rc::clone(&echoed));
        let to = upstream(move |mut socket, _| {
            let (expected, seen) = (Rc::clone(&expected), Rc::clone(&seen));
            async move {
                while let Some(head) = try_read_head(&mut socket).await {
                    if head.starts_with("GET") {
                        socket.write_all(HI.as_bytes()).await.unwrap();
                        continue;
                    }
                    let mut piece = vec![0; expected.len()];
                    for _ in 0..64 {
                        socket.read_exact(&mut piece).await.unwrap();
                        seen.borrow_mut().push(piece == *expected);
                    }
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                    socket.write_all(head.as_bytes()).await.unwrap();
                    for _ in 0..64 {
                        socket.write_all(&piece).await.unwrap();
                    }
                }
            }
        })
        .await;
        let proxy = linking(to).await;
        let way = far_away(proxy.address, Duration::from_millis(2)).await;
        let client = connect_to(way).await;
        let (all, most) = (surplus().left(), Cell::new(0));
        let mut link = open(&client).await;
        let large = async {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
            link.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..64 {
                link.write_all(&sent).await.unwrap();
            }
            until(&mut link, "\r\n\r\n").await;
            let (upward, most_up) = (all - surplus().left(), most.replace(0));
            let mut piece = vec![0; sent.len()];
            for _ in 0..64 {
                link.read_exact(&mut piece).await.unwrap();
                assert!(piece == *sent, "what came back is what went out");
            }
            (most_up, upward, most.get())
        };
        // Windows shrink where a busy machine keeps their readers waiting, so what counts is what they came to.
        let watching = async {
            loop {
                most.set(most.get().max(all - surplus().left()));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let small = async {
            let mut link = open(&client).await;
            for _ in 0..100 {
                ask(&mut link).await;
            }
        };
        let (most_up, upward, most_down) = tokio::select! {
            never = watching => never,
            (grown, ()) = async { tokio::join!(large, small) } => grown,
        };
        assert_eq!(*echoed.borrow(), [true; 64], "what came is what was sent");
        assert!(most_up > 0 && most_down > upward, "{most_up}, then {upward} and {most_down} bytes more than at first");
        drop(link);
        drop(client);
        while surplus().left() < all {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
}
