//! Responses of the proxy's own, for faults.
//!
//! They say that a proxy made them (`proxy-status`, RFC 9209, and `x-weft-error` with the searchable code) so that nobody
//! hunts the application for them. A gRPC client gets the same as a trailers-only response, because its library shows
//! nothing of an HTTP status but the number.

use bytes::Bytes;
use weft_core::fault::FaultKind;
use weft_core::message::ResponseHead;
use weft_core::propagate::own;

use super::{Body, Refusal, Response};

/// The response to a request that ended in this fault; `grpc` when the request was gRPC.
#[must_use]
pub fn fault_response(fault: FaultKind, grpc: bool) -> Response {
    let looks = fault.appearance();
    if grpc {
        let mut head = ResponseHead::new(200);
        head.fields.append("content-type", "application/grpc");
        head.fields.append("grpc-status", looks.grpc_status.to_string());
        head.fields.append("grpc-message", percent_encoded(looks.phrase));
        own::mark(&mut head.fields, fault);
        return Response::new(head);
    }
    text(fault, looks.status, looks.phrase)
}

/// The response to a head that was refused: as the fault looks, with the status and the words of the exact reason.
#[must_use]
pub fn refusal_response(refusal: &Refusal) -> Response {
    let looks = refusal.fault.appearance();
    let status = refusal.status.unwrap_or(looks.status);
    match refusal.reason {
        Some(reason) => text(refusal.fault, status, &reason.to_string()),
        None => text(refusal.fault, status, looks.phrase),
    }
}

fn text(fault: FaultKind, status: u16, phrase: &str) -> Response {
    let mut head = ResponseHead::new(status);
    head.fields.append("content-type", "text/plain; charset=utf-8");
    own::mark(&mut head.fields, fault);
    let body = Bytes::from(format!("{} ({})\n", phrase, fault.code()));
    Response { head, body: Body::full(body), upgrade: None, refused: false }
}

/// `grpc-message` carries printable ASCII but `%`; all else is percent-encoded (gRPC over HTTP/2, "Responses").
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_encoded() {
        for (text, expected) in [("plain text", "plain text"), ("100%", "100%25"), ("é\n", "%C3%A9%0A")] {
            assert_eq!(percent_encoded(text), expected);
        }
    }

    #[test]
    fn a_grpc_fault_is_trailers_only() {
        let response = fault_response(FaultKind::NoEndpoint, true);
        assert_eq!(response.head.status, 200);
        assert!(response.body.is_end());
        assert_eq!(response.head.fields.get_str("grpc-status"), Some("14"));
        assert_eq!(response.head.fields.get_str("x-weft-error"), Some("no_endpoint"));
    }
}
