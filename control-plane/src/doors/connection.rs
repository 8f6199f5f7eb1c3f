//! An accepted connection: its bytes, who is on the other end, and the end it must not outlive.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::api::peer::Peer;

/// A connection as tonic serves it. Past its end, reads and writes fail, which closes it: a client certificate that has
/// expired, or a caller without one that has had its time, holds nothing open.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    peer: Peer,
    end: Option<Pin<Box<Sleep>>>,
    /// Its share of the door's bound on connections.
    _permit: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    /// `left` is how long it may last; `None` is for ever.
    pub(crate) fn new(stream: S, peer: Peer, left: Option<Duration>, permit: OwnedSemaphorePermit) -> Self {
        let end = left.map(|left| Box::pin(tokio::time::sleep(left)));
        Self { stream, peer, end, _permit: permit }
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
