//! Life of HTTP/1 connections: order, reuse, limits, ends.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use weft_core::fault::FaultKind;
use weft_core::h1::Limits;
use weft_core::message::RequestHead;

use super::support::*;
use crate::http::{Body, H1Client, HttpLimits, Interim, Request, ServeEnd};
use crate::io::Stream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HI: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn pipelined_requests_are_answered_in_order_over_one_upstream_connection() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            while let Some(head) = try_read_head(&mut socket).await {
                let path = head.split(' ').nth(1).unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let (proxy, mut client) = h1_pair(to).await;
        let three: String = (1..=3).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        client.write_all(three.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let expected: String = (1..=3).map(|n| format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/{n}")).collect();
        assert_eq!(read_all(&mut client).await.unwrap(), expected);
        assert_eq!(proxy.handler.opened.get(), 1);
        assert_eq!(*proxy.ends.borrow(), [ServeEnd::Closed]);
    });
}

/// The upstream's first answer is `answer`; says how many connections two requests take.
fn connections_for(answer: &'static str, expected: u32) {
    run(async {
        let (proxy, mut client) = h1_pair(answering(answer).await).await;
        for _ in 0..2 {
            client.write_all(GET).await.unwrap();
            read_until(&mut client, "\r\n\r\nhi").await;
        }
        assert_eq!(proxy.handler.opened.get(), expected, "{answer:?}");
    });
}

#[test]
fn upstream_connections_are_reused_only_after_a_clean_end() {
    connections_for(HI, 1);
    connections_for("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", 2);
    connections_for("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 2);
    // Response queue poisoning: what follows a response is never the answer to the next request.
    connections_for("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 2);
}

#[test]
fn an_idle_connection_that_ended_or_spoke_is_not_quiet() {
    for words in ["", "HTTP/1.1 408 Timeout\r\n\r\n"] {
        run(async {
            let go = Rc::new(Notify::new());
            let wait = Rc::clone(&go);
            let to = upstream(move |mut socket, _| {
                let wait = Rc::clone(&wait);
                async move {
                    wait.notified().await;
                    socket.write_all(words.as_bytes()).await.unwrap();
                }
            })
            .await;
            let socket = TcpStream::connect(to).await.unwrap();
            let client = H1Client::new(Stream::plain(socket), Limits::default());
            assert!(client.is_quiet());
            go.notify_one();
            std::future::poll_fn(|cx| client.poll_idle(cx)).await;
            assert!(!client.is_quiet());
        });
    }
}

#[test]
fn a_request_no_byte_of_which_left_is_given_back() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        })
        .await;
        let socket = TcpStream::connect(to).await.unwrap();
        let client = H1Client::new(Stream::plain(socket), Limits::default());
        std::future::poll_fn(|cx| client.poll_idle(cx)).await;
        let mut head = RequestHead::new(::http::Method::GET, "/again");
        head.fields.append("host", "a");
        let mut request = Request { head, body: Body::Empty };
        let error = client.send(&mut request, &Interim::none(), None).await.unwrap_err();
        assert!(error.unsent && error.whole);
        assert_eq!(error.fault, FaultKind::UpstreamProtocol);
        assert_eq!(request.head.target, "/again");
    });
}

#[test]
fn the_end_of_the_clients_direction_does_not_cost_its_answer() {
    run(async {
        let go = Rc::new(Notify::new());
        let wait = Rc::clone(&go);
        let to = upstream(move |mut socket, _| {
            let wait = Rc::clone(&wait);
            async move {
                read_head(&mut socket).await;
                wait.notified().await;
                socket.write_all(HI.as_bytes()).await.unwrap();
            }
        })
        .await;
        let (_proxy, mut client) = h1_pair(to).await;
        client.write_all(GET).await.unwrap();
        client.shutdown().await.unwrap();
        go.notify_one();
        assert_eq!(read_all(&mut client).await.as_deref(), Some(HI));
    });
}

#[test]
fn a_reset_cancels_the_work_upstream() {
    run(async {
        let (arrived, left) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (tell_arrived, tell_left) = (Rc::clone(&arrived), Rc::clone(&left));
        let to = upstream(move |mut socket, _| {
            let (arrived, left) = (Rc::clone(&tell_arrived), Rc::clone(&tell_left));
            async move {
                read_head(&mut socket).await;
                arrived.notify_one();
                assert_eq!(read_all(&mut socket).await.unwrap_or_default(), "");
                left.notify_one();
            }
        })
        .await;
        let (proxy, mut client) = h1_pair(to).await;
        client.write_all(GET).await.unwrap();
        arrived.notified().await;
        Stream::plain(client).abort();
        left.notified().await;
        proxy.handler.noted("cancelled").await;
        proxy.handler.noted("end Fault(DownstreamReset)").await;
    });
}

#[test]
fn cve_2025_4366_a_body_nobody_read_is_not_the_next_request() {
    for (size, kept) in [(10_usize, true), (1_000_000, false)] {
        run(async {
            let proxy = proxy(Proto::H1, None, HttpLimits::default()).await;
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            let smuggled = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(size / 20 + 1);
            let body = smuggled.get(..size).unwrap();
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{body}");
            let (mut read, mut write) = client.split();
            let send = async {
                // Refused half-way when the connection closes: that is the point.
                if write.write_all(request.as_bytes()).await.is_ok() {
                    write.write_all(GET).await.unwrap_or_default();
                    write.shutdown().await.unwrap_or_default();
                }
            };
            let mut all = String::new();
            let receive = async { read.read_to_string(&mut all).await };
            let ((), received) = tokio::join!(send, receive);
            received.expect("the answer must not be lost in a reset");
            let answers = all.matches("HTTP/1.1 ").count();
            assert_eq!(answers, if kept { 2 } else { 1 }, "{size}: {all}");
        });
    }
}

#[test]
fn a_client_that_has_sent_all_is_not_waited_for() {
    run(async {
        let answers = Some((answering(HI).await, Proto::H1));
        let check = async |upstream, asks: &str, lingers: bool| {
            let limits = HttpLimits { linger_timeout: Duration::from_secs(3600), ..HttpLimits::default() };
            let proxy = proxy(Proto::H1, upstream, limits).await;
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(asks.as_bytes()).await.unwrap();
            let answer = read_all(&mut client).await.expect("an end, and no reset");
            let status = if upstream.is_some() { "HTTP/1.1 200 " } else { "HTTP/1.1 403 " };
            assert!(answer.starts_with(status), "{answer:?}");
            if lingers {
                assert!(proxy.ends.borrow().is_empty(), "a reset could overtake the answer to {asks:?}");
                drop(client);
            }
            let ended = async {
                while proxy.ends.borrow().is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), ended).await.expect("nothing is waited for");
            assert_eq!(*proxy.ends.borrow(), [ServeEnd::Closed], "{asks:?}");
        };
        check(answers, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false).await;
        check(answers, "GET / HTTP/1.0\r\nHost: a\r\n\r\n", false).await;
        check(answers, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nand more", true).await;
        // Refused before its body has come.
        let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\n";
        check(None, post, true).await;
        check(None, &format!("{post}some"), true).await;
    });
}

#[test]
fn a_slow_head_gets_408_and_silence_gets_closed() {
    let limits = HttpLimits {
        head_timeout: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(50),
        ..HttpLimits::default()
    };
    for (sent, status, end) in [
        (&b"GET / HT"[..], "HTTP/1.1 408 ", ServeEnd::Fault(FaultKind::HeadTimeout)),
        (b"", "", ServeEnd::Fault(FaultKind::HeadTimeout)),
        (GET, "HTTP/1.1 403 ", ServeEnd::Idle),
    ] {
        run(async {
            let proxy = proxy(Proto::H1, None, limits.clone()).await;
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(sent).await.unwrap();
            let all = read_all(&mut client).await.unwrap();
            assert!(all.starts_with(status), "{all}");
            drop(client);
            proxy.handler.noted("end").await;
            assert_eq!(*proxy.ends.borrow(), [end]);
        });
    }
}

/// Goal: what is handed back is a connection that waits, never one in the middle of a head.
#[test]
fn a_connection_that_waits_is_handed_back_unless_a_head_has_begun() {
    let limits = HttpLimits {
        head_timeout: Duration::from_millis(200),
        hand_back_after: Some(Duration::from_millis(20)),
        ..HttpLimits::default()
    };
    for (then, expected) in [(&b""[..], "HTTP/1.1 403 "), (b"GET / HT", "HTTP/1.1 408 "), (b"\r\n", "HTTP/1.1 408 ")] {
        run(async {
            let proxy = proxy(Proto::H1, None, limits.clone()).await;
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(&[GET, then].concat()).await.unwrap();
            let all = read_all(&mut client).await.unwrap();
            assert!(all.starts_with("HTTP/1.1 403 "), "{all}");
            let last = all.rfind("HTTP/1.1 ").and_then(|at| all.get(at..)).unwrap();
            assert!(last.starts_with(expected), "{all}");
            proxy.handler.noted("end").await;
            let is_whole = matches!(*proxy.ends.borrow().as_slice(), [ServeEnd::Waits(_)]);
            assert_eq!(is_whole, then.is_empty(), "{:?}", proxy.ends);
        });
    }
}

#[test]
fn draining_closes_after_the_request_at_hand_and_idle_connections() {
    run(async {
        let limits = HttpLimits { linger_timeout: Duration::from_millis(100), ..HttpLimits::default() };
        let to = answering(HI).await;
        let proxy = proxy(Proto::H1, Some((to, Proto::H1)), limits).await;
        let mut busy = TcpStream::connect(proxy.address).await.unwrap();
        let mut idle = TcpStream::connect(proxy.address).await.unwrap();
        for client in [&mut busy, &mut idle] {
            client.write_all(GET).await.unwrap();
            read_until(client, "\r\n\r\nhi").await;
        }
        proxy.trigger.start();
        busy.write_all(GET).await.unwrap();
        let last = read_all(&mut busy).await.unwrap();
        assert!(last.contains("Connection: close\r\n") && last.ends_with("hi"), "{last}");
        assert_eq!(read_all(&mut idle).await.as_deref(), Some(""));
    });
}

#[test]
fn a_slow_reader_holds_the_upstream_back() {
    run(async {
        const ALL: usize = 256 * 1024 * 1024;
        let written = Rc::new(Cell::new(0_usize));
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
        let (_proxy, mut client) = h1_pair(to).await;
        client.write_all(GET).await.unwrap();
        read_head(&mut client).await;
        // Buffers of four sockets fill up; then nothing moves, however long one waits.
        let mut before = 0;
        while written.get() == 0 || written.get() != before {
            before = written.get();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(before < ALL / 4, "{before} bytes were taken for a client that reads nothing");
        // And it moves on when the client does.
        let drain = spawn_local(async move {
            let mut buffer = vec![0; 64 * 1024];
            while client.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
        });
        while written.get() < before + 1024 * 1024 {
            tokio::task::yield_now().await;
        }
        drain.abort();
    });
}

#[test]
fn messages_may_come_in_any_pieces() {
    const REQUEST: &[u8] =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nU: 2\r\n\r\n";
    run(async {
        let to = upstream(|mut socket, _| async move {
            socket.set_nodelay(true).unwrap();
            while try_read_head(&mut socket).await.is_some() {
                let body = read_until(&mut socket, "T: 1\r\n\r\n").await;
                assert!(body.ends_with("i\r\n0\r\nT: 1\r\n\r\n"), "{body}");
                for byte in ANSWER {
                    socket.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
        let (proxy, mut client) = h1_pair(to).await;
        client.set_nodelay(true).unwrap();
        for _ in 0..3 {
            for byte in REQUEST {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            // Chunks may be cut anew on the way; head and trailers are as they were.
            let all = read_until(&mut client, "U: 2\r\n\r\n").await;
            assert!(all.starts_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "{all}");
            assert!(all.ends_with("\r\n0\r\nU: 2\r\n\r\n"), "{all}");
        }
        assert_eq!(proxy.handler.opened.get(), 1);
    });
}

#[test]
fn an_upstream_with_endless_interim_responses_is_given_up() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            read_head(&mut socket).await;
            while socket.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_ok() {}
        })
        .await;
        let (_proxy, mut client) = h1_pair(to).await;
        client.write_all(GET).await.unwrap();
        let mut interims = 0;
        while !read_head(&mut client).await.starts_with("HTTP/1.1 502 ") {
            interims += 1;
        }
        assert_eq!(interims, 32);
    });
}

#[test]
fn bytes_pushed_back_come_first_and_count_once() {
    run(async {
        let to = upstream(|mut socket, _| async move { socket.write_all(b"world").await.unwrap() }).await;
        let mut stream = Stream::plain(TcpStream::connect(to).await.unwrap());
        stream.unread("lo ".into());
        stream.unread("hel".into());
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!((all.as_str(), stream.bytes_read()), ("hello world", 11));
        assert!(stream.into_socket().is_ok());
    });
}

#[test]
fn a_client_that_ended_and_then_vanished_cancels_the_work_upstream() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            read_head(&mut socket).await;
            // Until the proxy gives up.
            read_all(&mut socket).await.unwrap_or_default();
        })
        .await;
        let (proxy, mut client) = h1_pair(to).await;
        client.write_all(GET).await.unwrap();
        client.shutdown().await.unwrap();
        // The proxy has read the end of the client's direction before the reset comes.
        tokio::time::sleep(Duration::from_millis(100)).await;
        crate::net::reset(client);
        proxy.handler.noted("cancelled").await;
    });
}

#[test]
fn poison_is_seen_whatever_is_left_of_the_tasks_budget() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let client = H1Client::new(Stream::plain(socket), Limits::default());
        assert!(client.is_quiet());
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await.unwrap();
        while client.is_quiet() {
            tokio::task::yield_now().await;
        }
        let (socket, mut other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let client = H1Client::new(Stream::plain(socket.unwrap()), Limits::default());
        other.as_mut().unwrap().0.write_all(b"HTTP/1.1 408 x\r\n\r\n").await.unwrap();
        // The bytes have arrived; now as after a large response in the same turn: the budget is used up.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let quiet = std::future::poll_fn(|cx| {
            while std::pin::pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
            std::task::Poll::Ready(client.is_quiet())
        });
        assert!(!quiet.await);
    });
}
