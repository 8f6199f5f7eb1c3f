//! Many small DATA frames on HTTP/2 connections that others share.

use ::http::{Method, Request, Response};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use weft_core::h1::Limits;
use weft_core::message::BodyFraming;

use super::support::run;
use crate::http::h2_io::{H2Body, Side};
use crate::http::{Frame, H2Tunnel};
use crate::io::Stream;
use crate::tcp::{Moved, Reserve, relay};

/// What the connection bears of small frames that wait, in bytes; each costs 255.
const BUDGET: usize = 64 * 1024;

/// More than it bears, and less than a window.
const FRAMES: usize = 10_000;

/// Of them it bears so many.
const AT_ONCE: usize = 100;

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
        spawn_local(async move {
            let mut builder = h2::server::Builder::new();
            let mut connection = builder.data_frame_budget(BUDGET).handshake::<_, Bytes>(far).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let send = respond.send_response(Response::new(()), false).unwrap();
            let tunnel = Stream::h2_tunnel(H2Tunnel::new(send, request.into_body(), None));
            let relaying = async move {
                relay(&Reserve::default(), tunnel, Stream::plain(to_application), &Moved::default()).await
            };
            spawn_local(relaying);
            while connection.accept().await.is_some_and(|stream| stream.is_ok()) {}
        });
        let (mut client, mut connection) = h2::client::handshake(near).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        spawn_local(async move { connection.await.unwrap_or_default() });
        let connect = Request::builder().method(Method::CONNECT).uri("a:1").body(()).unwrap();
        let (response, mut stream) = client.send_request(connect, false).unwrap();
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
    });
}

#[test]
fn small_frames_that_have_arrived_go_on_as_one() {
    run(async {
        let (near, far) = sockets().await;
        let (mut client, mut connection) = h2::client::handshake(near).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        spawn_local(async move { connection.await.unwrap_or_default() });
        let mut server = h2::server::handshake(far).await.unwrap();
        let (_response, mut stream) = client.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
        let (request, _respond): (_, h2::server::SendResponse<Bytes>) = server.accept().await.unwrap().unwrap();
        spawn_local(async move { while server.accept().await.is_some_and(|stream| stream.is_ok()) {} });
        (0..AT_ONCE).for_each(|_| stream.send_data("x".into(), false).unwrap());
        let large = vec![b'y'; 4096];
        stream.send_data(large.clone().into(), false).unwrap();
        stream.send_data("z".into(), true).unwrap();
        pings.ping(h2::Ping::opaque()).await.unwrap();
        let limits = Limits::default();
        let mut body = H2Body::new(request.into_body(), Side::Downstream, BodyFraming::Chunked, limits);
        let mut pieces = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
            let Frame::Data(data) = frame.unwrap() else { panic!("there are no trailers") };
            pieces.push(data);
        }
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [AT_ONCE + large.len(), 1]);
        assert_eq!(pieces.concat(), [vec![b'x'; AT_ONCE], large, vec![b'z']].concat());
    });
}
