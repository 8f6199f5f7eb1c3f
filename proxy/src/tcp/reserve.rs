//! What a worker's relays share, so that none of them keeps anything while it waits.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::pipe::{Pipe, Pipes};

/// Size of a buffer: what a bulk transfer into TLS gains from fewer and larger reads ends about here. Memory that is not
/// read into costs nothing.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// Size of a buffer where many wait for peers that do not read.
pub(super) const SMALL_BYTES: usize = 64 << 10;

/// Large buffers in use at most. A direction that waits for its peer keeps what it has read, and how many do is up to
/// their peers: beyond these 16 MiB each of them costs a quarter.
const LARGE_MAX: usize = 64;

/// Buffers of either size kept for the next who needs one. A direction that does not wait gives its buffer back within its
/// turn.
const BUFFERS_KEPT: usize = 2;

/// Buffers and pipes of one worker that are not in use.
#[derive(Debug, Default)]
pub struct Reserve {
    buffers: Rc<Buffers>,
    pipes: Rc<Pipes>,
}

impl Reserve {
    /// With so many pipes at most, or as many as are of use.
    #[must_use]
    pub fn with_pipes(most: usize) -> Self {
        Self { buffers: Rc::default(), pipes: Rc::new(Pipes::at_most(most)) }
    }

    #[cfg(test)]
    pub(super) fn pipes(&self) -> &Pipes {
        &self.pipes
    }

    pub(super) fn take_pipe(&self) -> Option<Pipe> {
        self.pipes.take()
    }

    /// Room with whatever was there before.
    pub(super) fn take_buffer(&self) -> Buffer {
        Buffers::take(&self.buffers)
    }
}

#[derive(Debug, Default)]
struct Buffers {
    large: RefCell<Vec<Vec<u8>>>,
    small: RefCell<Vec<Vec<u8>>>,
    large_in_use: Cell<usize>,
}

impl Buffers {
    fn take(this: &Rc<Self>) -> Buffer {
        let large = this.large_in_use.get() < LARGE_MAX;
        let (kept, size) = if large { (&this.large, BUFFER_BYTES) } else { (&this.small, SMALL_BYTES) };
        let rested = kept.borrow_mut().pop();
        let bytes = rested.unwrap_or_else(|| vec![0; size]);
        this.large_in_use.set(this.large_in_use.get() + usize::from(large));
        Buffer { bytes, of: Some(Rc::clone(this)) }
    }

    fn rest(&self, bytes: Vec<u8>) {
        let large = bytes.len() == BUFFER_BYTES;
        self.large_in_use.set(self.large_in_use.get().saturating_sub(usize::from(large)));
        let mut kept = if large { self.large.borrow_mut() } else { self.small.borrow_mut() };
        if kept.len() < BUFFERS_KEPT {
            kept.push(bytes);
        }
    }
}

/// Bytes of one direction. Dropping gives them back where they are the worker's.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    of: Option<Rc<Buffers>>,
}

impl Buffer {
    /// Of a size that nobody else needs.
    pub(super) const fn own(bytes: Vec<u8>) -> Self {
        Self { bytes, of: None }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(of) = self.of.take() {
            of.rest(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_have_large_buffers_up_to_a_bound() {
        let reserve = Reserve::default();
        let sizes = |held: &[Buffer]| {
            let of = |size| held.iter().filter(|buffer| buffer.len() == size).count();
            [of(BUFFER_BYTES), of(SMALL_BYTES)]
        };
        for _ in 0..2 {
            let mut held: Vec<_> = (0..LARGE_MAX + 10).map(|_| reserve.take_buffer()).collect();
            assert_eq!(sizes(&held), [LARGE_MAX, 10]);
            let given_back = held.swap_remove(3);
            drop(given_back);
            held.push(reserve.take_buffer());
            assert_eq!(sizes(&held), [LARGE_MAX, 10]);
        }
        let kept = [&reserve.buffers.large, &reserve.buffers.small].map(|kept| kept.borrow().len());
        assert_eq!((kept, reserve.buffers.large_in_use.get()), ([BUFFERS_KEPT; 2], 0));
        drop(Buffer::own(vec![0; BUFFER_BYTES]));
        assert_eq!(reserve.buffers.large_in_use.get(), 0);
    }
}
