//! Names the fault of a head that the tokeniser refused. Runs on refusals only, so it is written to be read.

use super::fault::HeadFault;
use crate::fields::is_token;

/// The first fault of a refused request head.
pub(super) fn request(head: &[u8]) -> HeadFault {
    let (line, rest) = first_line(head);
    line_end(line)
        .or_else(|| request_line(content(line)))
        .or_else(|| field_lines(rest))
        .unwrap_or(HeadFault::RequestLine)
}

/// The first fault of a refused response head.
pub(super) fn response(head: &[u8]) -> HeadFault {
    let (line, rest) = first_line(head);
    line_end(line).or_else(|| status_line(content(line))).or_else(|| field_lines(rest)).unwrap_or(HeadFault::StatusLine)
}

/// The first fault of a refused section of field lines.
pub(super) fn field_lines(section: &[u8]) -> Option<HeadFault> {
    section.split_inclusive(|b| *b == b'\n').find_map(|line| line_end(line).or_else(|| field_line(content(line))))
}

fn first_line(head: &[u8]) -> (&[u8], &[u8]) {
    let end = head.iter().position(|b| *b == b'\n').map_or(head.len(), |at| at + 1);
    head.split_at_checked(end).unwrap_or((head, &[]))
}

fn content(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r\n").unwrap_or(line)
}

fn line_end(line: &[u8]) -> Option<HeadFault> {
    if line.ends_with(b"\n") && !line.ends_with(b"\r\n") {
        return Some(HeadFault::BareLf);
    }
    // A CR at the end of what has arrived may still become CRLF, and if it does not, the next byte shows it.
    let inner = line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\r")).unwrap_or(line);
    inner.contains(&b'\r').then_some(HeadFault::BareCr)
}

fn request_line(line: &[u8]) -> Option<HeadFault> {
    let mut parts = line.split(|b| *b == b' ');
    let method = parts.next().unwrap_or_default();
    if !is_token(method) {
        return Some(HeadFault::Method);
    }
    let target = parts.next().unwrap_or_default();
    if target.iter().any(|b| b.is_ascii_control()) || std::str::from_utf8(target).is_err() {
        return Some(HeadFault::Target);
    }
    match (parts.next(), parts.next()) {
        (Some(version), None) if !target.is_empty() => version_fault(version),
        _ => Some(HeadFault::RequestLine),
    }
}

fn status_line(line: &[u8]) -> Option<HeadFault> {
    let mut parts = line.splitn(3, |b| *b == b' ');
    if let Some(fault) = parts.next().and_then(version_fault) {
        return Some(fault);
    }
    let code = parts.next().unwrap_or_default();
    if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) {
        return Some(HeadFault::StatusCode);
    }
    let reason = parts.next().unwrap_or_default();
    reason.iter().any(|b| b.is_ascii_control() && *b != b'\t').then_some(HeadFault::StatusLine)
}

/// 505 only for what is an HTTP version; RFC 9112 section 2.3: `HTTP/` DIGIT `.` DIGIT, case-sensitive.
fn version_fault(version: &[u8]) -> Option<HeadFault> {
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => None,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Some(HeadFault::VersionUnsupported)
        }
        _ => Some(HeadFault::VersionMalformed),
    }
}

fn field_line(line: &[u8]) -> Option<HeadFault> {
    if line.is_empty() {
        return None;
    }
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Some(HeadFault::ObsFold);
    }
    let Some(colon) = line.iter().position(|b| *b == b':') else {
        return Some(HeadFault::MissingColon);
    };
    let (name, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
    if name.is_empty() {
        Some(HeadFault::EmptyName)
    } else if name.ends_with(b" ") || name.ends_with(b"\t") {
        Some(HeadFault::SpaceBeforeColon)
    } else if !is_token(name) {
        Some(HeadFault::FieldName)
    } else {
        value.iter().any(|b| b.is_ascii_control() && *b != b'\t').then_some(HeadFault::FieldValue)
    }
}
