//! Bodies on HTTP/2 streams, the same for both ends of a stream.
//!
//! Receive windows are given back as pieces are handed on, and a piece is only asked for when the one before has left, so
//! a slow reader closes the window of a fast writer. What arrives meanwhile waits in the connection, joined, and is handed
//! on together: small frames cost no more than their bytes. Resets keep their code across the proxy.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use weft_core::fault::FaultKind;
use weft_core::http2::connection::Broken;
use weft_core::http2::frame::Reason;
use weft_core::message::BodyFraming;

use super::body::Sent;
use super::h2_stream::{H2Reader, H2Stream};
use super::keepalive::InFlight;
use super::rest::RequestRest;
use super::{Body, BodyError, Frame};

/// Which peer sends the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

impl Side {
    fn error(self, broken: Broken) -> BodyError {
        let (misused, reset) = (broken.is_misuse(), broken.reason());
        let fault = match self {
            Self::Downstream if misused => FaultKind::BadBody,
            Self::Downstream => FaultKind::DownstreamReset,
            Self::Upstream if misused => FaultKind::UpstreamProtocol,
            Self::Upstream if reset.is_some() => FaultKind::UpstreamReset,
            Self::Upstream => FaultKind::UpstreamTruncated,
        };
        BodyError { fault, reset }
    }
}

/// Code for resetting a stream whose body broke: the peer's own where it gave one.
///
/// Not `NO_ERROR`: after a whole response it may stop a request (RFC 9113 section 8.1), but a body that it cuts must not look
/// whole to clients that take it for an end.
pub(crate) fn reset_reason(error: BodyError) -> Reason {
    let left = error.fault == FaultKind::DownstreamReset;
    error.reset.filter(|reason| *reason != Reason::NO_ERROR).unwrap_or(if left {
        Reason::CANCEL
    } else {
        Reason::INTERNAL_ERROR
    })
}

/// Body arriving on an HTTP/2 stream. A response's also carries what is left of its request.
pub struct H2Body {
    reader: H2Reader,
    side: Side,
    framing: BodyFraming,
    received: Option<Rc<Cell<u64>>>,
    request: Option<Box<H2Sender>>,
    held: Option<InFlight>,
}

impl std::fmt::Debug for H2Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Body").field("side", &self.side).field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl H2Body {
    pub(crate) const fn new(reader: H2Reader, side: Side, framing: BodyFraming) -> Self {
        Self { reader, side, framing, received: None, request: None, held: None }
    }

    /// Counts data bytes there.
    pub(crate) fn counting(mut self, received: Rc<Cell<u64>>) -> Self {
        self.received = Some(received);
        self
    }

    /// Keeps the request moving along, and its stream counted, until the response ends.
    pub(crate) fn with_request(mut self, request: Option<Box<H2Sender>>, held: InFlight) -> Self {
        self.request = request;
        self.held = Some(held);
        self
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Some(Err(error)) = self.poll_request(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(self.reader.poll_data(cx)) {
            Some(Ok(data)) => {
                self.reader.read(data.len());
                if let Some(received) = &self.received {
                    received.set(received.get() + data.len() as u64);
                }
                Poll::Ready(Some(Ok(Frame::Data(data))))
            }
            Some(Err(broken)) => Poll::Ready(Some(Err(self.side.error(broken)))),
            None => Poll::Ready(self.reader.trailers().map(|trailers| Ok(Frame::Trailers(trailers)))),
        }
    }

    pub(crate) fn poll_background(&mut self, cx: &mut Context<'_>) {
        // A broken request body has reset the stream; the next read reports it.
        self.poll_request(cx).unwrap_or(Ok(())).unwrap_or_default();
    }

    pub(crate) const fn has_rest(&self) -> bool {
        self.request.is_some()
    }

    /// What is left of the request, to be moved on when the response is over.
    pub(crate) fn take_rest(&mut self) -> Option<RequestRest> {
        let sender = self.request.take()?;
        Some(RequestRest::H2 { sender, _held: self.held.take() })
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Option<Result<(), BodyError>> {
        match self.request.as_mut()?.poll(cx) {
            Poll::Pending => None,
            Poll::Ready(outcome) => {
                self.request = None;
                // An upstream that stops reading has its response say why.
                Some(outcome.or_else(|e| if e.fault == FaultKind::UpstreamReset { Ok(()) } else { Err(e) }))
            }
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.reader.is_end()
    }

    pub(crate) const fn framing(&self) -> BodyFraming {
        self.framing
    }
}

/// A body leaving on an HTTP/2 stream.
pub(crate) struct H2Sender {
    stream: H2Stream,
    body: Body,
    pending: Bytes,
    to: Side,
    sent: Sent,
    broken: Option<BodyError>,
}

impl H2Sender {
    pub(crate) const fn new(stream: H2Stream, body: Body, to: Side) -> Self {
        Self { stream, body, pending: Bytes::new(), to, sent: Sent { bytes: 0, grpc_status: None }, broken: None }
    }

    /// What was handed to the connection.
    pub(crate) const fn sent(&self) -> Sent {
        self.sent
    }

    /// Moves the body within the peer's window, one piece at a time. On an error the stream has been reset.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if let Some(error) = self.broken.take() {
            self.stream.reset(reset_reason(error));
            return Poll::Ready(Err(error));
        }
        loop {
            if !self.pending.is_empty() {
                match self.stream.poll_room(self.pending.len(), cx) {
                    Poll::Pending => {
                        self.body.poll_background(cx);
                        return Poll::Pending;
                    }
                    Poll::Ready(room) => {
                        if self.send(room.map_err(|broken| self.gone(broken))?) {
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
                continue;
            }
            let frame = match self.body.poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return self.stream.poll_broken(cx).map(|broken| Err(self.gone(broken))),
            };
            match frame {
                Some(Ok(Frame::Data(data))) => self.pending = data,
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.sent.note_trailers(&trailers);
                    return Poll::Ready(self.stream.send_trailers(&trailers).map_err(|broken| self.gone(broken)));
                }
                Some(Err(error)) => {
                    // Where it broke because its client has left, the exchange is dropped first.
                    self.broken = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => return Poll::Ready(self.stream.send_end().map_err(|broken| self.gone(broken))),
            }
        }
    }

    /// Sends so many bytes of the piece at hand; whether they are the last of the body.
    fn send(&mut self, bytes: usize) -> bool {
        let last = bytes == self.pending.len() && self.body.is_end();
        self.stream.send_data(&[IoSlice::new(&self.pending)], bytes, last);
        self.pending.advance(bytes);
        self.sent.bytes += bytes as u64;
        last
    }

    fn gone(&self, broken: Broken) -> BodyError {
        let fault = if self.to == Side::Upstream { FaultKind::UpstreamReset } else { FaultKind::DownstreamReset };
        let reset = broken.reason();
        BodyError { fault, reset }
    }

    /// What is left of the request when its response has left.
    pub(crate) fn take_rest(&mut self) -> Option<RequestRest> {
        self.body.take_rest()
    }

    /// The bare stream.
    pub(crate) fn into_stream(self) -> H2Stream {
        self.stream
    }
}
