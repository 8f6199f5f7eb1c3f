//! The accept loop that the three samples share.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Connections served at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Pause after a failed accept (for example for lack of descriptors), so that the loop never spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts on `listen` and runs `serve` for each connection, until SIGTERM or SIGINT.
pub(super) async fn accept_loop<F, Served>(name: &str, listen: SocketAddr, serve: F) -> anyhow::Result<()>
where
    F: Fn(TcpStream) -> Served,
    Served: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(listen).await.with_context(|| format!("{name}: cannot listen on {listen}"))?;
    eprintln!("{name}: listening on {}", listener.local_addr()?);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        match accepted {
            Ok((stream, _)) => {
                // Failing to turn Nagle's algorithm off only costs latency.
                stream.set_nodelay(true).ok();
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(slot);
                });
            }
            Err(error) => {
                eprintln!("{name}: accept failed: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
