//! One stream of an HTTP/2 connection, for whoever works on it.

use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use weft_core::fields::Fields;
use weft_core::h1::HeadFault;
use weft_core::http2::connection::{Broken, Key};
use weft_core::http2::frame::Reason;
use weft_core::message::{ParsedResponse, ResponseHead};

use super::h2_drive::Shared;

/// Holds a stream; it is left once nobody holds it any more.
pub(crate) struct H2Stream {
    shared: Shared,
    key: Key,
}

impl std::fmt::Debug for H2Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Stream").field("id", &self.key.id()).finish_non_exhaustive()
    }
}

impl H2Stream {
    /// Takes over a hold on the stream.
    pub(crate) const fn held(shared: Shared, key: Key) -> Self {
        Self { shared, key }
    }

    /// Number of the stream.
    pub(crate) const fn id(&self) -> u32 {
        self.key.id()
    }

    /// As [`weft_core::http2::connection::Connection::send_response`].
    pub(crate) fn send_response(&self, head: &ResponseHead, end: bool) -> Result<(), HeadFault> {
        self.shared.borrow_mut().send_response(self.key, head, end)
    }

    /// Whether the connection is so far behind with writing that hints would only pile up.
    pub(crate) fn is_behind(&self) -> bool {
        self.shared.borrow().output().len() >= super::OUT_BYTES_MAX
    }

    /// How many bytes may be sent now.
    pub(crate) fn poll_room(&self, wanted: usize, cx: &Context<'_>) -> Poll<Result<usize, Broken>> {
        self.shared.borrow_mut().poll_room(self.key, wanted, cx)
    }

    /// Sends so many of these bytes, for which there is room.
    pub(crate) fn send_data(&self, pieces: &[IoSlice<'_>], length: usize, end: bool) {
        self.shared.borrow_mut().send_data(self.key, pieces.iter().map(|piece| &**piece), length, end);
    }

    /// Ends our direction.
    pub(crate) fn send_end(&self) -> Result<(), Broken> {
        let mut connection = self.shared.borrow_mut();
        match connection.broken(self.key) {
            Some(broken) => Err(broken),
            None => {
                connection.send_end(self.key);
                Ok(())
            }
        }
    }

    /// Ends our direction with trailers.
    pub(crate) fn send_trailers(&self, fields: &Fields) -> Result<(), Broken> {
        self.shared.borrow_mut().send_trailers(self.key, fields)
    }

    pub(crate) fn reset(&self, reason: Reason) {
        self.shared.borrow_mut().reset(self.key, reason);
    }

    /// Why the stream is broken, if it is.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.shared.borrow().broken(self.key)
    }

    /// Ready when the stream is broken.
    pub(crate) fn poll_broken(&self, cx: &Context<'_>) -> Poll<Broken> {
        self.shared.borrow_mut().poll_broken(self.key, cx)
    }

    pub(crate) fn next_interim(&self) -> Option<ResponseHead> {
        self.shared.borrow_mut().next_interim(self.key)
    }

    pub(crate) fn poll_response(&self, cx: &Context<'_>) -> Poll<Result<ParsedResponse, Broken>> {
        self.shared.borrow_mut().poll_response(self.key, cx)
    }
}

impl Clone for H2Stream {
    fn clone(&self) -> Self {
        self.shared.borrow_mut().hold(self.key);
        Self { shared: Rc::clone(&self.shared), key: self.key }
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        self.shared.borrow_mut().let_go(self.key);
    }
}

/// What arrives on a stream. What nobody has read when it is dropped, or comes later, is thrown away.
#[derive(Debug)]
pub(crate) struct H2Reader(H2Stream);

impl H2Reader {
    pub(crate) const fn new(stream: H2Stream) -> Self {
        Self(stream)
    }

    /// All bytes that have come; `None` at the end.
    pub(crate) fn poll_data(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        self.0.shared.borrow_mut().poll_data(self.0.key, cx)
    }

    /// So many of them were handed on.
    pub(crate) fn read(&self, bytes: usize) {
        self.0.shared.borrow_mut().read(self.0.key, bytes);
    }

    /// Trailers, after the end.
    pub(crate) fn trailers(&self) -> Option<Fields> {
        self.0.shared.borrow_mut().next_trailers(self.0.key)
    }

    /// Whether nothing more comes.
    pub(crate) fn is_end(&self) -> bool {
        self.0.shared.borrow().is_read(self.0.key)
    }
}

impl Drop for H2Reader {
    fn drop(&mut self) {
        self.0.shared.borrow_mut().discard(self.0.key);
    }
}
