//! Response heads, interim and final.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use httparse::{Header, Status};

use super::fault::HeadFault;
use super::framing::Notes;
use super::limits::{FIELDS_ALLOWED_MAX, Limits};
use super::progress::{Progress, Step};
use super::{diagnose, section};
use crate::fields::{FieldSpans, Fields};
use crate::message::{Asked, BodyFraming, ParsedResponse, ResponseHead, Version};

/// Parser of one connection's response heads. Use as [`super::RequestParser`].
///
/// Interim responses are handed out like final ones; the caller passes them on and calls again. How many it takes for
/// one request is the caller's bound. Bytes that arrive while no request is outstanding must never reach this parser:
/// they are not an answer, and the connection must be closed.
#[derive(Clone, Debug)]
pub struct ResponseParser {
    limits: Limits,
    progress: Progress,
}

impl ResponseParser {
    /// A parser at the start of a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, progress: Progress::default() }
    }

    /// Takes a head from the front of `buffer` once it is whole, without copying it; `None` asks for more bytes.
    /// `asked` describes the request that it answers.
    ///
    /// # Errors
    /// Any [`HeadFault`]; the upstream connection must be closed, and the client gets 502.
    pub fn parse(&mut self, buffer: &mut BytesMut, asked: Asked) -> Result<Option<ParsedResponse>, HeadFault> {
        match buffer.as_ref() {
            [] => return Ok(None),
            // No rule lets a client skip empty lines before a status line.
            [b'\r' | b'\n', ..] => return Err(HeadFault::StatusLine),
            _ => {}
        }
        let full = buffer.len() >= self.limits.head_bytes_max;
        let window = buffer.get(..self.limits.head_bytes_max).unwrap_or(buffer);
        let Step::Try(len) = self.progress.advance(window, full) else {
            return Ok(None);
        };
        let mut storage = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_ALLOWED_MAX];
        let slots = storage.get_mut(..self.limits.fields_max.min(FIELDS_ALLOWED_MAX)).unwrap_or_default();
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let attempt = window.get(..len).unwrap_or(window);
        match config.parse_response_with_uninit_headers(&mut response, attempt, slots) {
            Ok(Status::Complete(head_len)) => {
                let layout = Layout::of(&response, window.get(..head_len).unwrap_or(window), asked)?;
                self.progress = Progress::default();
                Ok(Some(layout.build(buffer.split_to(head_len).freeze())))
            }
            Ok(Status::Partial) if full => Err(HeadFault::HeadTooLarge),
            Ok(Status::Partial) => Ok(None),
            Err(httparse::Error::TooManyHeaders) => Err(HeadFault::TooManyFields),
            Err(_) => Err(diagnose::response(window)),
        }
    }
}

/// A checked head as positions in its buffer, so that the buffer can then be split off without a copy.
struct Layout {
    status: u16,
    reason: Range<usize>,
    version: Version,
    framing: BodyFraming,
    tunnel: bool,
    spans: FieldSpans,
}

impl Layout {
    fn of<'a>(response: &httparse::Response<'_, 'a>, head: &'a [u8], asked: Asked) -> Result<Self, HeadFault> {
        let status = response.code.unwrap_or_default();
        if status < 100 {
            return Err(HeadFault::StatusCode);
        }
        let version = if response.version == Some(0) { Version::Http10 } else { Version::Http11 };
        let mut notes = Notes::default();
        let spans = section::collect(head, response.headers, |name, value| notes.note(name, value))?;
        // The tokeniser drops a phrase with obs-text, so it is taken from the line itself, which `collect` has proved to
        // end with CRLF.
        let start = "HTTP/1.1 200 ".len();
        let told = start + response.reason.unwrap_or_default().len();
        let line_end = match head.get(told..) {
            Some([b'\r', b'\n', ..]) => told,
            _ => head.iter().position(|b| *b == b'\n').unwrap_or_default().saturating_sub(1),
        };
        let (framing, tunnel) = notes.response_framing(version, status, asked)?;
        Ok(Self { status, reason: start.min(line_end)..line_end, version, framing, tunnel, spans })
    }

    fn build(self, head: Bytes) -> ParsedResponse {
        let usual = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let reason = match usual {
            // Shares nothing that would have to be counted.
            Some(usual) if head.get(self.reason.clone()) == Some(usual.as_bytes()) => {
                Bytes::from_static(usual.as_bytes())
            }
            _ => head.slice(self.reason),
        };
        let fields = Fields::from_received(head, self.spans);
        let head = ResponseHead { status: self.status, reason, version: self.version, fields };
        ParsedResponse { head, framing: self.framing, tunnel: self.tunnel }
    }
}

#[cfg(test)]
mod tests;
