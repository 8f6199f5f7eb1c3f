//! Headers of HTTP/2 frames, read as the bytes pass by.
//!
//! The `h2` crate says what became of requests, not which frames came. Payloads are passed over, so following a
//! connection costs a few instructions per frame.

/// Bytes of a frame header.
const HEADER_BYTES: usize = 9;

/// Bytes of the code in RST_STREAM.
const CODE_BYTES: usize = 4;

/// What a client sends before its first frame (RFC 9113 section 3.4), in bytes.
pub(super) const PREFACE_BYTES: usize = 24;

/// Frame types that are told apart (RFC 9113 section 6).
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const CONTINUATION: u8 = 9;
}

const END_HEADERS: u8 = 0x4;

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Type.
    pub(super) kind: u8,
    /// Bytes of payload.
    pub(super) length: usize,
    /// Stream.
    pub(super) stream: u32,
    /// Code of an RST_STREAM.
    pub(super) code: Option<u32>,
}

/// Follows the frames of one direction.
#[derive(Debug)]
pub(super) struct FrameScan {
    /// Bytes to pass over: of the preface, or of a payload.
    skip: usize,
    head: [u8; HEADER_BYTES + CODE_BYTES],
    have: usize,
    wanted: usize,
    /// The last frame belongs to a field section.
    of_section: bool,
    /// That section goes on in another frame.
    continued: bool,
}

impl FrameScan {
    /// Begins after so many bytes that are no frames.
    pub(super) const fn after(skip: usize) -> Self {
        Self {
            skip,
            head: [0; HEADER_BYTES + CODE_BYTES],
            have: 0,
            wanted: HEADER_BYTES,
            of_section: false,
            continued: false,
        }
    }

    /// Whether a field section has begun and its end has not come.
    pub(super) const fn in_section(&self) -> bool {
        self.continued || (self.of_section && self.skip > 0)
    }

    /// Reads on; `seen` is told of each frame once its header is whole.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut seen: impl FnMut(FrameHead)) {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
            let Some(room) = self.head.get_mut(self.have..self.wanted) else { return };
            let taken = room.len().min(bytes.len());
            for (to, from) in room.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.have += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.have < self.wanted {
                return;
            }
            if let Some(head) = self.whole() {
                seen(head);
            }
        }
    }

    /// The header that is complete now; `None` when the code after it is to be read first.
    fn whole(&mut self) -> Option<FrameHead> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3, code @ ..] = self.head;
        let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        let with_code = kind == kind::RST_STREAM && length >= CODE_BYTES;
        if with_code && self.wanted == HEADER_BYTES {
            self.wanted += CODE_BYTES;
            return None;
        }
        self.skip = length.saturating_sub(self.wanted - HEADER_BYTES);
        (self.have, self.wanted) = (0, HEADER_BYTES);
        self.of_section = matches!(kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION);
        self.continued = self.of_section && flags & END_HEADERS == 0;
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Some(FrameHead { kind, length, stream, code: with_code.then(|| u32::from_be_bytes(code)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = b"preface\
        \0\0\x02\x01\x01\0\0\0\x01hh\
        \0\0\x01\x09\x04\0\0\0\x01h\
        \0\0\x04\x03\0\x80\0\0\x03\0\0\0\x08\
        \0\0\0\0\x01\0\0\0\x05";

    #[test]
    fn frames_are_seen_however_the_bytes_are_cut() {
        let frame = |kind, length, stream, code| FrameHead { kind, length, stream, code };
        let expected = [frame(1, 2, 1, None), frame(9, 1, 1, None), frame(3, 4, 3, Some(8)), frame(0, 0, 5, None)];
        for size in 1..=BYTES.len() {
            let (mut scan, mut seen) = (FrameScan::after(7), Vec::new());
            for piece in BYTES.chunks(size) {
                scan.read(piece, |frame| seen.push(frame));
            }
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_section_lasts_until_its_last_byte() {
        let mut scan = FrameScan::after(7);
        let mut lasting = Vec::new();
        for (at, byte) in BYTES.iter().enumerate() {
            scan.read(&[*byte], |_| ());
            if scan.in_section() {
                lasting.push(at);
            }
        }
        assert_eq!(lasting, (15..27).collect::<Vec<_>>());
    }
}
