//! The status port: GET `/live`, `/ready`, `/metrics`, and nothing else.

use std::net::SocketAddr;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::Process;
use super::serve::{Answer, DoorError, accept_loop, text};

/// Opens the port and serves it until the future is dropped. Port 0 lets the kernel choose; `opened` is told which.
///
/// # Errors
/// [`DoorError`] when the port cannot be opened.
pub async fn serve_status(
    address: SocketAddr,
    process: Process,
    opened: impl FnOnce(SocketAddr),
) -> Result<(), DoorError> {
    let failed = |source| DoorError { what: "status port", address: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    opened(listener.local_addr().map_err(failed)?);
    let handle = move |request: Request<Incoming>| {
        let answer = answer(&process, request.method(), request.uri().path());
        std::future::ready(answer)
    };
    accept_loop(|| async { Ok(listener.accept().await?.0) }, handle).await;
    Ok(())
}

fn answer(process: &Process, method: &Method, path: &str) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        answer.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => match (process.ready)() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
        "/metrics" => {
            let mut body = String::new();
            (process.metrics)(&mut body);
            let mut answer = text(StatusCode::OK, body);
            let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            answer
        }
        _ => text(StatusCode::NOT_FOUND, "only /live, /ready, /metrics\n"),
    }
}
