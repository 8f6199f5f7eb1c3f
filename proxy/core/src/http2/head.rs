//! Decoded field sections as heads and trailers, checked (RFC 9113 section 8).
//!
//! Downgrading HTTP/2 to HTTP/1 has been a rich source of request smuggling: what a length-prefixed protocol carries
//! harmlessly can end a line or a body in a textual one. So every HTTP/2 head passes the checks of an HTTP/1 head on
//! arrival, whether or not it will be sent as HTTP/1, and policies see the same shape either way:
//! - names that are no token in lower case, values with control characters, pseudo-fields that are unknown, repeated, missing
//!   or late, are refused;
//! - connection-specific fields, `te` other than `trailers`, lists or repeats of `content-length` are refused;
//! - `:authority` and `Host` must name the same and only the former is kept; `:path` must be a path;
//! - cookie crumbs are joined (section 8.2.3) and the limits apply to the result, before it is built.
//!
//! Names, order and values are else as they came.

use std::ops::Range;

use bytes::Bytes;
use http::Method;

use super::hpack::Block;
use super::path;
use crate::authority::{Authority, default_port};
use crate::fields::{Fields, Known, Names};
use crate::h1::{BodyFault, HeadFault, Limits, Notes, is_forbidden_trailer};
use crate::message::{Asked, BodyFraming, ParsedRequest, ParsedResponse, RequestHead, ResponseHead, Version};

/// What [`Notes`] looks at.
const NOTED: Names = Names::of(&[Known::ContentLength, Known::Expect, Known::Host]);

/// Takes over the head of a request. `end_stream`: whether it ended the stream.
///
/// Plain CONNECT has the authority as its target and no framing: what the stream carries is the tunnel.
///
/// # Errors
/// Any [`HeadFault`]; the connection stays usable. See [`is_malformed`] for what the client hears.
pub fn request(block: &mut Block, end_stream: bool, limits: &Limits) -> Result<ParsedRequest, HeadFault> {
    block.sound()?;
    let method = block.pseudo.method.clone().ok_or(HeadFault::PseudoMissing)?;
    let place = Place::of(block, &method, limits)?;
    check_size(block, place.target.len() + place.authority.as_ref().map_or(0, Range::len), limits)?;
    let framing = {
        let mut notes = Notes::default();
        block.spans.known(&block.bytes, NOTED).try_for_each(|(name, value)| notes.note_request(Some(name), value))?;
        check_authority(block, notes.host)?;
        match notes.request_framing(Version::Http11, &method)? {
            BodyFraming::Length(1..) if end_stream => return Err(HeadFault::LengthWithoutBody),
            _ if method == Method::CONNECT || end_stream => BodyFraming::None,
            BodyFraming::None => BodyFraming::Chunked,
            announced @ (BodyFraming::Length(_) | BodyFraming::Chunked | BodyFraming::UntilClose) => announced,
        }
    };
    if place.authority.is_some() {
        // `:authority` replaces it, and says the same.
        block.spans.remove(Known::Host);
    }
    let (bytes, fields) = block.take_joined();
    let head = RequestHead {
        method,
        target: bytes.slice(place.target),
        version: Version::Http2,
        scheme: place.scheme.map(|range| scheme_bytes(&bytes, range)),
        authority: place.authority.map(|range| bytes.slice(range)),
        protocol: place.protocol.map(|range| bytes.slice(range)),
        fields,
    };
    Ok(ParsedRequest { head, framing })
}

/// Takes over the head of a response, interim or final. `asked` describes its request.
///
/// # Errors
/// Any [`HeadFault`]; the client gets 502, and the stream is reset.
pub fn response(
    block: &mut Block,
    asked: Asked,
    end_stream: bool,
    limits: &Limits,
) -> Result<ParsedResponse, HeadFault> {
    block.sound()?;
    let status = block.pseudo.status.ok_or(HeadFault::PseudoMissing)?;
    if block.pseudo.is_of_request() {
        return Err(HeadFault::PseudoUnknown);
    }
    check_size(block, 0, limits)?;
    let mut notes = Notes::default();
    block.spans.known(&block.bytes, NOTED).try_for_each(|(name, value)| notes.note(Some(name), value))?;
    // RFC 9113 section 8.6: HTTP/2 has no 101, even for a request that once carried an upgrade.
    let asked = Asked { upgrade: false, ..asked };
    let (framing, tunnel) = notes.response_framing(Version::Http11, status, asked)?;
    let framing = match framing {
        BodyFraming::Length(1..) if end_stream => return Err(HeadFault::LengthWithoutBody),
        // Not `None`: over HTTP/1 the client has to be told that nothing follows.
        BodyFraming::UntilClose if end_stream => BodyFraming::Length(0),
        BodyFraming::UntilClose => BodyFraming::Chunked,
        kept @ (BodyFraming::None | BodyFraming::Length(_) | BodyFraming::Chunked) => kept,
    };
    let (_, fields) = block.take_joined();
    let head = ResponseHead { status, reason: Bytes::new(), version: Version::Http2, fields };
    Ok(ParsedResponse { head, framing, tunnel })
}

/// Takes over a trailer section.
///
/// # Errors
/// As for chunked trailers: too many, too large, or fields that decide about framing and routing.
pub fn trailers(block: &mut Block, limits: &Limits) -> Result<Fields, BodyFault> {
    block.sound().map_err(of_trailers)?;
    if block.pseudo.is_any() {
        return Err(BodyFault::TrailerField);
    }
    if block.spans.len() > limits.fields_max {
        return Err(BodyFault::TooManyTrailers);
    }
    if block.bytes.len() > limits.trailer_bytes_max {
        return Err(BodyFault::TrailersTooLarge);
    }
    if block.spans.names(&block.bytes).any(is_forbidden_trailer) {
        return Err(BodyFault::TrailerForbidden);
    }
    Ok(block.take().1)
}

const fn of_trailers(fault: HeadFault) -> BodyFault {
    if matches!(fault, HeadFault::HeadTooLarge) {
        BodyFault::TrailersTooLarge
    } else if matches!(fault, HeadFault::ConnectionSpecific | HeadFault::TeNotTrailers) {
        BodyFault::TrailerForbidden
    } else {
        BodyFault::TrailerField
    }
}

/// Whether a head with this fault has no meaning in HTTP/2: its stream is reset with `PROTOCOL_ERROR` (RFC 9113 section
/// 8.1.1). For any other fault a client gets the status of the fault.
#[must_use]
pub const fn is_malformed(fault: HeadFault) -> bool {
    matches!(
        fault,
        HeadFault::Method
            | HeadFault::StatusCode
            | HeadFault::FieldName
            | HeadFault::FieldValue
            | HeadFault::PseudoUnknown
            | HeadFault::PseudoRepeated
            | HeadFault::PseudoLate
            | HeadFault::PseudoMissing
    )
}

/// Where a request goes, as ranges of the block.
struct Place {
    target: Range<usize>,
    scheme: Option<Range<usize>>,
    authority: Option<Range<usize>>,
    protocol: Option<Range<usize>>,
}

impl Place {
    /// The target is what HTTP/1 would write: `:path`, or the authority for CONNECT (RFC 9113 sections 8.3.1 and 8.5).
    fn of(block: &Block, method: &Method, limits: &Limits) -> Result<Self, HeadFault> {
        let pseudo = &block.pseudo;
        let extended = pseudo.protocol.is_some();
        let connect = *method == Method::CONNECT;
        if pseudo.status.is_some() || (extended && !connect) {
            return Err(HeadFault::PseudoUnknown);
        }
        let target = if connect && !extended {
            if pseudo.scheme.is_some() || pseudo.path.is_some() {
                return Err(HeadFault::PseudoUnknown);
            }
            let range = pseudo.authority.clone().ok_or(HeadFault::AuthorityMissing)?;
            let authority = path::authority(piece(block, &range)).ok_or(HeadFault::AuthorityInvalid)?;
            authority.port.map(|_| range).ok_or(HeadFault::ConnectTarget)?
        } else {
            let scheme = pseudo.scheme.as_ref().ok_or(HeadFault::PseudoMissing)?;
            default_port(piece(block, scheme)).ok_or(HeadFault::Scheme)?;
            let range = pseudo.path.clone().ok_or(HeadFault::PseudoMissing)?;
            check_path(piece(block, &range), pseudo.path_fit, method, limits)?;
            range
        };
        let (scheme, authority) = (pseudo.scheme.clone(), pseudo.authority.clone());
        Ok(Self { target, scheme, authority, protocol: pseudo.protocol.clone() })
    }
}

fn check_path(text: &[u8], fit: bool, method: &Method, limits: &Limits) -> Result<(), HeadFault> {
    if text.len() > limits.request_line_bytes_max {
        return Err(HeadFault::TargetTooLong);
    }
    match text {
        b"*" if *method == Method::OPTIONS => Ok(()),
        [b'/', ..] if fit => Ok(()),
        _ => Err(HeadFault::Path),
    }
}

/// RFC 9113 section 8.3.1: one of the two must be there, and they must not differ.
fn check_authority(block: &Block, host: Option<&[u8]>) -> Result<(), HeadFault> {
    let host = host.map(|host| Authority::parse(host).ok_or(HeadFault::HostInvalid)).transpose()?;
    let pseudo = &block.pseudo;
    match (&pseudo.authority, host) {
        (None, None) => Err(HeadFault::AuthorityMissing),
        (Some(_), _) if !pseudo.authority_fit => Err(HeadFault::AuthorityInvalid),
        (Some(authority), Some(host)) => {
            let authority = Authority::parse(piece(block, authority)).ok_or(HeadFault::AuthorityInvalid)?;
            let port = pseudo.scheme.as_ref().and_then(|scheme| default_port(piece(block, scheme)));
            if authority.same_as(&host, port) { Ok(()) } else { Err(HeadFault::HostMismatch) }
        }
        (Some(_), None) | (None, Some(_)) => Ok(()),
    }
}

/// Crumbs of a cookie count as the one field that they become, with their joints; an HPACK reference of one byte can name a
/// field of kilobytes, so the sum is what matters. `extra`: bytes of pseudo-fields that count.
fn check_size(block: &Block, extra: usize, limits: &Limits) -> Result<(), HeadFault> {
    // What a line has beyond its value but for the joint: `cookie: ` and CRLF without `; `.
    const CRUMB: usize = 8;
    let more_crumbs = block.cookies.saturating_sub(1);
    if block.spans.len() - more_crumbs > limits.fields_max {
        return Err(HeadFault::TooManyFields);
    }
    let lines = block.bytes.len() - block.lines_at;
    if extra + lines - more_crumbs * CRUMB > limits.head_bytes_max {
        return Err(HeadFault::HeadTooLarge);
    }
    Ok(())
}

fn scheme_bytes(bytes: &Bytes, range: Range<usize>) -> Bytes {
    match bytes.get(range.clone()) {
        Some(b"http") => Bytes::from_static(b"http"),
        Some(b"https") => Bytes::from_static(b"https"),
        _ => bytes.slice(range),
    }
}

fn piece<'a>(block: &'a Block, range: &Range<usize>) -> &'a [u8] {
    block.bytes.get(range.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
