//! Many small DATA frames on HTTP/2 connections that others share.

use std::cell::RefCell;
use std::rc::Rc;

use ::http::{Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::Instant;
use weft_core::fault::FaultKind;
use weft_core::message::ResponseHead;

use super::h2_streams::connect;
use super::support::*;
use crate::http::{
    ExchangeEnd, Handler, HttpLimits, Interim, Refusal, Request as Received, Response as Answer, serve_h2,
};
use crate::io::Stream;
use crate::runtime::drain::drain;
use crate::tcp::{Moved, Reserve, relay};

/// More than a connection would bear if each were kept as a frame, and less than a window.
const FRAMES: usize = 10_000;

/// Of them so many are sent at once.
const AT_ONCE: usize = 100;

/// Leads the one tunnel that it opens to an application.
struct ToApplication(RefCell<Option<TcpStream>>);

impl Handler for ToApplication {
    type Ticket = ();

    async fn handle(&self, request: Received, _: &Interim) -> (Answer, ()) {
        assert_eq!(request.head.method, Method::CONNECT);
        let socket = self.0.borrow_mut().take().expect("there is one tunnel");
        let upgrade = Some(Box::new(Stream::plain(socket)));
        (Answer { upgrade, ..Answer::new(ResponseHead::new(200)) }, ())
    }

    fn finished(&self, (): (), end: ExchangeEnd) -> Instant {
        panic!("{end:?} of a tunnel")
    }

    fn refused(&self, refusal: &Refusal) {
        panic!("{refusal:?}")
    }

    fn broken(&self, fault: FaultKind) {
        panic!("{fault:?}")
    }

    async fn tunnel(&self, (): (), downstream: Stream, upstream: Stream) {
        relay(&Reserve::default(), downstream, upstream, &Moved::default()).await;
    }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// The application takes nothing for a while; meanwhile its client sends byte by byte.
#[test]
fn small_frames_for_a_slow_application_do_not_end_the_connection() {
    run(async {
        let ((near, far), (mut application, to_application)) = (sockets().await, sockets().await);
        // Nothing more can be written to the application.
        let mut full = 0;
        to_application.writable().await.unwrap();
        while let Ok(written) = to_application.try_write(&[0; 65_536]) {
            full += written;
        }
        let (trigger, signal) = drain();
        let signal = signal.here();
        let handler = Rc::new(ToApplication(RefCell::new(Some(to_application))));
        spawn_local(async move {
            serve_h2(Stream::plain(far), &Rc::new(HttpLimits::default()), signal, &handler).await;
        });
        let (mut client, mut connection) = h2::client::handshake(near).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        spawn_local(async move { connection.await.unwrap_or_default() });
        let to = Request::builder().method(Method::CONNECT).uri("a:1").body(()).unwrap();
        let (response, mut stream) = client.send_request(to, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        stream.send_data("first".into(), false).unwrap();
        for _ in 0..FRAMES / AT_ONCE {
            (0..AT_ONCE).for_each(|_| stream.send_data("x".into(), false).unwrap());
            pings.ping(h2::Ping::opaque()).await.expect("the connection has ended");
        }
        let mut got = vec![1; full + "first".len() + FRAMES];
        application.read_exact(&mut got).await.unwrap();
        assert!(got[full..].starts_with(b"firstx") && got.ends_with(b"xx"));
        application.shutdown().await.unwrap();
        drop(trigger);
    });
}

#[test]
fn small_frames_that_have_arrived_go_on_as_one() {
    run(async {
        let to = upstream(|mut socket, _| async move {
            assert!(read_head(&mut socket).await.starts_with("POST "));
            let joined = format!("{AT_ONCE:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(AT_ONCE));
            assert_eq!(read_until(&mut socket, "0\r\n\r\n").await.to_lowercase(), joined);
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        })
        .await;
        let proxy = proxy(Proto::H2, Some((to, Proto::H1)), HttpLimits::default()).await;
        let mut client = connect(&proxy).await;
        let post = Request::post("http://a/").body(()).unwrap();
        let (response, mut stream) = client.send_request(post, false).unwrap();
        (0..AT_ONCE).for_each(|n| stream.send_data("x".into(), n + 1 == AT_ONCE).unwrap());
        assert_eq!(response.await.unwrap().status(), 200);
    });
}
