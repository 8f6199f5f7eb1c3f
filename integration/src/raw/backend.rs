//! The application's side of a [`super::Pair`]: a port of the test's own, and scripts for its connections.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::wire::{DEADLINE, Wire};

/// A listening port of loopback.
#[derive(Clone, Debug)]
pub struct Backend {
    listener: Arc<TcpListener>,
    port: u16,
}

impl Backend {
    /// Listens on a free port.
    ///
    /// # Errors
    /// There is none.
    pub async fn bind() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener: Arc::new(listener), port })
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Awaits the next connection.
    ///
    /// # Errors
    /// None comes within [`DEADLINE`].
    pub async fn accept(&self) -> anyhow::Result<Wire> {
        Wire::over(self.accept_stream().await?)
    }

    /// As [`Self::accept`], for what speaks on it in another way.
    ///
    /// # Errors
    /// None comes within [`DEADLINE`].
    pub async fn accept_stream(&self) -> anyhow::Result<TcpStream> {
        let accepted = timeout(DEADLINE, self.listener.accept()).await.context("no connection to the backend")??;
        accepted.0.set_nodelay(true)?;
        Ok(accepted.0)
    }

    /// Plays `script` on every connection from now on, each in a task of its own, until what is returned is dropped. Do
    /// not call [`Self::accept`] meanwhile.
    pub fn serve<F, P>(&self, script: F) -> Served
    where
        F: Fn(Wire) -> P + Send + 'static,
        P: Future<Output = Option<Wire>> + Send + 'static,
    {
        let received = Transcripts::default();
        let (listener, transcripts) = (Arc::clone(&self.listener), Arc::clone(&received));
        let task = tokio::spawn(async move {
            let mut playing = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while playing.try_join_next().is_some() {}
                let Ok(wire) = Wire::over(stream) else { continue };
                let (played, transcripts) = (script(wire), Arc::clone(&transcripts));
                playing.spawn(async move {
                    let received = played.await.map(|wire| wire.received().to_owned());
                    transcripts.lock().unwrap_or_else(PoisonError::into_inner).extend(received);
                });
            }
        });
        Served { received, task }
    }
}

type Transcripts = Arc<Mutex<Vec<Vec<u8>>>>;

/// A backend at work; it stops when this is dropped.
#[derive(Debug)]
pub struct Served {
    received: Transcripts,
    task: JoinHandle<()>,
}

impl Served {
    /// What each connection that is over has received, in the order of their ends; resets of the script's own are left
    /// out.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}
