//! Trace and span ids, as numbers that remember their width.

use std::fmt;

use crate::entropy::Entropy;
use crate::propagate::hex;

/// Id of a trace: 64 or 128 bits, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId {
    number: u128,
    wide: bool,
}

impl TraceId {
    /// From 16 or 32 lower-case hexadecimal digits, not all zero.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let wide = match text.len() {
            16 => false,
            32 => true,
            _ => return None,
        };
        Some(Self { number: number(text)?, wide })
    }

    /// A fresh one of 128 bits.
    #[must_use]
    pub fn generate(entropy: &mut impl Entropy) -> Self {
        let number = (u128::from(entropy.next_u64()) << 64) | u128::from(entropy.next_u64());
        Self { number: number.max(1), wide: true }
    }

    /// Whether both are the same number; a narrow id padded with zeros names the same trace.
    #[must_use]
    pub fn same_number(self, other: Self) -> bool {
        self.number == other.number
    }

    /// Appends the digits at the id's own width, as B3 wants them.
    pub fn push_to(self, out: &mut Vec<u8>) {
        if self.wide {
            out.extend_from_slice(&self.digits());
        } else {
            out.extend_from_slice(&hex::digits(half(self.number)));
        }
    }

    /// 32 digits, padded with zeros on the left, as W3C wants them.
    pub(super) fn push_padded_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.digits());
    }

    /// All 32 digits of an id that has as many.
    pub(super) fn wide_digits(self) -> Option<[u8; 32]> {
        self.wide.then(|| self.digits())
    }

    #[inline]
    fn digits(self) -> [u8; 32] {
        let mut digits = [0; 32];
        let (high, low) = digits.split_at_mut(16);
        high.copy_from_slice(&hex::digits(half(self.number >> 64)));
        low.copy_from_slice(&hex::digits(half(self.number)));
        digits
    }

    fn own_width(self, digits: &[u8; 32]) -> &[u8] {
        if self.wide { digits } else { digits.split_at(16).1 }
    }
}

/// The digits at the id's own width.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.own_width(&self.digits()), f)
    }
}

/// Id of a span: 64 bits, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl SpanId {
    /// From 16 lower-case hexadecimal digits, not all zero.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        hex::number(text.try_into().ok()?).filter(|number| *number != 0).map(Self)
    }

    /// A fresh one.
    #[must_use]
    pub fn generate(entropy: &mut impl Entropy) -> Self {
        Self(entropy.next_u64().max(1))
    }

    /// The 16 digits.
    pub(super) const fn digits(self) -> [u8; 16] {
        hex::digits(self.0)
    }

    /// Appends the 16 digits.
    pub fn push_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&hex::digits(self.0));
    }
}

/// 16 digits.
impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&hex::digits(self.0), f)
    }
}

/// Of 16 or 32 lower-case digits; zero is no id.
fn number(text: &[u8]) -> Option<u128> {
    let mut number = 0;
    let (halves, _) = text.as_chunks();
    for half in halves {
        number = number << 64 | u128::from(hex::number(half)?);
    }
    (number != 0).then_some(number)
}

/// The lower 64 bits.
fn half(number: u128) -> u64 {
    u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default()
}

/// Without the formatter's arithmetic.
fn show(digits: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(std::str::from_utf8(digits).unwrap_or_default())
}
