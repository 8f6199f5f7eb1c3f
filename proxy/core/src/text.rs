//! Addresses as text, without the formatter's arithmetic: one or more are written for each request.

use std::net::Ipv4Addr;

/// Bytes of an octet's text, the dot after it included.
const OCTET: usize = 4;

/// The text of each octet with a dot after it, and how long that is.
static OCTETS: [([u8; OCTET], u8); 256] = octets();

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated by the compiler")]
const fn octets() -> [([u8; OCTET], u8); 256] {
    let mut all = [([0; OCTET], 0); 256];
    let mut octet = 0;
    while octet < all.len() {
        let (mut text, mut len, mut unit) = ([0; OCTET], 0, 100);
        while unit > 0 {
            if octet >= unit || unit == 1 {
                text[len] = b'0' + (octet / unit % 10) as u8;
                len += 1;
            }
            unit /= 10;
        }
        text[len] = b'.';
        all[octet] = (text, len as u8 + 1);
        octet += 1;
    }
    all
}

/// Appends an address as the formatter writes it.
#[inline]
pub fn push_ipv4(out: &mut Vec<u8>, address: Ipv4Addr) {
    let (mut text, mut end) = ([0; 4 * OCTET], 0);
    for octet in address.octets() {
        #[allow(clippy::indexing_slicing, reason = "a byte is an index into 256 entries")]
        let (digits, len) = &OCTETS[usize::from(octet)];
        // There is room for four of the longest.
        if let Some(place) = text.get_mut(end..end + OCTET) {
            place.copy_from_slice(digits);
        }
        end += usize::from(*len);
    }
    out.extend_from_slice(text.get(..end - 1).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_octet_is_written_as_the_formatter_does() {
        for octet in 0..=255 {
            let (address, mut out) = (Ipv4Addr::new(octet, 255, 0, octet), b"at ".to_vec());
            push_ipv4(&mut out, address);
            assert_eq!(String::from_utf8(out).unwrap(), format!("at {address}"));
        }
    }

    proptest! {
        #[test]
        fn addresses_are_written_as_the_formatter_does(bits: u32) {
            let mut out = Vec::new();
            push_ipv4(&mut out, Ipv4Addr::from_bits(bits));
            prop_assert_eq!(String::from_utf8(out).unwrap(), Ipv4Addr::from_bits(bits).to_string());
        }
    }
}
