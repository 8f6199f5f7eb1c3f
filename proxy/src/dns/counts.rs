//! What became of questions, counted for the status port.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::{head, line, names};

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// By the mesh: addresses, or that there are none of the kind.
    Answered,
    /// By the mesh: no such name.
    NoSuchName,
    /// By an upstream.
    Forwarded,
    /// No upstream answered.
    UpstreamFailed,
    /// The control plane did not say whether the mesh has the name.
    Unknowable,
    /// Malformed, or nothing that a resolver is asked.
    Refused,
    /// No question.
    Dropped,
    /// Too many at once.
    Overload,
    /// Our own, sent back to us by an upstream.
    Loop,
}

const ALL: [(Outcome, &str); 9] = [
    (Outcome::Answered, "answered"),
    (Outcome::NoSuchName, "no_such_name"),
    (Outcome::Forwarded, "forwarded"),
    (Outcome::UpstreamFailed, "upstream_failed"),
    (Outcome::Unknowable, "unknowable"),
    (Outcome::Refused, "refused"),
    (Outcome::Dropped, "dropped"),
    (Outcome::Overload, "overload"),
    (Outcome::Loop, "loop"),
];

/// Counters of the resolver.
#[derive(Debug, Default)]
pub struct DnsCounts {
    outcomes: [AtomicU64; ALL.len()],
    strays: AtomicU64,
}

impl DnsCounts {
    #[allow(clippy::indexing_slicing, reason = "the array has one cell per variant")]
    pub(super) fn note(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A datagram came where an answer was awaited, and was none.
    pub(super) fn note_stray(&self) {
        self.strays.fetch_add(1, Ordering::Relaxed);
    }

    /// Appends them in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        head(out, names::DNS_QUERIES);
        for ((_, label), count) in ALL.iter().zip(&self.outcomes) {
            let count = count.load(Ordering::Relaxed);
            line(out, format_args!("{}{{outcome=\"{label}\"}} {count}", names::DNS_QUERIES.name));
        }
        head(out, names::DNS_STRAYS);
        line(out, format_args!("{} {}", names::DNS_STRAYS.name, self.strays.load(Ordering::Relaxed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_own_line() {
        for (outcome, label) in ALL {
            let counts = DnsCounts::default();
            counts.note(outcome);
            let mut page = String::new();
            counts.render(&mut page);
            let counted: Vec<&str> = page.lines().filter(|line| line.ends_with("} 1")).collect();
            assert_eq!(counted, [format!("weft_dns_queries_total{{outcome=\"{label}\"}} 1")]);
        }
    }
}
