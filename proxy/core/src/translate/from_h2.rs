//! HTTP/2 heads and trailers as they arrive.

use bytes::Bytes;
use http::header::{COOKIE, HeaderMap, HeaderName};
use http::{Method, Uri};

use super::is_connection_specific;
use crate::authority::{Authority, default_port};
use crate::fields::{FieldSpans, Fields, Known, trim_ows};
use crate::h1::{BodyFault, HeadFault, Limits, Notes, is_forbidden_trailer};
use crate::message::{Asked, BodyFraming, ParsedRequest, ParsedResponse, RequestHead, ResponseHead, Version};

/// Checks a request from an HTTP/2 client and takes it over.
///
/// `protocol` is `:protocol` of an extended CONNECT, `end_stream` whether the head ended the stream. Plain CONNECT has the
/// authority as its target and no framing: what the stream carries is the tunnel.
///
/// # Errors
/// Any [`HeadFault`]; answer with its status, or reset the stream with `PROTOCOL_ERROR` (RFC 9113 section 8.1.1). The
/// connection stays usable.
pub fn request_from_h2(
    parts: &http::request::Parts,
    protocol: Option<&str>,
    end_stream: bool,
    limits: &Limits,
) -> Result<ParsedRequest, HeadFault> {
    let target = request_target(&parts.method, &parts.uri, protocol.is_some(), limits)?;
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let mut notes = Notes::default();
    let extra = target.len() + authority.map_or(0, <[u8]>::len);
    note_fields(&parts.headers, extra, limits, |name, value| notes.note_request(Known::of(name), value))?;
    check_authority(authority, notes.host, parts.uri.scheme_str())?;
    let tunnel = parts.method == Method::CONNECT;
    let framing = match notes.request_framing(Version::Http11, &parts.method)? {
        BodyFraming::Length(1..) if end_stream => return Err(HeadFault::LengthWithoutBody),
        _ if tunnel || end_stream => BodyFraming::None,
        BodyFraming::None => BodyFraming::Chunked,
        announced @ (BodyFraming::Length(_) | BodyFraming::Chunked | BodyFraming::UntilClose) => announced,
    };
    let mut copy = Copy::new(&parts.headers, extra);
    let (target, authority) = (copy.push(target), authority.map(|a| copy.push(a)));
    let skip_host = authority.is_some();
    let (bytes, fields) = copy.fields(&parts.headers, skip_host);
    let head = RequestHead {
        method: parts.method.clone(),
        target: bytes.slice(target),
        version: Version::Http2,
        scheme: parts.uri.scheme_str().map(scheme_bytes),
        authority: authority.map(|range| bytes.slice(range)),
        protocol: protocol.map(|p| Bytes::copy_from_slice(p.as_bytes())),
        fields,
    };
    Ok(ParsedRequest { head, framing })
}

/// Checks a response, interim or final, from an HTTP/2 server and takes it over. `asked` describes its request.
///
/// # Errors
/// Any [`HeadFault`]; the client gets 502, and the stream is reset.
pub fn response_from_h2(
    parts: &http::response::Parts,
    asked: Asked,
    end_stream: bool,
    limits: &Limits,
) -> Result<ParsedResponse, HeadFault> {
    let status = parts.status.as_u16();
    let mut notes = Notes::default();
    note_fields(&parts.headers, 0, limits, |name, value| notes.note(Known::of(name), value))?;
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
    let (_, fields) = Copy::new(&parts.headers, 0).fields(&parts.headers, false);
    let head = ResponseHead { status, reason: Bytes::new(), version: Version::Http2, fields };
    Ok(ParsedResponse { head, framing, tunnel })
}

/// Checks a trailer section and takes it over.
///
/// # Errors
/// As for chunked trailers: too many, too large, or fields that decide about framing and routing.
pub fn trailers_from_h2(trailers: &HeaderMap, limits: &Limits) -> Result<Fields, BodyFault> {
    let size: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if trailers.len() > limits.fields_max {
        return Err(BodyFault::TooManyTrailers);
    }
    if size > limits.trailer_bytes_max {
        return Err(BodyFault::TrailersTooLarge);
    }
    if trailers.keys().any(|name| is_odd(name.as_str().as_bytes())) {
        return Err(BodyFault::TrailerField);
    }
    if trailers.keys().any(|name| is_forbidden_trailer(name.as_str())) {
        return Err(BodyFault::TrailerForbidden);
    }
    Ok(trailers.iter().collect())
}

/// The target as HTTP/1 would write it: `:path`, or the authority for CONNECT (RFC 9113 sections 8.3.1 and 8.5).
fn request_target<'a>(method: &Method, uri: &'a Uri, extended: bool, limits: &Limits) -> Result<&'a [u8], HeadFault> {
    let path = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    if *method == Method::CONNECT && !extended {
        let authority = uri.authority().ok_or(HeadFault::AuthorityMissing)?.as_str().as_bytes();
        let port = Authority::parse(authority).ok_or(HeadFault::AuthorityInvalid)?.port;
        return port.map(|_| authority).ok_or(HeadFault::ConnectTarget);
    }
    // h2 cannot tell us the scheme of a request without an authority, but has checked that there is one.
    let scheme_fine = match uri.scheme_str() {
        Some(scheme) => default_port(scheme.as_bytes()).is_some(),
        None => uri.authority().is_none(),
    };
    if !scheme_fine {
        return Err(HeadFault::Scheme);
    }
    if path.len() > limits.request_line_bytes_max {
        return Err(HeadFault::TargetTooLong);
    }
    match path.as_bytes() {
        b"*" if *method == Method::OPTIONS => Ok(path.as_bytes()),
        [b'/', ..] if !path.contains('#') => Ok(path.as_bytes()),
        _ => Err(HeadFault::Path),
    }
}

/// RFC 9113 section 8.3.1: one of the two must be there, and they must not differ.
fn check_authority(authority: Option<&[u8]>, host: Option<&[u8]>, scheme: Option<&str>) -> Result<(), HeadFault> {
    let host = host.map(|h| Authority::parse(h).ok_or(HeadFault::HostInvalid)).transpose()?;
    let authority = authority.map(|a| Authority::parse(a).ok_or(HeadFault::AuthorityInvalid)).transpose()?;
    match (authority, host) {
        (None, None) => Err(HeadFault::AuthorityMissing),
        (Some(a), Some(h)) if !a.same_as(&h, scheme.and_then(|s| default_port(s.as_bytes()))) => {
            Err(HeadFault::HostMismatch)
        }
        _ => Ok(()),
    }
}

/// Whether a name holds what no token may: of those that `h2` lets in, only the quotation mark is none (RFC 9113 section
/// 8.2.1, RFC 9110 section 5.1). An HTTP/1 peer would refuse the whole message for it, or read another name.
fn is_odd(name: &[u8]) -> bool {
    name.contains(&b'"')
}

/// One pass over the fields before any byte is copied: forbidden fields, framing, limits.
///
/// Crumbs of a cookie count as the one field that they become, with their joints; an HPACK reference of one byte can name
/// a field of kilobytes, so the sum is what matters.
fn note_fields<'a>(
    map: &'a HeaderMap,
    extra: usize,
    limits: &Limits,
    mut note: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), HeadFault>,
) -> Result<(), HeadFault> {
    let (mut size, mut count, mut cookies) = (extra, 0_usize, 0_usize);
    for (name, value) in map {
        let (name, value) = (name.as_str().as_bytes(), trim_ows(value.as_bytes()));
        if is_odd(name) {
            return Err(HeadFault::FieldName);
        }
        if is_connection_specific(name) {
            return Err(HeadFault::ConnectionSpecific);
        }
        if name == b"te" && !value.eq_ignore_ascii_case(b"trailers") {
            return Err(HeadFault::TeNotTrailers);
        }
        note(name, value)?;
        if name == b"cookie" {
            cookies += 1;
            size += value.len() + 2;
        } else {
            count += 1;
            size += name.len() + value.len() + 4;
        }
    }
    if cookies > 0 {
        count += 1;
        size += COOKIE.as_str().len() + 2;
    }
    if count > limits.fields_max {
        return Err(HeadFault::TooManyFields);
    }
    if size > limits.head_bytes_max { Err(HeadFault::HeadTooLarge) } else { Ok(()) }
}

/// Copies a head into one buffer: two allocations for a message, none per field.
struct Copy {
    buffer: Vec<u8>,
}

impl Copy {
    fn new(map: &HeaderMap, extra: usize) -> Self {
        let size: usize = map.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        Self { buffer: Vec::with_capacity(extra + size) }
    }

    fn push(&mut self, part: &[u8]) -> std::ops::Range<usize> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(part);
        start..self.buffer.len()
    }

    fn fields(mut self, map: &HeaderMap, skip_host: bool) -> (Bytes, Fields) {
        let mut spans = FieldSpans::with_capacity(map.len());
        let mut cookie_done = false;
        for (name, value) in map {
            if (skip_host && name == http::header::HOST) || (cookie_done && name == COOKIE) {
                continue;
            }
            let at = self.push(name.as_str().as_bytes());
            let value = if name == COOKIE {
                cookie_done = true;
                self.push_cookies(map, name)
            } else {
                self.push(trim_ows(value.as_bytes()))
            };
            spans.push_ranges(&self.buffer, at, value);
        }
        let bytes = Bytes::from(self.buffer);
        (bytes.clone(), Fields::from_received(bytes, spans))
    }

    /// RFC 9113 section 8.2.3: crumbs are joined with `; ` before they leave HTTP/2.
    fn push_cookies(&mut self, map: &HeaderMap, name: &HeaderName) -> std::ops::Range<usize> {
        let start = self.buffer.len();
        let crumbs = map.get_all(name).iter().map(|crumb| trim_ows(crumb.as_bytes()));
        for crumb in crumbs.filter(|crumb| !crumb.is_empty()) {
            if self.buffer.len() > start {
                self.buffer.extend_from_slice(b"; ");
            }
            self.buffer.extend_from_slice(crumb);
        }
        start..self.buffer.len()
    }
}

fn scheme_bytes(scheme: &str) -> Bytes {
    match scheme {
        "http" => Bytes::from_static(b"http"),
        "https" => Bytes::from_static(b"https"),
        other => Bytes::copy_from_slice(other.as_bytes()),
    }
}
