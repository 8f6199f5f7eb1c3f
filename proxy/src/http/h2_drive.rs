//! The task of one HTTP/2 connection: reads what comes, and writes what all streams together have left in one turn.
//!
//! Bytes are read into one buffer that all connections of the worker share, so that a connection which waits holds none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};
use weft_core::http2::connection::{Connection, Fatal};
use weft_core::http2::frame::Reason;
use weft_core::http2::hpack::Block;

use crate::io::Stream;

/// A connection, shared by its task and its streams. Every borrow ends before anything else of the proxy runs.
pub(crate) type Shared = Rc<RefCell<Connection>>;

/// Most bytes read before other tasks of the worker run.
const TURN_BYTES: usize = 64 * 1024;

/// Most read at once.
const READ_BYTES: usize = 32 * 1024;

/// What connections need only while they take what came.
struct Scratch {
    buffer: Box<[u8]>,
    block: Block,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        buffer: vec![0; READ_BYTES].into_boxed_slice(),
        block: Block::new(),
    });
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The peer has closed it between frames.
    Ended,
    /// It broke.
    Cut,
    /// The peer has broken the protocol or a bound; GOAWAY is yet to be written.
    Fatal(Reason),
    /// No stream is left and none can come; what is left to be said is yet to be written.
    Finished,
}

/// Drives one connection.
pub(crate) struct Drive {
    shared: Shared,
    stream: Stream,
    /// Read in a turn that had enough of it.
    rest: BytesMut,
    bytes_read: u64,
    section_since: Option<Instant>,
    weighed: Instant,
    unflushed: bool,
    /// Reading has stopped until more is written.
    held_back: bool,
}

impl Drive {
    pub(crate) fn new(connection: Connection, mut stream: Stream) -> Self {
        let rest = BytesMut::from(stream.take_prefix());
        let shared = Rc::new(RefCell::new(connection));
        Self {
            shared,
            stream,
            rest,
            bytes_read: 0,
            section_since: None,
            weighed: Instant::now(),
            unflushed: false,
            held_back: false,
        }
    }

    pub(crate) const fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Bytes heard from the peer.
    pub(crate) const fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Whether the end of a field section has been owed for so long.
    pub(crate) fn section_older_than(&self, age: Duration) -> bool {
        self.section_since.is_some_and(|since| since.elapsed() >= age)
    }

    /// Takes what came, for one turn. To be called before [`Self::poll_write`].
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        self.shared.borrow_mut().begin_turn();
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            let taken = SCRATCH.with_borrow_mut(|scratch| self.take(&rest, &mut scratch.block));
            match taken {
                Ok(taken) => self.keep(rest.get(taken..).unwrap_or_default(), cx),
                Err(over) => return Poll::Ready(over),
            }
        }
        SCRATCH.with_borrow_mut(|scratch| self.poll_read_into(scratch, cx))
    }

    fn poll_read_into(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> Poll<Over> {
        self.held_back = false;
        let mut left = TURN_BYTES;
        while self.rest.is_empty() && self.shared.borrow().may_read() {
            if left == 0 {
                cx.waker().wake_by_ref();
                break;
            }
            let mut buffer = ReadBuf::new(&mut scratch.buffer);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => {
                    let whole = self.shared.borrow().is_between_frames();
                    return Poll::Ready(if whole { Over::Ended } else { Over::Cut });
                }
                // TLS that ends without its farewell, as many clients end it: what was to be heard was heard.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.has_said_all() => {
                    return Poll::Ready(Over::Ended);
                }
                Err(_) => return Poll::Ready(Over::Cut),
                Ok(()) => {}
            }
            let bytes = buffer.filled();
            left = left.saturating_sub(bytes.len());
            self.bytes_read += bytes.len() as u64;
            match self.take(bytes, &mut scratch.block) {
                Ok(taken) => self.keep(bytes.get(taken..).unwrap_or_default(), cx),
                Err(over) => return Poll::Ready(over),
            }
        }
        self.held_back = !self.shared.borrow().may_read();
        Poll::Pending
    }

    fn has_said_all(&self) -> bool {
        !self.unflushed && self.shared.borrow().output().is_empty()
    }

    /// For the next turn.
    fn keep(&mut self, rest: &[u8], cx: &Context<'_>) {
        if !rest.is_empty() {
            self.rest = BytesMut::from(rest);
            cx.waker().wake_by_ref();
        }
    }

    fn take(&mut self, bytes: &[u8], block: &mut Block) -> Result<usize, Over> {
        let mut connection = self.shared.borrow_mut();
        let taken = connection.receive(bytes, block).map_err(|Fatal(reason)| Over::Fatal(reason))?;
        if connection.is_overdrawn() {
            let millis = u64::try_from(self.weighed.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.weighed = Instant::now();
            connection.passed(millis);
            if connection.is_overdrawn() {
                connection.fail(Reason::ENHANCE_YOUR_CALM);
                return Err(Over::Fatal(Reason::ENHANCE_YOUR_CALM));
            }
        }
        self.section_since =
            if connection.in_section() { self.section_since.or_else(|| Some(Instant::now())) } else { None };
        Ok(taken)
    }

    /// Writes what streams have left; from here on whoever leaves more wakes this task.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let written = self.poll_output(cx);
        let mut connection = self.shared.borrow_mut();
        let reads_on = self.held_back && connection.may_read();
        if connection.grant_turns() || reads_on {
            cx.waker().wake_by_ref();
        }
        connection.watch(cx);
        match written {
            Poll::Ready(Err(_)) => Poll::Ready(Over::Cut),
            Poll::Ready(Ok(())) if connection.is_finished() => Poll::Ready(Over::Finished),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.shared.borrow_mut();
        while !connection.output().is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, connection.output()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            connection.written(written);
        }
        drop(connection);
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Says what is left to be said, and ends our direction. Whether it is heard or not, the connection is over.
    pub(crate) async fn close_within(&mut self, time: Duration) {
        let closing = poll_fn(|cx| {
            let said = ready!(self.poll_output(cx)).is_ok();
            let shut = said && ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_ok();
            Poll::Ready(shut)
        });
        if !timeout(time, closing).await.unwrap_or(false) {
            tracing::trace!("peer was gone at the end of a connection");
        }
    }
}

/// Streams see the end of the connection with its task.
impl Drop for Drive {
    fn drop(&mut self) {
        self.shared.borrow_mut().close();
    }
}
