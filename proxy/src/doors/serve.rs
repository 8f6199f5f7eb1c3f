//! Serving one small HTTP/1 door with bounds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

/// Connections served at once; scrapes and probes need a handful. The oldest goes for one that comes when there are as
/// many: whoever holds connections open, to take the answer slowly or not at all, keeps no probe out, and a probe that
/// fails would have the proxy restarted.
const CONNECTIONS_MAX: usize = 64;

/// A head must arrive within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// After a failed accept (descriptors exhausted) the door rests this long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot listen on {address}: {source}")]
pub struct DoorError {
    pub(super) what: &'static str,
    pub(super) address: String,
    pub(super) source: std::io::Error,
}

/// What a door answers.
pub(super) type Answer = Response<Full<Bytes>>;

/// An answer with a text body.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}

/// Accepts for ever and serves each connection in a task of its own.
pub(super) async fn accept_loop<S, A, F, H, R>(mut accept: A, handle: H)
where
    A: FnMut() -> F,
    F: Future<Output = std::io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let mut served = VecDeque::new();
    loop {
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "door cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let handle = handle.clone();
        served.retain(|task: &AbortHandle| !task.is_finished());
        while served.len() >= CONNECTIONS_MAX
            && let Some(oldest) = served.pop_front()
        {
            oldest.abort();
        }
        let task = tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = handle(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .keep_alive(true)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "door connection ended");
            }
        });
        served.push_back(task.abort_handle());
    }
}
