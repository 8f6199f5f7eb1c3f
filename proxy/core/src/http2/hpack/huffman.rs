//! The Huffman code of RFC 7541 appendix B, decoded.
//!
//! Nothing is encoded with it: it would save a quarter of the bytes of those fields that are not in the table, some sixty of a
//! message, and cost both sides about ten instructions for each byte; between proxies of a mesh bytes cost less. Reading it
//! is a duty, and other peers write it.

use super::HpackFault;

/// Bits by which most symbols are found at once: all that text has but some punctuation.
const SHORT_BITS: u32 = 10;

/// Longest code, that of the end of a string, which must not be there.
const LONG_BITS: u32 = 30;

/// Appends what `code` says to `out`.
pub(super) fn decode(code: &[u8], out: &mut Vec<u8>) -> Result<(), HpackFault> {
    // No symbol has less than five bits.
    out.reserve(code.len() * 8 / 5);
    let mut rest = code.iter();
    // The next bits, first ones highest, zeros after them.
    let (mut window, mut bits) = (0_u64, 0_u32);
    loop {
        while bits <= 56
            && let Some(byte) = rest.next()
        {
            window |= u64::from(*byte) << (56 - bits);
            bits += 8;
        }
        let (len, symbol) = next_symbol(window);
        if len > bits {
            break;
        }
        out.push(symbol.ok_or(HpackFault::Huffman)?);
        window <<= len;
        bits -= len;
    }
    // Less than a byte, of ones (RFC 7541 section 5.2).
    let padded = bits < 8 && window == !(u64::MAX >> bits);
    if padded { Ok(()) } else { Err(HpackFault::Huffman) }
}

/// Bits of the next symbol, and the symbol; `None` for the end of a string.
#[inline]
fn next_symbol(window: u64) -> (u32, Option<u8>) {
    let short = usize::try_from(window >> (64 - SHORT_BITS)).ok().and_then(|at| SHORT.get(at));
    match short {
        Some((len @ 1.., symbol)) => (u32::from(*len), Some(*symbol)),
        _ => long_symbol(window),
    }
}

/// Codes of one length are consecutive numbers, so the first length at which the code is below their end is its length.
fn long_symbol(window: u64) -> (u32, Option<u8>) {
    for run in &RUNS {
        let code = u32::try_from(window >> (64 - run.len)).unwrap_or(u32::MAX);
        if let Some(above) = code.checked_sub(run.first).filter(|above| *above < run.count) {
            return (run.len, SORTED.get((run.sorted_at + above) as usize).copied());
        }
    }
    (LONG_BITS, None)
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct Run {
    len: u32,
    first: u32,
    count: u32,
    /// Where the first one's symbol is among the sorted ones.
    sorted_at: u32,
}

static SHORT: [(u8, u8); 1 << SHORT_BITS] = short();
static RUNS: [Run; (LONG_BITS - SHORT_BITS) as usize] = runs();
static SORTED: [u8; 256] = sorted();

/// What each ten bits begin with: length and symbol of a code, a length of zero where the code is longer.
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time")]
const fn short() -> [(u8, u8); 1 << SHORT_BITS] {
    let sorted = sorted();
    let mut table = [(0, 0); 1 << SHORT_BITS];
    let (mut at, mut next) = (0, 0);
    while LENGTHS[sorted[next] as usize] as u32 <= SHORT_BITS {
        let symbol = sorted[next];
        let len = LENGTHS[symbol as usize];
        let end = at + (1 << (SHORT_BITS - len as u32));
        while at < end {
            table[at] = (len, symbol);
            at += 1;
        }
        next += 1;
    }
    table
}

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time")]
const fn runs() -> [Run; (LONG_BITS - SHORT_BITS) as usize] {
    let mut runs = [Run { len: 0, first: 0, count: 0, sorted_at: 0 }; (LONG_BITS - SHORT_BITS) as usize];
    let (mut len, mut first, mut sorted_at) = (1, 0, 0);
    while len <= LONG_BITS {
        let (mut count, mut symbol) = (0, 0);
        while symbol < LENGTHS.len() {
            count += (LENGTHS[symbol] as u32 == len) as u32;
            symbol += 1;
        }
        if len > SHORT_BITS {
            runs[(len - SHORT_BITS - 1) as usize] = Run { len, first, count, sorted_at };
        }
        first = (first + count) << 1;
        sorted_at += count;
        len += 1;
    }
    runs
}

/// Symbols in the order of their codes: by length, then by value.
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated at compile time")]
const fn sorted() -> [u8; 256] {
    let mut sorted = [0; 256];
    let (mut len, mut at) = (1, 0);
    while len <= LONG_BITS {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as u32 == len {
                sorted[at] = symbol as u8;
                at += 1;
            }
            symbol += 1;
        }
        len += 1;
    }
    sorted
}

/// Bits of the code of each byte. The codes follow: they are consecutive in the order of length and byte.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
