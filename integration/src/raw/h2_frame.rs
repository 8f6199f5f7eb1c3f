//! HTTP/2 frames as bytes (RFC 9113 section 4), well-formed or not.
//!
//! Nothing here checks what is sent: tests decide what a peer does.

use bytes::{Buf as _, BytesMut};

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 9;

/// Largest payload that every peer takes.
pub const PAYLOAD_MAX: usize = 16_384;

/// Frame types (RFC 9113 section 6).
#[expect(missing_docs, reason = "the names of the RFC")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
#[expect(missing_docs, reason = "the names of the RFC")]
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes (RFC 9113 section 7).
#[expect(missing_docs, reason = "the names of the RFC")]
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const SETTINGS_TIMEOUT: u32 = 4;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const CONNECT_ERROR: u32 = 10;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
    pub const INADEQUATE_SECURITY: u32 = 12;
    pub const HTTP_1_1_REQUIRED: u32 = 13;
}

/// Settings (RFC 9113 section 6.5.2, RFC 8441).
#[expect(missing_docs, reason = "the names of the RFC")]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// One frame of any type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type, see [`kind`].
    pub kind: u8,
    /// Flags, see [`flag`].
    pub flags: u8,
    /// Stream, with the reserved bit.
    pub stream: u32,
    /// Payload, with padding and all.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of these parts.
    #[must_use]
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// DATA.
    #[must_use]
    pub fn data(stream: u32, payload: impl Into<Vec<u8>>, end: bool) -> Self {
        Self::new(kind::DATA, if end { flag::END_STREAM } else { 0 }, stream, payload)
    }

    /// HEADERS with a whole field block, see [`super::h2_hpack::block`].
    #[must_use]
    pub fn headers(stream: u32, block: impl Into<Vec<u8>>, end: bool) -> Self {
        let end = if end { flag::END_STREAM } else { 0 };
        Self::new(kind::HEADERS, end | flag::END_HEADERS, stream, block)
    }

    /// CONTINUATION; with the end of the block or without.
    #[must_use]
    pub fn continuation(stream: u32, fragment: impl Into<Vec<u8>>, end_headers: bool) -> Self {
        Self::new(kind::CONTINUATION, if end_headers { flag::END_HEADERS } else { 0 }, stream, fragment)
    }

    /// PRIORITY.
    #[must_use]
    pub fn priority(stream: u32, depends_on: u32, weight: u8) -> Self {
        Self::new(kind::PRIORITY, 0, stream, [depends_on.to_be_bytes().as_slice(), &[weight]].concat())
    }

    /// RST_STREAM.
    #[must_use]
    pub fn reset(stream: u32, code: u32) -> Self {
        Self::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
    }

    /// SETTINGS.
    #[must_use]
    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let pair = |(id, value): &(u16, u32)| [id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat();
        Self::new(kind::SETTINGS, 0, 0, settings.iter().flat_map(pair).collect::<Vec<_>>())
    }

    /// Acknowledgement of SETTINGS.
    #[must_use]
    pub fn settings_ack() -> Self {
        Self::new(kind::SETTINGS, flag::ACK, 0, [])
    }

    /// PUSH_PROMISE with a whole field block.
    #[must_use]
    pub fn push_promise(stream: u32, promised: u32, block: &[u8]) -> Self {
        Self::new(kind::PUSH_PROMISE, flag::END_HEADERS, stream, [&promised.to_be_bytes(), block].concat())
    }

    /// PING.
    #[must_use]
    pub fn ping(payload: [u8; 8], ack: bool) -> Self {
        Self::new(kind::PING, if ack { flag::ACK } else { 0 }, 0, payload)
    }

    /// GOAWAY.
    #[must_use]
    pub fn goaway(last: u32, code: u32, debug: &[u8]) -> Self {
        Self::new(kind::GOAWAY, 0, 0, [&last.to_be_bytes(), &code.to_be_bytes(), debug].concat())
    }

    /// WINDOW_UPDATE.
    #[must_use]
    pub fn window_update(stream: u32, increment: u32) -> Self {
        Self::new(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    /// The same DATA or HEADERS frame with this much padding.
    #[must_use]
    pub fn padded(self, length: u8) -> Self {
        let payload = [&[length], self.payload.as_slice(), &vec![0; length.into()]].concat();
        Self { flags: self.flags | flag::PADDED, payload, ..self }
    }

    /// The same HEADERS frame with priority (before padding is added).
    #[must_use]
    pub fn with_priority(self, depends_on: u32, weight: u8) -> Self {
        let payload = [depends_on.to_be_bytes().as_slice(), &[weight], &self.payload].concat();
        Self { flags: self.flags | flag::PRIORITY, payload, ..self }
    }

    /// The same HEADERS frame cut into HEADERS and CONTINUATION frames of at most `size` bytes (before padding is added).
    #[must_use]
    pub fn fragmented(self, size: usize) -> Vec<Self> {
        let mut pieces = self.payload.chunks(size.max(1)).peekable();
        let mut frames = Vec::new();
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { self.flags & flag::END_HEADERS } else { 0 };
            if frames.is_empty() {
                frames.push(Self::new(self.kind, self.flags & !flag::END_HEADERS | end, self.stream, piece));
            } else {
                frames.push(Self::new(kind::CONTINUATION, end, self.stream, piece));
            }
        }
        frames
    }

    /// The frame as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_claiming(self.payload.len())
    }

    /// The frame as bytes, with a length field that need not be true.
    #[must_use]
    pub fn encode_claiming(&self, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        let mut out = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        out.extend(length.into_iter().skip(1));
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
        out.extend_from_slice(&self.payload);
        out
    }

    /// Takes the first frame out of received bytes; `None` until it is whole.
    #[must_use]
    pub fn decode(received: &mut BytesMut) -> Option<Self> {
        let header: [u8; HEADER_BYTES] = received.get(..HEADER_BYTES)?.try_into().ok()?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if received.len() < HEADER_BYTES + length {
            return None;
        }
        received.advance(HEADER_BYTES);
        let payload = received.split_to(length).to_vec();
        Some(Self { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Whether all these flags are set.
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Payload of DATA, HEADERS or PUSH_PROMISE without padding and priority; `None` where the padding does not fit.
    #[must_use]
    pub fn content(&self) -> Option<&[u8]> {
        let mut content = self.payload.as_slice();
        if self.has(flag::PADDED) {
            let (length, rest) = content.split_first()?;
            content = rest.get(..rest.len().checked_sub(usize::from(*length))?)?;
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            content = content.get(5..)?;
        }
        Some(content)
    }

    /// The 32-bit number at this byte of the payload.
    #[must_use]
    pub fn number(&self, at: usize) -> Option<u32> {
        self.payload.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_way_there_and_back() {
        let frames = [
            Frame::data(1, "abc", true).padded(7),
            Frame::settings(&[(setting::MAX_FRAME_SIZE, 20_000)]),
            Frame::goaway(3, code::NO_ERROR, b"bye"),
            Frame::reset(5, code::CANCEL),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut received = BytesMut::new();
        let mut decoded = Vec::new();
        for byte in bytes {
            received.extend_from_slice(&[byte]);
            decoded.extend(Frame::decode(&mut received));
        }
        assert_eq!(decoded, frames);
        assert_eq!(decoded[0].content(), Some(b"abc".as_slice()));
        assert_eq!(decoded[3].number(0), Some(code::CANCEL));
    }

    #[test]
    fn a_field_block_is_cut_into_continuations() {
        let whole = Frame::headers(1, "abcdefg", true).with_priority(0, 9);
        assert_eq!(whole.content(), Some(b"abcdefg".as_slice()));
        let kinds: Vec<_> = whole.fragmented(5).into_iter().map(|f| (f.kind, f.flags, f.payload.len())).collect();
        assert_eq!(kinds, [(1, 0x21, 5), (9, 0, 5), (9, 4, 2)]);
    }

    #[test]
    fn padding_longer_than_the_frame_has_no_content() {
        assert_eq!(Frame::new(kind::DATA, flag::PADDED, 1, [9, 1]).content(), None);
        assert_eq!(Frame::new(kind::DATA, flag::PADDED, 1, []).content(), None);
    }
}
