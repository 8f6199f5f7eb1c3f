//! Where a request goes, as HTTP/2 says it.

use std::borrow::Cow;

use http::Method;

use super::hpack::Index;
use super::path;
use crate::h1::HeadFault;
use crate::message::RequestHead;

pub(super) const AUTHORITY: &[u8] = b":authority";
pub(super) const PATH: &[u8] = b":path";

/// Which of the fields of most requests that are not in the fixed table they are.
const AUTHORITY_AT: usize = 0;
const PATH_AT: usize = 1;

/// The pseudo-fields of a request, but for its method and protocol.
#[derive(Debug)]
pub(super) struct RequestTarget<'a> {
    pub(super) scheme: Option<&'a [u8]>,
    pub(super) authority: &'a [u8],
    pub(super) path: Option<Cow<'a, [u8]>>,
}

impl<'a> RequestTarget<'a> {
    /// `scheme`: used when the head has none. `sent`: what was checked before is not checked again.
    pub(super) fn of(head: &'a RequestHead, scheme: &'a str, sent: &Index) -> Result<Self, HeadFault> {
        if head.wants_upgrade().is_some() {
            return Err(HeadFault::UpgradeOverHttp2);
        }
        let authority = head.host().ok_or(HeadFault::AuthorityMissing)?;
        if !sent.has(AUTHORITY_AT, AUTHORITY, authority) {
            path::authority(authority).ok_or(HeadFault::AuthorityInvalid)?;
        }
        if head.method == Method::CONNECT && head.protocol.is_none() {
            return Ok(Self { scheme: None, authority, path: None });
        }
        let scheme = head.scheme.as_deref().unwrap_or(scheme.as_bytes());
        if !is_scheme(scheme) {
            return Err(HeadFault::Scheme);
        }
        let path = head.path_and_query();
        let path = match sent.has(PATH_AT, PATH, path) {
            true => Cow::Borrowed(path),
            false => path::fit(path).ok_or(HeadFault::TargetNotTranslatable)?,
        };
        Ok(Self { scheme: Some(scheme), authority, path: Some(path) })
    }
}

/// RFC 3986 section 3.1.
fn is_scheme(text: &[u8]) -> bool {
    let more = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.first().is_some_and(u8::is_ascii_alphabetic) && text.iter().all(more)
}
