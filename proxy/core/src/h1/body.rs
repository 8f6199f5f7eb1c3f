//! Bodies as they arrive: by length, chunked, or until the connection closes (RFC 9112 sections 6.3 and 7.1).
//!
//! The chunk line is read byte by byte with all state kept, because it is where implementations differ most: sizes that
//! overflow, blanks around them, line ends inside extensions. Only `1*HEXDIG [";" ext] CRLF` passes. Extensions are
//! hop-by-hop and dropped (RFC 9112 section 7.1.1); trailers are kept whether announced or not.

use bytes::{Buf, Bytes, BytesMut};
use httparse::Status;

use super::fault::BodyFault;
use super::limits::{CHUNK_EXTENSION_BYTES_MAX, FIELDS_ALLOWED_MAX, Limits};
use super::progress::{Progress, Step};
use super::section;
use crate::fields::Fields;
use crate::message::BodyFraming;

/// Trailer fields that would change where a message ends, where it goes or what the connection does next, if a
/// recipient merged them into the head (RFC 9110 section 6.5.1).
const FORBIDDEN_TRAILERS: [&str; 10] = [
    "transfer-encoding",
    "content-length",
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

/// Whether a trailer section must not have a field of this name.
pub(crate) fn is_forbidden_trailer(name: impl AsRef<[u8]>) -> bool {
    let name = name.as_ref();
    FORBIDDEN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}

/// What a decoder found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Some bytes of the body, never empty; taken from the read buffer without a copy.
    Data(Bytes),
    /// The trailer section, when it has any field. [`Decoded::End`] follows.
    Trailers(Fields),
    /// The body has ended. What is left in the buffer belongs to the next message.
    End,
    /// The buffer holds nothing more that can be decoded.
    NeedMore,
}

/// Decoder of one message body.
///
/// After a fault it answers with the same fault for ever.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    extension_bytes: usize,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Length(u64),
    UntilClose,
    ChunkLine(ChunkLine),
    ChunkData(u64),
    /// After the data of a chunk; true once its CR was seen.
    ChunkEnd(bool),
    Trailers(Progress),
    Ended,
    Failed(BodyFault),
}

#[derive(Clone, Copy, Debug, Default)]
struct ChunkLine {
    size: u64,
    digits: u8,
    part: LinePart,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LinePart {
    #[default]
    Size,
    Extension,
    LineFeed,
}

impl BodyDecoder {
    /// A decoder for a body with this framing. Of the limits those for trailers apply.
    #[must_use]
    pub fn new(framing: BodyFraming, limits: Limits) -> Self {
        let state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Ended,
            BodyFraming::Length(length) => State::Length(length),
            BodyFraming::Chunked => State::ChunkLine(ChunkLine::default()),
            BodyFraming::UntilClose => State::UntilClose,
        };
        Self { state, extension_bytes: 0, limits }
    }

    /// Whether the body has ended, so that the connection can carry the next message.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether the body broke off. Where the next message begins is not known then.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    /// Bytes that certainly follow: the rest of the length, or of the chunk at hand. For sizing reads, no promise.
    #[must_use]
    pub const fn bytes_expected(&self) -> u64 {
        match self.state {
            State::Length(left) | State::ChunkData(left) => left,
            State::UntilClose
            | State::ChunkLine(_)
            | State::ChunkEnd(_)
            | State::Trailers(_)
            | State::Ended
            | State::Failed(_) => 0,
        }
    }

    /// Takes the next piece of the body from the front of `buffer`. Call until it says [`Decoded::NeedMore`] or
    /// [`Decoded::End`]. Bytes of the next message are not touched.
    ///
    /// # Errors
    /// Any [`BodyFault`] but `Truncated` and `TooLong`; close the connection.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyFault> {
        let outcome = self.step(buffer);
        if let Err(fault) = outcome {
            self.state = State::Failed(fault);
        }
        outcome
    }

    /// Tells the decoder that the peer will send no more, after `decode` wanted more.
    ///
    /// # Errors
    /// `Truncated` when the body is not complete; a client must be able to notice, so its stream or connection has to
    /// break too (RFC 9112 section 8).
    pub fn closed(&mut self) -> Result<(), BodyFault> {
        match self.state {
            State::Ended | State::UntilClose => {
                self.state = State::Ended;
                Ok(())
            }
            State::Failed(fault) => Err(fault),
            State::Length(_) | State::ChunkLine(_) | State::ChunkData(_) | State::ChunkEnd(_) | State::Trailers(_) => {
                self.state = State::Failed(BodyFault::Truncated);
                Err(BodyFault::Truncated)
            }
        }
    }

    fn step(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyFault> {
        loop {
            if buffer.is_empty() && !matches!(self.state, State::Ended | State::Failed(_)) {
                return Ok(Decoded::NeedMore);
            }
            self.state = match self.state {
                State::Ended => return Ok(Decoded::End),
                State::Failed(fault) => return Err(fault),
                State::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let (data, left) = take(buffer, left);
                    self.state = if left == 0 { State::Ended } else { State::Length(left) };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkData(left) => {
                    let (data, left) = take(buffer, left);
                    self.state = if left == 0 { State::ChunkEnd(false) } else { State::ChunkData(left) };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd(cr_seen) => match (cr_seen, buffer.get_u8()) {
                    (false, b'\r') => State::ChunkEnd(true),
                    (true, b'\n') => State::ChunkLine(ChunkLine::default()),
                    _ => return Err(BodyFault::ChunkEnd),
                },
                State::ChunkLine(line) => self.chunk_line(line, buffer)?,
                State::Trailers(progress) => return self.trailers(progress, buffer),
            }
        }
    }

    fn chunk_line(&mut self, mut line: ChunkLine, buffer: &mut BytesMut) -> Result<State, BodyFault> {
        let mut taken = 0;
        let mut next = None;
        for byte in buffer.iter() {
            taken += 1;
            self.extension_bytes += usize::from(line.part == LinePart::Extension);
            if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX {
                return Err(BodyFault::ChunkExtensionsTooLong);
            }
            if line.push(*byte)? {
                next = Some(if line.size == 0 {
                    State::Trailers(Progress::default())
                } else {
                    State::ChunkData(line.size)
                });
                break;
            }
        }
        buffer.advance(taken);
        Ok(next.unwrap_or(State::ChunkLine(line)))
    }

    fn trailers(&mut self, mut progress: Progress, buffer: &mut BytesMut) -> Result<Decoded, BodyFault> {
        match buffer.as_ref() {
            [b'\r', b'\n', ..] if progress.is_new() => {
                buffer.advance(2);
                self.state = State::Ended;
                return Ok(Decoded::End);
            }
            [b'\r'] => return Ok(Decoded::NeedMore),
            _ => {}
        }
        let full = buffer.len() >= self.limits.trailer_bytes_max;
        let window = buffer.get(..self.limits.trailer_bytes_max).unwrap_or(buffer);
        let step = progress.advance(window, full);
        self.state = State::Trailers(progress);
        let Step::Try(len) = step else {
            return Ok(Decoded::NeedMore);
        };
        let mut storage = [httparse::EMPTY_HEADER; FIELDS_ALLOWED_MAX];
        let slots = storage.get_mut(..self.limits.fields_max.min(FIELDS_ALLOWED_MAX)).unwrap_or_default();
        let (section, headers) = match httparse::parse_headers(window.get(..len).unwrap_or(window), slots) {
            Ok(Status::Complete((end, headers))) => (window.get(..end).unwrap_or(window), headers),
            Ok(Status::Partial) if full => return Err(BodyFault::TrailersTooLarge),
            Ok(Status::Partial) => return Ok(Decoded::NeedMore),
            Err(httparse::Error::TooManyHeaders) => return Err(BodyFault::TooManyTrailers),
            Err(_) => return Err(BodyFault::TrailerField),
        };
        let spans = section::collect(section, headers, |_, _| Ok(())).map_err(|_| BodyFault::TrailerField)?;
        let end = section.len();
        let fields = Fields::from_received(buffer.split_to(end).freeze(), spans);
        if FORBIDDEN_TRAILERS.iter().any(|name| fields.contains(*name)) {
            return Err(BodyFault::TrailerForbidden);
        }
        self.state = State::Ended;
        Ok(Decoded::Trailers(fields))
    }
}

impl ChunkLine {
    /// Takes the next byte of the line; true when it was the last.
    fn push(&mut self, byte: u8) -> Result<bool, BodyFault> {
        match (self.part, byte) {
            (LinePart::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < 16 => {
                // Sixteen digits are exactly 64 bits, so the shift loses nothing.
                self.size = (self.size << 4) | u64::from((byte as char).to_digit(16).unwrap_or_default());
                self.digits += 1;
            }
            (LinePart::Size, b'\r') if self.digits > 0 => self.part = LinePart::LineFeed,
            (LinePart::Size, b';') if self.digits > 0 => self.part = LinePart::Extension,
            (LinePart::Size, _) => return Err(BodyFault::ChunkSize),
            (LinePart::Extension, b'\r') => self.part = LinePart::LineFeed,
            (LinePart::Extension, b'\t' | b' '..=b'~' | 0x80..) => {}
            (LinePart::LineFeed, b'\n') => return Ok(true),
            (LinePart::Extension | LinePart::LineFeed, _) => return Err(BodyFault::ChunkExtension),
        }
        Ok(false)
    }
}

/// Splits off at most `left` bytes and says how many are left then.
fn take(buffer: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    (buffer.split_to(len).freeze(), left - len as u64)
}

#[cfg(test)]
mod tests;
