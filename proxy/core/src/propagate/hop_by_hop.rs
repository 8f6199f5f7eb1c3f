//! Fields that end at this hop (RFC 9110 section 7.6.1), in requests and responses.
//!
//! `Connection` names further fields to remove. That is a weapon: naming `x-forwarded-client-cert` or `authorization`
//! there made proxies remove what the application relies on (CVE-2020-25017 class). So nominations of fields that carry
//! identity, authorization, framing, trace or forwarding are ignored and counted, and those fields stay; no sender with
//! honest intentions nominates them.

use crate::fields::{Fields, Known, Names};
use crate::message::{RequestHead, ResponseHead, Version};

/// Most nominations that are heeded; real messages have one or two. A bound, because each is compared with each field.
const NOMINATIONS_MAX: usize = 64;

/// Hop-by-hop whether nominated or not. `connection`, `te` and `upgrade` are too, and treated on their own.
const ALWAYS: Names =
    Names::of(&[Known::ProxyConnection, Known::KeepAlive, Known::TransferEncoding, Known::Http2Settings]);

/// Without any of these there is nothing to do.
const CONCERNED: Names = ALWAYS.and(Names::of(&[Known::Connection, Known::Te, Known::Upgrade]));

/// Options of `Connection` that name no field to remove, or one that is removed anyway.
const KNOWN_OPTIONS: [&str; 7] =
    ["close", "keep-alive", "te", "upgrade", "transfer-encoding", "proxy-connection", "connection"];

/// Fields no nomination can remove.
const PROTECTED: [&str; 40] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "trailer",
    "expect",
    "range",
    "date",
    "authorization",
    "www-authenticate",
    "proxy-authorization",
    "proxy-authenticate",
    "cookie",
    "set-cookie",
    "origin",
    "referer",
    "location",
    "vary",
    "cache-control",
    "age",
    "expires",
    "etag",
    "strict-transport-security",
    "content-security-policy",
    "x-frame-options",
    "x-content-type-options",
    "forwarded",
    "via",
    "x-real-ip",
    "client-cert",
    "client-cert-chain",
    "x-request-id",
    "b3",
    "traceparent",
    "tracestate",
    "baggage",
    "idempotency-key",
    "proxy-status",
    "early-data",
];

/// As [`PROTECTED`], for families of fields.
const PROTECTED_PREFIXES: [&str; 8] =
    ["x-forwarded-", "x-b3-", "x-weft-", "x-envoy-", "l5d-", "grpc-", "sec-", "access-control-"];

/// What happens to `Upgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// It ends here.
    Drop,
    /// The caller carries the upgrade through: `Upgrade` and its nomination stay.
    Keep,
}

/// What was done, for records and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stripped {
    /// Fields removed.
    pub removed: usize,
    /// Nominations ignored because the field is protected, or beyond the bound of 64.
    pub ignored_nominations: usize,
}

/// Removes what a request's sender meant for this hop only. Framing fields go too: the encoder declares its own.
///
/// `te: trailers` stays, because gRPC demands it end to end; toward HTTP/1 it is nominated in `Connection` as RFC 9110
/// section 10.1.4 wants. Other transfer codings of `te` end here. What stays of either field stays where and as it was
/// written: there are servers that compare `Connection: Upgrade` by its case. Read `keeps_alive` and `wants_upgrade`
/// before.
pub fn strip_request(head: &mut RequestHead, upgrade: Upgrade) -> Stripped {
    if !head.fields.may_have(CONCERNED) {
        return Stripped::default();
    }
    let trailers = accepts_trailers(&head.fields);
    let stripped = strip(&mut head.fields, upgrade, trailers && head.version != Version::Http2);
    if trailers {
        say(&mut head.fields, Known::Te, b"trailers");
    } else {
        head.fields.remove(Known::Te);
    }
    stripped
}

/// Removes what a response's sender meant for this hop only. Framing fields go too: the encoder declares its own. Read
/// `keeps_alive` before.
pub fn strip_response(head: &mut ResponseHead, upgrade: Upgrade) -> Stripped {
    if !head.fields.may_have(CONCERNED) {
        return Stripped::default();
    }
    let stripped = strip(&mut head.fields, upgrade, false);
    head.fields.remove(Known::Te);
    stripped
}

/// Everything but `te`; `te` says whether that is nominated on.
fn strip(fields: &mut Fields, upgrade: Upgrade, te: bool) -> Stripped {
    let (nominated, ignored_nominations) = nominations(fields);
    let options = options(fields, te, upgrade == Upgrade::Keep && fields.contains(Known::Upgrade));
    let before = fields.len();
    let mut ending = ALWAYS;
    if options.is_empty() {
        ending = ending.and(Names::of(&[Known::Connection]));
    }
    if upgrade == Upgrade::Drop {
        ending = ending.and(Names::of(&[Known::Upgrade]));
    }
    fields.remove_all(ending);
    if !nominated.is_empty() {
        fields.retain(|name, _| !nominated.iter().any(|n| name.eq_ignore_ascii_case(n)));
    }
    let removed = before - fields.len();
    if !options.is_empty() {
        say(fields, Known::Connection, &options);
    }
    Stripped { removed, ignored_nominations }
}

/// The options of `Connection` that are said again, as they were written, or in lower case where they were not.
fn options(fields: &Fields, te: bool, upgrade: bool) -> Vec<u8> {
    let mut options = Vec::new();
    for (option, _) in [("te", te), ("upgrade", upgrade)].into_iter().filter(|(_, said)| *said) {
        let mut written =
            fields.list(Known::Connection).filter(|element| element.eq_ignore_ascii_case(option.as_bytes()));
        options.push(written.next().unwrap_or(option.as_bytes()));
    }
    options.join(&b", "[..])
}

/// Makes one field of this name say this; untouched where it does.
fn say(fields: &mut Fields, name: Known, value: &[u8]) {
    if fields.get(name) != Some(value) || fields.get_all(name).count() > 1 {
        fields.set(name, value);
    }
}

/// Fields nominated for removal, beyond the known options; and how many nominations are ignored. Allocates only when
/// there are any.
fn nominations(fields: &Fields) -> (Vec<Box<[u8]>>, usize) {
    let (mut heeded, mut ignored) = (Vec::new(), 0);
    for option in fields.list(Known::Connection) {
        if KNOWN_OPTIONS.iter().any(|known| option.eq_ignore_ascii_case(known.as_bytes())) {
            continue;
        }
        if is_protected(option) || heeded.len() == NOMINATIONS_MAX {
            ignored += 1;
        } else {
            heeded.push(option.into());
        }
    }
    (heeded, ignored)
}

fn is_protected(name: &[u8]) -> bool {
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|n| n.eq_ignore_ascii_case(prefix.as_bytes()));
    PROTECTED.iter().any(|p| name.eq_ignore_ascii_case(p.as_bytes())) || PROTECTED_PREFIXES.into_iter().any(begins)
}

/// `te` has the element `trailers`; a weight (`;q=0`) is not defined for it.
fn accepts_trailers(fields: &Fields) -> bool {
    fields.has_token(Known::Te, "trailers")
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::*;
    use crate::propagate::testing::{fields, lines};

    fn check(version: Version, upgrade: Upgrade, input: &[&str], expected: &[&str], ignored: usize) {
        let mut head = RequestHead::new(Method::GET, "/");
        (head.version, head.fields) = (version, fields(input));
        let stripped = strip_request(&mut head, upgrade);
        assert_eq!(lines(&head.fields), expected, "{input:?}");
        assert_eq!(stripped.ignored_nominations, ignored, "{input:?}");
    }

    #[test]
    fn requests() {
        use Upgrade::{Drop, Keep};
        use Version::{Http2, Http10, Http11};
        check(Http11, Drop, &["Host: a", "Accept: b"], &["Host: a", "Accept: b"], 0);
        check(Http11, Drop, &["Connection: close", "Keep-Alive: timeout=5", "A: b"], &["A: b"], 0);
        check(Http11, Drop, &["Proxy-Connection: x", "Transfer-Encoding: chunked", "A: b"], &["A: b"], 0);
        check(
            Http11,
            Drop,
            &["Connection: x-hop, X-OTHER", "X-Hop: 1", "x-other: 2", "x-hop: 3", "A: b"],
            &["A: b"],
            0,
        );
        check(Http11, Drop, &["Connection: x-hop", "connection: x-more", "X-Hop: 1", "x-more: 2"], &[], 0);
        check(Http10, Drop, &["Connection: keep-alive, x-hop", "X-Hop: 1", "A: b"], &["A: b"], 0);
        // gRPC's `te: trailers` stays, other codings do not.
        check(Http2, Drop, &["te: trailers"], &["te: trailers"], 0);
        check(Http11, Drop, &["Connection: TE", "TE: gzip, trailers"], &["Connection: TE", "TE: trailers"], 0);
        check(Http11, Drop, &["TE: trailers", "A: b"], &["TE: trailers", "A: b", "connection: te"], 0);
        check(Http11, Drop, &["Connection: TE", "TE: gzip"], &[], 0);
        // Upgrades are the caller's business.
        let websocket = ["Connection: Upgrade, x-hop", "Upgrade: websocket", "X-Hop: 1"];
        check(Http11, Keep, &websocket, &["Connection: Upgrade", "Upgrade: websocket"], 0);
        check(Http11, Drop, &websocket, &[], 0);
        let both = ["te: trailers", "Connection: Upgrade, te", "Upgrade: websocket"];
        check(Http11, Keep, &both, &["te: trailers", "Connection: te, Upgrade", "Upgrade: websocket"], 0);
        let apart = ["Connection: keep-alive", "connection: UPGRADE", "Upgrade: a"];
        check(Http11, Keep, &apart, &["Connection: UPGRADE", "Upgrade: a"], 0);
        // End to end, though their names suggest otherwise.
        check(Http11, Drop, &["Trailer: x", "Proxy-Authorization: y"], &["Trailer: x", "Proxy-Authorization: y"], 0);
    }

    #[test]
    fn nominations_cannot_remove_what_others_rely_on() {
        for name in [
            "X-Forwarded-Client-Cert",
            "x-forwarded-for",
            "Authorization",
            "cookie",
            "b3",
            "X-B3-TraceId",
            "traceparent",
            "x-request-id",
            "x-weft-client-id",
            "host",
            "content-length",
            "cache-control",
            "forwarded",
            "grpc-timeout",
        ] {
            let (connection, field) = (format!("Connection: close, {name}"), format!("{name}: 1"));
            check(Version::Http11, Upgrade::Drop, &[&connection, &field], &[&field], 1);
        }
    }

    #[test]
    fn nominations_are_bounded() {
        let many: Vec<String> = (0..1000).map(|i| format!("x-{i}")).collect();
        let connection = format!("connection: {}", many.join(","));
        check(Version::Http11, Upgrade::Drop, &[&connection, "x-3: a", "x-999: b"], &["x-999: b"], 1000 - 64);
    }

    #[test]
    fn responses() {
        let check = |upgrade, input: &[&str], expected: &[&str]| {
            let mut head = ResponseHead::new(200);
            head.fields = fields(input);
            strip_response(&mut head, upgrade);
            assert_eq!(lines(&head.fields), expected, "{input:?}");
        };
        check(Upgrade::Drop, &["Connection: x-hop, set-cookie", "X-Hop: 1", "Set-Cookie: a"], &["Set-Cookie: a"]);
        check(Upgrade::Drop, &["Connection: Upgrade", "Upgrade: h2c", "A: b"], &["A: b"]);
        check(
            Upgrade::Keep,
            &["Connection: Upgrade", "Upgrade: websocket"],
            &["Connection: Upgrade", "Upgrade: websocket"],
        );
        check(Upgrade::Keep, &["Upgrade: websocket"], &["Upgrade: websocket", "connection: upgrade"]);
        check(Upgrade::Drop, &["Keep-Alive: timeout=5", "Transfer-Encoding: chunked", "Trailer: a"], &["Trailer: a"]);
    }

    proptest! {
        /// Whatever is nominated: stripping twice is stripping once, and nothing hop-by-hop is left.
        #[test]
        fn stripping_is_idempotent(names in proptest::collection::vec("[a-c]{1,2}|te|upgrade|keep-alive|close|b3|cookie", 0..12), nominated in "[ a-c,]{0,20}|TE|b3,upgrade|,,a") {
            let mut head = RequestHead::new(Method::GET, "/");
            head.fields = names.iter().map(|n| (n.as_str(), "trailers")).collect();
            head.fields.append("Connection", &nominated);
            strip_request(&mut head, Upgrade::Drop);
            let once = head.clone();
            for name in ["upgrade", "keep-alive", "transfer-encoding"] {
                prop_assert!(!head.fields.contains(name));
            }
            prop_assert_eq!(head.fields.contains("b3"), names.iter().any(|n| n == "b3"));
            strip_request(&mut head, Upgrade::Drop);
            prop_assert_eq!(head, once);
        }
    }
}
