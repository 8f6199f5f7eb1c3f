//! What is known of one stream.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::window::Window;
use crate::fields::Fields;
use crate::h1::{BodyFault, HeadFault};
use crate::http2::frame::Reason;
use crate::message::{Asked, ParsedResponse, ResponseHead};

/// Why a stream is over before both directions have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The peer has reset it.
    Reset(Reason),
    /// We have, for what the peer sent.
    Misused(Reason),
    /// We have, for the head of the response.
    Head(HeadFault),
    /// We have, for the trailers.
    Trailers(BodyFault),
    /// We have, for reasons of our own.
    Left(Reason),
    /// The peer will not process it: it is above the last stream that GOAWAY names (RFC 9113 section 6.8).
    Unprocessed,
    /// The connection has ended.
    Closed,
    /// We have ended the connection, for what the peer sent.
    Ended,
}

impl Broken {
    /// The code of a reset that was no misuse: to be passed on.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Reset(reason) | Self::Left(reason) => Some(reason),
            Self::Misused(_) | Self::Head(_) | Self::Trailers(_) | Self::Unprocessed | Self::Closed | Self::Ended => {
                None
            }
        }
    }

    /// Whether the peer did on the stream what it may not.
    #[must_use]
    pub const fn is_misuse(self) -> bool {
        matches!(self, Self::Misused(_) | Self::Head(_) | Self::Trailers(_))
    }
}

/// Whether a stream waits for its turn to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Turn {
    /// It does not.
    #[default]
    None,
    /// It stands in the queue.
    Queued,
    /// It has come.
    Granted,
}

/// One stream, until nobody holds it any more.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// Who holds it.
    pub(super) handles: u32,
    /// It counts among those that are open.
    pub(super) counted: bool,
    /// The peer has ended its direction.
    pub(super) received: bool,
    /// We have ended ours.
    pub(super) sent: bool,
    pub(super) broken: Option<Broken>,
    /// Nobody reads what still comes.
    pub(super) discarding: bool,
    /// It was handed on to who serves it.
    pub(super) taken: bool,
    /// What its request asked for, where we have sent it.
    pub(super) asked: Option<Asked>,
    /// The final head has come.
    pub(super) headed: bool,
    pub(super) interims: VecDeque<ResponseHead>,
    /// Interim responses that have come, read or not.
    pub(super) interims_come: u32,
    pub(super) head: Option<ParsedResponse>,
    pub(super) data: Vec<u8>,
    /// The peer has ended its direction with an empty frame, and its reader does not know yet: a message with an empty body
    /// is not one without.
    pub(super) end_unread: bool,
    /// Bytes that were taken out of it, and of which their reader has not said that they were handed on.
    pub(super) lent: usize,
    pub(super) trailers: Option<Box<Fields>>,
    /// Bytes of the body that must still come, where announced.
    pub(super) announced: Option<u64>,
    /// What the peer may send.
    pub(super) window: Window,
    /// What we may still send.
    pub(super) send_window: i64,
    pub(super) turn: Turn,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Stream {
    pub(super) const fn new(id: u32, window: Window, send_window: i64) -> Self {
        Self {
            id,
            handles: 1,
            counted: true,
            received: false,
            sent: false,
            broken: None,
            discarding: false,
            taken: false,
            asked: None,
            headed: false,
            interims: VecDeque::new(),
            interims_come: 0,
            head: None,
            data: Vec::new(),
            end_unread: false,
            lent: 0,
            trailers: None,
            announced: None,
            window,
            send_window,
            turn: Turn::None,
            reader: None,
            writer: None,
        }
    }

    /// Neither direction goes on (RFC 9113 section 5.1).
    pub(super) const fn is_over(&self) -> bool {
        self.broken.is_some() || (self.received && self.sent)
    }

    pub(super) fn await_reading(&mut self, cx: &Context<'_>) {
        note(&mut self.reader, cx);
    }

    pub(super) fn await_writing(&mut self, cx: &Context<'_>) {
        note(&mut self.writer, cx);
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Keeps what has come. Pieces are joined, so that small ones cost no more than their bytes.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.data.is_empty() {
            self.data = Vec::with_capacity(bytes.len());
        }
        self.data.extend_from_slice(bytes);
    }

    /// All that has come.
    pub(super) fn take_data(&mut self) -> Bytes {
        self.window.found(self.data.len());
        self.lent += self.data.len();
        Bytes::from(std::mem::take(&mut self.data))
    }
}

/// Notes who is to be woken; makes a new waker only where it is another task.
pub(super) fn note(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}
