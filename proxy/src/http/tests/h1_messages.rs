//! What HTTP/1 messages look like after the proxy.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::support::*;
use crate::http::HttpLimits;

/// The upstream answers `answer` to the only request and closes; the client must see exactly `expected`.
fn check(request: &'static str, answer: &'static str, expected: &str) {
    run(async {
        let to = upstream(move |mut socket, _| async move {
            read_head(&mut socket).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let (_proxy, mut client) = h1_pair(to).await;
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await.as_deref(), Some(expected), "{request:?} {answer:?}");
    });
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const GET_10: &str = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn responses_pass_as_they_are() {
    let whole = "HTTP/1.1 200 Fine Enough\r\nX-oDd: 1\r\nContent-Length: 2\r\nx-odd: 2\r\n\r\nhi";
    check(GET, whole, whole);
    let trailers =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Undeclared: yes\r\nB: c\r\n\r\n";
    check(GET, trailers, trailers);
    check(HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
    check(GET, "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n");
    let unmodified = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
    check(GET, unmodified, unmodified);
}

#[test]
fn a_body_until_close_becomes_chunked_or_stays_so_for_1_0() {
    let answer = "HTTP/1.1 200 OK\r\n\r\nhello";
    check(GET, answer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    check(GET_10, answer, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
    check(
        GET_10,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi",
    );
}

#[test]
fn http_1_0_keeps_alive_when_it_asks() {
    run(async {
        let (proxy, mut client) = h1_pair(answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await).await;
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
            let head = read_until(&mut client, "\r\n\r\nhi").await;
            assert!(head.contains("\r\nConnection: keep-alive\r\n"), "{head}");
        }
        assert_eq!(proxy.handler.opened.get(), 1);
    });
}

#[test]
fn interim_responses_go_to_1_1_only() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
    let fine = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let both: &'static str = Box::leak(format!("{hint}{fine}").into_boxed_str());
    check(GET, both, both);
    check(GET_10, both, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

#[test]
fn broken_responses_become_502() {
    for (answer, code) in [
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "upstream_protocol"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "upstream_protocol"),
        ("nonsense\r\n\r\n", "upstream_protocol"),
        ("HTTP/1.1 200 OK\r\nContent-", "upstream_reset"),
        ("", "upstream_reset"),
    ] {
        run(async {
            let to = upstream(move |mut socket, _| async move {
                read_head(&mut socket).await;
                socket.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let (_proxy, mut client) = h1_pair(to).await;
            client.write_all(GET.as_bytes()).await.unwrap();
            let head = read_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer:?}: {head}");
            assert!(head.contains(&format!("x-weft-error: {code}\r\n")), "{answer:?}: {head}");
            assert!(head.contains("proxy-status: weft; error="), "{head}");
        });
    }
}

#[test]
fn truncated_responses_are_never_made_whole() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel", Some("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel")),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
            Some("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"),
        ),
    ] {
        run(async {
            let to = upstream(move |mut socket, _| async move {
                read_head(&mut socket).await;
                socket.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let (proxy, mut client) = h1_pair(to).await;
            client.write_all(GET.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(read_all(&mut client).await.as_deref(), expected);
            assert_eq!(proxy.handler.noted("finished").await, "finished upstream_truncated received=0 sent=3");
            assert!(proxy.handler.shelf.0.borrow().is_empty());
        });
    }
    // Toward HTTP/1.0 the end of the connection is the end of the body, so only a reset can tell.
    run(async {
        let to = upstream(|mut socket, _| async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n").await.unwrap();
        })
        .await;
        let (_proxy, mut client) = h1_pair(to).await;
        client.write_all(GET_10.as_bytes()).await.unwrap();
        assert_eq!(read_all(&mut client).await, None);
    });
}

#[test]
fn request_bodies_and_their_trailers_pass() {
    run(async {
        let check = async |trailers: &str, passed: &str| {
            let (seen, told) = oneshot::channel();
            let seen = std::cell::RefCell::new(Some(seen));
            let to = upstream(move |mut socket, _| {
                let seen = seen.borrow_mut().take();
                async move {
                    let all = read_until(&mut socket, "\r\nT: 1\r\n\r\n").await;
                    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                    seen.unwrap().send(all).unwrap();
                }
            })
            .await;
            let (proxy, mut client) = h1_pair(to).await;
            let head = "POST /p?q HTTP/1.1\r\nHOST: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n";
            client.write_all(format!("{head}{trailers}\r\n").as_bytes()).await.unwrap();
            assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200"));
            assert_eq!(told.await.unwrap(), format!("{head}{passed}\r\n"));
            assert_eq!(proxy.handler.noted("finished").await, "finished ok received=2 sent=0");
        };
        check("T: 1\r\n", "T: 1\r\n").await;
        // Servers that merge trailers into the head must not learn of an identity that nobody proved.
        check("X-Forwarded-Client-Cert: URI=x\r\nx_weft_client_id: y\r\nT: 1\r\n", "T: 1\r\n").await;
    });
}

#[test]
fn expect_continue_waits_for_the_upstream() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            let head = read_head(&mut socket).await;
            assert!(head.contains("\r\nExpect: 100-continue\r\n"));
            socket.write_all(b"HTTP/1.1 100 Go On\r\n\r\n").await.unwrap();
            assert_eq!(read_until(&mut socket, "body").await, "body");
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        })
        .await;
        let (_proxy, mut client) = h1_pair(to).await;
        client
            .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(read_head(&mut client).await, "HTTP/1.1 100 Go On\r\n\r\n");
        client.write_all(b"body").await.unwrap();
        assert_eq!(read_head(&mut client).await, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
}

#[test]
fn kettle_2025_an_expectation_refused_closes_the_connection() {
    run(async {
        let to = answering("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
        let (_proxy, mut client) = h1_pair(to).await;
        client
            .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nExpect: 100-continue\r\n\r\n")
            .await
            .unwrap();
        let all = read_all(&mut client).await.unwrap();
        assert_eq!(all, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
}

#[test]
fn an_early_answer_arrives_while_the_body_still_comes() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            read_head(&mut socket).await;
            socket.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
            // Not reading on: what the client sends next has nowhere to go.
            std::future::pending::<()>().await;
        })
        .await;
        let (proxy, mut client) = h1_pair(to).await;
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nstart").await.unwrap();
        let answer = read_until(&mut client, "\r\n\r\nno").await;
        assert!(answer.starts_with("HTTP/1.1 413 Too Much\r\n"), "{answer}");
        assert!(!answer.contains("Connection"), "the server may read on still: {answer}");
        assert!(proxy.handler.shelf.0.borrow().is_empty());
    });
}

#[test]
fn rfc_9931_what_follows_a_refused_connect_is_no_request() {
    run(async {
        let to = answering("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").await;
        let (_, mut client) = h1_pair(to).await;
        let connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
        client.write_all(&[&connect[..], b"GET /for-the-tunnel HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).await.unwrap();
        let all = read_all(&mut client).await.unwrap();
        assert_eq!(all, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
}

#[test]
fn an_upgrade_hands_over_both_ways_with_what_was_read_ahead() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            let head = read_head(&mut socket).await;
            assert!(head.contains("Upgrade: echo\r\n"));
            let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst";
            socket.write_all(head).await.unwrap();
            // What the client sent before the 101 is held until the tunnel stands (CVE-2026-2833).
            assert_eq!(read_until(&mut socket, "more").await, "pingmore");
            socket.write_all(b"last").await.unwrap();
        })
        .await;
        let (proxy, mut client) = h1_pair(to).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping")
            .await
            .unwrap();
        let head = read_until(&mut client, "first").await;
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"), "{head}");
        client.write_all(b"more").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await.as_deref(), Some("last"));
        assert_eq!(proxy.handler.noted("tunnel").await, "tunnel Ok((8, 9))");
    });
}

#[test]
fn refused_heads_are_answered_and_noted() {
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000));
    let long_head = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(100_000));
    for (head, status, code) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bad_request"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "not_implemented"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version_not_supported"),
        (long_target.as_str(), 414, "target_too_long"),
        (long_head.as_str(), 431, "head_too_large"),
    ] {
        run(async {
            let proxy = proxy(Proto::H1, None, HttpLimits::default()).await;
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(head.as_bytes()).await.unwrap();
            let answer = read_all(&mut client).await.expect("the answer must not be lost in a reset");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
            assert!(answer.contains(&format!("x-weft-error: {code}\r\n")), "{answer}");
            assert_eq!(proxy.handler.noted("refused").await, format!("refused {code} {status}"));
        });
    }
}

#[test]
fn large_bodies_pass_whole() {
    run(async {
        let size = 3_000_000_usize;
        let to = upstream(move |mut socket, _| async move {
            read_head(&mut socket).await;
            let mut body = vec![0; size];
            socket.read_exact(&mut body).await.unwrap();
            socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await.unwrap();
            socket.write_all(&body).await.unwrap();
        })
        .await;
        let (_proxy, client) = h1_pair(to).await;
        let (mut read, mut write) = client.into_split();
        let body: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let sent = body.clone();
        tokio::task::spawn_local(async move {
            write.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await?;
            write.write_all(&sent).await?;
            std::future::pending::<std::io::Result<()>>().await
        });
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        let mut all = vec![0; head.len() + size];
        read.read_exact(&mut all).await.unwrap();
        assert_eq!(&all[..head.len()], head.as_bytes());
        assert!(all[head.len()..] == body[..], "the body differs");
    });
}
