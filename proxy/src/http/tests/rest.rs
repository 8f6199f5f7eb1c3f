//! What is left of a request after its whole answer. Time stands still here, and jumps ahead while nothing happens.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use ::http::{Method, Response};
use bytes::Bytes;
use h2::{Reason, SendStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, pause, resume, sleep};

use super::h2_streams::{body_of, connect, h2_upstream, request};
use super::support::*;
use crate::http::HttpLimits;

const HI: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const PIECE: &[u8] = b"piece";
const PIECES: usize = 5;

/// What bytes on their way may take at most.
const MARGIN: Duration = Duration::from_secs(15);

/// Each pair of protocols, downstream and upstream.
const WAYS: [(Proto, Proto); 4] =
    [(Proto::H1, Proto::H1), (Proto::H1, Proto::H2), (Proto::H2, Proto::H1), (Proto::H2, Proto::H2)];

fn run_paused<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// A client that has its whole answer, and goes on with its request.
enum Client {
    H1(TcpStream),
    H2(SendStream<Bytes>),
}

impl Client {
    async fn answered(proxy: &Proxy, proto: Proto) -> Self {
        if proto == Proto::H2 {
            let (response, stream) = connect(proxy).await.send_request(request(Method::POST), false).unwrap();
            assert_eq!(body_of(response.await.unwrap().into_body()).await.unwrap().0, "hi");
            return Self::H2(stream);
        }
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let head = format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", PIECE.len() * PIECES);
        socket.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut socket, "hi").await;
        if answer.contains("Transfer-Encoding: chunked") {
            read_until(&mut socket, "\r\n0\r\n\r\n").await;
        }
        Self::H1(socket)
    }

    async fn send(&mut self, last: bool) {
        match self {
            Self::H1(socket) => socket.write_all(PIECE).await.unwrap(),
            Self::H2(stream) => stream.send_data(PIECE.into(), last).unwrap(),
        }
    }

    /// The proxy stops the request: without an error, as its answer was whole.
    async fn stopped(mut self) {
        match &mut self {
            Self::H1(socket) => assert_eq!(read_all(socket).await.as_deref(), Some("")),
            Self::H2(stream) => assert_eq!(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR),
        }
    }
}

/// What a server that answers first and reads then has got, and whether the rest was taken back.
#[derive(Clone, Default)]
struct Got(Rc<(Cell<usize>, Cell<bool>)>);

impl Got {
    fn add(&self, bytes: usize) {
        self.0.0.set(self.0.0.get() + bytes);
    }

    /// Waits for bytes that are on their way, while time goes on as ever.
    async fn pieces(&self, pieces: usize) {
        resume();
        let begun = Instant::now();
        while self.0.0.get() < pieces {
            assert!(begun.elapsed() < MARGIN, "{pieces} pieces do not come");
            assert!(!self.0.1.get(), "the rest is taken back after {} pieces", self.0.0.get());
            sleep(Duration::from_millis(1)).await;
        }
        pause();
    }

    async fn taken_back(&self) {
        let begun = Instant::now();
        while !self.0.1.get() {
            assert!(begun.elapsed() < Duration::from_secs(3600), "the rest is held for ever");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn answering_first(proto: Proto, got: &Got) -> std::net::SocketAddr {
    let got = got.clone();
    if proto == Proto::H1 {
        return upstream(move |mut socket, _| {
            let got = got.clone();
            async move {
                read_head(&mut socket).await;
                socket.write_all(HI.as_bytes()).await.unwrap();
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                    got.add(buffer[..read].windows(PIECE.len()).filter(|bytes| *bytes == PIECE).count());
                }
                got.0.1.set(true);
            }
        })
        .await;
    }
    h2_upstream(move |request, mut respond| {
        let got = got.clone();
        async move {
            respond.send_response(Response::new(()), false).unwrap().send_data("hi".into(), true).unwrap();
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                let Ok(data) = data else { return got.0.1.set(true) };
                got.add(data.len() / PIECE.len());
            }
        }
    })
    .await
}

#[test]
fn a_slow_upload_goes_on_after_its_answer() {
    for (downstream, up) in WAYS {
        run_paused(async move {
            let got = Got::default();
            let to = answering_first(up, &got).await;
            let limits = HttpLimits::default();
            let wait = limits.rest_timeout - MARGIN;
            let proxy = proxy(downstream, Some((to, up)), limits).await;
            let mut client = Client::answered(&proxy, downstream).await;
            for piece in 1..=PIECES {
                sleep(wait).await;
                client.send(piece == PIECES).await;
                got.pieces(piece).await;
            }
            let record = proxy.handler.noted("finished").await;
            assert!(record.starts_with("finished ok "), "{downstream:?} {up:?}: {record}");
        });
    }
}

#[test]
fn an_upload_that_stops_after_its_answer_is_given_up() {
    for (downstream, up) in WAYS {
        run_paused(async move {
            let got = Got::default();
            let to = answering_first(up, &got).await;
            let limits = HttpLimits::default();
            let (least, most) = (limits.rest_timeout - MARGIN, limits.rest_timeout + MARGIN);
            let proxy = proxy(downstream, Some((to, up)), limits).await;
            let mut client = Client::answered(&proxy, downstream).await;
            client.send(false).await;
            got.pieces(1).await;
            let begun = Instant::now();
            got.taken_back().await;
            let took = begun.elapsed();
            assert!(least <= took && took < most, "{downstream:?} {up:?}: {took:?}");
            client.stopped().await;
            let record = proxy.handler.noted("finished").await;
            assert!(record.starts_with("finished idle_timeout "), "{downstream:?} {up:?}: {record}");
        });
    }
}

#[test]
fn an_application_that_never_reads_the_rest_is_let_go() {
    run_paused(async {
        let to = upstream(|mut socket, _| async move {
            read_head(&mut socket).await;
            socket.write_all(HI.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let (proxy, mut client) = h1_pair(to).await;
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        read_until(&mut client, "hi").await;
        let (_read, mut write) = client.into_split();
        let sending = spawn_local(async move { while write.write_all(&[7; 65_536]).await.is_ok() {} });
        let record = proxy.handler.noted("finished").await;
        assert!(record.starts_with("finished idle_timeout "), "{record}");
        sending.abort();
    });
}
