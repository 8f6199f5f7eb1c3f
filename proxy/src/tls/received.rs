//! Bytes that a connection has received and not opened yet.

use super::scratch::{RECEIVE_MAX, give_received, take_received};

/// While records are taken out it may have the worker's buffer; between two calls only one of its own size.
#[derive(Debug, Default)]
pub(super) struct Received {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Received {
    /// These were received already.
    pub(super) fn with(bytes: &[u8]) -> Self {
        Self { buffer: bytes.to_vec(), start: 0, end: bytes.len() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) fn take_out(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    pub(super) const fn clear(&mut self) {
        self.start = self.end;
    }

    /// Room behind what is there, of about `wanted` bytes.
    pub(super) fn room(&mut self, wanted: usize) -> &mut [u8] {
        let count = self.bytes().len();
        if self.buffer.len() == RECEIVE_MAX {
            self.buffer.copy_within(self.start..self.end, 0);
        } else {
            let mut larger = take_received();
            if let Some(place) = larger.get_mut(..count) {
                place.copy_from_slice(self.bytes());
            }
            self.buffer = larger;
        }
        (self.start, self.end) = (0, count);
        let end = (self.end + wanted).min(RECEIVE_MAX);
        self.buffer.get_mut(self.end..end).unwrap_or_default()
    }

    /// So much of the room was filled.
    pub(super) fn filled(&mut self, count: usize) {
        self.end = self.buffer.len().min(self.end + count);
    }

    /// Gives the worker's buffer back; keeps what is left.
    pub(super) fn settle(&mut self) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() == RECEIVE_MAX {
            let rest = self.bytes().to_vec();
            (self.start, self.end) = (0, rest.len());
            give_received(std::mem::replace(&mut self.buffer, rest));
        } else if self.is_empty() {
            self.buffer = Vec::new();
        }
    }
}
