//! Trace and span ids, as numbers that remember their width.

use std::fmt;

use crate::entropy::Entropy;

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
        Some(Self { number: parse_hex(text)?, wide })
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
        push_hex(&self.number.to_be_bytes(), if self.wide { 0 } else { 8 }, out);
    }

    /// 32 digits, padded with zeros on the left, as W3C wants them.
    pub(super) fn push_padded_to(self, out: &mut Vec<u8>) {
        push_hex(&self.number.to_be_bytes(), 0, out);
    }
}

/// The digits at the id's own width.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_hex(&self.number.to_be_bytes(), if self.wide { 0 } else { 8 }, f)
    }
}

/// Id of a span: 64 bits, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl SpanId {
    /// From 16 lower-case hexadecimal digits, not all zero.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let number = (text.len() == 16).then(|| parse_hex(text))??;
        u64::try_from(number).ok().map(Self)
    }

    /// A fresh one.
    #[must_use]
    pub fn generate(entropy: &mut impl Entropy) -> Self {
        Self(entropy.next_u64().max(1))
    }

    /// Appends the 16 digits.
    pub fn push_to(self, out: &mut Vec<u8>) {
        push_hex(&self.0.to_be_bytes(), 0, out);
    }
}

/// 16 digits.
impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_hex(&self.0.to_be_bytes(), 0, f)
    }
}

/// Lower-case digits only; zero is no id.
fn parse_hex(text: &[u8]) -> Option<u128> {
    let digit = |b: &u8| match b {
        b'0'..=b'9' => Some(u128::from(b - b'0')),
        b'a'..=b'f' => Some(u128::from(b - b'a' + 10)),
        _ => None,
    };
    let number = text.iter().try_fold(0_u128, |number, b| Some((number << 4) | digit(b)?))?;
    (number != 0).then_some(number)
}

fn push_hex(bytes: &[u8], skip: usize, out: &mut Vec<u8>) {
    let (digits, len) = hex(bytes, skip);
    out.extend_from_slice(digits.get(..len).unwrap_or_default());
}

/// Without the formatter's arithmetic: ids are written several times for each request.
fn show_hex(bytes: &[u8], skip: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (digits, len) = hex(bytes, skip);
    f.write_str(digits.get(..len).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default())
}

/// Digits of up to 16 bytes from `skip` on, and how many there are.
fn hex(bytes: &[u8], skip: usize) -> ([u8; 32], usize) {
    let bytes = bytes.get(skip..).unwrap_or_default();
    let mut digits = [0; 32];
    crate::propagate::write_hex(bytes, &mut digits);
    (digits, bytes.len() * 2)
}
