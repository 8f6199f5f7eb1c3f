//! Lists that nobody uses just now.
//!
//! A message needs a list of its fields and room for those that are added, and is gone a moment later: going to the
//! allocator for both, growing them and giving them back cost more than filling them. So each thread keeps a few.

use std::cell::RefCell;

use bytes::Bytes;

use super::{ADDED_BYTES, Content, Held, Names};

/// Kept per thread at most: for as many messages as a busy worker has under way at once, since what goes back to the
/// allocator beyond that comes from it again in the next turn.
const SPARES_MAX: usize = 256;

/// What has grown beyond an ordinary message is let go of.
const ENTRIES_MAX: usize = 64;
const BYTES_MAX: usize = 2 * ADDED_BYTES;

thread_local! {
    static SPARES: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

/// An empty one.
pub(super) fn take() -> Held {
    // At the end of a thread there are none.
    let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
    spare.ok().flatten().unwrap_or_else(|| Box::new(Content::new()))
}

/// Gives one back, whatever is in it.
pub(super) fn give_back(mut held: Held) {
    if held.entries.capacity() > ENTRIES_MAX || held.added.capacity() > BYTES_MAX {
        return;
    }
    held.received = Bytes::new();
    held.added.clear();
    held.entries.clear();
    held.names = Names::NONE;
    let keep = |spares: &RefCell<Vec<Held>>| {
        let spares = &mut *spares.borrow_mut();
        if spares.len() < SPARES_MAX {
            spares.push(held);
        }
    };
    SPARES.try_with(keep).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use crate::fields::Fields;

    use super::*;

    #[test]
    fn a_list_comes_back_empty_and_none_is_kept_that_is_large() {
        let kept = || SPARES.with_borrow(Vec::len);
        let mut fields = Fields::new();
        fields.append("Host", "a");
        let copy = fields.clone();
        assert_eq!((kept(), &copy), (0, &fields));
        drop((fields, copy));
        assert_eq!(kept(), 2);
        let mut fields: Fields = [("b", "c")].into_iter().collect();
        assert_eq!((kept(), fields.len(), fields.contains("host")), (1, 1, false));
        (0..ENTRIES_MAX).for_each(|_| fields.append("b", "c"));
        drop(fields);
        assert_eq!(kept(), 1);
        let many: Vec<_> = (0..2 * SPARES_MAX).map(|_| Fields::from_iter([("b", "c")])).collect();
        drop(many);
        assert_eq!(kept(), SPARES_MAX);
    }
}
