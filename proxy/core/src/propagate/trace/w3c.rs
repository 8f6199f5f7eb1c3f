//! W3C Trace Context, `traceparent` (<https://www.w3.org/TR/trace-context/> section 3.2). `tracestate` belongs to
//! tracers and passes unmodified.

use super::{Context, Extracted, Sampling, Span, SpanId, TraceId};
use crate::fields::Fields;

pub(super) const TRACEPARENT: &str = "traceparent";

const SAMPLED: u8 = 1;
/// Level 2: the trace id is random. Passed on with the id it speaks of.
const RANDOM: u8 = 2;
/// `{2}-{32}-{16}-{2}`.
const LEN: usize = 55;

/// An unknown version is read as far as version 00 goes (section 3.2.4).
pub(super) fn extract(fields: &Fields) -> Extracted {
    let Some(value) = fields.get(TRACEPARENT) else { return Extracted::Absent };
    context(value).map_or(Extracted::Malformed, Extracted::Context)
}

fn context(value: &[u8]) -> Option<Context> {
    let (known, more) = value.split_at_checked(LEN)?;
    let mut parts = known.split(|b| *b == b'-');
    let (version, trace) = (byte(parts.next()?)?, parts.next().filter(|trace| trace.len() == 32)?);
    let (trace, span) = (TraceId::parse(trace)?, SpanId::parse(parts.next()?)?);
    let flags = byte(parts.next()?)?;
    let ends_well = match (version, more.first()) {
        (0xff, _) => false,
        (0, more) => more.is_none(),
        (_, more) => more.is_none_or(|b| *b == b'-'),
    };
    let sampling = if flags & SAMPLED == 0 { Sampling::Deny } else { Sampling::Accept };
    (ends_well && parts.next().is_none()).then_some(Context { trace, span, sampling, w3c_flags: flags & RANDOM })
}

/// Two lower-case hexadecimal digits.
fn byte(text: &[u8]) -> Option<u8> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    match text {
        [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
        _ => None,
    }
}

/// `root`: the decision here where B3 leaves it open, because W3C cannot.
pub(super) fn write(fields: &mut Fields, span: &Span, root: Sampling, flags: u8) {
    let decided = if span.sampling == Sampling::Defer { root } else { span.sampling };
    let sampled = match decided {
        Sampling::Accept | Sampling::Debug => SAMPLED,
        Sampling::Deny | Sampling::Defer => 0,
    };
    let mut value = Vec::with_capacity(LEN);
    value.extend_from_slice(b"00-");
    span.trace.push_padded_to(&mut value);
    value.push(b'-');
    span.id.push_to(&mut value);
    value.extend_from_slice(b"-0");
    value.push(b'0' + (sampled | (flags & RANDOM)));
    fields.append(TRACEPARENT, value);
}
