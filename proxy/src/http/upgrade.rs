//! The bytes of an HTTP/2 CONNECT stream as a plain byte stream (RFC 9113 section 8.5), so that a tunnel is relayed by the
//! same code whatever carries either side.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of one HTTP/2 stream. Dropping it before both have ended resets the stream with `CANCEL`.
pub struct H2Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    ahead: Bytes,
    ended: bool,
    held: Option<super::keepalive::InFlight>,
}

impl std::fmt::Debug for H2Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Tunnel").field("stream", &self.send.stream_id()).finish_non_exhaustive()
    }
}

impl H2Tunnel {
    pub(crate) const fn new(
        send: SendStream<Bytes>,
        recv: RecvStream,
        held: Option<super::keepalive::InFlight>,
    ) -> Self {
        Self { send, recv, ahead: Bytes::new(), ended: false, held }
    }

    /// Ends the tunnel as a broken TCP connection does.
    pub(crate) fn reset(&mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
        self.held = None;
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_reset() { io::Error::new(io::ErrorKind::ConnectionReset, error) } else { io::Error::other(error) }
}

impl AsyncRead for H2Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.ahead.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(data) => self.ahead = data.map_err(broken)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..len).unwrap_or_default());
        self.ahead.advance(len);
        Poll::Ready(self.recv.flow_control().release_capacity(len).map_err(broken))
    }
}

impl AsyncWrite for H2Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Without data to wait for, a reset would be seen only when the window is closed.
        if let Poll::Ready(reason) = self.send.poll_reset(cx) {
            return Poll::Ready(Err(broken(reason.map_or_else(|e| e, Into::into))));
        }
        self.send.reserve_capacity(buf.len());
        let room = match self.send.capacity() {
            0 => match ready!(self.send.poll_capacity(cx)) {
                Some(room) => room.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            room => room,
        };
        let piece = buf.get(..room.min(buf.len())).unwrap_or(buf);
        self.send.send_data(Bytes::copy_from_slice(piece), false).map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            self.ended = true;
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}
