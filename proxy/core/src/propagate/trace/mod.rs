//! One trace over all hops: B3 in both notations and W3C Trace Context.
//!
//! A proxy sits between a caller's span and a callee's. It reads the caller's context, gives this hop a span of its own
//! with the caller's as parent, and writes that for the callee, in the notations the caller used, so that whatever the
//! application understands keeps working. Ids keep their width. The root's sampling decision is never changed.
//!
//! A context that is malformed is not repaired and never a reason to refuse: a trace is started anew. Where none came, one
//! is started with 128-bit ids, in W3C and B3 multi notation, which between them every tracer reads.

mod b3;
mod fresh;
mod ids;
mod w3c;

pub use ids::{SpanId, TraceId};

use crate::entropy::Entropy;
use crate::fields::{Fields, Known, Names};

/// The root's decision whether a trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Left to whoever comes later (B3 only).
    Defer,
    /// No.
    Deny,
    /// Yes.
    Accept,
    /// Yes, and past any filter (B3 only; W3C sees it as accept).
    Debug,
}

/// Notations that a context came in, or is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// `b3`.
    pub b3_single: bool,
    /// `x-b3-traceid` and its siblings.
    pub b3_multi: bool,
    /// `traceparent` and `tracestate`.
    pub w3c: bool,
}

/// How this hop came to its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The caller's trace goes on.
    Continued,
    /// No context came.
    Absent,
    /// A context came and was malformed; worth counting.
    Malformed,
    /// Only a decision came (`b3: 0`, `x-b3-sampled: 1`).
    DecisionOnly,
}

/// This hop's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: TraceId,
    /// This hop.
    pub id: SpanId,
    /// The caller's span; `None` where the trace starts here.
    pub parent: Option<SpanId>,
    /// The root's decision.
    pub sampling: Sampling,
    /// How it came about.
    pub start: Start,
}

impl Span {
    /// Whether the trace is to be reported.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        matches!(self.sampling, Sampling::Accept | Sampling::Debug)
    }
}

/// A caller's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Context {
    trace: TraceId,
    span: SpanId,
    sampling: Sampling,
    /// Bits of the W3C flags that are passed on besides `sampled`.
    w3c_flags: u8,
}

/// What one notation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extracted {
    Absent,
    Malformed,
    Decision(Sampling),
    Context(Context),
}

/// The fields that hold a context.
const ALL: Names = b3::ALL.and(Names::of(&[Known::TraceParent]));

/// Reads the caller's context, replaces it by this hop's and returns this hop's span.
///
/// The first of `b3`, `x-b3-*` and `traceparent` that is there counts, and the first line of a repeated field. `root` is
/// the decision for traces that start here; `Accept` suits a proxy that records every request anyway.
pub fn propagate(fields: &mut Fields, root: Sampling, entropy: &mut impl Entropy) -> Span {
    let (single, multi, w3c) = (b3::extract_single(fields), b3::extract_multi(fields), w3c::extract(fields));
    let winner = [single, multi, w3c].into_iter().find(|e| *e != Extracted::Absent).unwrap_or(Extracted::Absent);
    let span = match winner {
        Extracted::Context(context) => Span {
            trace: context.trace,
            id: SpanId::generate(entropy),
            parent: Some(context.span),
            sampling: context.sampling,
            start: Start::Continued,
        },
        Extracted::Absent => started(Start::Absent, root, entropy),
        Extracted::Malformed => started(Start::Malformed, root, entropy),
        Extracted::Decision(sampling) => started(Start::DecisionOnly, sampling, entropy),
    };
    let came = |e| e != Extracted::Absent;
    let started_here = matches!(span.start, Start::Absent | Start::Malformed);
    let formats =
        Formats { b3_single: came(single), b3_multi: came(multi) || started_here, w3c: came(w3c) || started_here };
    if !same_trace(w3c, span.trace) {
        // It belongs to the trace that `traceparent` named, which is not this one.
        fields.remove(Known::TraceState);
    }
    let flags = if let Extracted::Context(context) = w3c { context.w3c_flags } else { 0 };
    write(fields, &span, formats, (root, flags));
    span
}

/// Writes a span in the given notations and removes the others. A bare denial stays bare: no ids are invented for what
/// nobody will record.
fn write(fields: &mut Fields, span: &Span, formats: Formats, (root, w3c_flags): (Sampling, u8)) {
    let bare = span.start == Start::DecisionOnly && span.sampling == Sampling::Deny;
    fields.remove_all(ALL);
    if formats == fresh::FORMATS && w3c_flags == 0 && fresh::write(fields, span) {
        return;
    }
    if formats.b3_single {
        b3::write_single(fields, span, bare);
    }
    if formats.b3_multi {
        b3::write_multi(fields, span, bare);
    }
    if formats.w3c {
        w3c::write(fields, span, root, w3c_flags);
    }
}

fn started(start: Start, sampling: Sampling, entropy: &mut impl Entropy) -> Span {
    Span { trace: TraceId::generate(entropy), id: SpanId::generate(entropy), parent: None, sampling, start }
}

fn same_trace(w3c: Extracted, trace: TraceId) -> bool {
    matches!(w3c, Extracted::Context(context) if context.trace.same_number(trace))
}

#[cfg(test)]
mod tests;
