//! The four forms of a request-target, and how each must agree with method and `Host` (RFC 9112 section 3.2).

use super::fault::HeadFault;
use crate::authority::{Authority, default_port};
use crate::message::Version;
use http::Method;
use std::ops::Range;

/// Where scheme and authority lie in a target, if it holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TargetParts {
    pub(super) scheme: Option<Range<usize>>,
    pub(super) authority: Option<Range<usize>>,
}

/// Checks form and agreement; `host` is the value of the only `Host` field.
pub(super) fn check(
    method: &Method,
    target: &[u8],
    version: Version,
    host: Option<&[u8]>,
) -> Result<TargetParts, HeadFault> {
    // A fragment is never sent (RFC 9110 section 4.2.5); parsers that cut it and parsers that keep it would route the
    // request differently (CVE-2023-45539).
    if target.contains(&b'#') {
        return Err(HeadFault::Target);
    }
    let host = match host {
        Some(value) => Some(Authority::parse(value).ok_or(HeadFault::HostInvalid)?),
        None if version == Version::Http10 => None,
        None => return Err(HeadFault::HostMissing),
    };
    if *method == Method::CONNECT {
        return connect(target, host);
    }
    match target.first() {
        Some(b'/') => Ok(TargetParts::default()),
        Some(b'*') if target.len() == 1 => {
            if *method == Method::OPTIONS {
                Ok(TargetParts::default())
            } else {
                Err(HeadFault::AsteriskTarget)
            }
        }
        _ => absolute(target, host),
    }
}

/// RFC 9112 section 3.2.3: host and port, both, and `Host` names the same.
fn connect(target: &[u8], host: Option<Authority<'_>>) -> Result<TargetParts, HeadFault> {
    let authority = Authority::parse(target).ok_or(HeadFault::ConnectTarget)?;
    if authority.port.is_none() {
        return Err(HeadFault::ConnectTarget);
    }
    // Some clients leave the port out of `Host` here.
    if host.is_some_and(|host| !host.same_as(&authority, authority.port)) {
        return Err(HeadFault::HostMismatch);
    }
    Ok(TargetParts { scheme: None, authority: Some(0..target.len()) })
}

/// RFC 9112 section 3.2.2. The target's authority counts, and a proxy may replace a `Host` that differs; it is refused
/// here, because no honest client sends it and the application behind may believe the other one.
fn absolute(target: &[u8], host: Option<Authority<'_>>) -> Result<TargetParts, HeadFault> {
    let colon = target.iter().position(|b| *b == b':').ok_or(HeadFault::Target)?;
    let scheme = target.get(..colon).unwrap_or_default();
    let port = default_port(scheme).ok_or(HeadFault::Target)?;
    let rest = target.get(colon..).and_then(|t| t.strip_prefix(b"://")).ok_or(HeadFault::Target)?;
    let len = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let authority = rest.get(..len).and_then(Authority::parse).ok_or(HeadFault::TargetAuthority)?;
    if rest.get(len) == Some(&b'?') {
        // An empty path with a query would be a path that policies do not expect; `/?` says the same.
        return Err(HeadFault::Target);
    }
    if host.is_some_and(|host| !host.same_as(&authority, Some(port))) {
        return Err(HeadFault::HostMismatch);
    }
    let start = colon + 3;
    Ok(TargetParts { scheme: Some(0..colon), authority: Some(start..start + len) })
}
