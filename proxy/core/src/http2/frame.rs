//! Frames of HTTP/2: their header, types, flags and codes (RFC 9113 sections 4, 6 and 7).

use bytes::{BufMut, BytesMut};

/// What a client sends before its first frame (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;

/// Largest payload that we take, and that we send: what every peer takes (RFC 9113 section 4.2).
pub const PAYLOAD_MAX: usize = 16_384;

/// Largest window there can be (RFC 9113 section 6.9.1).
pub const WINDOW_MAX: u32 = 0x7fff_ffff;

/// Window of a stream or connection before anything was said about it (RFC 9113 section 6.9.2).
pub const WINDOW_DEFAULT: u32 = 65_535;

/// Largest number of a stream.
pub const STREAM_MAX: u32 = 0x7fff_ffff;

/// Frame types (RFC 9113 section 6).
pub mod kind {
    /// Bytes of a body.
    pub const DATA: u8 = 0;
    /// Fields, or their beginning.
    pub const HEADERS: u8 = 1;
    /// Ignored.
    pub const PRIORITY: u8 = 2;
    /// Ends a stream at once.
    pub const RST_STREAM: u8 = 3;
    /// What its sender wants and takes.
    pub const SETTINGS: u8 = 4;
    /// Never wanted.
    pub const PUSH_PROMISE: u8 = 5;
    /// To be answered.
    pub const PING: u8 = 6;
    /// No new streams.
    pub const GOAWAY: u8 = 7;
    /// More may be sent.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More fields.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    /// Answers SETTINGS or PING.
    pub const ACK: u8 = 0x1;
    /// Nothing follows on the stream.
    pub const END_STREAM: u8 = 0x1;
    /// The fields are whole.
    pub const END_HEADERS: u8 = 0x4;
    /// Padding follows.
    pub const PADDED: u8 = 0x8;
    /// Priority stands before the fields.
    pub const PRIORITY: u8 = 0x20;
}

/// Identifiers of settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
pub mod setting {
    /// Dynamic table that its sender decodes with.
    pub const HEADER_TABLE_SIZE: u16 = 1;
    /// Whether push is wanted.
    pub const ENABLE_PUSH: u16 = 2;
    /// Streams that the peer may have open.
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    /// Window that streams begin with.
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    /// Largest payload.
    pub const MAX_FRAME_SIZE: u16 = 5;
    /// Fields that are taken, as advice.
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// Extended CONNECT is taken.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or connection is ended (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason(pub u32);

impl Reason {
    /// Nothing is wrong.
    pub const NO_ERROR: Self = Self(0);
    /// The protocol is broken.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// Something inside broke.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// More was sent than the window holds.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// A frame for a stream that is over.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame of a size that it cannot have.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// Not processed at all.
    pub const REFUSED_STREAM: Self = Self(7);
    /// Of no use any more.
    pub const CANCEL: Self = Self(8);
    /// The fields cannot be decoded.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The other end of a tunnel broke.
    pub const CONNECT_ERROR: Self = Self(10);
    /// Too much of what does nothing.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// Header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of payload, below 2^24.
    pub length: usize,
    /// Type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream; 0 is the connection.
    pub stream: u32,
}

impl FrameHead {
    /// Reads one; the reserved bit is ignored (RFC 9113 section 4.1).
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        Self { length, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn bytes(self) -> [u8; HEADER_BYTES] {
        let [.., l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether the flag is set.
    #[must_use]
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a whole frame.
pub fn put_frame(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.put_slice(&FrameHead { length: payload.len(), kind, flags, stream }.bytes());
    out.put_slice(payload);
}

/// Appends SETTINGS.
pub fn put_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    let head = FrameHead { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 };
    out.put_slice(&head.bytes());
    for (id, value) in settings {
        out.put_u16(*id);
        out.put_u32(*value);
    }
}

/// Appends RST_STREAM.
pub fn put_reset(out: &mut BytesMut, stream: u32, reason: Reason) {
    put_frame(out, kind::RST_STREAM, 0, stream, &reason.0.to_be_bytes());
}

/// Appends WINDOW_UPDATE.
pub fn put_window_update(out: &mut BytesMut, stream: u32, more: u32) {
    put_frame(out, kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
}

/// Appends GOAWAY without debug data.
pub fn put_goaway(out: &mut BytesMut, last: u32, reason: Reason) {
    let [a, b, c, d] = last.to_be_bytes();
    let [e, f, g, h] = reason.0.to_be_bytes();
    put_frame(out, kind::GOAWAY, 0, 0, &[a, b, c, d, e, f, g, h]);
}

/// The first four bytes, as a number.
pub(super) fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_written() {
        for head in [
            FrameHead { length: 0, kind: kind::DATA, flags: 0, stream: 0 },
            FrameHead { length: 0xab_cdef, kind: 0xfa, flags: 0xff, stream: STREAM_MAX },
        ] {
            assert_eq!(FrameHead::parse(&head.bytes()), head);
        }
        assert_eq!(FrameHead::parse(b"\0\0\x01\0\0\xff\xff\xff\xff").stream, STREAM_MAX, "the reserved bit is ignored");
    }

    #[test]
    fn frames_stand_on_the_wire_as_the_rfc_has_them() {
        let mut out = BytesMut::new();
        put_reset(&mut out, 3, Reason::CANCEL);
        put_window_update(&mut out, 0, 0x0102_0304);
        put_goaway(&mut out, 5, Reason::ENHANCE_YOUR_CALM);
        put_settings(&mut out, &[(setting::ENABLE_PUSH, 0)]);
        let expected = b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08\
            \0\0\x04\x08\0\0\0\0\0\x01\x02\x03\x04\
            \0\0\x08\x07\0\0\0\0\0\0\0\0\x05\0\0\0\x0b\
            \0\0\x06\x04\0\0\0\0\0\0\x02\0\0\0\0";
        assert_eq!(out, expected.as_slice());
    }
}
