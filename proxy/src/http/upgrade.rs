//! The bytes of an HTTP/2 CONNECT stream as a plain byte stream (RFC 9113 section 8.5), so that a tunnel is relayed by the
//! same code whatever carries either side.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of one HTTP/2 stream. Dropping it before both have ended resets the stream with `CANCEL`.
pub struct H2Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    ahead: Bytes,
    /// Behind that; its window is not given back yet.
    kept: BytesMut,
    broken: Option<io::Error>,
    ended: bool,
    held: Option<super::keepalive::InFlight>,
}

impl std::fmt::Debug for H2Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Tunnel").field("stream", &self.send.stream_id()).finish_non_exhaustive()
    }
}

impl H2Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, held: Option<super::keepalive::InFlight>) -> Self {
        Self { send, recv, ahead: Bytes::new(), kept: BytesMut::new(), broken: None, ended: false, held }
    }

    /// Keeps what comes while its reader is busy, within the stream's window: left to a connection that others share, many
    /// small frames would end it.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        while self.broken.is_none() {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.kept.extend_from_slice(&data),
                Poll::Ready(Some(Err(error))) => self.broken = Some(broken(error)),
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    /// Ready when the stream is broken. For one whose bytes have ended already: reading does not tell any more.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.send.poll_reset(cx).map(|reason| broken(reason.map_or_else(|e| e, Into::into)))
    }

    /// What came next, never empty; `None` at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if !self.kept.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.kept).freeze())));
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                other => return Poll::Ready(other.map(|data| data.map_err(broken))),
            }
        }
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

/// Takes all pieces that have arrived and for which there is room, so that small ones are not passed on one by one.
impl AsyncRead for H2Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            if self.ahead.is_empty() {
                let moved = buf.filled().len() > before;
                match self.poll_piece(cx) {
                    Poll::Ready(Some(Ok(piece))) => self.ahead = piece,
                    Poll::Ready(Some(Err(error))) if moved => self.broken = Some(error),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Pending if !moved => return Poll::Pending,
                    Poll::Ready(None) | Poll::Pending => {}
                }
                if self.ahead.is_empty() {
                    break;
                }
            }
            let len = self.ahead.len().min(buf.remaining());
            buf.put_slice(self.ahead.get(..len).unwrap_or_default());
            self.ahead.advance(len);
        }
        let moved = buf.filled().len().saturating_sub(before);
        Poll::Ready(self.recv.flow_control().release_capacity(moved).map_err(broken))
    }
}

impl AsyncWrite for H2Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    /// All that there is room for leaves in one frame.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wanted = bufs.iter().fold(0_usize, |sum, buf| sum.saturating_add(buf.len()));
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        // Without data to wait for, a reset would be seen only when the window is closed.
        if let Poll::Ready(reason) = self.send.poll_reset(cx) {
            return Poll::Ready(Err(broken(reason.map_or_else(|e| e, Into::into))));
        }
        self.send.reserve_capacity(wanted);
        let room = match self.send.capacity() {
            0 => match ready!(self.send.poll_capacity(cx)) {
                Some(room) => room.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            room => room,
        };
        let mut left = room.min(wanted);
        let mut piece = Vec::with_capacity(left);
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            piece.extend_from_slice(part);
            left -= part.len();
        }
        let written = piece.len();
        self.send.send_data(Bytes::from(piece), false).map_err(broken)?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
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
