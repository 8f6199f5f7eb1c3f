//! W3C Trace Context, `traceparent` (<https://www.w3.org/TR/trace-context/> section 3.2). `tracestate` belongs to
//! tracers and passes unmodified.

use super::{Context, Extracted, Sampling, Span, SpanId, TraceId};
use crate::fields::{Fields, Known};

const SAMPLED: u8 = 1;
/// Level 2: the trace id is random. Passed on with the id it speaks of.
const RANDOM: u8 = 2;
/// `{2}-{32}-{16}-{2}`.
const LEN: usize = 55;

/// An unknown version is read as far as version 00 goes (section 3.2.4).
pub(super) fn extract(fields: &Fields) -> Extracted {
    let Some(value) = fields.get(Known::TraceParent) else { return Extracted::Absent };
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
    fields.append_with(Known::TraceParent, |out| {
        out.extend_from_slice(b"00-");
        span.trace.push_padded_to(out);
        out.push(b'-');
        span.id.push_to(out);
        out.extend_from_slice(&[b'-', b'0', b'0' + (sampled | (flags & RANDOM))]);
    });
}
