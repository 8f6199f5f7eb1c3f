//! Bytes on their way out of one connection, gathered into vectored writes.
//!
//! Heads, chunk lines and small pieces of body are copied into one buffer; larger pieces are kept as they are and written
//! from where they lie. One `writev` usually takes all of it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::spare;

/// Pieces up to this size are copied: a slice of its own costs more than the copy.
const COPY_MAX: usize = 1024;

/// Slices in one write. More than are ever pending with the bound on output and pieces above [`COPY_MAX`] in practice.
const SLICES_MAX: usize = 32;

/// Pending output in order: `queue`, then `tail`.
#[derive(Debug, Default)]
pub(crate) struct Out {
    queue: VecDeque<Bytes>,
    queued: usize,
    tail: BytesMut,
    unflushed: bool,
}

impl Out {
    /// Bytes that wait to be written.
    pub(crate) fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    /// Buffer to append to.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() == 0 {
            self.tail = spare::take();
        }
        &mut self.tail
    }

    /// Appends a piece.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.len() <= COPY_MAX {
            self.tail().extend_from_slice(&piece);
            return;
        }
        if !self.tail.is_empty() {
            self.queued += self.tail.len();
            self.queue.push_back(self.tail.split().freeze());
        }
        self.queued += piece.len();
        self.queue.push_back(piece);
    }

    /// Gives unused memory back; for a connection that goes idle.
    pub(crate) fn release(&mut self) {
        if self.len() == 0 {
            self.queue = VecDeque::new();
            spare::give_back(std::mem::take(&mut self.tail));
        }
    }

    /// Writes everything and flushes.
    pub(crate) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let written = ready!(self.poll_write(io, cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(&self, io: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.queue.is_empty() {
            return Pin::new(io).poll_write(cx, &self.tail);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let pieces = self.queue.iter().map(|b| &b[..]).chain(std::iter::once(&self.tail[..]));
        let mut used = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces.filter(|p| !p.is_empty())) {
            *slot = IoSlice::new(piece);
            used += 1;
        }
        Pin::new(io).poll_write_vectored(cx, slices.get(..used).unwrap_or_default())
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(front) = self.queue.front_mut() {
            let step = written.min(front.len());
            front.advance(step);
            self.queued -= step;
            written -= step;
            if !front.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
        if written < self.tail.len() {
            self.tail.advance(written);
        } else {
            // Not stepped over: it is given back whole.
            self.tail.clear();
        }
    }
}
