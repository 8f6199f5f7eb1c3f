//! One HTTP/1 connection, seen from either end: stream, read buffer, pending output, decoder of the incoming body.
//!
//! It is shared, by `Rc<RefCell<…>>`, between whoever drives the connection and the body that is read from it. Both live in
//! one task, every borrow ends before its `poll` returns, and the newest waker is always that task's.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};
use weft_core::h1::{BodyDecoder, BodyEncoder, BodyFault, Decoded, Limits};
use weft_core::message::BodyFraming;

use super::body::Frame;
use super::limits::READ_BYTES_MAX;
use super::out::Out;
use super::spare::{self, SPARE_BYTES};
use crate::io::Stream;

/// How often it is looked whether a client that has ended its direction is gone altogether.
const GONE_LOOK: Duration = Duration::from_secs(1);

/// A read into less room than this is not worth its system call.
const READ_ROOM_MIN: usize = 1024;

pub(crate) type Shared = Rc<RefCell<Conn>>;

/// Why an incoming body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer's bytes are not a body.
    Malformed,
    /// The connection ended or failed first.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Conn {
    stream: Option<Stream>,
    limits: Limits,
    decoder: BodyDecoder,
    /// The peer has ended its direction.
    eof: bool,
    gone_look: Option<Pin<Box<Sleep>>>,
    /// Bytes read and not consumed.
    pub(crate) read: BytesMut,
    /// Bytes to write.
    pub(crate) out: Out,
    /// Data bytes of the incoming body so far.
    pub(crate) received: u64,
}

/// What was read from a connection and what it was written with serves the next one.
impl Drop for Conn {
    fn drop(&mut self) {
        self.out.release();
        spare::give_back(std::mem::take(&mut self.read));
    }
}

impl Conn {
    pub(crate) fn new(mut stream: Stream, limits: Limits) -> Self {
        // What detection has read is taken over without another read.
        let read = BytesMut::from(stream.take_prefix());
        let decoder = BodyDecoder::new(BodyFraming::None, limits);
        Self {
            stream: Some(stream),
            limits,
            decoder,
            eof: false,
            gone_look: None,
            read,
            out: Out::default(),
            received: 0,
        }
    }

    /// Bounds on heads and trailers.
    pub(crate) const fn limits(&self) -> Limits {
        self.limits
    }

    /// Expects a body of this framing next.
    pub(crate) fn begin_body(&mut self, framing: BodyFraming) {
        self.decoder = BodyDecoder::new(framing, self.limits);
        self.received = 0;
    }

    /// Whether the incoming body has been read to its end.
    pub(crate) const fn body_ended(&self) -> bool {
        self.decoder.is_ended()
    }

    /// Whether the incoming body broke off.
    pub(crate) const fn body_failed(&self) -> bool {
        self.decoder.has_failed()
    }

    /// Bytes of the body that certainly follow.
    pub(crate) const fn body_expected(&self) -> u64 {
        self.decoder.bytes_expected()
    }

    pub(crate) const fn is_eof(&self) -> bool {
        self.eof
    }

    /// Bytes written to the stream since it was opened.
    pub(crate) fn written(&self) -> u64 {
        self.stream.as_ref().map_or(0, Stream::bytes_written)
    }

    /// Has the kernel acknowledge what has arrived at once. A server that writes head and body apart, without TCP_NODELAY,
    /// sends the body only when its head is acknowledged, and on a connection in use the kernel delays that by 40 ms.
    pub(crate) fn acknowledge_now(&self) {
        if let Some(socket) = self.stream.as_ref().and_then(Stream::socket) {
            // Without it the response is late, not wrong.
            socket2::SockRef::from(socket).set_tcp_quickack(true).unwrap_or_default();
        }
    }

    /// Whether it is but a socket.
    pub(crate) fn is_plain(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_plain)
    }

    /// Whether a later read and write on its socket would find all as it is: nothing is held here.
    pub(crate) fn is_at_rest(&self) -> bool {
        let holds = self.eof || !self.read.is_empty() || self.out.len() > 0;
        !holds && self.stream.as_ref().is_some_and(|stream| stream.is_plain() && stream.prefix().is_empty())
    }

    /// The stream, with what was read ahead pushed back. The connection is of no use afterwards.
    pub(crate) fn take_stream(&mut self) -> Option<Stream> {
        let ahead = self.read.split().freeze();
        self.stream.take().map(|stream| if ahead.is_empty() { stream } else { stream.with_prefix(ahead) })
    }

    /// As [`Self::poll_fill`] for a connection with no message on it: while nothing comes it holds no buffers.
    pub(crate) fn poll_fill_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let polled = self.poll_news(cx);
        if polled.is_pending() {
            self.release();
        }
        polled
    }

    /// Whether certainly nothing has come; false where only a read can tell.
    pub(crate) fn is_silent(&self) -> bool {
        !self.eof && self.read.is_empty() && self.stream.as_ref().is_some_and(Stream::is_silent)
    }

    /// As [`Self::poll_fill`] where most likely nothing has come, which is seen without a buffer.
    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Of a plain one it is seen so anyway.
        let silent = |stream: &Stream| !stream.is_plain() && stream.poll_readable(cx).is_pending();
        if !self.eof && self.stream.as_ref().is_some_and(silent) { Poll::Pending } else { self.poll_fill(cx) }
    }

    /// Gives unused memory back.
    pub(crate) fn release(&mut self) {
        self.out.release();
        if self.read.is_empty() {
            spare::give_back(std::mem::take(&mut self.read));
        }
    }

    /// Reads more into the buffer; 0 is the peer's end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let decoder = &self.decoder;
        let polled = stream.poll_read_room(cx, &mut self.read, |read| {
            if read.capacity() - read.len() >= READ_ROOM_MIN {
                return;
            }
            let expected = usize::try_from(decoder.bytes_expected()).unwrap_or(READ_BYTES_MAX);
            let more = if decoder.is_ended() { read.len() } else { expected };
            if more <= SPARE_BYTES && read.capacity() == 0 {
                *read = spare::take();
            } else {
                read.reserve(more.clamp(SPARE_BYTES, READ_BYTES_MAX));
            }
        });
        if matches!(polled, Poll::Ready(Ok(0))) {
            self.eof = true;
        }
        polled
    }

    /// Notices the peer's bytes and end while nobody reads, so that a reset is seen at once. Reads ahead within bounds;
    /// ready each time something came.
    pub(crate) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return self.poll_gone(cx).map(Err);
        }
        if self.read.len() >= READ_BYTES_MAX {
            return Poll::Pending;
        }
        self.poll_news(cx)
    }

    /// A client that has ended its direction may still read, or be gone: both look the same until the peer's kernel answers
    /// one of our keep-alive probes with a reset, which it does a minute after its application has closed (Linux:
    /// `tcp_fin_timeout`). No read tells us any more; the socket's error does.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(Poll::Ready(error)) = self.stream.as_mut().map(|stream| stream.poll_broken(cx)) {
            return Poll::Ready(error);
        }
        let look = self.gone_look.get_or_insert_with(|| Box::pin(sleep(GONE_LOOK)));
        loop {
            ready!(look.as_mut().poll(cx));
            look.as_mut().reset(Instant::now() + GONE_LOOK);
            let socket = self.stream.as_ref().and_then(Stream::socket);
            if let Some(error) = socket.and_then(|socket| socket.take_error().ok().flatten()) {
                return Poll::Ready(error);
            }
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => self.out.poll_flush(stream, cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Whether the peer has sent its whole message and nothing that was not consumed.
    pub(crate) fn is_said(&self) -> bool {
        self.body_ended() && self.read.is_empty() && (self.eof || self.stream.as_ref().is_some_and(Stream::is_drained))
    }

    /// Before the end of the whole connection, which says the rest by itself: nothing but what TLS has to say.
    pub(crate) fn poll_last_word(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            // The peer may be gone; the end is the same.
            Some(stream) if !stream.is_plain() => Pin::new(stream).poll_shutdown(cx).map(drop),
            Some(_) | None => Poll::Ready(()),
        }
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Next frame of the incoming body.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        loop {
            match self.decoder.decode(&mut self.read) {
                Ok(Decoded::Data(data)) => {
                    self.received += data.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Ok(Decoded::Trailers(fields)) => return Poll::Ready(Some(Ok(Frame::Trailers(fields)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::NeedMore) => {}
                Err(_) => return Poll::Ready(Some(Err(Broken::Malformed))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.decoder.closed().is_ok() => return Poll::Ready(None),
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Broken::Cut))),
                Ok(_) => {}
            }
        }
    }

    /// Queues one piece of the outgoing body.
    pub(crate) fn push_data(&mut self, encoder: &mut BodyEncoder, data: Bytes) -> Result<(), BodyFault> {
        let frame = encoder.frame(data.len())?;
        self.out.tail().extend_from_slice(frame.before());
        self.out.push(data);
        self.out.tail().extend_from_slice(frame.after());
        Ok(())
    }
}
