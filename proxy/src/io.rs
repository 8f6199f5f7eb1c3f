//! The one byte stream of the data path: a socket, TLS over a socket, or a tunnel through an HTTP/2 stream.
//!
//! A closed enum instead of a trait object: reads and writes are direct calls, and vectored writes reach the socket, so a
//! head and the first piece of its body leave in one system call. Bytes that protocol detection has read are pushed back
//! and come out first. Byte counters are plain fields: a socket holds no `Rc` of a request's. A `Stream` stays with its worker all
//! the same, as a tunnel shares its connection with other streams there: what moves to another worker is the bare socket.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::http::H2Tunnel;
use crate::net::{Watched, note_written};
use crate::tcp::Pipe;
use crate::tls::TlsStream;

/// So much is written to a socket without asking the runtime whether it takes it: nearly always it does.
const AT_ONCE_MAX: usize = 16 * 1024;

/// A connection, whatever carries it.
///
/// Dropping it closes it. `poll_shutdown` closes the sending side only (TLS says `close_notify` first); reading goes on.
#[derive(Debug)]
pub struct Stream {
    inner: Inner,
    prefix: Bytes,
    read: u64,
    written: u64,
    /// After the socket, so that it ends after it.
    watched: Option<Watched>,
}

#[derive(Debug)]
enum Inner {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
    H2(Box<H2Tunnel>),
}

impl Stream {
    /// A socket without TLS.
    #[must_use]
    pub fn plain(socket: TcpStream) -> Self {
        Self::new(Inner::Plain(socket))
    }

    /// A mesh connection.
    #[must_use]
    pub fn tls(tls: TlsStream) -> Self {
        Self::new(Inner::Tls(Box::new(tls)))
    }

    /// The bytes of one HTTP/2 CONNECT stream.
    #[must_use]
    pub fn h2_tunnel(tunnel: H2Tunnel) -> Self {
        Self::new(Inner::H2(Box::new(tunnel)))
    }

    const fn new(inner: Inner) -> Self {
        Self { inner, prefix: Bytes::new(), read: 0, written: 0, watched: None }
    }

    /// Keeps its socket looked at for as long as it lives.
    #[must_use]
    pub fn watched(mut self, watched: Watched) -> Self {
        self.watched = Some(watched);
        self
    }

    /// Pushes bytes back that were read from this stream already: they are read again first, ahead of bytes pushed back
    /// earlier.
    pub fn unread(&mut self, bytes: Bytes) {
        self.read = self.read.saturating_sub(bytes.len() as u64);
        self.prefix = if self.prefix.is_empty() {
            bytes
        } else {
            let mut both = Vec::with_capacity(bytes.len() + self.prefix.len());
            both.extend_from_slice(&bytes);
            both.extend_from_slice(&self.prefix);
            Bytes::from(both)
        };
    }

    /// As [`Self::unread`], for chaining.
    #[must_use]
    pub fn with_prefix(mut self, bytes: Bytes) -> Self {
        self.unread(bytes);
        self
    }

    /// Bytes that were pushed back and not read since.
    #[must_use]
    pub const fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// Takes the bytes that were pushed back.
    pub fn take_prefix(&mut self) -> Bytes {
        self.read = self.read.saturating_add(self.prefix.len() as u64);
        std::mem::take(&mut self.prefix)
    }

    /// Bytes of application data read so far; those pushed back count when they are read again.
    #[must_use]
    pub const fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Bytes of application data written so far.
    #[must_use]
    pub const fn bytes_written(&self) -> u64 {
        self.written
    }

    /// Ready when a tunnel is broken whose peer had ended its own direction: then no read tells. Nobody is woken for a
    /// socket's error; look at it from time to time.
    pub fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match &mut self.inner {
            Inner::H2(tunnel) => tunnel.poll_broken(cx),
            Inner::Plain(_) | Inner::Tls(_) => Poll::Pending,
        }
    }

    /// The socket below; none for a tunnel through HTTP/2.
    #[must_use]
    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.inner {
            Inner::Plain(socket) => Some(socket),
            Inner::Tls(tls) => Some(tls.socket()),
            Inner::H2(_) => None,
        }
    }

    /// Whether a read may find something, without a buffer for it; where that cannot be told it may. Wakes when it may.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.socket() {
            // What is wrong with it, a read says.
            Some(socket) if !self.holds_bytes() => socket.poll_read_ready(cx).map(drop),
            Some(_) | None => Poll::Ready(()),
        }
    }

    /// Reads into the buffer's room, which `make_room` sees to once something may have come. On a socket that takes one look
    /// at what the runtime has heard of it, and less than there was room for is all there was.
    pub(crate) fn poll_read_room(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        make_room: impl FnOnce(&mut BytesMut),
    ) -> Poll<io::Result<usize>> {
        let Inner::Plain(socket) = &self.inner else { return self.poll_read_made(cx, buffer, make_room) };
        if !self.prefix.is_empty() {
            return self.poll_read_made(cx, buffer, make_room);
        }
        ready!(socket.poll_read_ready(cx))?;
        make_room(buffer);
        loop {
            let room = buffer.capacity() - buffer.len();
            match socket.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_read_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
                Ok(len) => {
                    if 0 < len && len < room {
                        // So the runtime waits to hear of more.
                        let empty = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                        socket.try_io(Interest::READABLE, empty).unwrap_or_default();
                    }
                    self.read += len as u64;
                    return Poll::Ready(Ok(len));
                }
            }
        }
    }

    fn poll_read_made(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        make_room: impl FnOnce(&mut BytesMut),
    ) -> Poll<io::Result<usize>> {
        make_room(buffer);
        pin!(self.read_buf(buffer)).poll(cx)
    }

    /// Whether a read would certainly find nothing, as far as readiness was heard of: asks neither the kernel nor to be
    /// woken.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let unready = |socket: &TcpStream| socket.try_io(Interest::READABLE, || Ok(())).is_err();
        !self.holds_bytes() && self.socket().is_some_and(unready)
    }

    /// Whether a read may find something that the socket has no more.
    fn holds_bytes(&self) -> bool {
        let below = match &self.inner {
            Inner::Plain(_) => false,
            Inner::Tls(tls) => !tls.is_silent(),
            Inner::H2(_) => true,
        };
        below || !self.prefix.is_empty()
    }

    /// Whether nothing has arrived at the socket that was not read. The kernel is asked only where something may have come:
    /// after a read that emptied it, the runtime would have heard of more when it last looked, and what comes later may as
    /// well come after this.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let Some(socket) = self.socket() else { return false };
        if !self.prefix.is_empty() || matches!(&self.inner, Inner::Tls(tls) if !tls.is_drained()) {
            return false;
        }
        let peek = || SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]);
        matches!(socket.try_io(Interest::READABLE, peek), Ok(0) | Err(_))
    }

    /// Whether the bytes on the socket are the application's own, so that they may be spliced.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        matches!(self.inner, Inner::Plain(_))
    }

    /// Moves what has arrived into an empty pipe; `None` when only reading can tell what there is.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce() -> Option<Pipe>,
    ) -> Poll<io::Result<Option<(Pipe, usize)>>> {
        let Inner::Plain(socket) = &self.inner else { return Poll::Ready(Ok(None)) };
        if !self.prefix.is_empty() {
            return Poll::Ready(Ok(None));
        }
        ready!(socket.poll_read_ready(cx))?;
        let Some(mut pipe) = take() else { return Poll::Ready(Ok(None)) };
        match pipe.fill(socket) {
            Ok(count) => {
                self.read += count as u64;
                Poll::Ready(Ok(Some((pipe, count))))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(None)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Moves what is in the pipe out.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let Inner::Plain(socket) = &self.inner else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
        let moved = loop {
            ready!(socket.poll_write_ready(cx))?;
            match socket.try_io(Interest::WRITABLE, || pipe.drain(socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => break Poll::Ready(moved),
            }
        };
        self.wrote(&moved);
        moved
    }

    /// The socket itself, if there is no TLS and nothing was pushed back; otherwise the stream unchanged.
    ///
    /// # Errors
    /// The stream, when it is more than a socket.
    pub fn into_socket(self) -> Result<TcpStream, Box<Self>> {
        if !self.prefix.is_empty() {
            return Err(Box::new(self));
        }
        match self.inner {
            Inner::Plain(socket) => Ok(socket),
            inner @ (Inner::Tls(_) | Inner::H2(_)) => Err(Box::new(Self { inner, ..self })),
        }
    }

    fn wrote(&mut self, outcome: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(len)) = outcome {
            self.written += *len as u64;
            note_written();
        }
    }

    /// Makes the peer see a reset instead of an orderly end when the stream is dropped.
    ///
    /// For a message that ends with the connection but broke off: only a reset tells the peer that it is not whole (RFC
    /// 9112 section 8). Failing to arm it is harmless: the peer then sees an orderly end.
    pub fn abort(mut self) {
        match &mut self.inner {
            Inner::H2(tunnel) => tunnel.reset(),
            Inner::Plain(_) | Inner::Tls(_) => {
                if let Some(socket) = self.socket() {
                    SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO)).unwrap_or_default();
                }
            }
        }
    }
}

macro_rules! forward {
    ($self:ident, $io:ident => $call:expr) => {
        match &mut $self.inner {
            Inner::Plain(io) => {
                let $io = Pin::new(io);
                $call
            }
            Inner::Tls(io) => {
                let $io = Pin::new(io.as_mut());
                $call
            }
            Inner::H2(io) => {
                let $io = Pin::new(io.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.prefix.is_empty() {
            let len = this.prefix.len().min(buf.remaining());
            buf.put_slice(this.prefix.get(..len).unwrap_or_default());
            this.prefix.advance(len);
            this.read += len as u64;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let outcome = forward!(this, io => io.poll_read(cx, buf));
        this.read += buf.filled().len().saturating_sub(before) as u64;
        outcome
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Inner::Plain(socket) = &this.inner
            && buf.len() <= AT_ONCE_MAX
        {
            match socket.try_write(buf) {
                // Now it is asked to be told when it takes more.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    let written = Poll::Ready(written);
                    this.wrote(&written);
                    return written;
                }
            }
        }
        let outcome = forward!(this, io => io.poll_write(cx, buf));
        this.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let outcome = forward!(this, io => io.poll_write_vectored(cx, bufs));
        this.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(io) => io.is_write_vectored(),
            Inner::Tls(io) => io.is_write_vectored(),
            Inner::H2(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        forward!(this, io => io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        forward!(this, io => io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Stream::plain(near.unwrap()), far.unwrap().0)
    }

    async fn read(stream: &mut Stream, buffer: &mut BytesMut, room: usize) -> usize {
        poll_fn(|cx| stream.poll_read_room(cx, buffer, |buffer| buffer.reserve(room))).await.unwrap()
    }

    #[tokio::test]
    async fn a_short_read_is_all_there_was_and_more_is_heard_of() {
        let (mut near, mut far) = pair().await;
        let mut buffer = BytesMut::new();
        for text in [&b"hello"[..], b"again"] {
            far.write_all(text).await.unwrap();
            assert_eq!(read(&mut near, &mut buffer, 4096).await, text.len());
            assert!(near.is_silent(), "nobody asks the kernel once more");
        }
        assert_eq!((&buffer[..], near.bytes_read()), (&b"helloagain"[..], 10));
        near.unread(Bytes::from_static(b"he"));
        assert_eq!(read(&mut near, &mut buffer, 1).await, 2);
        drop(far);
        assert_eq!(read(&mut near, &mut buffer, 4096).await, 0);
        assert_eq!(read(&mut near, &mut buffer, 4096).await, 0, "an end stays");
    }

    #[tokio::test]
    async fn what_a_full_read_leaves_is_read_at_once() {
        let (mut near, mut far) = pair().await;
        far.write_all(&[7; 100]).await.unwrap();
        let (mut all, mut buffer) = (0, BytesMut::with_capacity(64));
        while all < 100 {
            buffer.clear();
            all += read(&mut near, &mut buffer, 64).await;
        }
        assert!(near.is_silent());
    }

    #[tokio::test]
    async fn what_a_socket_does_not_take_waits_until_it_does() {
        let (mut near, mut far) = pair().await;
        let writing = async {
            for _ in 0..1000 {
                near.write_all(&[7; AT_ONCE_MAX]).await.unwrap();
            }
            near.shutdown().await.unwrap();
            near.bytes_written()
        };
        let reading = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all.len() as u64
        };
        let (written, read) = tokio::join!(writing, reading);
        assert_eq!((written, read), (1000 * AT_ONCE_MAX as u64, written));
    }
}
