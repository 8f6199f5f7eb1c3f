//! Buffers of a worker for what goes through TLS within one call; what stays behind is kept by its connection in a buffer of
//! its own size, so that a connection that waits holds next to nothing.

use std::cell::Cell;

use super::records::RECORD_MAX;

/// Bytes that are received at once at most.
pub(super) const RECEIVE_MAX: usize = 256 << 10;

/// Room for what is sealed at once: as much as a connection may hold that its socket does not take. Each write ends a packet,
/// and what a bulk transfer gains from fewer of them ends about here.
pub(super) const SEAL_BYTES: usize = 8 * RECORD_MAX + 256;

thread_local! {
    static RECEIVED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SEALED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// [`RECEIVE_MAX`] bytes of whatever was there before.
pub(super) fn take_received() -> Vec<u8> {
    filled(RECEIVED.take(), RECEIVE_MAX)
}

/// Gives back what was taken.
pub(super) fn give_received(buffer: Vec<u8>) {
    RECEIVED.set(buffer);
}

/// Room for sealing, of whatever was there before.
pub(super) fn take_sealed() -> Vec<u8> {
    filled(SEALED.take(), SEAL_BYTES)
}

/// Gives back what was taken.
pub(super) fn give_sealed(buffer: Vec<u8>) {
    SEALED.set(buffer);
}

fn filled(buffer: Vec<u8>, size: usize) -> Vec<u8> {
    if buffer.len() == size { buffer } else { vec![0; size] }
}
