//! Sets of bytes, for texts of which every byte is asked about.

/// Bytes that are legal somewhere.
#[derive(Debug)]
pub(crate) struct ByteSet([bool; 256]);

impl ByteSet {
    /// ASCII letters and digits, and these others.
    #[allow(clippy::indexing_slicing, reason = "a byte is an index into 256 entries")]
    pub(crate) const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut byte = 0;
        while byte < 128_u8 {
            set[byte as usize] = byte.is_ascii_alphanumeric();
            byte += 1;
        }
        let mut rest = others;
        while let [other, more @ ..] = rest {
            set[*other as usize] = true;
            rest = more;
        }
        Self(set)
    }

    /// Whether the byte is in it.
    #[inline]
    #[allow(clippy::indexing_slicing, reason = "a byte is an index into 256 entries")]
    pub(crate) const fn has(&self, byte: u8) -> bool {
        self.0[byte as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_letters_digits_and_the_others() {
        static SET: ByteSet = ByteSet::alphanumeric_and(b"-\xff");
        for byte in 0..=255_u8 {
            let expected = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | 0xff);
            assert_eq!(SET.has(byte), expected, "{byte}");
        }
    }
}
