//! Messages as hyper reads them.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex, sink};
use weft_core::h1::FIELDS_MAX;
use weft_core::message::Asked;

use super::{Body, Seen, sorted};
use crate::proxying::on_runtime;

const PIPE: usize = 1 << 20;

/// All requests that a hyper server hands to its application, which answers each of them after reading it.
pub(super) fn requests(data: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let serving = Rc::clone(&seen);
    on_runtime(async move {
        let (client, server) = duplex(PIPE);
        let service = service_fn(move |request| answer(request, Rc::clone(&serving)));
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.half_close(true).max_headers(FIELDS_MAX);
        // How it ends is seen by what was handed on.
        let served = async { builder.serve_connection(TokioIo::new(server), service).await.unwrap_or_default() };
        tokio::join!(served, say(client, data));
    });
    seen.take()
}

async fn say(client: DuplexStream, data: &[u8]) {
    let (mut read, mut write) = tokio::io::split(client);
    let saying = async {
        write.write_all(data).await.unwrap_or_default();
        write.shutdown().await.unwrap_or_default();
    };
    tokio::join!(saying, async { tokio::io::copy(&mut read, &mut sink()).await.unwrap_or_default() });
}

async fn answer(
    request: Request<Incoming>,
    seen: Rc<RefCell<Vec<Seen>>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let first = format!("{} {}", parts.method, target(&parts.uri, &parts.method));
    let minor = u8::from(parts.version == Version::HTTP_11);
    let body = read(body).await;
    seen.borrow_mut().push(Seen { first, minor, fields: list(&parts.headers), body });
    let mut response = Response::new(Empty::new());
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    Ok(response)
}

fn target(uri: &Uri, method: &Method) -> String {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let path = match uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
        Some("") | None if *method != Method::CONNECT => "/",
        path => path.unwrap_or_default(),
    };
    let whole = match authority {
        None if path.starts_with('/') => path.to_owned(),
        authority => format!("{} {path}", authority.unwrap_or_default()),
    };
    whole.as_bytes().escape_ascii().to_string()
}

fn list(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    sorted(headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())))
}

async fn read(body: Incoming) -> Body {
    match body.collect().await {
        Ok(body) => {
            let trailers = body.trailers().map(list).unwrap_or_default();
            Body::Whole { data: body.to_bytes().to_vec(), trailers }
        }
        Err(_) => Body::Broken(None),
    }
}

/// The final response that a hyper client gives to its application.
pub(super) fn response(data: &[u8], asked: Asked) -> Vec<Seen> {
    on_runtime(async move {
        let (client, server) = duplex(PIPE);
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_headers(FIELDS_MAX);
        let Ok((mut sender, connection)) = builder.handshake(TokioIo::new(client)).await else { return Vec::new() };
        let asking = async move {
            let answered = sender.send_request(question(asked)).await;
            let Ok(response) = answered else { return Vec::new() };
            let (parts, body) = response.into_parts();
            let body = read(body).await;
            let minor = u8::from(parts.version == Version::HTTP_11);
            vec![Seen { first: parts.status.as_u16().to_string(), minor, fields: list(&parts.headers), body }]
        };
        let connection = async { connection.await.unwrap_or_default() };
        let (seen, (), ()) = tokio::join!(asking, connection, reply(server, data));
        seen
    })
}

/// Answers once something was asked: bytes that come before are not an answer.
async fn reply(server: DuplexStream, data: &[u8]) {
    let (mut read, mut write) = tokio::io::split(server);
    let mut first = [0; 1];
    tokio::io::AsyncReadExt::read(&mut read, &mut first).await.unwrap_or_default();
    let saying = async {
        write.write_all(data).await.unwrap_or_default();
        write.shutdown().await.unwrap_or_default();
    };
    tokio::join!(saying, async { tokio::io::copy(&mut read, &mut sink()).await.unwrap_or_default() });
}

fn question(asked: Asked) -> Request<Empty<Bytes>> {
    let builder = Request::builder().header("host", "a");
    let builder = match asked {
        Asked { head: true, .. } => builder.method(Method::HEAD).uri("/"),
        Asked { connect: true, .. } => builder.method(Method::CONNECT).uri("a:1"),
        Asked { upgrade: true, .. } => builder.uri("/").header("connection", "upgrade").header("upgrade", "websocket"),
        Asked { .. } => builder.uri("/"),
    };
    builder.body(Empty::new()).unwrap()
}
