//! Receive windows of streams, and when they grow (RFC 9113 section 5.2).
//!
//! A stream begins with the window that every stream of its peer's may have. Across a long way it is too small: its sender
//! has used it up long before it hears that more may be sent. That is found out without a clock: with what is given back goes
//! a PING, and when its answer comes, a sender that has used all it had left before that stood still, so its window is doubled.
//! Whose bytes pile up here is not asked: it is not the window that holds it up.
//!
//! A window is a promise to hold as much. What windows are larger than at first is borrowed from what the worker has for all
//! its connections, no connection has more than [`CONNECTION_SURPLUS_MAX`] of it, and who does not keep up gives it back: many who
//! read slowly hold what they would without.

use std::cell::Cell;
use std::rc::Rc;

use super::Connection;
use super::streams::Key;
use crate::http2::frame;

/// Largest window of a stream: 200 MB/s across a way of 10 ms.
pub const STREAM_WINDOW_MAX: u32 = 2 * 1024 * 1024;

/// By how much the windows of one connection together may be larger than at first.
pub const CONNECTION_SURPLUS_MAX: u32 = 4 * 1024 * 1024;

/// Windows given back without a question after one that found nothing, at most: a MiB of what is small in vain.
const LEFT_OUT_MAX: u8 = 15;

/// By how much the windows of all connections of a worker may still grow.
#[derive(Debug)]
pub struct Surplus {
    left: Cell<u32>,
}

impl Surplus {
    /// Of so many bytes.
    #[must_use]
    pub const fn new(bytes: u32) -> Self {
        Self { left: Cell::new(bytes) }
    }

    /// Bytes that nobody has borrowed.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.left.get()
    }
}

/// What a window has beyond its first size; given back when it ends.
#[derive(Debug, Default)]
struct Loan {
    from: Option<Rc<Surplus>>,
    bytes: u32,
}

impl Loan {
    /// Borrows more, if there is so much.
    fn raise(&mut self, from: &Rc<Surplus>, bytes: u32) -> bool {
        let Some(left) = from.left.get().checked_sub(bytes) else { return false };
        from.left.set(left);
        self.from.get_or_insert_with(|| Rc::clone(from));
        self.bytes += bytes;
        true
    }

    fn lower(&mut self, bytes: u32) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        if let Some(from) = &self.from {
            from.left.set(from.left.get().saturating_add(bytes));
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.lower(self.bytes);
    }
}

/// Receive window of a stream.
#[derive(Debug)]
pub(super) struct Window {
    /// What the peer may still send.
    left: i64,
    /// What was read, and the peer has not been told.
    consumed: u32,
    /// All that it was told of, modulo 2^32.
    given: u32,
    /// Most that was found waiting to be read since it was told last.
    piled: usize,
    /// Its first size.
    least: u32,
    loan: Loan,
}

/// What is to be told the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// It may send so many bytes more; 0 where the window shrinks.
    pub(super) more: u32,
    /// So many it still had, as far as it had heard.
    had: u32,
    /// The reader keeps up.
    keeps_up: bool,
}

impl Window {
    /// One that holds `least` once the peer knows of it, and until then `left`.
    pub(super) fn new(left: i64, least: u32) -> Self {
        Self { left, consumed: 0, given: 0, piled: 0, least, loan: Loan::default() }
    }

    const fn size(&self) -> u32 {
        self.least + self.loan.bytes
    }

    /// The peer has heard what its first size is.
    pub(super) const fn begins(&mut self, by: i64) {
        self.left += by;
    }

    /// So many bytes came; whether they were within the window.
    pub(super) const fn fill(&mut self, bytes: i64) -> bool {
        self.left -= bytes;
        self.left >= 0
    }

    /// So many bytes were found waiting.
    pub(super) const fn found(&mut self, bytes: usize) {
        if bytes > self.piled {
            self.piled = bytes;
        }
    }

    /// So many bytes were read. Half of the window is given back at once.
    pub(super) fn read(&mut self, bytes: u32) -> Option<Given> {
        self.consumed = self.consumed.saturating_add(bytes);
        if self.consumed < self.size() / 2 {
            return None;
        }
        let piled = std::mem::take(&mut self.piled);
        let keeps_up = piled <= usize::try_from(self.size() / 4 * 3).unwrap_or(usize::MAX);
        let consumed = std::mem::take(&mut self.consumed);
        let less = if keeps_up { 0 } else { self.loan.bytes.min(self.size() / 2).min(consumed) };
        self.loan.lower(less);
        let (more, had) = (consumed - less, u32::try_from(self.left).unwrap_or(0));
        self.give(more);
        Some(Given { more, had, keeps_up })
    }

    fn give(&mut self, more: u32) {
        self.left += i64::from(more);
        self.given = self.given.wrapping_add(more);
    }

    /// All that ever came, modulo 2^32 and but for what it began with.
    const fn came(&self) -> u32 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2^32")]
        self.given.wrapping_sub(self.left as u32)
    }

    /// Doubles the window; by how much it is larger then, if there is so much, and `most` is not exceeded.
    fn double(&mut self, from: &Rc<Surplus>, most: u32) -> Option<u32> {
        let more = self.size().min(STREAM_WINDOW_MAX.saturating_sub(self.size())).min(most);
        if more == 0 || !self.loan.raise(from, more) {
            return None;
        }
        self.give(more);
        Some(more)
    }
}

/// Whether windows are too small, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// Where windows borrow from; none grows without.
    surplus: Option<Rc<Surplus>>,
    question: Option<Question>,
    /// Windows to be given back before the next question.
    left_out: u8,
    /// As many as were, before the last one.
    before: u8,
}

/// Whether a stream will have used up its window when the answer to a PING comes.
#[derive(Clone, Copy, Debug)]
struct Question {
    key: Key,
    /// What had come before.
    came: u32,
    /// What its sender had left.
    had: u32,
}

impl Connection {
    /// Lets windows grow. The peer has to answer PINGs, some of them in vain.
    #[must_use]
    pub fn growing(mut self, surplus: Rc<Surplus>) -> Self {
        self.growth.surplus = Some(surplus);
        self
    }

    /// Asks, behind what was given back, whether that came too late.
    pub(super) fn ask_for_growth(&mut self, key: Key, Given { had, keeps_up, .. }: Given) {
        let growth = &mut self.growth;
        if growth.surplus.is_none() || growth.question.is_some() || !keeps_up {
            return;
        }
        if let Some(left) = growth.left_out.checked_sub(1) {
            growth.left_out = left;
            return;
        }
        let Some(stream) = self.streams.get(key).filter(|stream| stream.window.size() < STREAM_WINDOW_MAX) else {
            return;
        };
        growth.question = Some(Question { key, came: stream.window.came(), had });
        frame::put_frame(self.out(), frame::kind::PING, 0, 0, &QUESTION);
    }

    /// The answer has come.
    pub(super) fn answer_to_growth(&mut self) {
        let Some(Question { key, came, had }) = self.growth.question.take() else { return };
        let lent: u32 = self.streams.all().map(|stream| stream.window.loan.bytes).sum();
        let most = CONNECTION_SURPLUS_MAX.saturating_sub(lent);
        let Some(surplus) = &self.growth.surplus else { return };
        let Some(stream) = self.streams.get(key).filter(|stream| !stream.received && stream.broken.is_none()) else {
            return;
        };
        let stood_still = stream.window.came().wrapping_sub(came) >= had;
        let more = if stood_still { stream.window.double(surplus, most) } else { None };
        match more {
            Some(more) => {
                (self.growth.left_out, self.growth.before) = (0, 0);
                frame::put_window_update(self.out(), key.id(), more);
            }
            None => {
                self.growth.before = (2 * self.growth.before + 1).min(LEFT_OUT_MAX);
                self.growth.left_out = self.growth.before;
            }
        }
    }
}

/// Payload of the PING that goes with a window.
pub(super) const QUESTION: [u8; 8] = *b"weft-win";
