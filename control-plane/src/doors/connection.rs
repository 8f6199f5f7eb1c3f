//! An accepted connection: its bytes, who is on the other end, and the end it must not outlive.

use std::future::Future as _;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;
use weft_core::identity::spiffe::SpiffeId;

use super::shares::Share;
use crate::api::peer::Peer;

/// A connection as tonic serves it. Past its end, reads and writes fail, which closes it: a client certificate that has
/// expired, or a caller without one that has had its time, holds nothing open.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    peer: Peer,
    end: Option<Pin<Box<Sleep>>>,
    /// Its places in the door's bounds on connections.
    _places: Places,
}

/// What a connection takes of what all share.
#[derive(Debug)]
#[allow(dead_code, reason = "held, never read")]
pub(crate) struct Places {
    /// Of all connections of its kind.
    pub(crate) of_all: OwnedSemaphorePermit,
    /// Of those of its source.
    pub(crate) of_source: Option<Share<IpAddr>>,
    /// Of those of its identity at its source.
    pub(crate) of_identity: Option<Share<(SpiffeId, IpAddr)>>,
}

impl From<OwnedSemaphorePermit> for Places {
    fn from(of_all: OwnedSemaphorePermit) -> Self {
        Self { of_all, of_source: None, of_identity: None }
    }
}

impl<S> Connection<S> {
    /// `left` is how long it may last; `None` is for ever.
    pub(crate) fn new(stream: S, peer: Peer, left: Option<Duration>, places: impl Into<Places>) -> Self {
        let end = left.map(|left| Box::pin(tokio::time::sleep(left)));
        Self { stream, peer, end, _places: places.into() }
    }

    fn check_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(end) = &mut self.end else { return Ok(()) };
        if end.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the caller's certificate or time has ended"));
        }
        Ok(())
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Err(error) = this.check_end(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Err(error) = this.check_end(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::api::peer::PeerAddr;

    #[tokio::test]
    async fn it_does_not_outlive_its_end() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let (near, mut far) = tokio::io::duplex(64);
        let peer = Peer { svid: None, local_operator: false, addr: PeerAddr::Tcp(([127, 0, 0, 1], 1).into()) };
        let mut connection = Connection::new(near, peer, Some(Duration::from_millis(50)), permit);
        far.write_all(b"in time").await.unwrap();
        let mut bytes = [0; 7];
        connection.read_exact(&mut bytes).await.unwrap();
        connection.write_all(b"answer").await.unwrap();
        // Nothing more comes; the end wakes the reader.
        assert_eq!(connection.read(&mut bytes).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(connection.write(b"late").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(permits.available_permits(), 0);
        drop(connection);
        assert_eq!(permits.available_permits(), 1, "its share is given back");
    }
}
