//! What a worker's relays share, so that none of them keeps anything while it waits.

use std::cell::RefCell;
use std::rc::Rc;

use super::pipe::{Pipe, Pipes};

/// Size of a buffer: what a bulk transfer into TLS gains from fewer and larger reads ends about here. Memory that is not
/// read into costs nothing.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// Buffers kept for the next who needs one. A direction that does not wait gives its buffer back within its turn.
const BUFFERS_KEPT: usize = 2;

/// Buffers and pipes of one worker that are not in use.
#[derive(Debug, Default)]
pub struct Reserve {
    buffers: RefCell<Vec<Vec<u8>>>,
    pipes: Rc<Pipes>,
}

impl Reserve {
    /// With so many pipes at most.
    #[cfg(test)]
    pub(super) fn with_pipes(most: usize) -> Self {
        Self { buffers: RefCell::default(), pipes: Rc::new(Pipes::at_most(most)) }
    }

    #[cfg(test)]
    pub(super) fn pipes(&self) -> &Pipes {
        &self.pipes
    }

    pub(super) fn take_pipe(&self) -> Option<Pipe> {
        self.pipes.take()
    }

    /// [`BUFFER_BYTES`] of whatever was there before.
    pub(super) fn take_buffer(&self) -> Vec<u8> {
        let rested = self.buffers.borrow_mut().pop();
        rested.unwrap_or_else(|| vec![0; BUFFER_BYTES])
    }

    /// Gives a buffer back; one of another size is freed.
    pub(super) fn give_buffer(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.len() == BUFFER_BYTES && buffers.len() < BUFFERS_KEPT {
            buffers.push(buffer);
        }
    }
}
