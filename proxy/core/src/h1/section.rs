//! Field lines, shared by heads and trailer sections.

use httparse::Header;

use super::fault::HeadFault;
use crate::fields::{FieldSpans, Known};

/// Turns the tokeniser's fields into spans of `head` and shows each to `note`.
///
/// The tokeniser takes a bare LF for a line end. Instead of scanning all bytes again, the two before each name and the
/// last four are looked at: everything between is a name, a value or blanks, which hold no line end.
pub(super) fn collect<'a>(
    head: &'a [u8],
    headers: &[Header<'a>],
    mut note: impl FnMut(Option<Known>, &'a [u8]) -> Result<(), HeadFault>,
) -> Result<FieldSpans, HeadFault> {
    if !head.ends_with(b"\r\n\r\n") {
        return Err(HeadFault::BareLf);
    }
    let mut spans = FieldSpans::with_capacity(headers.len());
    for header in headers {
        let name = header.name.as_bytes();
        let at = name.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
        if at != 0 && !matches!(head.get(at.wrapping_sub(2)..at), Some([b'\r', b'\n'])) {
            return Err(HeadFault::BareLf);
        }
        let known = Known::of(name);
        note(known, header.value)?;
        spans.push(head, known, (at, name), header.value);
    }
    Ok(spans)
}
