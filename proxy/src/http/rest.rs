//! What is left of a request after the whole response to it, on its way to the server.
//!
//! The two directions of an exchange end each for itself (RFC 9113 section 8.1, RFC 9112 section 9.5): there are servers
//! that answer an upload first and read it then. But nobody waits for this direction any more, so that nobody would ever
//! notice that it has stopped: it is given up when nothing of it has moved for a while. However slow, what moves goes on.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use weft_core::fault::FaultKind;

use super::BodyError;
use super::h1_client::H1ResponseBody;
use super::h2_io::H2Sender;
use super::keepalive::InFlight;

/// What is left of a request, by whom it goes to.
pub(crate) enum RequestRest {
    /// To a server that keeps its connection.
    H1(H1ResponseBody),
    /// On a stream, which counts as in flight until then.
    H2 {
        /// The rest itself.
        sender: Box<H2Sender>,
        /// Ends with it.
        _held: Option<InFlight>,
    },
}

impl RequestRest {
    /// Moves it until the client has ended it or left, or the server wants no more of it. `idle`: for so long nothing of
    /// it may move. Cancelling cancels the exchange upstream.
    ///
    /// # Errors
    /// The request broke off, or (`IdleTimeout`) it has stopped.
    pub(crate) fn within(self, idle: Duration) -> MovingRest {
        MovingRest { moved: self.moved(), rest: self, idle, timer: Box::pin(sleep(idle)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self {
            Self::H1(body) => body.poll_rest(cx),
            Self::H2 { sender, .. } => sender.poll(cx),
        }
    }

    /// Grows with each byte that goes to the server.
    fn moved(&self) -> u64 {
        match self {
            Self::H1(body) => body.written(),
            Self::H2 { sender, .. } => sender.sent().bytes,
        }
    }
}

/// A rest that is watched for standing still.
pub(crate) struct MovingRest {
    rest: RequestRest,
    moved: u64,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
}

impl MovingRest {
    /// See [`RequestRest::within`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if let Poll::Ready(over) = self.rest.poll(cx) {
            return Poll::Ready(over);
        }
        let moved = self.rest.moved();
        if moved != self.moved {
            self.moved = moved;
            self.timer.as_mut().reset(Instant::now() + self.idle);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(BodyError::of(FaultKind::IdleTimeout)))
    }
}
