//! gRPC over the connections of a door, with bounds on each.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::services::Services;
use crate::shutdown::Shutdown;

/// Calls at once on one connection. A proxy uses a handful.
const STREAMS_MAX: u32 = 64;

/// A silent peer is found dead after both, 40 s.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Header list of one call, in bytes; ours are below 1 KiB.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// How long calls in flight may take to finish once the end was asked for.
pub const DRAIN: Duration = Duration::from_secs(3);

/// Serves `connections` until shutdown, then lets calls in flight finish within [`DRAIN`].
///
/// # Errors
/// As tonic says; refused connections are no error.
pub async fn serve<C>(
    services: Services,
    connections: mpsc::Receiver<io::Result<C>>,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(32));
    let asked = shutdown.clone();
    let serving = server.serve_with_incoming_shutdown(services, ReceiverStream::new(connections), async move {
        asked.requested().await
    });
    let late = async {
        shutdown.requested().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = late => Ok(()),
    }
}
