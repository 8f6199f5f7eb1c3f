//! Bytes that came, cut into frames (RFC 9113 section 4).
//!
//! Payloads of DATA are passed on as they come; other frames are taken whole. What is cut short is held until the rest has
//! come, so that between frames nothing is.

use std::borrow::Cow;

use super::{Connection, Fatal};
use crate::http2::frame::{FrameHead, HEADER_BYTES, PAYLOAD_MAX, PREFACE, Reason, flag, kind};
use crate::http2::hpack::Block;

/// Bytes that the frames of one field section may have. Twice what any head that is taken needs.
pub const SECTION_BYTES_MAX: usize = 256 * 1024;

/// Frames that one field section may have beyond the first: with the smallest that anybody sends still more than enough.
const CONTINUATIONS_MAX: u32 = 256;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// What a client says first.
    Preface,
    /// Header of a frame.
    Head,
    /// The whole payload of a frame.
    Payload(FrameHead),
    /// The first byte of a padded DATA frame.
    Pad(FrameHead),
    /// Bytes of a body.
    Data(super::data::Incoming),
    /// Bytes of no use.
    Skip(usize),
}

impl Expect {
    pub(super) const fn is_of_section(&self) -> bool {
        matches!(self, Self::Payload(FrameHead { kind: kind::HEADERS | kind::CONTINUATION, .. }))
    }
}

/// A field section whose end has not come.
#[derive(Debug)]
pub(super) struct Section {
    stream: u32,
    end_stream: bool,
    bytes: Vec<u8>,
    frames: u32,
}

impl Connection {
    /// Takes bytes that came; gives how many. The rest waits for the next turn. `block` may be shared by connections.
    ///
    /// # Errors
    /// The connection ends.
    pub fn receive(&mut self, bytes: &[u8], block: &mut Block) -> Result<usize, Fatal> {
        let mut rest = bytes;
        while self.ended.is_none() && !self.turn_is_over() {
            match self.step(rest, block) {
                Ok(Some(left)) => rest = left,
                Ok(None) => return Ok(bytes.len()),
                Err(fatal) => {
                    self.fail(fatal.0);
                    return Err(fatal);
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// One step through the bytes; gives those that are left, or nothing where more must come first.
    fn step<'a>(&mut self, rest: &'a [u8], block: &mut Block) -> Result<Option<&'a [u8]>, Fatal> {
        match self.expect {
            Expect::Head => {
                let Some((head, rest)) = self.whole(rest, HEADER_BYTES) else { return Ok(None) };
                let Some(head) = head.first_chunk() else { return Ok(None) };
                self.begin_frame(FrameHead::parse(head))?;
                Ok(Some(rest))
            }
            Expect::Payload(head) => {
                let Some((payload, rest)) = self.whole(rest, head.length) else { return Ok(None) };
                self.expect = Expect::Head;
                self.take_frame(head, &payload, block)?;
                Ok(Some(rest))
            }
            Expect::Pad(head) => {
                let Some((pad, rest)) = rest.split_first() else { return Ok(None) };
                self.begin_padded(head, usize::from(*pad))?;
                Ok(Some(rest))
            }
            Expect::Data(incoming) => {
                if rest.is_empty() {
                    return Ok(None);
                }
                let (piece, rest) = rest.split_at(incoming.left.min(rest.len()));
                self.take_data_piece(incoming, piece)?;
                Ok(Some(rest))
            }
            Expect::Skip(left) => {
                if rest.is_empty() && left > 0 {
                    return Ok(None);
                }
                let passed = left.min(rest.len());
                self.expect = if passed == left { Expect::Head } else { Expect::Skip(left - passed) };
                Ok(Some(rest.get(passed..).unwrap_or_default()))
            }
            Expect::Preface => self.take_preface(rest),
        }
    }

    fn take_preface<'a>(&mut self, rest: &'a [u8]) -> Result<Option<&'a [u8]>, Fatal> {
        let said = PREFACE.get(self.held.len()..).unwrap_or_default();
        let compared = said.len().min(rest.len());
        if said.get(..compared) != rest.get(..compared) {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        let Some((_, rest)) = self.whole(rest, PREFACE.len()) else { return Ok(None) };
        self.expect = Expect::Head;
        Ok(Some(rest))
    }

    /// So many bytes, and what is behind them; holds what there is where it is less.
    fn whole<'a>(&mut self, rest: &'a [u8], count: usize) -> Option<(Cow<'a, [u8]>, &'a [u8])> {
        if self.held.is_empty()
            && let Some((whole, rest)) = rest.split_at_checked(count)
        {
            return Some((Cow::Borrowed(whole), rest));
        }
        let missing = count.saturating_sub(self.held.len());
        let (more, rest) = rest.split_at(missing.min(rest.len()));
        if self.held.is_empty() && !more.is_empty() {
            self.held.reserve_exact(count);
        }
        self.held.extend_from_slice(more);
        (self.held.len() == count).then(|| (Cow::Owned(std::mem::take(&mut self.held)), rest))
    }

    fn begin_frame(&mut self, head: FrameHead) -> Result<(), Fatal> {
        if !self.peer.said && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            // Section 3.4: SETTINGS come first.
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        if head.length > PAYLOAD_MAX {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR));
        }
        let continues = |section: &Section| head.kind == kind::CONTINUATION && section.stream == head.stream;
        if self.section.as_ref().is_some_and(|section| !continues(section)) {
            // Section 6.2: nothing may stand between.
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        match head.kind {
            kind::DATA => return self.begin_data(head),
            kind::HEADERS | kind::CONTINUATION if head.length > 0 => self.budget.received(head.length),
            kind::HEADERS..=kind::CONTINUATION => self.budget.spend(head.length + HEADER_BYTES),
            // Section 5.5: what is unknown is ignored.
            _ => {
                self.budget.spend(head.length + HEADER_BYTES);
                self.expect = Expect::Skip(head.length);
                return Ok(());
            }
        }
        self.expect = Expect::Payload(head);
        Ok(())
    }

    fn take_frame(&mut self, head: FrameHead, payload: &[u8], block: &mut Block) -> Result<(), Fatal> {
        match head.kind {
            kind::HEADERS => self.take_headers(head, payload, block),
            kind::CONTINUATION => self.take_continuation(head, payload, block),
            kind::PRIORITY => self.take_priority(head),
            kind::RST_STREAM => self.take_reset(head, payload),
            kind::SETTINGS => self.take_settings(head, payload),
            kind::PING => self.take_ping(head, payload),
            kind::GOAWAY => self.take_goaway(head, payload),
            kind::WINDOW_UPDATE => self.take_window_update(head, payload),
            // PUSH_PROMISE: of a client never, of a server not to us (section 8.4).
            _ => Err(Fatal(Reason::PROTOCOL_ERROR)),
        }
    }

    /// Section 6.2.
    fn take_headers(&mut self, head: FrameHead, payload: &[u8], block: &mut Block) -> Result<(), Fatal> {
        if head.stream == 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        let fragment = fragment(head, payload)?;
        let end_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.take_section(head.stream, end_stream, fragment, block);
        }
        self.section = Some(Section { stream: head.stream, end_stream, bytes: fragment.to_vec(), frames: 0 });
        Ok(())
    }

    /// Section 6.10; that it continues the right section was seen to.
    fn take_continuation(&mut self, head: FrameHead, payload: &[u8], block: &mut Block) -> Result<(), Fatal> {
        let Some(section) = &mut self.section else { return Err(Fatal(Reason::PROTOCOL_ERROR)) };
        section.frames += 1;
        if section.frames > CONTINUATIONS_MAX || section.bytes.len() + payload.len() > SECTION_BYTES_MAX {
            return Err(Fatal(Reason::ENHANCE_YOUR_CALM));
        }
        section.bytes.extend_from_slice(payload);
        if !head.has(flag::END_HEADERS) {
            return Ok(());
        }
        let Some(Section { stream, end_stream, bytes, .. }) = self.section.take() else { return Ok(()) };
        self.take_section(stream, end_stream, &bytes, block)
    }
}

/// The fields in a HEADERS frame, without padding and priority. One too small for what its flags promise has a wrong size
/// (section 4.2); padding that leaves no room for the rest breaks the protocol (section 6.2).
fn fragment(head: FrameHead, mut payload: &[u8]) -> Result<&[u8], Fatal> {
    let short = Fatal(Reason::FRAME_SIZE_ERROR);
    let mut padding = 0;
    if head.has(flag::PADDED) {
        let (pad, rest) = payload.split_first().ok_or(short)?;
        (padding, payload) = (usize::from(*pad), rest);
    }
    if head.has(flag::PRIORITY) {
        payload = payload.get(5..).ok_or(short)?;
    }
    let fields = payload.len().checked_sub(padding).and_then(|length| payload.get(..length));
    fields.ok_or(Fatal(Reason::PROTOCOL_ERROR))
}
