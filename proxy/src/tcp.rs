//! Bytes both ways between two streams, until both directions have ended.
//!
//! Each direction holds what it has read until that is written, and reads only when it holds nothing: that is the
//! backpressure. Buffers and pipes are the worker's, so a direction that waits for its source holds none. Between two plain
//! sockets, bytes that come in bulk are moved by the kernel (splice(2)) instead of copied. The end of one side's sending is
//! passed on as the end of sending, a reset as a reset.

mod direction;
mod pipe;
mod reserve;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use weft_core::fault::FaultKind;

use crate::io::Stream;
use direction::{Broken, Direction};

pub(crate) use pipe::Pipe;
pub use reserve::Reserve;

/// How a relay ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayEnd {
    /// Bytes from downstream to upstream.
    pub up: u64,
    /// Bytes from upstream to downstream.
    pub down: u64,
    /// Who broke it; `None` when both ended in order.
    pub fault: Option<FaultKind>,
}

/// Bytes moved so far, for whoever outlives a relay that is cancelled.
#[derive(Debug, Default)]
pub struct Moved {
    up: Cell<u64>,
    down: Cell<u64>,
}

impl Moved {
    /// As an end with this fault.
    #[must_use]
    pub fn ended(&self, fault: Option<FaultKind>) -> RelayEnd {
        RelayEnd { up: self.up.get(), down: self.down.get(), fault }
    }
}

/// Relays until both directions have ended or one side breaks; keeps `moved` up to date. Cancelling closes both.
pub async fn relay(reserve: &Reserve, mut downstream: Stream, mut upstream: Stream, moved: &Moved) -> RelayEnd {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let ended = poll_fn(|cx| {
        let sent = up.poll(cx, reserve, &mut downstream, &mut upstream);
        let received = down.poll(cx, reserve, &mut upstream, &mut downstream);
        moved.up.set(up.moved());
        moved.down.set(down.moved());
        match (sent, received) {
            (Poll::Ready(Err(Broken::Reading)), _) => Poll::Ready(Err(FaultKind::DownstreamReset)),
            (_, Poll::Ready(Err(Broken::Reading))) => Poll::Ready(Err(FaultKind::UpstreamReset)),
            // Who cannot be written to may have said something before it left: that is delivered first.
            (Poll::Ready(Err(Broken::Writing)), Poll::Ready(_)) => Poll::Ready(Err(FaultKind::UpstreamReset)),
            (Poll::Ready(_), Poll::Ready(Err(Broken::Writing))) => Poll::Ready(Err(FaultKind::DownstreamReset)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Pending, _) | (_, Poll::Pending) => Poll::Pending,
        }
    })
    .await;
    let end = moved.ended(ended.err());
    if end.fault.is_some() {
        downstream.abort();
        upstream.abort();
    }
    end
}
