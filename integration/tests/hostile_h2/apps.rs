//! Applications that answer honestly, and remember what has reached them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use weft_integration::raw::{Backend, find};

/// Bytes of the answer for `/big`.
pub(crate) const BIG: usize = 64 << 20;

/// What has come on connections of the HTTP/1 application, all of it in order of arrival.
pub(crate) type Heard = Arc<Mutex<Vec<u8>>>;

/// A listening application; it ends with all its connections when this is dropped.
#[derive(Debug)]
pub(crate) struct App(JoinHandle<()>);

impl Drop for App {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl App {
    /// HTTP/2: `/hang` is never answered, `/big` at length, all else with `ok` when the request is whole.
    pub(crate) fn http2(backend: &Backend) -> Self {
        Self::of(backend, |stream| async move {
            let mut builder = server::Builder::new();
            builder.max_concurrent_streams(10_000).max_pending_accept_reset_streams(100_000);
            let Ok(mut connection) = builder.handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond));
            }
        })
    }

    /// The same in HTTP/1.
    pub(crate) fn http1(backend: &Backend, heard: &Heard) -> Self {
        let heard = Arc::clone(heard);
        Self::of(backend, move |stream| serve_http1(stream, Arc::clone(&heard)))
    }

    /// Plays a script on every connection.
    pub(crate) fn of<F>(backend: &Backend, script: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let backend = backend.clone();
        Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                // Nobody coming for a while is no reason to stop.
                if let Ok(stream) = backend.accept_stream().await {
                    connections.spawn(script(stream));
                }
                while connections.try_join_next().is_some() {}
            }
        }))
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    if path == "/hang" {
        return std::future::pending().await;
    }
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap_or_default();
    }
    // Failures are the client's leaving.
    let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
    if path != "/big" {
        return send.send_data(Bytes::from_static(b"ok"), true).unwrap_or_default();
    }
    let mut left = Bytes::from_static(&[b'b'; BIG]);
    while !left.is_empty() {
        send.reserve_capacity(left.len().min(1 << 20));
        let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
        let piece = left.split_to(room.min(left.len()));
        if send.send_data(piece, left.is_empty()).is_err() {
            return;
        }
    }
}

async fn serve_http1(mut stream: TcpStream, heard: Heard) {
    let mut read = Vec::new();
    loop {
        let Some(end) = find(&read, b"\r\n\r\n") else {
            let before = read.len();
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
            heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&read[before..]);
            continue;
        };
        let head: Vec<u8> = read.drain(..end + 4).collect();
        if head.starts_with(b"GET /hang ") {
            return std::future::pending().await;
        }
        if head.starts_with(b"GET /big ") {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n");
            if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&[b'b'; BIG]).await.is_err() {
                return;
            }
            continue;
        }
        // A request with a body is answered at once; the connection ends with it.
        let last = find(&head, b"ontent-").is_some() || find(&head, b"ransfer-").is_some();
        let answer: &[u8] = match last {
            true => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
            false => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        if stream.write_all(answer).await.is_err() {
            return;
        }
        if last {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap_or_default();
            heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&rest);
            return;
        }
    }
}
