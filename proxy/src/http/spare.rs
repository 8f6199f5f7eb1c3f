//! Buffers for heads that nobody uses just now.
//!
//! A connection holds none while it is idle, and needs two for every message. Going to the allocator each time costs more
//! than reading the head, because the first slice taken off a buffer allocates once more; so each worker keeps a few. They
//! come back with that behind them.

use std::cell::RefCell;

use bytes::BytesMut;

/// Holds most heads, with a small body.
pub(crate) const SPARE_BYTES: usize = 4 * 1024;

/// Kept per worker at most: for as many messages as a busy one has under way at once, since what goes back to the
/// allocator beyond that comes from it again in the next turn.
const SPARES_MAX: usize = 128;

thread_local! {
    static SPARES: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of at least [`SPARE_BYTES`].
pub(crate) fn take() -> BytesMut {
    let spare = SPARES.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| BytesMut::with_capacity(SPARE_BYTES))
}

/// Gives a buffer back, whatever is in it. What is still referred to or has grown is let go of.
pub(crate) fn give_back(mut buffer: BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    buffer.clear();
    if !buffer.try_reclaim(SPARE_BYTES) || buffer.capacity() > 2 * SPARE_BYTES {
        return;
    }
    let keep = |spares: &RefCell<Vec<BytesMut>>| {
        let spares = &mut *spares.borrow_mut();
        if spares.len() < SPARES_MAX {
            spares.push(buffer);
        }
    };
    // At the end of a thread there are none.
    SPARES.try_with(keep).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_unless_somebody_needs_it() {
        let kept = || SPARES.with_borrow(Vec::len);
        let mut buffer = take();
        buffer.extend_from_slice(b"GET / HTTP/1.1");
        let slice = buffer.split_to(5).freeze();
        give_back(buffer);
        assert_eq!((kept(), &slice[..]), (0, &b"GET /"[..]));
        drop(slice);

        let mut buffer = take();
        let start = buffer.as_ptr();
        buffer.extend_from_slice(b"GET / HTTP/1.1");
        drop(buffer.split_to(5).freeze());
        give_back(buffer);
        assert_eq!(kept(), 1);
        let buffer = take();
        assert_eq!((buffer.as_ptr(), buffer.len(), kept()), (start, 0, 0), "whole again and the same");
        assert!(buffer.capacity() >= SPARE_BYTES);
    }

    #[test]
    fn few_and_small_ones_are_kept() {
        give_back(BytesMut::with_capacity(64 * 1024));
        give_back(BytesMut::with_capacity(16));
        assert_eq!(SPARES.with_borrow(Vec::len), 0);
        (0..2 * SPARES_MAX).for_each(|_| give_back(BytesMut::with_capacity(SPARE_BYTES)));
        assert_eq!(SPARES.with_borrow(Vec::len), SPARES_MAX);
    }
}
