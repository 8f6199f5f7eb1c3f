//! What streams send and read.

use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};

use super::openers::Place;
use super::stream::{Stream, Turn};
use super::streams::Key;
use super::{Broken, Connection, OUT_BYTES_MAX};
use crate::fields::Fields;
use crate::h1::HeadFault;
use crate::http2::frame::{self, FrameHead, HEADER_BYTES, PAYLOAD_MAX, flag, kind};
use crate::http2::hpack::Encoder;
use crate::message::{Asked, ParsedResponse, RequestHead, ResponseHead};

/// Heads that a server may send for each request beyond its interim ones: the final one, trailers, and some that are late.
const HEADS_PER_REQUEST: u32 = 8;

/// Streams whose heads a server may still owe us.
const HEADS_OF: u32 = 100;

impl Connection {
    /// Ready when a stream can be opened. Who does not wait any more is to say so by [`Self::give_up`].
    ///
    /// # Errors
    /// None can be any more.
    pub fn poll_ready(&mut self, place: &mut Place, cx: &Context<'_>) -> Poll<Result<(), Broken>> {
        if !self.takes_streams() {
            return Poll::Ready(Err(self.ended.unwrap_or(Broken::Closed)));
        }
        if self.rooms() > 0 {
            return Poll::Ready(Ok(()));
        }
        self.openers.wait(place, cx);
        Poll::Pending
    }

    /// Waits no more for a stream to be opened.
    pub fn give_up(&mut self, place: Place) {
        self.openers.leave(place);
    }

    /// Opens a stream with the head of a request; gives it, held once. `scheme` is used where the head has none. `end`:
    /// nothing follows.
    ///
    /// # Errors
    /// The head cannot be sent by HTTP/2.
    pub fn send_request(&mut self, head: &RequestHead, scheme: &str, end: bool) -> Result<Key, HeadFault> {
        let id = self.next_own;
        self.put_section(id, end, |encoder, out| encoder.request(head, scheme, out))?;
        self.next_own += 2;
        let mut stream = self.new_stream(id);
        (stream.asked, stream.sent) = (Some(Asked::by(head)), end);
        self.open += 1;
        let per_request = self.config.interims_max + HEADS_PER_REQUEST;
        self.heads_left = (self.heads_left + per_request).min(per_request * HEADS_OF);
        Ok(self.streams.add(stream))
    }

    /// Sends the head of a response, interim or final.
    ///
    /// # Errors
    /// The head cannot be sent by HTTP/2. A stream that is over takes it and sends nothing.
    pub fn send_response(&mut self, key: Key, head: &ResponseHead, end: bool) -> Result<(), HeadFault> {
        if self.may_send(key).is_none() {
            return Ok(());
        }
        self.put_section(key.id(), end, |encoder, out| encoder.response(head, out))?;
        self.ended_sending(key, end);
        Ok(())
    }

    /// Sends trailers, which end our direction.
    ///
    /// # Errors
    /// The stream is over.
    pub fn send_trailers(&mut self, key: Key, fields: &Fields) -> Result<(), Broken> {
        if let Some(broken) = self.broken(key) {
            return Err(broken);
        }
        if self.may_send(key).is_some() {
            // Of trailers nothing is refused.
            let put = self.put_section(key.id(), true, |encoder, out| {
                encoder.trailers(fields, out);
                Ok(())
            });
            put.unwrap_or_default();
            self.ended_sending(key, true);
        }
        Ok(())
    }

    /// A field section in as many frames as it needs (RFC 9113 section 4.3).
    fn put_section(
        &mut self,
        id: u32,
        end: bool,
        encode: impl FnOnce(&mut Encoder, &mut BytesMut) -> Result<(), HeadFault>,
    ) -> Result<(), HeadFault> {
        self.out();
        let start = self.out.len();
        self.out.put_bytes(0, HEADER_BYTES);
        if let Err(fault) = encode(&mut self.encoder, &mut self.out) {
            self.out.truncate(start);
            return Err(fault);
        }
        let length = self.out.len() - start - HEADER_BYTES;
        self.budget.sent(length);
        let ends = if end { flag::END_STREAM } else { 0 };
        if length <= PAYLOAD_MAX {
            let head = FrameHead { length, kind: kind::HEADERS, flags: ends | flag::END_HEADERS, stream: id };
            if let Some(room) = self.out.get_mut(start..start + HEADER_BYTES) {
                room.copy_from_slice(&head.bytes());
            }
            return Ok(());
        }
        let section = self.out.split_off(start + HEADER_BYTES);
        self.out.truncate(start);
        let count = section.len().div_ceil(PAYLOAD_MAX);
        for (at, piece) in section.chunks(PAYLOAD_MAX).enumerate() {
            let whole = if at + 1 == count { flag::END_HEADERS } else { 0 };
            let (kind, flags) = if at == 0 { (kind::HEADERS, ends | whole) } else { (kind::CONTINUATION, whole) };
            frame::put_frame(&mut self.out, kind, flags, id, piece);
        }
        Ok(())
    }

    fn may_send(&mut self, key: Key) -> Option<&mut Stream> {
        self.streams.get(key).filter(|stream| stream.broken.is_none() && !stream.sent)
    }

    fn ended_sending(&mut self, key: Key, end: bool) {
        if end && let Some(stream) = self.streams.get(key) {
            stream.sent = true;
            self.settle(key);
        }
    }

    /// How many bytes of `wanted` the stream may send now: what its window, that of the connection and one frame hold. Where
    /// many want to send, each has its turn.
    ///
    /// # Errors
    /// The stream is over.
    pub fn poll_room(&mut self, key: Key, wanted: usize, cx: &Context<'_>) -> Poll<Result<usize, Broken>> {
        if let Some(broken) = self.broken(key) {
            return Poll::Ready(Err(broken));
        }
        let full = self.room() == 0;
        let others = !self.waiting.is_empty();
        let connection = usize::try_from(self.send_window).unwrap_or(0);
        let Some(stream) = self.streams.get(key) else { return Poll::Ready(Err(Broken::Closed)) };
        let window = usize::try_from(stream.send_window).unwrap_or(0);
        if window == 0 {
            stream.await_writing(cx);
            return Poll::Pending;
        }
        if full || (others && stream.turn != Turn::Granted) {
            stream.await_writing(cx);
            if stream.turn != Turn::Queued {
                stream.turn = Turn::Queued;
                self.wait_in_line(key);
            }
            self.wake_task();
            return Poll::Pending;
        }
        Poll::Ready(Ok(wanted.min(window).min(connection).min(PAYLOAD_MAX)))
    }

    /// Streams that have ended in the line are taken out of it when there are more of them than of others.
    fn wait_in_line(&mut self, key: Key) {
        if self.waiting.len() > 2 * self.streams.len() {
            let Self { waiting, streams, .. } = self;
            waiting.retain(|waiting| streams.peek(*waiting).is_some());
        }
        self.waiting.push_back(key);
    }

    /// Bytes that all streams together may send now.
    fn room(&self) -> usize {
        let window = usize::try_from(self.send_window).unwrap_or(0);
        window.min(OUT_BYTES_MAX.saturating_sub(self.out.len()))
    }

    /// Wakes streams whose turn to send it is; whether more wait for which there may be room. To be called when something
    /// was written, or the peer has given back window, until it says no.
    pub fn grant_turns(&mut self) -> bool {
        let mut room = self.room();
        while room > 0 {
            let Some(key) = self.waiting.pop_front() else { break };
            if let Some(stream) = self.streams.get(key) {
                stream.turn = Turn::Granted;
                stream.wake_writer();
                room = room.saturating_sub(PAYLOAD_MAX);
            }
        }
        self.wake_openers();
        let (sends, opens) =
            (!self.waiting.is_empty() && self.room() > 0, !self.openers.is_empty() && self.rooms() > 0);
        sends || opens
    }

    /// Sends one frame of what there is room for by [`Self::poll_room`], in pieces of `length` bytes together.
    pub fn send_data<'a>(&mut self, key: Key, pieces: impl IntoIterator<Item = &'a [u8]>, length: usize, end: bool) {
        let Some(stream) = self.may_send(key) else { return };
        stream.turn = Turn::None;
        let taken = i64::try_from(length).unwrap_or(i64::MAX);
        stream.send_window -= taken;
        self.send_window -= taken;
        self.budget.sent(length);
        let flags = if end { flag::END_STREAM } else { 0 };
        let head = FrameHead { length, kind: kind::DATA, flags, stream: key.id() };
        let out = self.out();
        out.reserve(HEADER_BYTES + length);
        out.put_slice(&head.bytes());
        let mut left = length;
        for piece in pieces {
            let part = piece.get(..left.min(piece.len())).unwrap_or_default();
            out.put_slice(part);
            left -= part.len();
        }
        self.ended_sending(key, end);
    }

    /// Ends our direction with an empty frame, for which there always is room.
    pub fn send_end(&mut self, key: Key) {
        self.send_data(key, [], 0, true);
    }

    /// Why the stream is over, if it was before its time.
    #[must_use]
    pub fn broken(&self, key: Key) -> Option<Broken> {
        self.streams.peek(key).map_or_else(|| self.ended.or(Some(Broken::Closed)), |stream| stream.broken)
    }

    /// Ready when the stream is broken.
    pub fn poll_broken(&mut self, key: Key, cx: &Context<'_>) -> Poll<Broken> {
        if let Some(broken) = self.broken(key) {
            return Poll::Ready(broken);
        }
        if let Some(stream) = self.streams.get(key) {
            stream.await_writing(cx);
        }
        Poll::Pending
    }

    /// The next interim response, if one has come.
    pub fn next_interim(&mut self, key: Key) -> Option<ResponseHead> {
        self.streams.get(key)?.interims.pop_front()
    }

    /// The final response.
    ///
    /// # Errors
    /// The stream is over without one.
    pub fn poll_response(&mut self, key: Key, cx: &Context<'_>) -> Poll<Result<ParsedResponse, Broken>> {
        let broken = self.broken(key);
        if let Some(stream) = self.streams.get(key) {
            if let Some(head) = stream.head.take() {
                return Poll::Ready(Ok(head));
            }
            if broken.is_none() {
                stream.await_reading(cx);
                return Poll::Pending;
            }
        }
        Poll::Ready(Err(broken.unwrap_or(Broken::Closed)))
    }

    /// What has come of the body, all of it; `None` at its end. [`Self::read`] gives its window back.
    ///
    /// # Errors
    /// The stream is over before the end.
    pub fn poll_data(&mut self, key: Key, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let broken = self.broken(key);
        if let Some(stream) = self.streams.get(key) {
            if !stream.data.is_empty() {
                return Poll::Ready(Some(Ok(stream.take_data())));
            }
            if stream.received {
                stream.end_unread = false;
                return Poll::Ready(None);
            }
            if broken.is_none() {
                stream.await_reading(cx);
                return Poll::Pending;
            }
        }
        Poll::Ready(Some(Err(broken.unwrap_or(Broken::Closed))))
    }

    /// Trailers behind the end of the body.
    pub fn next_trailers(&mut self, key: Key) -> Option<Fields> {
        self.streams.get(key)?.trailers.take().map(|fields| *fields)
    }

    /// So many bytes of the body were handed on.
    pub fn read(&mut self, key: Key, bytes: usize) {
        let Some(stream) = self.streams.get(key) else { return };
        let bytes = bytes.min(stream.lent);
        stream.lent -= bytes;
        self.give_back(Some(key), bytes);
    }

    /// Whether nothing more is to be read of the stream.
    #[must_use]
    pub fn is_read(&self, key: Key) -> bool {
        let read = |stream: &Stream| {
            stream.received && !stream.end_unread && stream.data.is_empty() && stream.trailers.is_none()
        };
        self.streams.peek(key).is_none_or(read)
    }
}
