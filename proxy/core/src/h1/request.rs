//! Request heads.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use httparse::{Header, Status};

use super::fault::HeadFault;
use super::framing::Notes;
use super::limits::{FIELDS_ALLOWED_MAX, Limits};
use super::progress::{Progress, Step};
use super::target::{self, TargetParts};
use super::{diagnose, section};
use crate::fields::{FieldSpans, Fields};
use crate::message::{BodyFraming, ParsedRequest, RequestHead, Version};

/// Parser of one connection's request heads.
///
/// Call [`Self::parse`] with the connection's read buffer whenever it has grown. A head may arrive in any pieces; the
/// work is linear in its length. After a fault the parser and its connection are of no more use.
#[derive(Clone, Debug)]
pub struct RequestParser {
    limits: Limits,
    progress: Progress,
    empty_line_skipped: bool,
}

impl RequestParser {
    /// A parser at the start of a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, progress: Progress::default(), empty_line_skipped: false }
    }

    /// Whether bytes of an unfinished head have been seen: a peer that closes now cut a request short, one that is
    /// silent now is slow, not idle.
    #[must_use]
    pub fn in_head(&self, buffered: &[u8]) -> bool {
        !buffered.is_empty() || self.empty_line_skipped
    }

    /// Takes a head from the front of `buffer` once it is whole, without copying it; `None` asks for more bytes.
    ///
    /// What follows the head stays in the buffer. Until the head is whole nothing but one empty line is taken.
    ///
    /// # Errors
    /// Any [`HeadFault`]; answer with its status and close.
    pub fn parse(&mut self, buffer: &mut BytesMut) -> Result<Option<ParsedRequest>, HeadFault> {
        if !self.skip_empty_line(buffer)? {
            return Ok(None);
        }
        let full = buffer.len() >= self.limits.head_bytes_max;
        let window = buffer.get(..self.limits.head_bytes_max).unwrap_or(buffer);
        let Step::Try(len) = self.progress.advance(window, full) else {
            // Once there is a line it was checked; looking for its end at every byte after it would be quadratic.
            return if self.progress.has_line() { Ok(None) } else { self.check_line_length(window).map(|()| None) };
        };
        let mut storage = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_ALLOWED_MAX];
        let slots = storage.get_mut(..self.limits.fields_max.min(FIELDS_ALLOWED_MAX)).unwrap_or_default();
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(window.get(..len).unwrap_or(window), slots) {
            Ok(Status::Complete(head_len)) => {
                let layout = Layout::of(&request, window.get(..head_len).unwrap_or(window), &self.limits)?;
                self.progress = Progress::default();
                self.empty_line_skipped = false;
                Ok(Some(layout.build(buffer.split_to(head_len).freeze())))
            }
            Ok(Status::Partial) => {
                self.check_line_length(window)?;
                if full { Err(HeadFault::HeadTooLarge) } else { Ok(None) }
            }
            Err(error) => {
                self.check_line_length(window)?;
                Err(if error == httparse::Error::TooManyHeaders {
                    HeadFault::TooManyFields
                } else {
                    diagnose::request(window)
                })
            }
        }
    }

    /// RFC 9112 section 2.2: at least one CRLF before a request line should be ignored, because old clients end a body
    /// with one. False when more bytes are needed to know.
    fn skip_empty_line(&mut self, buffer: &mut BytesMut) -> Result<bool, HeadFault> {
        loop {
            match buffer.as_ref() {
                [] | [b'\r'] => return Ok(false),
                [b'\r' | b'\n', ..] if self.empty_line_skipped => return Err(HeadFault::EmptyLine),
                [b'\r', b'\n', ..] => {
                    buffer.advance(2);
                    self.empty_line_skipped = true;
                }
                [b'\r', ..] => return Err(HeadFault::BareCr),
                [b'\n', ..] => return Err(HeadFault::BareLf),
                _ => return Ok(true),
            }
        }
    }

    fn check_line_length(&self, window: &[u8]) -> Result<(), HeadFault> {
        match window.get(..self.limits.request_line_bytes_max) {
            Some(line) if !line.contains(&b'\n') => Err(HeadFault::TargetTooLong),
            _ => Ok(()),
        }
    }
}

/// A checked head as positions in its buffer, so that the buffer can then be split off without a copy.
struct Layout {
    method: Method,
    target: Range<usize>,
    parts: TargetParts,
    version: Version,
    framing: BodyFraming,
    spans: FieldSpans,
}

impl Layout {
    fn of<'a>(request: &httparse::Request<'_, 'a>, head: &'a [u8], limits: &Limits) -> Result<Self, HeadFault> {
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default().as_bytes());
        let version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
        let start = method.len() + 1;
        let line_len = start + target.len() + " HTTP/1.1\r\n".len();
        if line_len > limits.request_line_bytes_max {
            return Err(HeadFault::TargetTooLong);
        }
        let mut notes = Notes::default();
        let spans = section::collect(head, request.headers, |name, value| notes.note_request(name, value))?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadFault::Method)?;
        let parts = target::check(&method, target, version, notes.host)?;
        let framing = notes.request_framing(version, &method)?;
        Ok(Self { method, target: start..start + target.len(), parts, version, framing, spans })
    }

    fn build(self, head: Bytes) -> ParsedRequest {
        let target = head.slice(self.target);
        let head = RequestHead {
            method: self.method,
            version: self.version,
            scheme: self.parts.scheme.map(|range| target.slice(range)),
            authority: self.parts.authority.map(|range| target.slice(range)),
            protocol: None,
            target,
            fields: Fields::from_received(head, self.spans),
        };
        ParsedRequest { head, framing: self.framing }
    }
}

#[cfg(test)]
mod tests;
