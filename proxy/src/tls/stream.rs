//! An established mesh connection: TLS over a socket.
//!
//! Handshakes, tickets and the schedule of keys are the library's. Records are sealed and opened here, because the library
//! receives 4 KiB at a time and copies everything twice: here as much is received at once as the reader has room for, and a
//! record is opened from where it was received into the reader's buffer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::received::Received;
use super::records::{OVERHEAD, RECORD_MAX, room_to_open, whole_record};
use super::scratch::{RECEIVE_MAX, give_sealed, take_sealed};
use super::session::{Opened, SMALL_RECORD, Session};

/// A mesh connection. `poll_shutdown` says `close_notify` and ends the sending side; dropping says nothing.
#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    session: Session,
    received: Received,
    /// Of a record that its reader had no room for.
    opened: Vec<u8>,
    opened_start: usize,
    end: End,
    /// Sealed, and not taken by the socket.
    unsent: Vec<u8>,
    sent: usize,
    has_said_close: bool,
}

/// Whether anything more can be read.
#[derive(Debug, Default)]
enum End {
    #[default]
    Open,
    Closed,
    /// The socket ended without a word. Told once.
    Truncated,
    Failed(Error),
}

impl TlsStream {
    /// After the handshake, behind which `received` had come already.
    pub(super) fn new(socket: TcpStream, session: Session, received: &[u8]) -> Self {
        Self {
            socket,
            session,
            received: Received::with(received),
            opened: Vec::new(),
            opened_start: 0,
            end: End::Open,
            unsent: Vec::new(),
            sent: 0,
            has_said_close: false,
        }
    }

    /// The socket below.
    #[must_use]
    pub const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether a read would find nothing before more is received.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.opened.is_empty()
            && matches!(self.end, End::Open)
            && matches!(whole_record(self.received.bytes()), Ok(None))
    }

    /// Whether all that was received is read.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.opened.is_empty() && self.received.is_empty()
    }

    #[cfg(test)]
    pub(super) const fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Sends records made elsewhere.
    #[cfg(test)]
    pub(super) async fn write_raw(&mut self, records: &[u8]) {
        tokio::io::AsyncWriteExt::write_all(&mut self.socket, records).await.unwrap();
    }

    /// Bytes of memory for what is on the way.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.received.held() + self.opened.capacity() + self.unsent.capacity()
    }

    /// Whatever was received, for as long as there is room.
    fn deliver(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) {
        let mut is_first = true;
        while buf.remaining() > 0 {
            let opened = self.opened.get(self.opened_start..).unwrap_or_default();
            if !opened.is_empty() {
                let count = opened.len().min(buf.remaining());
                buf.put_slice(opened.get(..count).unwrap_or_default());
                self.opened_start += count;
                if self.opened_start == self.opened.len() {
                    (self.opened, self.opened_start) = (Vec::new(), 0);
                }
                is_first = false;
                continue;
            }
            if !matches!(self.end, End::Open) {
                return;
            }
            let before = buf.filled().len();
            match self.open_next(buf, is_first) {
                Ok(true) => is_first &= buf.filled().len() == before,
                Ok(false) => return,
                Err(error) => self.fail(cx, error),
            }
        }
    }

    /// Opens the next record, straight into the reader's buffer if it fits. False: there is none, or, behind other bytes, it
    /// does not fit.
    fn open_next(&mut self, buf: &mut ReadBuf<'_>, is_first: bool) -> Result<bool, Error> {
        let Some(length) = whole_record(self.received.bytes())? else { return Ok(false) };
        let record = self.received.bytes().get(..length).unwrap_or_default();
        let room = room_to_open(length);
        let fits = room <= buf.remaining();
        let opened = if fits {
            let opened = self.session.open(record, buf.initialize_unfilled_to(room))?;
            if let Opened::Data(count) = opened {
                buf.advance(count);
            }
            opened
        } else if is_first {
            self.opened.resize(room, 0);
            let opened = self.session.open(record, &mut self.opened);
            self.opened.truncate(if let Ok(Opened::Data(count)) = opened { count } else { 0 });
            opened?
        } else {
            return Ok(false);
        };
        self.received.take_out(length);
        if opened == Opened::Closed {
            // What comes behind the end is nobody's.
            self.received.clear();
            self.end = End::Closed;
        }
        Ok(true)
    }

    /// Nothing more is read; tells the peer why, if the socket takes it at once.
    fn fail(&mut self, cx: &mut Context<'_>, error: Error) {
        let mut complaint = [0; SMALL_RECORD];
        if !self.has_said_close
            && let Ok(count) = self.session.seal_complaint(&error, &mut complaint)
        {
            self.has_said_close = true;
            self.unsent.extend_from_slice(complaint.get(..count).unwrap_or_default());
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                tracing::trace!(%error, "peer was gone before it could be told what is wrong");
            }
        }
        self.end = End::Failed(error);
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<()>> {
        if !self.received.is_empty() {
            // Its rest is moved only for something that comes.
            ready!(self.socket.poll_read_ready(cx))?;
        }
        // No more than the reader has room for, and one record.
        let wanted = wanted.saturating_add(OVERHEAD).clamp(RECORD_MAX, RECEIVE_MAX);
        let mut room = ReadBuf::new(self.received.room(wanted));
        let outcome = Pin::new(&mut self.socket).poll_read(cx, &mut room);
        let count = room.filled().len();
        self.received.filled(count);
        if matches!(outcome, Poll::Ready(Ok(()))) && count == 0 {
            self.end = End::Truncated;
        }
        outcome
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.unsent.get(self.sent..)
            && !rest.is_empty()
        {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        (self.unsent, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Sends what the socket takes; the rest is kept.
    fn send(&mut self, cx: &mut Context<'_>, sealed: &[u8]) -> io::Result<()> {
        let mut rest = sealed;
        let outcome = loop {
            if rest.is_empty() {
                return Ok(());
            }
            match Pin::new(&mut self.socket).poll_write(cx, rest) {
                // Part of it may reach the peer, so it counts as written; what is wrong the next write finds again.
                Poll::Ready(Ok(0) | Err(_)) if rest.len() < sealed.len() => break Ok(()),
                Poll::Ready(Ok(0)) => break Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => rest = rest.get(count..).unwrap_or_default(),
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => break Ok(()),
            }
        };
        (self.unsent, self.sent) = (rest.to_vec(), 0);
        outcome
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let outcome = loop {
            this.deliver(cx, buf);
            if buf.filled().len() > before || buf.remaining() == 0 {
                break Poll::Ready(Ok(()));
            }
            match &this.end {
                End::Open => {}
                End::Closed => break Poll::Ready(Ok(())),
                End::Truncated => {
                    this.end = End::Closed;
                    let what = "peer closed connection without sending TLS close_notify";
                    break Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
                }
                End::Failed(error) => break Poll::Ready(Err(failed(error.clone()))),
            }
            match this.poll_receive(cx, buf.remaining()) {
                Poll::Ready(Ok(())) => {}
                outcome @ (Poll::Ready(Err(_)) | Poll::Pending) => break outcome,
            }
        };
        this.received.settle();
        outcome
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.has_said_close {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_send(cx))?;
        let mut room = take_sealed();
        let outcome = match this.session.seal(bufs, &mut room) {
            Ok((taken, end)) => this.send(cx, room.get(..end).unwrap_or_default()).map(|()| taken),
            Err(error) => Err(failed(error)),
        };
        give_sealed(room);
        Poll::Ready(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.has_said_close {
            this.has_said_close = true;
            let mut close = [0; SMALL_RECORD];
            let count = this.session.seal_close(&mut close).map_err(failed)?;
            this.unsent.extend_from_slice(close.get(..count).unwrap_or_default());
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            // It is shut down, then.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}

/// As an error of the connection.
pub(super) fn failed(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
