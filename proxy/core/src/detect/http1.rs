//! HTTP/1 request lines: any method, any form of target (RFC 9112 section 3).

use super::Detected;
use crate::fields::is_token_byte;

/// Methods after which a target that begins like a path or an HTTP URI settles the matter. No other protocol in use
/// begins so: RTSP and SIP share method names but have URIs of their own scheme or `*`.
const USUAL_METHODS: [&[u8]; 8] = [b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"];

/// Begin of a version (RFC 9112 section 2.3). With any version after it the line is HTTP's, and the parser judges it.
const VERSION_START: &[u8] = b"HTTP/";

/// How much is missing is known only at the end of the line.
const MORE: Detected = Detected::NeedMore(1);

/// Servers skip any number of empty lines before a request, and hand a method of any length to their applications.
pub(super) fn detect(prefix: &[u8]) -> Detected {
    let start = prefix.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let line = prefix.get(start..).unwrap_or_default();
    let method_len = line.iter().take_while(|b| is_token_byte(**b)).count();
    let Some((method, rest)) = line.split_at_checked(method_len) else { return MORE };
    match rest.first() {
        None => MORE,
        Some(b' ' | b'\t') if !method.is_empty() => after_method(method, rest),
        Some(_) => Detected::Opaque,
    }
}

/// `rest` begins with the blank after the method.
fn after_method(method: &[u8], rest: &[u8]) -> Detected {
    if USUAL_METHODS.contains(&method) {
        match rest.get(1..).map(usual_target) {
            Some(Certainty::Yes) => return Detected::Http1,
            Some(Certainty::NotYet) | None => return MORE,
            Some(Certainty::No) => {}
        }
    }
    // Any word of this line that begins with "HTTP/" is its version, or will be refused as HTTP.
    let (line, ended) = match rest.iter().position(|b| is_line_end(*b)) {
        Some(end) => (rest.get(..end).unwrap_or(rest), true),
        None => (rest, false),
    };
    if line.split(|b| is_blank(*b)).any(|word| word.starts_with(VERSION_START)) {
        Detected::Http1
    } else if ended {
        Detected::Opaque
    } else {
        MORE
    }
}

enum Certainty {
    Yes,
    No,
    NotYet,
}

/// Whether a target is a path or an HTTP URI.
fn usual_target(target: &[u8]) -> Certainty {
    let schemes: [&[u8]; 2] = [b"http://", b"https://"];
    let begins = |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|t| t.eq_ignore_ascii_case(scheme));
    let could = |scheme: &[u8]| scheme.get(..target.len()).is_some_and(|s| s.eq_ignore_ascii_case(target));
    match target.first() {
        Some(b'/') => Certainty::Yes,
        Some(_) if schemes.iter().any(|s| begins(s)) => Certainty::Yes,
        Some(_) if !schemes.iter().any(|s| could(s)) => Certainty::No,
        Some(_) | None => Certainty::NotYet,
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A control character ends the line: CR and LF by right, others because no request line has them.
fn is_line_end(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}
