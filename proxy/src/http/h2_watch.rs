//! What the `h2` crate does not bound or tell, seen on the bytes of a connection.
//!
//! | the crate | here |
//! | --- | --- |
//! | reads until the socket is empty before anyone sees what came: pushed-aside heads and interim responses pile up | one turn reads [`TURN_BYTES`] or some hundred heads, then everyone else runs |
//! | takes any number of PRIORITY, WINDOW_UPDATE, unknown and empty frames, and acknowledgements of nothing | they are weighed against what carries something; a flood ends the connection |
//! | resets malformed requests and answers too large ones (431) by itself, unseen | such streams are found by its answers and get a record |
//! | takes interim responses and other heads on streams that were reset, without end | a server may send some for each request, no more |
//! | bounds resets of streams that nobody has accepted, not of those that were | [`super::keepalive::Streams`] counts streams that ended as soon as they were open |
//! | waits without end for the rest of a field section | its age is known, [`super::keepalive`] ends the connection |
//! | ends the connection, not the stream, for bytes that no field can have (upper case, CR, LF, NUL) | stricter than RFC 9113 section 8.1.1 asks; left so, nothing of it is forwarded |
//! | drops pseudo-fields in trailers instead of refusing them | harmless: they are gone before trailers are forwarded |
//! | cuts trailers off at its bound on field lists | our own bound on trailers is far below, so that only a last field larger than it can be lost |
//! | writes each DATA frame that it does not copy by itself | [`super::h2_wire`] gathers what one turn writes |
//! | forgets streams that it has reset, and takes what was on its way for them for errors | all are remembered, as connections on which we reset many get no new streams ([`super::limits::RESETS_SENT_MAX`]) |
//! | resets requests whose path has `<`, `>` or a backtick, or whose query a quotation mark | no URI has them; HTTP/1 clients' are percent-encoded |
//! | ends the connection for a head in more CONTINUATION frames than its size needs | legal, and no library does it |
//! | takes extended CONNECT (RFC 8441) once it is offered | it is not |
//! | counts what it must refuse of a peer over a connection's whole life, and ends it at 1,024 | what was on its way for remembered streams does not count; a client with more uploads answered early within a second than are remembered ([`super::HttpLimits::resets_remembered_max`]) can meet it, and connects again |

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use weft_core::fault::FaultKind;

use super::h2_frames::{FrameHead, FrameScan, PREFACE_BYTES, kind};
use super::h2_wire::Wire;
use super::limits::INTERIM_MAX;
use crate::io::Stream;

/// Most bytes read before other tasks of the worker run.
const TURN_BYTES: usize = 64 * 1024;

/// What a new stream counts for among them: it costs far more than its bytes.
const STREAM_BYTES: usize = 512;

/// What a peer may send in frames that carry nothing of a message, headers included: 60,000 PINGs at once.
const IDLE_BYTES_MAX: i64 = 1024 * 1024;

/// By which each byte of messages, either way, makes up for such frames: windows are given back with what was read, some
/// peers do it for every byte.
const IDLE_PER_BYTE: usize = 8;

/// By which each frame of messages does.
const IDLE_PER_FRAME: usize = 64;

/// By which each second does.
const IDLE_BYTES_PER_SECOND: u64 = 16 * 1024;

/// Heads that a server may send for each request: interim responses, the final one, trailers.
const HEADS_PER_REQUEST: u32 = INTERIM_MAX + 8;

/// Most heads that it may still send; those of all streams that there can be.
const HEADS_MAX: u32 = HEADS_PER_REQUEST * 100;

/// Streams remembered that the crate has neither handed on nor refused. It holds far fewer, but ignores streams without
/// an answer after a GOAWAY.
const UNSEEN_MAX: usize = 4096;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Server,
    Client,
}

/// What is seen of one connection, and its bytes for as long as the crate has them; shared between its bytes, its driver and
/// whoever may ask.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    seen: Rc<RefCell<Seen>>,
    wire: Weak<RefCell<Wire>>,
}

#[derive(Debug)]
struct Seen {
    end: End,
    incoming: FrameScan,
    outgoing: FrameScan,
    bytes_read: u64,
    turn_left: usize,
    idle_left: i64,
    idle_since: Instant,
    flooded: bool,
    heads_left: u32,
    section_since: Option<Instant>,
    last_opened: u32,
    resets_sent: usize,
    unseen: VecDeque<u32>,
    refused: Vec<(u32, FaultKind)>,
}

impl Watch {
    /// Watches a connection from its first byte; gives its bytes, for the crate.
    pub(crate) fn new(end: End, stream: Stream) -> (Self, Watched) {
        let (incoming, outgoing) = if end == End::Server { (PREFACE_BYTES, 0) } else { (0, PREFACE_BYTES) };
        let seen = Seen {
            end,
            incoming: FrameScan::after(incoming),
            outgoing: FrameScan::after(outgoing),
            bytes_read: 0,
            turn_left: TURN_BYTES,
            idle_left: IDLE_BYTES_MAX,
            idle_since: Instant::now(),
            flooded: false,
            heads_left: 0,
            section_since: None,
            last_opened: 0,
            resets_sent: 0,
            unseen: VecDeque::new(),
            refused: Vec::new(),
        };
        let (seen, wire) = (Rc::new(RefCell::new(seen)), Rc::new(RefCell::new(Wire::new(stream))));
        (Self { seen: Rc::clone(&seen), wire: Rc::downgrade(&wire) }, Watched { seen, wire })
    }

    /// From now on [`Self::poll_send`] is called after each turn, and what the turn has written leaves together.
    pub(crate) fn gather(&self) {
        if let Some(wire) = self.wire.upgrade() {
            wire.borrow_mut().gather();
        }
    }

    /// Sends what the turn has left; to be called when the driver has nothing more to do.
    ///
    /// # Errors
    /// The connection cannot be written any more.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.upgrade().map_or(Poll::Ready(Ok(())), |wire| wire.borrow_mut().poll_send(cx))
    }

    /// Bytes heard from the peer.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.seen.borrow().bytes_read
    }

    /// Streams that we have reset.
    pub(crate) fn resets_sent(&self) -> usize {
        self.seen.borrow().resets_sent
    }

    /// The driver runs again after others have.
    pub(crate) fn begin_turn(&self) {
        self.seen.borrow_mut().turn_left = TURN_BYTES;
    }

    /// Whether the peer has sent more frames that carry nothing than any honest one does. Nothing is read any more.
    pub(crate) fn flooded(&self) -> bool {
        self.seen.borrow().flooded
    }

    /// Whether the end of a field section has been owed for so long.
    pub(crate) fn section_older_than(&self, age: Duration) -> bool {
        self.seen.borrow().section_since.is_some_and(|since| since.elapsed() >= age)
    }

    /// The crate has handed this stream on; gives why, if only to say that it has refused it.
    pub(crate) fn accepted(&self, stream: u32) -> Option<FaultKind> {
        let mut seen = self.seen.borrow_mut();
        if let Some(at) = seen.unseen.iter().position(|id| *id == stream) {
            seen.unseen.remove(at);
        }
        let at = seen.refused.iter().position(|(id, _)| *id == stream)?;
        Some(seen.refused.swap_remove(at).1)
    }

    /// Takes what became of streams that the crate has refused by itself; to be called when it hands on no more.
    pub(crate) fn take_refused(&self) -> impl Iterator<Item = FaultKind> + use<> {
        let refused = std::mem::take(&mut self.seen.borrow_mut().refused);
        refused.into_iter().map(|(_, fault)| fault)
    }
}

impl Seen {
    fn read(&mut self, bytes: &[u8]) {
        self.bytes_read += bytes.len() as u64;
        self.turn_left = self.turn_left.saturating_sub(bytes.len());
        let mut incoming = std::mem::replace(&mut self.incoming, FrameScan::after(0));
        incoming.read(bytes, |frame| self.note_incoming(frame));
        self.section_since =
            if incoming.in_section() { self.section_since.or_else(|| Some(Instant::now())) } else { None };
        self.incoming = incoming;
    }

    fn note_incoming(&mut self, frame: FrameHead) {
        let carries = matches!(frame.kind, kind::DATA | kind::HEADERS | kind::CONTINUATION) && frame.length > 0;
        if carries {
            self.make_up(frame.length * IDLE_PER_BYTE);
        } else {
            self.spend(frame.length + 9);
        }
        if frame.kind != kind::HEADERS {
            return;
        }
        if self.end == End::Client {
            match self.heads_left.checked_sub(1) {
                Some(left) => self.heads_left = left,
                None => self.flooded = true,
            }
        } else if frame.stream > self.last_opened {
            self.last_opened = frame.stream;
            self.turn_left = self.turn_left.saturating_sub(STREAM_BYTES);
            if self.unseen.len() == UNSEEN_MAX {
                self.unseen.pop_front();
            }
            self.unseen.push_back(frame.stream);
        }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let mut outgoing = std::mem::replace(&mut self.outgoing, FrameScan::after(0));
        outgoing.read(bytes, |frame| self.note_outgoing(frame));
        self.outgoing = outgoing;
    }

    fn note_outgoing(&mut self, frame: FrameHead) {
        self.resets_sent = self.resets_sent.saturating_add(usize::from(frame.kind == kind::RST_STREAM));
        let fault = match frame.kind {
            kind::DATA | kind::CONTINUATION => return self.make_up(frame.length * IDLE_PER_BYTE + IDLE_PER_FRAME),
            kind::HEADERS => {
                self.make_up(frame.length * IDLE_PER_BYTE + IDLE_PER_FRAME);
                self.heads_left = (self.heads_left + HEADS_PER_REQUEST).min(HEADS_MAX);
                FaultKind::HeadTooLarge
            }
            kind::RST_STREAM if frame.code == Some(u32::from(Reason::REFUSED_STREAM)) => FaultKind::Overload,
            kind::RST_STREAM => FaultKind::BadRequest,
            _ => return,
        };
        if let Some(at) = self.unseen.iter().position(|id| *id == frame.stream) {
            self.unseen.remove(at);
            self.refused.push((frame.stream, fault));
        }
    }

    fn make_up(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.idle_left = self.idle_left.saturating_add(bytes).min(IDLE_BYTES_MAX);
    }

    fn spend(&mut self, bytes: usize) {
        self.idle_left = self.idle_left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        if self.idle_left < 0 {
            let millis = u64::try_from(self.idle_since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.idle_since = Instant::now();
            self.make_up(usize::try_from(millis.saturating_mul(IDLE_BYTES_PER_SECOND) / 1000).unwrap_or(usize::MAX));
            self.flooded |= self.idle_left < 0;
        }
    }
}

/// The bytes of a connection, watched. Dropping it closes the connection.
pub(crate) struct Watched {
    seen: Rc<RefCell<Seen>>,
    wire: Rc<RefCell<Wire>>,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut seen = self.seen.borrow_mut();
        if seen.flooded {
            return Poll::Pending;
        }
        if seen.turn_left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = self.wire.borrow_mut().poll_read(cx, buf);
        seen.read(buf.filled().get(before..).unwrap_or_default());
        polled
    }
}

/// Not vectored: the crate copies more frames of less than a kilobyte into one piece then.
impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.wire.borrow_mut().poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.seen.borrow_mut().wrote(buf.get(..written).unwrap_or_default());
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.borrow_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.borrow_mut().poll_shutdown(cx)
    }
}
