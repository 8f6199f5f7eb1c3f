//! Heads and bodies as they leave. Nothing is normalised: what a parser read, an encoder writes.
//!
//! Heads go into a buffer; body bytes do not. [`BodyEncoder::frame`] gives what stands before and after a piece of data,
//! so a caller can send head, chunk line, data and chunk end in one vectored write without copying the data.

use bytes::{BufMut, BytesMut};

use super::fault::{BodyFault, HeadFault};
use crate::fields::{Fields, Known, has_control};
use crate::message::{BodyFraming, RequestHead, ResponseHead, Version};

/// Room for a small body that follows its head into the same buffer, made at once instead of by growing.
const BODY_ROOM: usize = 512;

/// Appends a request head, with its empty line, to `out`.
///
/// It is written as HTTP/1.0 only if the head says so; a proxy sends its own version (RFC 9112 section 2.3), so set it
/// first. Heads that came from HTTP/2 pass [`crate::translate::request_for_h1`] first. `Fields` cannot hold line ends.
///
/// # Errors
/// `Target` when the target is empty or holds a blank or control character, which only a wrong rewrite can put there;
/// nothing is written then.
pub fn encode_request_head(head: &RequestHead, out: &mut BytesMut) -> Result<(), HeadFault> {
    if head.target.is_empty() || head.target.iter().any(|b| *b <= b' ' || *b == 0x7f) {
        return Err(HeadFault::Target);
    }
    let method = head.method.as_str().as_bytes();
    out.reserve(method.len() + head.target.len() + 14 + head.fields.wire_len_max() + BODY_ROOM);
    out.extend_from_slice(method);
    out.put_u8(b' ');
    out.extend_from_slice(&head.target);
    out.extend_from_slice(match head.version {
        Version::Http10 => b" HTTP/1.0\r\n",
        Version::Http11 | Version::Http2 => b" HTTP/1.1\r\n",
    });
    encode_fields(&head.fields, out);
    Ok(())
}

/// Appends a response head, with its empty line, to `out`. A reason phrase that could split the message is left out.
pub fn encode_response_head(head: &ResponseHead, out: &mut BytesMut) {
    let reason: &[u8] = if has_control(&head.reason) { &[] } else { &head.reason };
    out.reserve(reason.len() + 17 + head.fields.wire_len_max() + BODY_ROOM);
    let minor = if head.version == Version::Http10 { b'0' } else { b'1' };
    let digit = |unit: u16| b'0' + u8::try_from(head.status / unit % 10).unwrap_or_default();
    out.extend_from_slice(&[
        b'H',
        b'T',
        b'T',
        b'P',
        b'/',
        b'1',
        b'.',
        minor,
        b' ',
        digit(100),
        digit(10),
        digit(1),
        b' ',
    ]);
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    encode_fields(&head.fields, out);
}

/// Appends field lines and the empty line after them.
fn encode_fields(fields: &Fields, out: &mut BytesMut) {
    fields.write_lines(out);
    out.extend_from_slice(b"\r\n");
}

/// Makes `Content-Length` and `Transfer-Encoding` say what the framing is, and nothing else.
///
/// With `None` a `Content-Length` stays, because in answers to HEAD and in 304 it tells the size of what would have been
/// sent (RFC 9110 section 8.6). With `UntilClose` the caller also says `Connection: close`.
pub fn declare_framing(fields: &mut Fields, framing: BodyFraming) {
    match framing {
        BodyFraming::Chunked => {
            fields.remove(Known::ContentLength);
            if !fields.get(Known::TransferEncoding).is_some_and(|v| v.eq_ignore_ascii_case(b"chunked")) {
                fields.set("Transfer-Encoding", "chunked");
            }
        }
        BodyFraming::Length(length) => {
            fields.remove(Known::TransferEncoding);
            if fields.get(Known::ContentLength).map(super::framing::parse_length) != Some(Ok(length)) {
                fields.set("Content-Length", length.to_string());
            }
        }
        BodyFraming::None => {
            fields.remove(Known::TransferEncoding);
        }
        BodyFraming::UntilClose => {
            fields.remove(Known::TransferEncoding);
            fields.remove(Known::ContentLength);
        }
    }
}

/// What stands around one piece of body data on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    line: [u8; Self::LINE_MAX],
    start: usize,
    chunked: bool,
}

impl Frame {
    /// Sixteen hexadecimal digits and CRLF.
    const LINE_MAX: usize = 18;
    const PLAIN: Self = Self { line: [0; Self::LINE_MAX], start: Self::LINE_MAX, chunked: false };

    fn chunk(len: usize) -> Self {
        let mut frame = Self { chunked: true, ..Self::PLAIN };
        frame.prepend(b'\n');
        frame.prepend(b'\r');
        let mut rest = len;
        loop {
            let digit = u8::try_from(rest & 0xf).unwrap_or_default();
            frame.prepend(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
            rest >>= 4;
            if rest == 0 {
                return frame;
            }
        }
    }

    fn prepend(&mut self, byte: u8) {
        self.start = self.start.saturating_sub(1);
        if let Some(slot) = self.line.get_mut(self.start) {
            *slot = byte;
        }
    }

    /// Bytes before the data: the chunk line, or nothing.
    #[must_use]
    pub fn before(&self) -> &[u8] {
        self.line.get(self.start..).unwrap_or_default()
    }

    /// Bytes after the data: CRLF for a chunk, or nothing.
    #[must_use]
    pub const fn after(&self) -> &'static [u8] {
        if self.chunked { b"\r\n" } else { b"" }
    }
}

/// Encoder of one message body, which also sees to it that a body is as long as its head said.
#[derive(Clone, Debug)]
pub struct BodyEncoder {
    framing: BodyFraming,
    left: u64,
}

impl BodyEncoder {
    /// An encoder for the framing that the head just declared.
    #[must_use]
    pub const fn new(framing: BodyFraming) -> Self {
        let left = match framing {
            BodyFraming::None => 0,
            BodyFraming::Length(length) => length,
            BodyFraming::Chunked | BodyFraming::UntilClose => u64::MAX,
        };
        Self { framing, left }
    }

    /// What to write around the next `len` bytes of data. An empty piece has nothing around it, because an empty chunk
    /// would end the body.
    ///
    /// # Errors
    /// `TooLong` when the body would be longer than announced: the excess would be read as the next message.
    pub fn frame(&mut self, len: usize) -> Result<Frame, BodyFault> {
        match self.framing {
            BodyFraming::Chunked if len > 0 => Ok(Frame::chunk(len)),
            BodyFraming::Chunked | BodyFraming::UntilClose => Ok(Frame::PLAIN),
            BodyFraming::None | BodyFraming::Length(_) => {
                self.left = self.left.checked_sub(len as u64).ok_or(BodyFault::TooLong)?;
                Ok(Frame::PLAIN)
            }
        }
    }

    /// Appends what ends the body to `out`: for chunked the last chunk and the trailers, for others nothing. Trailers
    /// that the framing cannot carry are dropped (RFC 9110 section 6.5.1).
    ///
    /// # Errors
    /// `Truncated` when fewer bytes than announced were framed; the connection must be closed.
    pub fn finish(&mut self, trailers: Option<&Fields>, out: &mut BytesMut) -> Result<(), BodyFault> {
        match self.framing {
            BodyFraming::Chunked => {
                out.extend_from_slice(b"0\r\n");
                match trailers {
                    Some(fields) => encode_fields(fields, out),
                    None => out.extend_from_slice(b"\r\n"),
                }
                Ok(())
            }
            BodyFraming::None | BodyFraming::Length(_) if self.left > 0 => Err(BodyFault::Truncated),
            BodyFraming::None | BodyFraming::Length(_) | BodyFraming::UntilClose => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
