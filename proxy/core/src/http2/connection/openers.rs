//! Who waits until a stream can be opened, first come, first served.

use std::collections::BTreeMap;
use std::task::{Context, Waker};

/// The place in the line of one who waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(Option<u64>);

/// The line. Whoever leaves it, leaves nothing there.
#[derive(Debug, Default)]
pub(super) struct Openers {
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

impl Openers {
    pub(super) fn wait(&mut self, place: &mut Place, cx: &Context<'_>) {
        if let Some(waker) = place.0.and_then(|at| self.waiting.get_mut(&at)) {
            waker.clone_from(cx.waker());
            return;
        }
        place.0 = Some(self.next);
        self.waiting.insert(self.next, cx.waker().clone());
        self.next += 1;
    }

    pub(super) fn leave(&mut self, place: Place) {
        if let Some(at) = place.0 {
            self.waiting.remove(&at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Wakes so many from the front.
    pub(super) fn wake(&mut self, count: usize) {
        for _ in 0..count {
            let Some((_, waker)) = self.waiting.pop_first() else { return };
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_first_is_woken_first_and_who_leaves_is_not_there() {
        let wakers: Vec<_> = (0..4).map(|_| Arc::<Count>::default()).collect();
        let mut line = Openers::default();
        let mut places = vec![Place::default(); 4];
        for _ in 0..2 {
            for (count, place) in wakers.iter().zip(&mut places) {
                line.wait(place, &Context::from_waker(&Waker::from(Arc::clone(count))));
            }
        }
        assert_eq!(line.waiting.len(), 4, "asking again is not waiting twice");
        line.leave(places[0]);
        line.wake(2);
        let woken = || wakers.iter().map(|count| count.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(woken(), [0, 1, 1, 0]);
        line.leave(places[1]);
        line.wake(usize::MAX);
        assert_eq!(woken(), [0, 1, 1, 1]);
        assert!(line.is_empty());
    }
}
