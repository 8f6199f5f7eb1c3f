//! How many wrong tokens are tolerated, from one address and from all together.
//!
//! Guessing 256 bits is hopeless; this keeps failed attempts from costing processor time and filling the log. It is pure:
//! the time comes in as a value.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::doors::shares::aggregate;

/// Failures one address may have at once, and how long one takes to be forgotten.
pub const FAILURES_PER_SOURCE_MAX: u32 = 10;
const FORGET_ONE: Duration = Duration::from_secs(6);

/// Failures of all addresses together at once; they are forgotten at [`FAILURES_TOTAL_MAX`] per ten seconds.
pub const FAILURES_TOTAL_MAX: u32 = 1000;
const FORGET_ONE_TOTAL: Duration = Duration::from_millis(10);

/// Addresses remembered. When full, an address that is not remembered shares one bucket with all others.
pub const SOURCES_MAX: usize = 4096;

/// Recent failures.
#[derive(Debug)]
pub struct Attempts {
    sources: HashMap<IpAddr, Bucket>,
    others: Bucket,
    total: Bucket,
}

/// Failures that leak away: the moment at which all will be forgotten says how many there are.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    empty_at: Instant,
}

impl Bucket {
    fn is_full(self, now: Instant, max: u32, forget_one: Duration) -> bool {
        self.empty_at > now + forget_one * (max - 1)
    }

    fn add(&mut self, now: Instant, forget_one: Duration) {
        self.empty_at = self.empty_at.max(now) + forget_one;
    }
}

impl Attempts {
    /// No failures yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let empty = Bucket { empty_at: now };
        Self { sources: HashMap::new(), others: empty, total: empty }
    }

    /// Whether a caller from `source` may try now.
    #[must_use]
    pub fn may_try(&self, source: IpAddr, now: Instant) -> bool {
        let source = aggregate(source);
        let full = self.sources.len() >= SOURCES_MAX;
        let bucket = self.sources.get(&source).copied().or_else(|| full.then_some(self.others));
        let source_full = bucket.is_some_and(|bucket| bucket.is_full(now, FAILURES_PER_SOURCE_MAX, FORGET_ONE));
        !source_full && !self.total.is_full(now, FAILURES_TOTAL_MAX, FORGET_ONE_TOTAL)
    }

    /// Notes a failure.
    pub fn failed(&mut self, source: IpAddr, now: Instant) {
        let source = aggregate(source);
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            self.sources.retain(|_, bucket| bucket.empty_at > now);
        }
        if self.sources.len() < SOURCES_MAX || self.sources.contains_key(&source) {
            self.sources.entry(source).or_insert(Bucket { empty_at: now }).add(now, FORGET_ONE);
        } else {
            self.others.add(now, FORGET_ONE);
        }
        self.total.add(now, FORGET_ONE_TOTAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + last).to_be_bytes())
    }

    #[test]
    fn one_source_is_stopped_and_forgiven() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start);
        for _ in 0..FAILURES_PER_SOURCE_MAX {
            assert!(attempts.may_try(v4(1), start));
            attempts.failed(v4(1), start);
        }
        assert!(!attempts.may_try(v4(1), start));
        assert!(attempts.may_try(v4(2), start), "others are not punished");
        assert!(attempts.may_try(v4(1), start + FORGET_ONE + Duration::from_millis(1)));
    }

    #[test]
    fn all_together_are_stopped() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start);
        for source in 0..FAILURES_TOTAL_MAX {
            assert!(attempts.may_try(v4(source), start), "{source}");
            attempts.failed(v4(source), start);
        }
        assert!(!attempts.may_try(v4(9_999_999), start));
        assert!(attempts.may_try(v4(9_999_999), start + Duration::from_secs(10)));
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start);
        for source in 0..3 * u32::try_from(SOURCES_MAX).unwrap() {
            attempts.failed(v4(source), start);
        }
        assert_eq!(attempts.sources.len(), SOURCES_MAX);
        attempts.failed(v4(u32::MAX >> 9), start + Duration::from_secs(3600));
        assert_eq!(attempts.sources.len(), 1, "what is forgotten is dropped");
    }

    #[test]
    fn a_slash_64_is_one_source() {
        let check = |a: &str, b: &str, same: bool| {
            assert_eq!(aggregate(a.parse().unwrap()) == aggregate(b.parse().unwrap()), same, "{a} {b}");
        };
        check("2001:db8::1", "2001:db8::2", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
        check("::ffff:10.0.0.1", "10.0.0.1", true);
        check("10.0.0.1", "10.0.0.2", false);
    }
}
