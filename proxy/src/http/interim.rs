//! Interim (1xx) responses on their way from upstream to downstream.

use std::cell::Cell;
use std::task::{Context, Poll};

use weft_core::h1::encode_response_head;
use weft_core::message::{BodyFraming, ResponseHead};
use weft_core::translate::response_for_h1;

use super::conn::Shared;
use super::h2_stream::H2Stream;
use super::limits::OUT_BYTES_MAX;

/// Where interim responses of one request go.
///
/// They are hints: one that cannot be delivered is dropped, never an error. HTTP/1.0 clients get none (RFC 9110 section
/// 15.2).
pub struct Interim {
    sink: Sink,
    continued: Cell<bool>,
}

enum Sink {
    None,
    H1(Shared),
    H2(H2Stream),
}

impl std::fmt::Debug for Interim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interim").finish_non_exhaustive()
    }
}

impl Interim {
    /// Drops them all; for requests of the proxy's own.
    #[must_use]
    pub const fn none() -> Self {
        Self { sink: Sink::None, continued: Cell::new(false) }
    }

    pub(crate) const fn h1(conn: Shared) -> Self {
        Self { sink: Sink::H1(conn), continued: Cell::new(false) }
    }

    pub(crate) const fn h2(stream: H2Stream) -> Self {
        Self { sink: Sink::H2(stream), continued: Cell::new(false) }
    }

    /// Queues an interim head (status 100 to 199 without 101); it leaves with the connection's next flush, which the
    /// server does before it waits.
    pub fn send(&self, mut head: ResponseHead) {
        if !(100..200).contains(&head.status) || head.status == 101 || self.is_full() {
            return;
        }
        if head.status == 100 {
            self.continued.set(true);
        }
        match &self.sink {
            Sink::None => {}
            Sink::H1(conn) => {
                response_for_h1(&mut head, BodyFraming::None);
                encode_response_head(&head, conn.borrow_mut().out.tail());
            }
            // A head that HTTP/2 cannot carry is dropped too.
            Sink::H2(stream) => stream.send_response(&head, false).unwrap_or_default(),
        }
    }

    /// Whether the client is so far behind with reading that hints would only pile up.
    fn is_full(&self) -> bool {
        match &self.sink {
            Sink::None => false,
            Sink::H1(conn) => conn.borrow().out.len() >= OUT_BYTES_MAX,
            Sink::H2(stream) => stream.is_behind(),
        }
    }

    /// Whether the client was told to go on with its body.
    pub(crate) const fn continued(&self) -> bool {
        self.continued.get()
    }

    /// Ready when the HTTP/2 stream is reset by its client, or its connection is gone.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.sink {
            Sink::None | Sink::H1(_) => Poll::Pending,
            Sink::H2(stream) => stream.poll_broken(cx).map(drop),
        }
    }

    /// The way to the final response, for HTTP/2.
    pub(crate) fn into_h2(self) -> Option<H2Stream> {
        match self.sink {
            Sink::None | Sink::H1(_) => None,
            Sink::H2(stream) => Some(stream),
        }
    }
}
