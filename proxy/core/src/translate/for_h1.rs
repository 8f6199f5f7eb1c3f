//! Makes a head that came from HTTP/2 fit for an HTTP/1.1 connection, in place.

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::fields::Known;
use crate::h1::{HeadFault, declare_framing};
use crate::message::{BodyFraming, RequestHead, ResponseHead, Version};

/// Prepares a request for [`crate::h1::encode_request_head`]: `Host` first, framing fields that agree with `framing`,
/// `te` nominated in `Connection`. HTTP/1 heads only become HTTP/1.1 and get their framing fields. An HTTP/1.0 client may
/// leave `Host` out: set `authority` (to the captured destination, say) before calling.
///
/// # Errors
/// `UpgradeOverHttp2` for an extended CONNECT (RFC 8441): HTTP/1 would need a handshake of its own.
/// `AuthorityMissing` when the request names no authority; HTTP/1.1 demands `Host`.
pub fn request_for_h1(head: &mut RequestHead, framing: BodyFraming) -> Result<(), HeadFault> {
    if head.protocol.is_some() {
        return Err(HeadFault::UpgradeOverHttp2);
    }
    if head.version == Version::Http2 {
        head.scheme = None;
        if head.fields.remove(Known::Te) > 0 {
            // Only `trailers` got in; RFC 9110 section 10.1.4 wants the field nominated.
            head.fields.append("te", "trailers");
            head.fields.append("connection", "te");
        }
        if framing == BodyFraming::None && expects_body(&head.method) && !head.fields.contains(Known::ContentLength) {
            // RFC 9110 section 8.6: without it some servers answer 411.
            head.fields.append("content-length", "0");
        }
    }
    if !head.fields.contains(Known::Host) {
        let authority = head.authority.clone().ok_or(HeadFault::AuthorityMissing)?;
        head.fields.prepend("host", &authority);
    }
    head.version = Version::Http11;
    declare_framing(&mut head.fields, framing);
    Ok(())
}

/// Prepares a response for [`crate::h1::encode_response_head`]: version, the registered reason phrase where there is none,
/// and framing fields that agree with `framing` (use [`BodyFraming::toward`] for an HTTP/1.0 client first).
pub fn response_for_h1(head: &mut ResponseHead, framing: BodyFraming) {
    if head.version == Version::Http2 {
        let reason = StatusCode::from_u16(head.status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
        head.reason = Bytes::from_static(reason.as_bytes());
    }
    head.version = Version::Http11;
    declare_framing(&mut head.fields, framing);
}

fn expects_body(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}
