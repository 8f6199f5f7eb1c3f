//! What a request without a context gets, in one piece: at the edge that is nearly every request.

use super::{Formats, Sampling, Span};
use crate::fields::{Fields, Known};

/// In these notations.
pub(super) const FORMATS: Formats = Formats { b3_single: false, b3_multi: true, w3c: true };

const TEXT: [u8; 166] = *b"x-b3-traceid: 00000000000000000000000000000000\r\nx-b3-spanid: 0000000000000000\r\n\
    x-b3-sampled: 1\r\ntraceparent: 00-00000000000000000000000000000000-0000000000000000-01\r\n";

/// Its lines, and how long each is.
const LINES: [(Known, usize); 4] =
    [(Known::B3TraceId, 48), (Known::B3SpanId, 31), (Known::B3Sampled, 17), (Known::TraceParent, 70)];

/// Writes the span as `b3` and `w3c` would; false where they have to, because it is another's or is not to be recorded.
pub(super) fn write(fields: &mut Fields, span: &Span) -> bool {
    let Some(trace) = span.trace.wide_digits() else { return false };
    if span.parent.is_some() || span.sampling != Sampling::Accept {
        return false;
    }
    let (mut text, id) = (TEXT, span.id.digits());
    for (place, digits) in [(14, &trace[..]), (61, &id), (112, &trace), (145, &id)] {
        if let Some(place) = text.get_mut(place..place + digits.len()) {
            place.copy_from_slice(digits);
        }
    }
    fields.append_lines(&text, LINES);
    true
}

#[cfg(test)]
mod tests {
    use super::super::{Span, SpanId, Start, TraceId, b3, w3c};
    use super::*;
    use crate::propagate::testing::lines;

    fn span(trace: &str, parent: Option<&str>, sampling: Sampling) -> Span {
        let (trace, id) = (TraceId::parse(trace.as_bytes()).unwrap(), SpanId::parse(b"00f067aa0ba902b7").unwrap());
        let parent = parent.map(|parent| SpanId::parse(parent.as_bytes()).unwrap());
        Span { trace, id, parent, sampling, start: Start::Absent }
    }

    #[test]
    fn it_is_what_the_notations_make_of_it() {
        let wide = "4bf92f3577b34da6a3ce929d0e0e4736";
        let fresh = span(wide, None, Sampling::Accept);
        let (mut together, mut apart) = (Fields::new(), Fields::new());
        for fields in [&mut together, &mut apart] {
            fields.append("a", "b");
        }
        assert!(write(&mut together, &fresh));
        b3::write_multi(&mut apart, &fresh, false);
        w3c::write(&mut apart, &fresh, Sampling::Deny, 0);
        assert_eq!(lines(&together), lines(&apart));
        assert_eq!(together.len(), 5);
        for name in [Known::B3TraceId, Known::B3SpanId, Known::B3Sampled, Known::TraceParent] {
            assert_eq!(together.get(name), apart.get(name), "{name:?} is found");
        }
        let mut fields = Fields::new();
        for other in [
            span("a3ce929d0e0e4736", None, Sampling::Accept),
            span(wide, Some("00f067aa0ba902b8"), Sampling::Accept),
            span(wide, None, Sampling::Deny),
        ] {
            assert!(!write(&mut fields, &other) && fields.is_empty(), "{other:?}");
        }
    }
}
