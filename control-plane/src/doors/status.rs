//! The status port, in the clear: `/live`, `/ready`, `/metrics` by GET and nothing else. It holds no secret and no policy.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::shares::{Shares, aggregate};
use crate::metrics::Metrics;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;

/// Of those, of one address: others must not keep the platform's probes out. More are closed.
const CONNECTIONS_PER_SOURCE_MAX: usize = 32;

/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest life of a connection.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the port shows.
#[derive(Clone, Debug, Default)]
pub struct StatusPort {
    /// Everything is loaded and every door is open.
    pub ready: Arc<AtomicBool>,
    /// The page of `/metrics`.
    pub metrics: Arc<Metrics>,
}

impl StatusPort {
    /// Serves on `listener` for ever: a process that ends still answers probes. Cancelling closes it.
    pub async fn serve(self, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let of_source = Shares::new(CONNECTIONS_PER_SOURCE_MAX);
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((tcp, addr)) => {
                    let Some(share) = of_source.take(aggregate(addr.ip())) else { continue };
                    let port = self.clone();
                    tokio::spawn(async move {
                        port.serve_connection(tcp).await;
                        drop((permit, share));
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections to the status port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve_connection(self, tcp: TcpStream) {
        let service = service_fn(move |request| {
            let response = self.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(tcp), service);
        match tokio::time::timeout(CONNECTION_LIFE, serving).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a status connection failed"),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match (request.uri().path(), request.method()) {
            ("/live" | "/ready" | "/metrics", method) if method != Method::GET => {
                (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
            }
            ("/live", _) => (StatusCode::OK, "live\n".to_owned()),
            ("/ready", _) if self.ready.load(Ordering::Acquire) => (StatusCode::OK, "ready\n".to_owned()),
            ("/ready", _) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
            ("/metrics", _) => (StatusCode::OK, self.metrics.render()),
            _ => (StatusCode::NOT_FOUND, "only /live, /ready and /metrics\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
        }
        response
    }
}
