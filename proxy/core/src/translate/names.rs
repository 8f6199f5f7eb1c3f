//! Names of fields as the `http` crate has them, kept from one message to the next.
//!
//! A service sends the same dozen names over and over. Making one anew checks every byte and, where the crate does not
//! know the name, allocates. What is kept is bounded in number and length, whatever names peers think up.

use std::cell::RefCell;

use http::HeaderName;

/// Places for names, a power of two; two that share one take turns.
const PLACES: usize = 256;

/// Longer names are made anew.
const BYTES_MAX: usize = 64;

thread_local! {
    static NAMES: RefCell<Vec<Option<HeaderName>>> = const { RefCell::new(Vec::new()) };
}

/// The name in lower case; `None` if it is none.
pub(super) fn shared(name: &[u8]) -> Option<HeaderName> {
    if name.len() > BYTES_MAX {
        return HeaderName::from_bytes(name).ok();
    }
    NAMES.with_borrow_mut(|names| {
        names.resize(PLACES, None);
        let kept = names.get_mut(place(name))?;
        match kept {
            Some(kept) if kept.as_str().as_bytes().eq_ignore_ascii_case(name) => Some(kept.clone()),
            Some(_) | None => {
                *kept = HeaderName::from_bytes(name).ok();
                kept.clone()
            }
        }
    })
}

/// By a hash that does not see the case of letters.
fn place(name: &[u8]) -> usize {
    let mix = |hash: u64, eight: [u8; 8]| {
        let eight = u64::from_le_bytes(eight) | 0x2020_2020_2020_2020;
        (hash.rotate_left(5) ^ eight).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    let (chunks, rest) = name.as_chunks();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let hash = mix(chunks.iter().copied().fold(0, mix), last);
    usize::try_from(hash >> 32).unwrap_or_default() % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_it_is_without_being_kept() {
        let long = "x".repeat(BYTES_MAX + 1);
        let names = [
            "accept",
            "Accept",
            "x-b3-traceid",
            "X-B3-TraceId",
            "x",
            &long,
            "x-12345678",
            "",
            "a b",
            "\"",
            "k\u{212a}",
        ];
        for name in names.iter().chain(names.iter().rev()) {
            assert_eq!(shared(name.as_bytes()), HeaderName::from_bytes(name.as_bytes()).ok(), "{name}");
        }
    }

    #[test]
    fn names_that_share_a_place_are_told_apart() {
        let names: Vec<_> = (0..4 * PLACES).map(|number| format!("x-{number}")).collect();
        for name in names.iter().chain(names.iter().rev()) {
            assert_eq!(shared(name.as_bytes()).unwrap(), name.as_str());
        }
        NAMES.with_borrow(|names| assert_eq!(names.len(), PLACES));
    }
}
