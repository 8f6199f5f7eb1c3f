//! Heads and trailers as the `h2` crate sends them.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};

use super::{is_connection_specific, names};
use crate::authority::Authority;
use crate::fields::Fields;
use crate::h1::{HeadFault, is_forbidden_trailer};
use crate::message::{RequestHead, ResponseHead};

/// A request for an HTTP/2 server. `scheme` is `http` or `https`, used when the head has none; it tells the server whether
/// its client spoke TLS, which is not always what this hop does.
///
/// `:protocol` of an extended CONNECT is not in the result: it is an extension type of the `h2` crate, which the caller
/// adds.
///
/// # Errors
/// `UpgradeOverHttp2` for a request that wants an HTTP/1.1 upgrade, `AuthorityMissing`, `AuthorityInvalid`, `Scheme`,
/// `TargetNotTranslatable` when the path has a fragment or more than 65,534 bytes, which the `http` crate cannot hold. The
/// field faults it names cannot happen to [`Fields`].
pub fn request_to_h2(head: &RequestHead, scheme: &str) -> Result<Request<()>, HeadFault> {
    if head.wants_upgrade().is_some() {
        return Err(HeadFault::UpgradeOverHttp2);
    }
    let mut parts = http::uri::Parts::default();
    let authority = head.host().ok_or(HeadFault::AuthorityMissing)?;
    Authority::parse(authority).ok_or(HeadFault::AuthorityInvalid)?;
    parts.authority = Some(http::uri::Authority::try_from(authority).map_err(|_| HeadFault::AuthorityInvalid)?);
    if head.method != Method::CONNECT || head.protocol.is_some() {
        let scheme = head.scheme.as_deref().unwrap_or(scheme.as_bytes());
        parts.scheme = Some(Scheme::try_from(scheme).map_err(|_| HeadFault::Scheme)?);
        parts.path_and_query = Some(path_and_query(head)?);
    }
    let uri = Uri::from_parts(parts).map_err(|_| HeadFault::TargetNotTranslatable)?;
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    // `:authority` replaces `Host` (RFC 9113 section 8.3.1).
    *request.headers_mut() = header_map(&head.fields, "host")?;
    Ok(request)
}

/// A response, interim or final, for an HTTP/2 client. The reason phrase is dropped; HTTP/2 has none.
///
/// # Errors
/// `UpgradeOverHttp2` for 101, `StatusCode` outside 100 to 999.
pub fn response_to_h2(head: &ResponseHead) -> Result<Response<()>, HeadFault> {
    if head.status == 101 {
        return Err(HeadFault::UpgradeOverHttp2);
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| HeadFault::StatusCode)?;
    *response.version_mut() = http::Version::HTTP_2;
    *response.headers_mut() = header_map(&head.fields, "")?;
    Ok(response)
}

/// A trailer section for an HTTP/2 peer. Fields that a trailer section must not have are dropped.
#[must_use]
pub fn trailers_to_h2(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields.iter_shared() {
        if let (Some(name), Ok(value)) = (names::shared(name), HeaderValue::from_maybe_shared(value))
            && !is_forbidden_trailer(name.as_str())
        {
            // The map holds 32,768 entries, far more than any limit lets in; more would be dropped.
            map.try_append(name, value).unwrap_or_default();
        }
    }
    map
}

fn path_and_query(head: &RequestHead) -> Result<PathAndQuery, HeadFault> {
    let raw = head.path_and_query();
    // The common case shares the bytes of the received head.
    let shared = if raw.len() == head.target.len() { head.target.clone() } else { Bytes::copy_from_slice(raw) };
    // The `http` crate would silently cut a fragment off.
    if shared.contains(&b'#') {
        return Err(HeadFault::TargetNotTranslatable);
    }
    PathAndQuery::from_maybe_shared(shared)
        .or_else(|_| PathAndQuery::try_from(escaped(raw)))
        .map_err(|_| HeadFault::TargetNotTranslatable)
}

/// Percent-encodes the visible bytes that the `http` crate takes in no path or query. They are not allowed in a URI, yet
/// HTTP/1 clients send them and their servers answer; none is a delimiter, so no parser can split the path differently
/// for it, and refusing would break what works without a mesh.
fn escaped(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 16);
    for byte in raw {
        match byte {
            b'"' => out.extend_from_slice(b"%22"),
            b'<' => out.extend_from_slice(b"%3C"),
            b'>' => out.extend_from_slice(b"%3E"),
            b'`' => out.extend_from_slice(b"%60"),
            other => out.push(*other),
        }
    }
    out
}

/// Lower-cases names and drops what HTTP/2 forbids, and `without`.
fn header_map(fields: &Fields, without: &str) -> Result<HeaderMap, HeadFault> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields.iter_shared() {
        if is_connection_specific(name) || name.eq_ignore_ascii_case(without.as_bytes()) {
            continue;
        }
        if name.eq_ignore_ascii_case(b"te") {
            // Anything but `trailers` is about HTTP/1 transfer codings (RFC 9113 section 8.2.2).
            if value.split(|b| *b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(b"trailers")) {
                map.insert(http::header::TE, HeaderValue::from_static("trailers"));
            }
            continue;
        }
        let name = names::shared(name).ok_or(HeadFault::FieldName)?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadFault::FieldValue)?;
        map.try_append(name, value).map_err(|_| HeadFault::TooManyFields)?;
    }
    Ok(map)
}
