//! Why we read differently from hyper.
//!
//! Most of it is about smuggling: where two parsers may read one message differently, the one between them refuses it.
//! Each reason names the rule it stands on, and looks for its cause in the bytes or in what hyper made of them, so that it
//! explains nothing else.

use weft_core::authority::Authority;
use weft_core::h1::{BodyFault, HeadFault};

use super::Seen;

/// Why we refuse a head that hyper takes; `raw` begins where the head does. `None` where there is no reason.
pub(super) fn stricter_head(fault: HeadFault, raw: &[u8], theirs: &Seen) -> Option<&'static str> {
    let values = |name: &str| theirs.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_slice()).collect();
    let hosts: Vec<&[u8]> = values("host");
    let codings: Vec<&[u8]> = values("transfer-encoding");
    let lengths: Vec<&[u8]> = values("content-length");
    let written = |name: &str| named_in(head(raw), name);
    let status: u16 = theirs.first.parse().unwrap_or_default();
    let method = theirs.first.split(' ').next().unwrap_or_default();
    let target = request_target(raw);
    let bodiless = status < 200 || matches!(status, 204 | 304);
    let (cause, why) = match fault {
        HeadFault::EmptyLine => (
            raw.starts_with(b"\r\n") || raw.starts_with(b"\n"),
            "RFC 9112, 2.2: at least one empty line is skipped; not any number",
        ),
        HeadFault::BareLf => (
            has_bare_lf(head(raw)),
            "RFC 9112, 2.2: LF alone may be read as a line end; who reads it otherwise sees other fields",
        ),
        HeadFault::StatusLine => {
            (matches!(raw.first(), Some(b'\r' | b'\n')), "RFC 9112, 2.2 lets servers skip empty lines, not clients")
        }
        HeadFault::Target => (
            target.contains(&b'#') || !(target.starts_with(b"/") || is_absolute_http(target)) || target.contains(&b'?'),
            "RFC 9112, 3.2: only the four forms, http and https, no fragment, no query without a path",
        ),
        HeadFault::TargetAuthority => {
            (is_absolute_http(target), "RFC 9110, 4.2.4 and 7.2: no userinfo, no empty host or port")
        }
        HeadFault::ConnectTarget => (method == "CONNECT", "RFC 9112, 3.2.3: CONNECT names host and port"),
        HeadFault::AsteriskTarget => {
            (target == b"*" && method != "OPTIONS", "RFC 9112, 3.2.4: the asterisk is for OPTIONS")
        }
        HeadFault::HostMissing => (hosts.is_empty() && theirs.minor == 1, "RFC 9112, 3.2: 400 without Host"),
        HeadFault::HostRepeated => (hosts.len() > 1, "RFC 9112, 3.2: 400 for more than one Host"),
        HeadFault::HostInvalid => (
            hosts.iter().any(|host| Authority::parse(host).is_none()),
            "RFC 9112, 3.2: 400 for an invalid Host; ours is stricter in what two parsers read differently",
        ),
        HeadFault::HostMismatch => (
            is_absolute_http(target) || method == "CONNECT",
            "RFC 9112, 3.2.2: they are the same, or somebody is misled",
        ),
        HeadFault::BodyOnConnect => (method == "CONNECT", "RFC 9110, 9.3.6: a body of CONNECT has no meaning"),
        HeadFault::Expectation => (written("expect"), "RFC 9110, 10.1.1: 417 for an unknown expectation"),
        HeadFault::ContentLength => (
            !codings.is_empty() || lengths.iter().any(|length| !is_length(length)),
            "RFC 9112, 6.3: an invalid length is unrecoverable, also where hyper does not look at it: beside a coding, in \
             204, 304 and answers to HEAD and CONNECT",
        ),
        HeadFault::ContentLengthRepeated => {
            (count_in(head(raw), "content-length") > 1, "RFC 9112, 6.3: the same value twice may be refused")
        }
        HeadFault::ContentLengthForbidden => {
            (bodiless && written("content-length"), "RFC 9110, 8.6: no Content-Length in 1xx and 204")
        }
        HeadFault::LengthAndTransferEncoding => (
            written("content-length") && written("transfer-encoding"),
            "RFC 9112, 6.3: ought to be handled as an error; hyper drops the length",
        ),
        HeadFault::TransferEncoding => (
            !codings.is_empty(),
            "RFC 9112, 6.1 and 6.3: chunked once and last; hyper looks at the last word only, and a response without it \
             ends with its connection",
        ),
        HeadFault::TransferEncodingUnsupported => (
            codings.len() > 1 || codings.concat().contains(&b','),
            "RFC 9112, 6.1: 501 for a coding not understood; hyper decodes chunked alone",
        ),
        HeadFault::TransferEncodingForbidden => (
            written("transfer-encoding") && (bodiless || theirs.minor == 0),
            "RFC 9112, 6.1: none in 1xx, 204 and HTTP/1.0",
        ),
        HeadFault::UnsolicitedUpgrade => (status == 101, "RFC 9110, 15.2.2: 101 answers an Upgrade"),
        _ => return None,
    };
    cause.then_some(why)
}

/// Why we refuse a body that hyper takes.
pub(super) const fn stricter_body(fault: BodyFault) -> Option<&'static str> {
    match fault {
        BodyFault::ChunkSize => Some("RFC 9112, 7.1: no blank after the size, and no more digits than 64 bits hold"),
        BodyFault::ChunkExtension => Some("RFC 9112, 7.1.1: no control characters; hyper reads over anything but LF"),
        BodyFault::TrailerField => Some("RFC 9112, 2.2: lines of trailers end with CRLF as those of heads do"),
        BodyFault::TrailerForbidden => Some("RFC 9110, 6.5.1: no fields that frame, route or authenticate"),
        BodyFault::ChunkExtensionsTooLong
        | BodyFault::ChunkEnd
        | BodyFault::TrailersTooLarge
        | BodyFault::TooManyTrailers
        | BodyFault::Truncated
        | BodyFault::TooLong => None,
    }
}

/// Why hyper refuses what we take.
pub(super) fn looser(ours: &Seen) -> Option<&'static str> {
    let path = ours.first.rsplit(' ').next().unwrap_or_default();
    if path.starts_with('/') && http::Uri::try_from(path).is_err() {
        return Some("RFC 9110, 7.7: a proxy forwards the path as it is; servers refuse what they do not like");
    }
    let authority = ours.first.split(' ').nth(1).unwrap_or_default();
    if authority.contains('%') && http::uri::Authority::try_from(authority).is_err() {
        return Some("RFC 3986, 3.2.2: a registered name may have octets written with a percent sign");
    }
    let lengths = ours.fields.iter().filter(|(name, _)| name == "content-length");
    let significant = |value: &[u8]| value.iter().position(|b| *b != b'0').map(|at| value[at..].to_vec());
    if lengths.filter_map(|(_, value)| significant(value)).any(|v| v.starts_with(b"184467440737095516")) {
        return Some("hyper keeps the largest two lengths of 64 bits for itself");
    }
    None
}

/// The lines of the first head.
fn head(raw: &[u8]) -> &[u8] {
    let ends: [&[u8]; 3] = [b"\r\n\r\n", b"\n\n", b"\n\r\n"];
    let end = |end: &&[u8]| raw.windows(end.len()).position(|at| at == *end).map(|at| at + end.len());
    &raw[..ends.iter().filter_map(end).min().unwrap_or(raw.len())]
}

fn has_bare_lf(head: &[u8]) -> bool {
    head.iter().enumerate().any(|(at, b)| *b == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

fn count_in(head: &[u8], name: &str) -> usize {
    let named = |line: &&[u8]| {
        line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
            && line.get(name.len()) == Some(&b':')
    };
    head.split(|b| *b == b'\n').filter(named).count()
}

fn named_in(head: &[u8], name: &str) -> bool {
    count_in(head, name) > 0
}

fn is_length(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| !text.starts_with('+') && text.parse::<u64>().is_ok())
}

fn request_target(raw: &[u8]) -> &[u8] {
    let start = raw.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or_default();
    raw[start..].split(|b| matches!(b, b' ' | b'\r' | b'\n')).nth(1).unwrap_or_default()
}

fn is_absolute_http(target: &[u8]) -> bool {
    let lower = target.to_ascii_lowercase();
    lower.starts_with(b"http://") || lower.starts_with(b"https://")
}
