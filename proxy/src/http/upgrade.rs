//! The bytes of an HTTP/2 CONNECT stream as a plain byte stream (RFC 9113 section 8.5), so that a tunnel is relayed by the
//! same code whatever carries either side.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weft_core::http2::connection::Broken;
use weft_core::http2::frame::Reason;

use super::h2_stream::{H2Reader, H2Stream};
use super::keepalive::InFlight;

/// Both directions of one HTTP/2 stream. Dropping it before both have ended resets the stream with `CANCEL`.
pub struct H2Tunnel {
    stream: H2Stream,
    reader: H2Reader,
    ahead: Bytes,
    ended: bool,
    held: Option<InFlight>,
}

impl std::fmt::Debug for H2Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Tunnel").field("stream", &self.stream.id()).finish_non_exhaustive()
    }
}

impl H2Tunnel {
    pub(crate) fn new(stream: H2Stream, held: Option<InFlight>) -> Self {
        let reader = H2Reader::new(stream.clone());
        Self { stream, reader, ahead: Bytes::new(), ended: false, held }
    }

    /// Ready when the stream is broken. For one whose bytes have ended already: reading does not tell any more.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_broken(cx).map(broken)
    }

    /// Ends the tunnel as a broken TCP connection does.
    pub(crate) fn reset(&mut self) {
        self.stream.reset(Reason::CONNECT_ERROR);
        self.held = None;
    }
}

fn broken(broken: Broken) -> io::Error {
    let reset = broken.reason().is_some() || broken.is_misuse();
    if reset { io::ErrorKind::ConnectionReset.into() } else { io::ErrorKind::ConnectionAborted.into() }
}

impl AsyncRead for H2Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            match ready!(self.reader.poll_data(cx)) {
                Some(piece) => self.ahead = piece.map_err(broken)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..len).unwrap_or_default());
        self.ahead.advance(len);
        self.reader.read(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    /// All that there is room for leaves in one frame.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
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
        let room = ready!(self.stream.poll_room(wanted, cx)).map_err(broken)?;
        self.stream.send_data(bufs, room, false);
        Poll::Ready(Ok(room))
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
            self.stream.send_end().map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}
