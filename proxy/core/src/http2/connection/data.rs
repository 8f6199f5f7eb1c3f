//! DATA that came (RFC 9113 section 6.1), and the windows it fills (section 6.9).

use super::input::Expect;
use super::streams::Key;
use super::{Broken, Connection, Fatal, Role};
use crate::http2::frame::{self, FrameHead, HEADER_BYTES, Reason, flag};

/// What is given back to the connection at once: small beside its window, which is that of many streams.
const GIVEN_BACK: u32 = 64 * 1024;

/// A DATA frame on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    /// Its stream, where somebody may read it.
    key: Option<Key>,
    /// Bytes that must still come.
    pub(super) left: usize,
    /// Padding behind them.
    padding: usize,
    end: bool,
}

impl Connection {
    pub(super) fn begin_data(&mut self, head: FrameHead) -> Result<(), Fatal> {
        if head.stream == 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        self.receive_window -= i64::try_from(head.length).unwrap_or(i64::MAX);
        if self.receive_window < 0 {
            return Err(Fatal(Reason::FLOW_CONTROL_ERROR));
        }
        if !head.has(flag::PADDED) {
            return self.begin_body(head, head.length, 0);
        }
        if head.length == 0 {
            // Section 4.2: there is no room for what the flag promises.
            return Err(Fatal(Reason::FRAME_SIZE_ERROR));
        }
        self.expect = Expect::Pad(head);
        Ok(())
    }

    pub(super) fn begin_padded(&mut self, head: FrameHead, padding: usize) -> Result<(), Fatal> {
        // Section 6.1: padding of the payload's length or more breaks the protocol.
        let left = (head.length - 1).checked_sub(padding).ok_or(Fatal(Reason::PROTOCOL_ERROR))?;
        self.begin_body(head, left, padding)
    }

    fn begin_body(&mut self, head: FrameHead, left: usize, padding: usize) -> Result<(), Fatal> {
        if left > 0 {
            self.budget.received(left);
        } else {
            self.budget.spend(head.length + HEADER_BYTES);
        }
        let key = self.reader_of(head, left)?;
        // Nobody reads padding.
        self.give_back(key, head.length - left);
        let incoming = Incoming { key, left, padding, end: head.has(flag::END_STREAM) };
        if left == 0 {
            if let Some(stream) = key.and_then(|key| self.streams.get(key)).filter(|_| incoming.end) {
                stream.end_unread = stream.data.is_empty();
            }
            return self.end_frame(incoming);
        }
        self.expect = Expect::Data(incoming);
        Ok(())
    }

    /// The stream that this belongs to, if it is still of interest to anybody.
    fn reader_of(&mut self, head: FrameHead, left: usize) -> Result<Option<Key>, Fatal> {
        let Some(key) = self.streams.find(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(Fatal(Reason::PROTOCOL_ERROR));
            }
            if !self.is_remembered(head.stream) {
                self.reset_unknown(head.stream, Reason::STREAM_CLOSED)?;
            }
            return Ok(None);
        };
        let client = self.config.role == Role::Client;
        let Some(stream) = self.streams.get(key) else { return Ok(None) };
        if stream.broken.is_some() {
            return Ok(None);
        }
        if stream.received {
            return Err(Fatal(Reason::STREAM_CLOSED));
        }
        let within = stream.window.fill(i64::try_from(head.length).unwrap_or(i64::MAX));
        let fits = match &mut stream.announced {
            Some(announced) => announced.checked_sub(left as u64).map(|rest| *announced = rest).is_some(),
            None => true,
        };
        let fault = if !within {
            Reason::FLOW_CONTROL_ERROR
        } else if !fits || (client && !stream.headed) {
            // Sections 8.1.1 and 8.1.
            Reason::PROTOCOL_ERROR
        } else {
            return Ok(Some(key));
        };
        self.misused(key, Broken::Misused(fault), fault)?;
        Ok(None)
    }

    pub(super) fn take_data_piece(&mut self, incoming: Incoming, piece: &[u8]) -> Result<(), Fatal> {
        match incoming.key.and_then(|key| self.streams.get(key)).filter(|s| s.broken.is_none() && !s.discarding) {
            Some(stream) => {
                stream.keep(piece);
                stream.wake_reader();
            }
            None => self.give_back(None, piece.len()),
        }
        let incoming = Incoming { left: incoming.left - piece.len(), ..incoming };
        if incoming.left == 0 {
            return self.end_frame(incoming);
        }
        self.expect = Expect::Data(incoming);
        Ok(())
    }

    fn end_frame(&mut self, Incoming { key, padding, end, .. }: Incoming) -> Result<(), Fatal> {
        self.expect = if padding == 0 { Expect::Head } else { Expect::Skip(padding) };
        match key {
            Some(key) if end => self.end_received(key),
            Some(_) | None => Ok(()),
        }
    }

    /// The peer has ended its direction of the stream.
    pub(super) fn end_received(&mut self, key: Key) -> Result<(), Fatal> {
        let Some(stream) = self.streams.get(key).filter(|stream| stream.broken.is_none()) else { return Ok(()) };
        if stream.announced.is_some_and(|rest| rest > 0) {
            // Section 8.1.1.
            return self.misused(key, Broken::Misused(Reason::PROTOCOL_ERROR), Reason::PROTOCOL_ERROR);
        }
        stream.received = true;
        stream.wake_reader();
        self.settle(key);
        Ok(())
    }

    /// So many bytes of a stream were read, or nobody wants them: the peer may send as many more.
    pub(super) fn give_back(&mut self, key: Option<Key>, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if bytes == 0 {
            return;
        }
        let at_once = self.config.stream_window / 2;
        if let Some(key) = key
            && let Some(stream) = self.streams.get(key).filter(|stream| !stream.received && stream.broken.is_none())
            && let Some(given) = stream.window.read(bytes)
        {
            if given.more > 0 {
                frame::put_window_update(self.out(), key.id(), given.more);
            }
            self.ask_for_growth(key, given);
        }
        self.consumed = self.consumed.saturating_add(bytes);
        if self.consumed >= GIVEN_BACK.min(at_once.max(1)) {
            let more = std::mem::take(&mut self.consumed);
            self.receive_window += i64::from(more);
            frame::put_window_update(self.out(), 0, more);
        }
    }
}
