//! The bytes below an HTTP/2 connection: what its task writes in one turn leaves together.
//!
//! The crate flushes before each DATA frame that it does not copy, so that frames of many streams would each have a TLS
//! record and a system call of their own. Here they are gathered until the turn is over ([`Wire::poll_send`]), or until
//! there is more than two records hold.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::Stream;

/// What is gathered at most.
const GATHERED_MAX: usize = 32 * 1024;

/// A piece of so many bytes has no need of others, and is written from where it lies if nothing waits before it: of small
/// frames the crate makes such pieces itself.
const LARGE_MIN: usize = 8 * 1024;

/// Room that is kept from one turn to the next.
const KEPT_MAX: usize = 4 * 1024;

/// One connection's stream.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    out: BytesMut,
    /// Somebody calls [`Self::poll_send`] after each turn.
    gathers: bool,
    unflushed: bool,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, out: BytesMut::new(), gathers: false, unflushed: false }
    }

    /// Gathers from now on; [`Self::poll_send`] is to be called after each turn.
    pub(super) const fn gather(&mut self) {
        self.gathers = true;
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        let needs_others = piece.len() < LARGE_MIN || !self.out.is_empty();
        if self.gathers && needs_others && self.out.len() + piece.len() <= GATHERED_MAX {
            self.out.extend_from_slice(piece);
            return Poll::Ready(Ok(piece.len()));
        }
        loop {
            let before = self.out.len();
            let written = ready!(self.poll_write_with(cx, piece))?;
            if let Some(written @ 1..) = written.checked_sub(before) {
                return Poll::Ready(Ok(written));
            }
        }
    }

    /// Writes what is gathered, and then the piece; gives how much of both.
    fn poll_write_with(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let written = if self.out.is_empty() {
            ready!(stream.poll_write(cx, piece))?
        } else {
            ready!(stream.poll_write_vectored(cx, &[IoSlice::new(&self.out), IoSlice::new(piece)]))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.out.advance(written.min(self.out.len()));
        Poll::Ready(Ok(written))
    }

    /// For the crate: the turn is not over yet.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathers { Poll::Ready(Ok(())) } else { self.poll_send(cx) }
    }

    /// Sends what the turn has left.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            ready!(self.poll_write_with(cx, &[]))?;
        }
        if self.out.capacity() > KEPT_MAX {
            self.out = BytesMut::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn pair() -> (Wire, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Wire::new(Stream::plain(listener.accept().await.unwrap().0)), client)
    }

    async fn write(wire: &mut Wire, mut piece: &[u8]) {
        while !piece.is_empty() {
            let written = poll_fn(|cx| wire.poll_write(cx, piece)).await.unwrap();
            piece = &piece[written..];
        }
        poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_gathered_leaves_at_the_end_of_the_turn() {
        let (mut wire, mut client) = pair().await;
        write(&mut wire, b"not yet ").await;
        assert_eq!(wire.stream.bytes_written(), 8, "nobody has said that turns end");
        wire.gather();
        write(&mut wire, b"one ").await;
        write(&mut wire, b"two").await;
        assert_eq!(wire.stream.bytes_written(), 8);
        poll_fn(|cx| wire.poll_send(cx)).await.unwrap();
        let mut seen = [0; 15];
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"not yet one two");
    }

    #[tokio::test]
    async fn order_is_kept_whatever_the_sizes_and_however_slow_the_peer() {
        let (mut wire, mut client) = pair().await;
        wire.gather();
        let sizes = [1, 9, 16 * 1024, 40_000, 3, 200_000, 32 * 1024, 5, 1_000_000];
        let sent: Vec<Vec<u8>> = (0_u8..).zip(sizes).map(|(at, size)| vec![at; size]).collect();
        let writing = async {
            for piece in &sent {
                write(&mut wire, piece).await;
                assert!(wire.out.len() <= GATHERED_MAX);
            }
            poll_fn(|cx| wire.poll_shutdown(cx)).await.unwrap();
        };
        let mut seen = Vec::new();
        let ((), read) = tokio::join!(writing, client.read_to_end(&mut seen));
        read.unwrap();
        assert!(seen == sent.concat());
    }
}
