//! The primitives of a field block (RFC 7541 section 5).

use super::{HpackFault, huffman};

/// Largest integer that is read: no length, index or size comes near.
const INTEGER_MAX: usize = 1 << 24;

/// What is left of a block.
#[derive(Debug)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) const fn peek(&self) -> Option<u8> {
        match self.0 {
            [byte, ..] => Some(*byte),
            [] => None,
        }
    }

    /// An integer whose first byte has so many bits of it.
    #[inline]
    pub(super) fn integer(&mut self, prefix_bits: u32) -> Result<usize, HpackFault> {
        let (first, rest) = self.0.split_first().ok_or(HpackFault::Truncated)?;
        self.0 = rest;
        let most = (1_usize << prefix_bits) - 1;
        let value = usize::from(*first) & most;
        if value < most { Ok(value) } else { self.long_integer(value) }
    }

    fn long_integer(&mut self, mut value: usize) -> Result<usize, HpackFault> {
        // Four bytes reach beyond the largest; zeros that follow for no reason are no reason to read on.
        for shift in [0, 7, 14, 21] {
            let (byte, rest) = self.0.split_first().ok_or(HpackFault::Truncated)?;
            self.0 = rest;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if value <= INTEGER_MAX { Ok(value) } else { Err(HpackFault::Integer) };
            }
        }
        Err(HpackFault::Integer)
    }

    /// Appends a string to `out`.
    pub(super) fn string(&mut self, out: &mut Vec<u8>) -> Result<(), HpackFault> {
        let coded = self.peek().ok_or(HpackFault::Truncated)? & 0x80 != 0;
        let len = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(len).ok_or(HpackFault::Truncated)?;
        self.0 = rest;
        if coded {
            return huffman::decode(text, out);
        }
        out.extend_from_slice(text);
        Ok(())
    }
}
