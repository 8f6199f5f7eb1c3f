//! One decoded field section.

use std::ops::Range;

use bytes::Bytes;
use http::Method;

use super::field::{COLON, CRLF, Field, Kind, Pseudo, Shape, value_of};
use crate::fields::{FieldSpans, Fields};
use crate::h1::{HeadFault, Limits};

/// A buffer above this is given back before the next section.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Bound on what is kept of one field section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimits {
    /// Bytes of all names and values and 32 for each field, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts them (RFC 9113
    /// section 6.5.2), which is before crumbs of a cookie are joined.
    pub list_bytes_max: usize,
}

impl BlockLimits {
    /// Above the bounds of `limits`, which count otherwise and are applied to the checked head.
    #[must_use]
    pub const fn of(limits: &Limits) -> Self {
        Self { list_bytes_max: limits.head_bytes_max.saturating_add(limits.fields_max.saturating_mul(32)) }
    }
}

/// One decoded field section, and what is wrong with it by RFC 9113 section 8.
///
/// Filled by [`super::Decoder::decode`], which empties it first, so that one serves all connections of a worker: what a
/// message takes over of it is copied in one piece.
#[derive(Debug, Default)]
pub struct Block {
    /// Values of pseudo-fields, then lines.
    pub(in crate::http2) bytes: Vec<u8>,
    pub(in crate::http2) spans: FieldSpans,
    pub(in crate::http2) pseudo: PseudoFields,
    /// Crumbs of cookies.
    pub(in crate::http2) cookies: usize,
    /// Where the lines begin.
    pub(in crate::http2) lines_at: usize,
    list_bytes: usize,
    list_bytes_max: usize,
    fault: Option<HeadFault>,
}

/// Pseudo-fields, as ranges of the block's bytes but for what has a type of its own.
#[derive(Debug, Default)]
pub(in crate::http2) struct PseudoFields {
    pub(in crate::http2) method: Option<Method>,
    pub(in crate::http2) status: Option<u16>,
    pub(in crate::http2) scheme: Option<Range<usize>>,
    pub(in crate::http2) authority: Option<Range<usize>>,
    pub(in crate::http2) path: Option<Range<usize>>,
    pub(in crate::http2) protocol: Option<Range<usize>>,
    /// The authority is one ([`path::authority`](crate::http2::path::authority)).
    pub(in crate::http2) authority_fit: bool,
    /// The path has only bytes that one may have ([`path::is_valid`](crate::http2::path::is_valid)).
    pub(in crate::http2) path_fit: bool,
}

impl PseudoFields {
    /// Whether there is one that only requests have.
    pub(in crate::http2) const fn is_of_request(&self) -> bool {
        let text = self.scheme.is_some() || self.authority.is_some() || self.path.is_some() || self.protocol.is_some();
        text || self.method.is_some()
    }

    pub(in crate::http2) const fn is_any(&self) -> bool {
        self.status.is_some() || self.is_of_request()
    }
}

impl Block {
    /// An empty one; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of the whole list as it counts for [`BlockLimits::list_bytes_max`], beyond that too.
    #[must_use]
    pub const fn list_bytes(&self) -> usize {
        self.list_bytes
    }

    /// Status of a response's head, before anything else of it is looked at: tells interim responses from final ones, and
    /// trailers, which have none, from both.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        self.pseudo.status
    }

    /// Method of a request's head, whatever else is wrong with it; gone when it was taken over.
    #[must_use]
    pub const fn method(&self) -> Option<&Method> {
        self.pseudo.method.as_ref()
    }

    /// The first thing that was wrong.
    pub(in crate::http2) fn sound(&self) -> Result<(), HeadFault> {
        self.fault.map_or(Ok(()), Err)
    }

    /// Its bytes and fields in a buffer of their own, crumbs of a cookie joined with `; ` (RFC 9113 section 8.2.3).
    pub(in crate::http2) fn take_joined(&mut self) -> (Bytes, Fields) {
        if self.cookies > 1 {
            self.spans.join(b"cookie", b"; ", &mut self.bytes);
        }
        self.take()
    }

    /// Its bytes and fields in a buffer of their own: for a message two allocations, of the size that it needs.
    pub(in crate::http2) fn take(&mut self) -> (Bytes, Fields) {
        let bytes = Bytes::copy_from_slice(&self.bytes);
        (bytes.clone(), Fields::from_received(bytes, self.spans.to_owned()))
    }

    pub(super) fn begin(&mut self, limits: BlockLimits) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.spans.clear();
        self.pseudo = PseudoFields::default();
        (self.cookies, self.lines_at, self.list_bytes, self.fault) = (0, 0, 0, None);
        self.list_bytes_max = limits.list_bytes_max;
    }

    /// Adds a field of a table.
    #[inline]
    pub(super) fn push(&mut self, field: Field<'_>) {
        if !self.admits(field.shape) {
            return;
        }
        let at = self.bytes.len();
        if let Kind::Pseudo(pseudo) = field.shape.name.kind {
            self.bytes.extend_from_slice(field.value());
            self.add_pseudo(at, pseudo, field.shape.fit);
        } else {
            self.bytes.extend_from_slice(field.line);
            self.add_line(at, field.shape, false);
        }
    }

    /// Keeps the line from `at` to the end, or not.
    pub(super) fn keep(&mut self, at: usize, shape: Shape, secret: bool) {
        if !self.admits(shape) {
            self.bytes.truncate(at);
        } else if let Kind::Pseudo(pseudo) = shape.name.kind {
            let value_at = at + shape.name.len as usize + COLON.len();
            self.bytes.copy_within(value_at.., at);
            let cut = value_at - at + CRLF.len();
            self.bytes.truncate(self.bytes.len() - cut);
            self.add_pseudo(at, pseudo, shape.fit);
        } else {
            self.add_line(at, shape, secret);
        }
    }

    pub(super) const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) const fn end(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn since(&self, at: usize) -> &[u8] {
        self.bytes.get(at..).unwrap_or_default()
    }

    /// Whether a field is to be kept: no more is after the first fault, and beyond the bound.
    #[inline]
    fn admits(&mut self, shape: Shape) -> bool {
        self.list_bytes = self.list_bytes.saturating_add(shape.size as usize);
        if self.list_bytes > self.list_bytes_max {
            self.blame(HeadFault::HeadTooLarge);
        } else if !shape.sound {
            self.blame(HeadFault::FieldValue);
        }
        self.fault.is_none()
    }

    fn blame(&mut self, fault: HeadFault) {
        self.fault.get_or_insert(fault);
    }

    #[inline]
    fn add_line(&mut self, at: usize, shape: Shape, secret: bool) {
        match shape.name.kind {
            Kind::Cookie => self.cookies += 1,
            Kind::Te => {
                let value = value_of(self.since(at), shape.name.len as usize);
                if !value.eq_ignore_ascii_case(b"trailers") {
                    self.blame(HeadFault::TeNotTrailers);
                }
            }
            Kind::ConnectionSpecific => self.blame(HeadFault::ConnectionSpecific),
            Kind::Malformed => return self.blame(HeadFault::FieldName),
            Kind::Plain | Kind::Pseudo(_) => {}
        }
        self.spans.push_line(&self.bytes, at, shape.name.len, shape.name.known, secret);
    }

    /// Takes the value from `at` to the end for that of a pseudo-field.
    fn add_pseudo(&mut self, at: usize, pseudo: Pseudo, fit: bool) {
        if !self.spans.is_empty() {
            return self.blame(HeadFault::PseudoLate);
        }
        let end = self.bytes.len();
        self.lines_at = end;
        let repeated = match pseudo {
            Pseudo::Method | Pseudo::Status => return self.add_typed(at, pseudo == Pseudo::Method),
            Pseudo::Scheme => self.pseudo.scheme.replace(at..end),
            Pseudo::Authority => {
                self.pseudo.authority_fit = fit;
                self.pseudo.authority.replace(at..end)
            }
            Pseudo::Path => {
                self.pseudo.path_fit = fit;
                self.pseudo.path.replace(at..end)
            }
            Pseudo::Protocol => self.pseudo.protocol.replace(at..end),
            Pseudo::Unknown => return self.blame(HeadFault::PseudoUnknown),
        };
        if repeated.is_some() {
            self.blame(HeadFault::PseudoRepeated);
        }
    }

    /// Takes the value from `at` to the end for a method or status and out of the buffer.
    fn add_typed(&mut self, at: usize, is_method: bool) {
        let value = self.bytes.get(at..).unwrap_or_default();
        let repeated = if is_method {
            let method = Method::from_bytes(value).map_err(|_| HeadFault::Method);
            method.map(|method| self.pseudo.method.replace(method).is_some())
        } else {
            let status = status(value).ok_or(HeadFault::StatusCode);
            status.map(|status| self.pseudo.status.replace(status).is_some())
        };
        self.bytes.truncate(at);
        self.lines_at = at;
        match repeated {
            Ok(false) => {}
            Ok(true) => self.blame(HeadFault::PseudoRepeated),
            Err(fault) => self.blame(fault),
        }
    }
}

/// Three digits, the first not zero.
fn status(value: &[u8]) -> Option<u16> {
    let [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = value else { return None };
    let digit = |byte: &u8| u16::from(byte - b'0');
    Some(digit(hundreds) * 100 + digit(tens) * 10 + digit(ones))
}
