//! HTTP/2 on either side, with the `h2` crate as client and as upstream, and translation to and from HTTP/1.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::support::*;
use crate::http::HttpLimits;

const HI: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

pub(super) async fn connect(proxy: &Proxy) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(proxy.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    spawn_local(async move {
        // How it ends is each test's own business.
        connection.await.unwrap_or_default();
    });
    send.ready().await.unwrap()
}

pub(super) fn request(method: Method) -> Request<()> {
    Request::builder().method(method).uri("http://a/p").body(()).unwrap()
}

pub(super) async fn body_of(mut recv: RecvStream) -> Result<(String, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = recv.data().await {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((String::from_utf8(all).unwrap(), recv.trailers().await?))
}

/// An HTTP/2 upstream that runs `script` on each stream.
pub(super) async fn h2_upstream<S, F>(script: S) -> std::net::SocketAddr
where
    S: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + 'static,
    F: Future<Output = ()> + 'static,
{
    upstream(move |socket, _| {
        let script = script.clone();
        async move {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                spawn_local(script(request, respond));
            }
        }
    })
    .await
}

async fn h2_proxy(to: std::net::SocketAddr, proto: Proto) -> Proxy {
    proxy(Proto::H2, Some((to, proto)), HttpLimits::default()).await
}

#[test]
fn h2_to_h1_translates_both_messages() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            let all = read_until(&mut socket, "0\r\nt: 1\r\n\r\n").await;
            assert_eq!(
                all,
                "POST /p HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nt: 1\r\n\r\n"
            );
            let answer =
                "HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nGrpc-Status: 0\r\n\r\n";
            socket.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let proxy = h2_proxy(to, Proto::H1).await;
        let (response, mut stream) = connect(&proxy).await.send_request(request(Method::POST), false).unwrap();
        stream.send_data("body".into(), false).unwrap();
        stream.send_trailers(HeaderMap::from_iter([("t".parse().unwrap(), HeaderValue::from_static("1"))])).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers().get("x-a").unwrap(), "b");
        assert!(!response.headers().contains_key("transfer-encoding"));
        let (body, trailers) = body_of(response.into_body()).await.unwrap();
        assert_eq!((body.as_str(), trailers.unwrap().get("grpc-status").unwrap().as_bytes()), ("hi", &b"0"[..]));
        assert_eq!(proxy.handler.noted("finished").await, "finished ok received=4 sent=2");
    });
}

#[test]
fn h1_to_h2_translates_both_messages() {
    run(async {
        let to = h2_upstream(|request, mut respond| async move {
            assert_eq!(request.uri(), "http://a/p?q");
            assert_eq!(body_of(request.into_body()).await.unwrap().0, "body");
            respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data("hi".into(), false).unwrap();
            stream
                .send_trailers(HeaderMap::from_iter([("t".parse().unwrap(), HeaderValue::from_static("1"))]))
                .unwrap();
        })
        .await;
        let proxy = proxy(Proto::H1, Some((to, Proto::H2)), HttpLimits::default()).await;
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(b"POST /p?q HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await.unwrap();
        let all = read_until(&mut client, "t: 1\r\n\r\n").await;
        let expected = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nt: 1\r\n\r\n";
        assert_eq!(all, expected);
    });
}

#[test]
fn interim_responses_reach_an_h2_client() {
    run(async {
        let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let proxy = h2_proxy(answering(hint).await, Proto::H1).await;
        let (mut response, _) = connect(&proxy).await.send_request(request(Method::GET), true).unwrap();
        let early = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((early.status().as_u16(), early.headers().get("link").unwrap().as_bytes()), (103, &b"</a>"[..]));
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_bidirectional_stream_goes_back_and_forth() {
    run(async {
        let to = h2_upstream(|request, mut respond| async move {
            let mut recv = request.into_body();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            while let Some(data) = recv.data().await {
                stream.send_data(data.unwrap(), false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        })
        .await;
        let proxy = h2_proxy(to, Proto::H2).await;
        let (response, mut stream) = connect(&proxy).await.send_request(request(Method::POST), false).unwrap();
        let mut recv = response.await.unwrap().into_body();
        for word in ["one", "two", "three"] {
            stream.send_data(word.into(), false).unwrap();
            assert_eq!(recv.data().await.unwrap().unwrap(), word);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(body_of(recv).await.unwrap().0, "");
    });
}

#[test]
fn a_clients_reset_cancels_upstream() {
    // With the request complete, and with its body still open.
    for whole in [true, false] {
        run(a_reset_cancels_upstream(whole));
    }
}

async fn a_reset_cancels_upstream(whole: bool) {
    let (arrived, reset) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
    let (tell_arrived, tell_reset) = (Rc::clone(&arrived), Rc::clone(&reset));
    let to = h2_upstream(move |_request, mut respond| {
        let (arrived, reset) = (Rc::clone(&tell_arrived), Rc::clone(&tell_reset));
        async move {
            arrived.notify_one();
            assert_eq!(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
            reset.notify_one();
        }
    })
    .await;
    let proxy = h2_proxy(to, Proto::H2).await;
    let (_response, mut stream) = connect(&proxy).await.send_request(request(Method::POST), whole).unwrap();
    arrived.notified().await;
    stream.send_reset(Reason::CANCEL);
    reset.notified().await;
    proxy.handler.noted("cancelled").await;
}

#[test]
fn an_upstreams_reset_after_the_head_keeps_its_code() {
    run(async {
        let to = h2_upstream(|_request, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data("some".into(), false).unwrap();
            while stream.capacity() == 0 {
                tokio::task::yield_now().await;
                stream.reserve_capacity(1);
            }
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        })
        .await;
        let proxy = h2_proxy(to, Proto::H2).await;
        let (response, _) = connect(&proxy).await.send_request(request(Method::GET), true).unwrap();
        let outcome = match response.await {
            Ok(response) => body_of(response.into_body()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert_eq!(outcome.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    });
}

#[test]
fn a_truncated_h1_response_resets_the_h2_stream() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await.unwrap();
        })
        .await;
        let proxy = h2_proxy(to, Proto::H1).await;
        let (response, _) = connect(&proxy).await.send_request(request(Method::GET), true).unwrap();
        let error = body_of(response.await.unwrap().into_body()).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(proxy.handler.noted("finished").await, "finished upstream_truncated received=0 sent=2");
    });
}

#[test]
fn streams_that_were_never_processed_are_unsent() {
    /// Frame header of a control frame on `stream`.
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
        bytes.extend_from_slice(payload);
        bytes
    }
    let goaway = |last: u8| frame(7, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    let reset = |reason: u8| frame(3, 0, 1, &[0, 0, 0, reason]);
    for (answer, noted) in [
        (goaway(0), "failed upstream_reset unsent=true"),
        (reset(7), "failed upstream_reset unsent=true"),
        (reset(8), "failed upstream_reset unsent=false"),
        (Vec::new(), "failed upstream_reset unsent=false"),
    ] {
        run(async {
            let to = upstream(move |mut socket, _| {
                let answer = answer.clone();
                async move {
                    socket.write_all(&frame(4, 0, 0, &[])).await.unwrap();
                    // Up to the HEADERS frame of the request.
                    let mut preface = [0; 24];
                    socket.read_exact(&mut preface).await.unwrap();
                    let mut kind = 0;
                    while kind != 1 {
                        let mut header = [0; 9];
                        socket.read_exact(&mut header).await.unwrap();
                        kind = header[3];
                        let mut payload = vec![0; usize::from(header[1]) * 256 + usize::from(header[2])];
                        socket.read_exact(&mut payload).await.unwrap();
                    }
                    socket.write_all(&answer).await.unwrap();
                    socket.shutdown().await.unwrap();
                    read_all(&mut socket).await.unwrap_or_default();
                }
            })
            .await;
            let proxy = proxy(Proto::H1, Some((to, Proto::H2)), HttpLimits::default()).await;
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert!(read_head(&mut client).await.starts_with("HTTP/1.1 502 "));
            assert_eq!(proxy.handler.noted("failed").await, noted);
        });
    }
}

#[test]
fn refused_heads_cost_their_stream_only() {
    run(async {
        let proxy = h2_proxy(answering(HI).await, Proto::H1).await;
        let mut client = connect(&proxy).await;
        let mut many = request(Method::GET);
        for n in 0..201 {
            many.headers_mut()
                .insert(::http::HeaderName::try_from(format!("x-{n}")).unwrap(), HeaderValue::from_static("y"));
        }
        let mut mismatch = request(Method::GET);
        mismatch.headers_mut().insert("host", HeaderValue::from_static("b"));
        for (bad, status) in [(many, 431), (mismatch, 400)] {
            let (response, _) = client.send_request(bad, true).unwrap();
            assert_eq!(response.await.unwrap().status(), status);
        }
        let (response, _) = client.send_request(request(Method::GET), true).unwrap();
        assert_eq!(body_of(response.await.unwrap().into_body()).await.unwrap().0, "hi");
        assert_eq!(proxy.handler.noted("refused").await, "refused head_too_large 431");
    });
}

#[test]
fn a_grpc_fault_reaches_the_client_as_trailers_only() {
    run(async {
        let proxy = proxy(Proto::H2, None, HttpLimits::default()).await;
        let mut call = request(Method::POST);
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
        let (response, _stream) = connect(&proxy).await.send_request(call, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.headers().get("grpc-status").unwrap().as_bytes()),
            (200, &b"7"[..])
        );
        assert!(response.body().is_end_stream());
    });
}

#[test]
fn draining_says_goaway_and_finishes_what_is_open() {
    run(async {
        let go = Rc::new(Notify::new());
        let arrived = Rc::new(Notify::new());
        let (wait, tell) = (Rc::clone(&go), Rc::clone(&arrived));
        let to = upstream(move |mut socket, _| {
            let (wait, tell) = (Rc::clone(&wait), Rc::clone(&tell));
            async move {
                read_head(&mut socket).await;
                tell.notify_one();
                wait.notified().await;
                socket.write_all(HI.as_bytes()).await.unwrap();
            }
        })
        .await;
        let proxy = h2_proxy(to, Proto::H1).await;
        let mut client = connect(&proxy).await;
        let (response, _) = client.send_request(request(Method::GET), true).unwrap();
        arrived.notified().await;
        proxy.trigger.start();
        while poll_fn(|cx| client.poll_ready(cx)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        go.notify_one();
        assert_eq!(body_of(response.await.unwrap().into_body()).await.unwrap().0, "hi");
        assert_eq!(proxy.handler.noted("end").await, "end Drained");
    });
}

#[test]
fn connect_tunnels_through_h2() {
    for to_h2 in [false, true] {
        run(async move {
            let to = if to_h2 {
                h2_upstream(|request, mut respond| async move {
                    assert_eq!(request.method(), Method::CONNECT);
                    let mut recv = request.into_body();
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    assert_eq!(recv.data().await.unwrap().unwrap(), "ping");
                    stream.send_data("pong".into(), true).unwrap();
                    assert!(recv.data().await.is_none());
                })
                .await
            } else {
                upstream(|mut socket, _| async move {
                    assert!(read_head(&mut socket).await.starts_with("CONNECT a:1 HTTP/1.1\r\n"));
                    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    assert_eq!(read_until(&mut socket, "ping").await, "ping");
                    socket.write_all(b"pong").await.unwrap();
                    socket.shutdown().await.unwrap();
                    assert_eq!(read_all(&mut socket).await.unwrap(), "");
                })
                .await
            };
            let proxy = h2_proxy(to, if to_h2 { Proto::H2 } else { Proto::H1 }).await;
            let connect_to = Request::builder().method(Method::CONNECT).uri("a:1").body(()).unwrap();
            let (response, mut stream) = connect(&proxy).await.send_request(connect_to, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            stream.send_data("ping".into(), true).unwrap();
            assert_eq!(body_of(response.into_body()).await.unwrap().0, "pong");
            assert_eq!(proxy.handler.noted("tunnel").await, "tunnel Ok((4, 4))");
        });
    }
}

#[test]
fn a_silent_peer_is_noticed_while_a_stream_waits() {
    run(async {
        let limits = HttpLimits {
            ping_interval: Duration::from_millis(50),
            ping_timeout: Duration::from_millis(50),
            ..HttpLimits::between_sidecars()
        };
        // Takes all, answers nothing, as a black hole does.
        let to = upstream(|mut socket, _| async move {
            socket.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            read_all(&mut socket).await.unwrap_or_default();
        })
        .await;
        let proxy = proxy(Proto::H1, Some((to, Proto::H2)), limits).await;
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 502 "));
        assert_eq!(proxy.handler.noted("failed").await, "failed upstream_reset unsent=false");
    });
}

/// gRPC servers answer the third PING of a quiet connection with GOAWAY: "too many pings".
#[test]
fn a_server_that_takes_its_time_is_not_pinged() {
    run(async {
        let limits = HttpLimits { ping_interval: Duration::from_millis(20), ..HttpLimits::default() };
        let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
        let kinds = Rc::clone(&seen);
        let to = upstream(move |mut socket, _| {
            let kinds = Rc::clone(&kinds);
            async move {
                socket.read_exact(&mut [0; 24]).await.unwrap();
                socket.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
                let reading = async {
                    let mut header = [0; 9];
                    while socket.read_exact(&mut header).await.is_ok() {
                        let length = usize::from(header[1]) << 8 | usize::from(header[2]);
                        socket.read_exact(&mut vec![0; length]).await.unwrap();
                        kinds.borrow_mut().push(header[3]);
                    }
                };
                // Twenty times what lies between two PINGs to a sidecar.
                tokio::time::timeout(Duration::from_millis(400), reading).await.unwrap_err();
            }
        })
        .await;
        let proxy = proxy(Proto::H1, Some((to, Proto::H2)), limits).await;
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 502 "));
        let seen = seen.borrow();
        assert!(seen.contains(&1) && !seen.contains(&6), "HEADERS and no PING in {seen:?}");
    });
}

#[test]
fn a_reader_that_gives_no_window_holds_the_upstream_back() {
    run(async {
        const ALL: usize = 128 * 1024 * 1024;
        let written = Rc::new(std::cell::Cell::new(0_usize));
        let count = Rc::clone(&written);
        let to = upstream(move |mut socket, _| {
            let count = Rc::clone(&count);
            async move {
                read_head(&mut socket).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {ALL}\r\n\r\n");
                socket.write_all(head.as_bytes()).await.unwrap();
                let piece = vec![7; 64 * 1024];
                while let Ok(len) = socket.write(&piece).await {
                    count.set(count.get() + len);
                }
            }
        })
        .await;
        let proxy = h2_proxy(to, Proto::H1).await;
        let (response, _) = connect(&proxy).await.send_request(request(Method::GET), true).unwrap();
        let _body = response.await.unwrap();
        let mut before = 0;
        while written.get() == 0 || written.get() != before {
            before = written.get();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(before < ALL / 4, "{before} bytes were taken for a client that reads nothing");
    });
}

/// Opens and resets `resets` streams in one go; says whether the connection still serves afterwards.
fn cve_2023_44487_rapid_reset(limits: HttpLimits, resets: u32, survives: bool) {
    run(async move {
        let to = answering(HI).await;
        let proxy = proxy(Proto::H2, Some((to, Proto::H1)), limits).await;
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for n in 0..resets {
            let id = (n * 2 + 1).to_be_bytes();
            // :method GET, :scheme http, :path /, :authority a; without END_STREAM.
            bytes.extend_from_slice(&[0, 0, 6, 1, 4]);
            bytes.extend_from_slice(&id);
            bytes.extend_from_slice(&[0x82, 0x86, 0x84, 0x41, 0x01, b'a']);
            bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
            bytes.extend_from_slice(&id);
            bytes.extend_from_slice(&8_u32.to_be_bytes());
        }
        bytes.extend_from_slice(b"\0\0\x08\x06\0\0\0\0\0weft-png");
        socket.write_all(&bytes).await.unwrap();
        // Either GOAWAY or the answer to our PING tells the outcome.
        let alive = loop {
            let mut header = [0; 9];
            socket.read_exact(&mut header).await.unwrap();
            let mut payload = vec![0; usize::from(header[1]) * 256 + usize::from(header[2])];
            socket.read_exact(&mut payload).await.unwrap();
            match header[3] {
                6 if payload == b"weft-png" => break true,
                7 => break false,
                _ => {}
            }
        };
        assert_eq!(alive, survives, "{resets}");
        if !survives {
            proxy.handler.noted("broken flood").await;
        }
    });
}

#[test]
fn cve_2023_44487_strangers_are_cut_off_and_sidecars_bear_each_others_cancellations() {
    cve_2023_44487_rapid_reset(HttpLimits::default(), 19, true);
    cve_2023_44487_rapid_reset(HttpLimits::default(), 300, false);
    cve_2023_44487_rapid_reset(HttpLimits::between_sidecars(), 150, true);
    cve_2023_44487_rapid_reset(HttpLimits::between_sidecars(), 5_000, false);
}

#[test]
fn an_upstream_may_stop_the_request_after_its_whole_answer_only() {
    for whole in [true, false] {
        run(async move {
            // Dropping the request unread makes the h2 crate send RST_STREAM with NO_ERROR, as Go's server does.
            let seen = Rc::new(Notify::new());
            let wait = Rc::clone(&seen);
            let to = h2_upstream(move |request, mut respond| {
                let wait = Rc::clone(&wait);
                async move {
                    drop(request);
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data("hi".into(), whole).unwrap();
                    if !whole {
                        wait.notified().await;
                        stream.send_reset(Reason::NO_ERROR);
                    }
                }
            })
            .await;
            let proxy = h2_proxy(to, Proto::H2).await;
            let (response, mut stream) = connect(&proxy).await.send_request(request(Method::POST), false).unwrap();
            stream.send_data("some".into(), false).unwrap();
            let response = response.await.unwrap();
            seen.notify_one();
            let outcome = body_of(response.into_body()).await;
            if whole {
                assert_eq!(outcome.unwrap().0, "hi");
            } else {
                assert_eq!(outcome.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
            }
        });
    }
}

#[test]
fn an_idle_connection_is_closed_with_goaway() {
    run(async {
        let limits = HttpLimits {
            ping_interval: Duration::from_millis(20),
            idle_timeout: Duration::from_millis(40),
            ..HttpLimits::default()
        };
        let proxy = proxy(Proto::H2, Some((answering(HI).await, Proto::H1)), limits).await;
        let mut client = connect(&proxy).await;
        let (response, _) = client.send_request(request(Method::GET), true).unwrap();
        assert_eq!(body_of(response.await.unwrap().into_body()).await.unwrap().0, "hi");
        assert_eq!(proxy.handler.noted("end").await, "end Idle");
        while poll_fn(|cx| client.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

/// Frame types in the order they come, until the end of the connection.
async fn frames(socket: &mut TcpStream) -> Vec<u8> {
    let mut types = Vec::new();
    let mut header = [0; 9];
    while socket.read_exact(&mut header).await.is_ok() {
        let len = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        socket.read_exact(&mut vec![0; len]).await.unwrap();
        types.push(header[3]);
    }
    types
}

#[test]
fn goaway_leaves_time_for_what_is_on_its_way() {
    run(async {
        let limits = HttpLimits {
            ping_interval: Duration::from_millis(300),
            idle_timeout: Duration::from_millis(300),
            ..HttpLimits::default()
        };
        let proxy = proxy(Proto::H2, Some((answering(HI).await, Proto::H1)), limits).await;
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut header = [0; 9];
        while header[3] != 7 {
            socket.read_exact(&mut header).await.unwrap();
            socket.read_exact(&mut vec![0; usize::from(header[2])]).await.unwrap();
        }
        // A request that crossed the GOAWAY.
        let request = [b"\0\0\x06\x01\x05\0\0\0\x01".as_slice(), &[0x82, 0x86, 0x84, 0x41, 0x01, b'a']].concat();
        socket.write_all(&request).await.unwrap();
        let rest = frames(&mut socket).await;
        assert!(rest.contains(&1) && rest.contains(&0), "HEADERS and DATA of the answer in {rest:?}");
    });
}

/// `readers` clients ask for a body in pieces of `piece` bytes and read nothing of it; what others do on the same upstream
/// connection goes on.
fn slow_readers_hurt_nobody_else(piece: usize, readers: usize) {
    run(async move {
        let to = h2_upstream(move |request, mut respond| async move {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            if request.uri().path() != "/big" {
                return send.send_data(Bytes::from_static(b"hi"), true).unwrap_or_default();
            }
            for _ in 0..2_000_000 / piece {
                if send.send_data(Bytes::from(vec![b'x'; piece]), false).is_err() {
                    return;
                }
            }
            std::future::pending().await
        })
        .await;
        let proxy = h2_proxy(to, Proto::H2).await;
        let get = |path: &str| Request::builder().uri(format!("http://a{path}")).body(()).unwrap();
        let mut held = Vec::new();
        for _ in 0..readers {
            let mut reader = connect(&proxy).await;
            let response = reader.send_request(get("/big"), true).unwrap().0.await.unwrap();
            held.push((reader, response));
        }
        let mut other = connect(&proxy).await;
        for _ in 0..20 {
            let (response, _) = other.send_request(get("/small"), true).unwrap();
            assert_eq!(body_of(response.await.unwrap().into_body()).await.unwrap().0, "hi");
            other = other.ready().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(proxy.handler.opened.get(), 1, "all of it on one connection upstream");
    });
}

#[test]
fn slow_readers_of_large_bodies_hurt_nobody_else() {
    slow_readers_hurt_nobody_else(16_000, 8);
}

#[test]
fn slow_readers_of_small_messages_hurt_nobody_else() {
    slow_readers_hurt_nobody_else(10, 3);
}
