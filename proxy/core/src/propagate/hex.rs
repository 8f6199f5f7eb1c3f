//! Lower-case hexadecimal digits of numbers and back, eight digits at a time: ids are read and written several times for
//! each request.

/// The digits of a number.
#[inline]
pub(super) const fn digits(number: u64) -> [u8; 16] {
    ((eight(number >> 32) as u128) << 64 | eight(number & 0xffff_ffff) as u128).to_be_bytes()
}

/// The number of sixteen digits; upper-case ones are none.
pub(super) fn number(digits: &[u8; 16]) -> Option<u64> {
    let (high, low) = digits.split_first_chunk::<8>()?;
    Some(number_of_eight(*high)? << 32 | number_of_eight(low.try_into().ok()?)?)
}

/// The digits of a number below 2^32, the first in the highest byte. Each step moves the upper half of every group of digits away from its lower half.
#[inline]
const fn eight(number: u64) -> u64 {
    let spread = (number | number << 16) & 0x0000_ffff_0000_ffff;
    let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    let values = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // Adding six carries into the fifth bit from ten on.
    let letters = ((values + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    values + 0x3030_3030_3030_3030 + letters * ((b'a' - b'9' - 1) as u64)
}

fn number_of_eight(digits: [u8; 8]) -> Option<u64> {
    let text = u64::from_be_bytes(digits);
    // The lower half of a letter is nine less than its value, and letters have the seventh bit.
    let values = (text & 0x0f0f_0f0f_0f0f_0f0f).wrapping_add(((text >> 6) & 0x0101_0101_0101_0101) * 9);
    let joined = (values | values >> 4) & 0x00ff_00ff_00ff_00ff;
    let joined = (joined | joined >> 8) & 0x0000_ffff_0000_ffff;
    let number = (joined | joined >> 16) & 0xffff_ffff;
    // What were no digits makes a number with other digits.
    (eight(number) == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn digits_are_those_of_the_formatter(value in any::<u64>()) {
            let expected = format!("{value:016x}");
            prop_assert_eq!(&digits(value)[..], expected.as_bytes());
            prop_assert_eq!(number(&digits(value)), Some(value));
        }

        #[test]
        fn anything_else_is_no_number(text in prop::array::uniform16(any::<u8>()), at in 0_usize..16, byte in any::<u8>()) {
            let lower = |text: &[u8; 16]| text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            prop_assert_eq!(number(&text).is_some(), lower(&text));
            let mut one_odd = *b"0123456789abcdef";
            one_odd[at] = byte;
            prop_assert_eq!(number(&one_odd).is_some(), lower(&one_odd));
        }
    }
}
