//! B3 propagation, <https://github.com/openzipkin/b3-propagation>: one field or several.

use super::{Context, Extracted, Sampling, Span, SpanId, TraceId};
use crate::fields::{Fields, Known, Names};

const SINGLE: Known = Known::B3;
const TRACE_ID: Known = Known::B3TraceId;
const SPAN_ID: Known = Known::B3SpanId;
const PARENT_ID: Known = Known::B3ParentSpanId;
const SAMPLED: Known = Known::B3Sampled;
const FLAGS: Known = Known::B3Flags;
/// The several of them.
const MULTI: Names = Names::of(&[TRACE_ID, SPAN_ID, PARENT_ID, SAMPLED, FLAGS]);
/// Both notations.
pub(super) const ALL: Names = MULTI.and(Names::of(&[SINGLE]));

/// `{trace}-{span}[-{0|1|d}[-{parent}]]`, or a decision alone.
pub(super) fn extract_single(fields: &Fields) -> Extracted {
    let Some(value) = fields.get(SINGLE) else { return Extracted::Absent };
    if let Some(decision) = decision(value) {
        return Extracted::Decision(decision);
    }
    single_context(value).map_or(Extracted::Malformed, Extracted::Context)
}

fn single_context(value: &[u8]) -> Option<Context> {
    let mut parts = value.split(|b| *b == b'-');
    let (trace, span) = (TraceId::parse(parts.next()?)?, SpanId::parse(parts.next()?)?);
    let sampling = parts.next().map_or(Some(Sampling::Defer), decision)?;
    if let Some(parent) = parts.next() {
        SpanId::parse(parent)?;
    }
    parts.next().is_none().then_some(Context { trace, span, sampling, w3c_flags: 0 })
}

fn decision(value: &[u8]) -> Option<Sampling> {
    match value {
        b"0" => Some(Sampling::Deny),
        b"1" => Some(Sampling::Accept),
        b"d" => Some(Sampling::Debug),
        _ => None,
    }
}

/// `x-b3-traceid` and its siblings.
pub(super) fn extract_multi(fields: &Fields) -> Extracted {
    if !fields.may_have(MULTI) {
        return Extracted::Absent;
    }
    let debug = fields.get(FLAGS) == Some(b"1");
    let sampling = match fields.get(SAMPLED) {
        _ if debug => Some(Sampling::Debug),
        None => Some(Sampling::Defer),
        Some(b"1") => Some(Sampling::Accept),
        Some(b"0") => Some(Sampling::Deny),
        // Early tracers wrote these.
        Some(value) if value.eq_ignore_ascii_case(b"true") => Some(Sampling::Accept),
        Some(value) if value.eq_ignore_ascii_case(b"false") => Some(Sampling::Deny),
        Some(_) => None,
    };
    let Some(sampling) = sampling else { return Extracted::Malformed };
    let parent_is_fine = fields.get(PARENT_ID).is_none_or(|parent| SpanId::parse(parent).is_some());
    match (fields.get(TRACE_ID), fields.get(SPAN_ID)) {
        (None, None) if fields.contains(PARENT_ID) => Extracted::Malformed,
        // Flags other than debug say nothing.
        (None, None) if sampling == Sampling::Defer => Extracted::Absent,
        (None, None) => Extracted::Decision(sampling),
        (Some(trace), Some(span)) if parent_is_fine => match (TraceId::parse(trace), SpanId::parse(span)) {
            (Some(trace), Some(span)) => Extracted::Context(Context { trace, span, sampling, w3c_flags: 0 }),
            (_, _) => Extracted::Malformed,
        },
        (_, _) => Extracted::Malformed,
    }
}

/// `bare`: the decision without ids.
pub(super) fn write_single(fields: &mut Fields, span: &Span, bare: bool) {
    fields.append_with(SINGLE, |value| {
        if !bare {
            span.trace.push_to(value);
            value.push(b'-');
            span.id.push_to(value);
        }
        let decision = match span.sampling {
            Sampling::Defer => None,
            Sampling::Deny => Some(b'0'),
            Sampling::Accept => Some(b'1'),
            Sampling::Debug => Some(b'd'),
        };
        if let Some(decision) = decision {
            if !bare {
                value.push(b'-');
            }
            value.push(decision);
            // Without a decision there is no place for the parent.
            if let Some(parent) = span.parent {
                value.push(b'-');
                parent.push_to(value);
            }
        }
    });
}

/// `bare`: the decision without ids.
pub(super) fn write_multi(fields: &mut Fields, span: &Span, bare: bool) {
    if !bare {
        fields.append_with(TRACE_ID, |out| span.trace.push_to(out));
        fields.append_with(SPAN_ID, |out| span.id.push_to(out));
        if let Some(parent) = span.parent {
            fields.append_with(PARENT_ID, |out| parent.push_to(out));
        }
    }
    let (name, value) = match span.sampling {
        Sampling::Defer => return,
        Sampling::Deny => (SAMPLED, b'0'),
        Sampling::Accept => (SAMPLED, b'1'),
        // Debug implies sampled, which is not sent beside it.
        Sampling::Debug => (FLAGS, b'1'),
    };
    fields.append_with(name, |out| out.push(value));
}
