//! Bodies on HTTP/2 streams, the same for both ends of a stream.
//!
//! Receive windows are given back as pieces are handed on, and a piece is only asked for when the one before has left, so
//! a slow reader closes the window of a fast writer. Meanwhile what arrives is taken out of the crate and joined, because
//! it ends connections on which many small frames wait; the window bounds how much that is. Small pieces that have arrived
//! together are handed on together. Resets keep their code across
//! the proxy.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use weft_core::fault::FaultKind;
use weft_core::h1::Limits;
use weft_core::message::BodyFraming;
use weft_core::translate::{trailers_from_h2, trailers_to_h2};

use super::body::Sent;
use super::keepalive::InFlight;
use super::rest::RequestRest;
use super::{Body, BodyError, Frame};

/// A piece of a body that is smaller than this is joined with what has arrived behind it.
const SMALL_BYTES: usize = 1024;

/// Until there are so many bytes: what one frame holds.
const JOINED_BYTES: usize = 16 * 1024;

/// Which peer sends the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

impl Side {
    fn error(self, error: &h2::Error) -> BodyError {
        // Resets by the crate are for bodies that break the protocol: not as long as announced, or beyond the window.
        let broken = error.is_reset() && error.is_library();
        let fault = match self {
            Self::Downstream if broken => FaultKind::BadBody,
            Self::Downstream => FaultKind::DownstreamReset,
            Self::Upstream if broken => FaultKind::UpstreamProtocol,
            Self::Upstream if error.is_reset() => FaultKind::UpstreamReset,
            Self::Upstream => FaultKind::UpstreamTruncated,
        };
        BodyError { fault, reset: error.reason().filter(|_| error.is_reset() && !broken) }
    }
}

/// Code for resetting a stream whose body broke: the peer's own where it gave one.
///
/// Not `NO_ERROR`: after a whole response it may stop a request (RFC 9113 section 8.1), which the crate tells apart, but a
/// body that it cuts must not look whole to clients that take it for an end.
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
    recv: RecvStream,
    side: Side,
    framing: BodyFraming,
    limits: Limits,
    received: Option<Rc<Cell<u64>>>,
    request: Option<Box<H2Sender>>,
    held: Option<InFlight>,
    /// Arrived while the reader was busy; its window is not given back yet.
    ahead: BytesMut,
    /// Something was taken ahead, if only a frame without bytes, and the reader does not know yet.
    unread: bool,
    data_ended: bool,
    broken: Option<BodyError>,
}

impl std::fmt::Debug for H2Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Body").field("side", &self.side).field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl H2Body {
    pub(crate) fn new(recv: RecvStream, side: Side, framing: BodyFraming, limits: Limits) -> Self {
        Self {
            recv,
            side,
            framing,
            limits,
            received: None,
            request: None,
            held: None,
            ahead: BytesMut::new(),
            unread: false,
            data_ended: false,
            broken: None,
        }
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
        let side = self.side;
        self.unread = false;
        if !self.ahead.is_empty() {
            // Whole, so that no buffer stays with a reader that was slow once.
            let data = std::mem::take(&mut self.ahead).freeze();
            return Poll::Ready(Some(self.hand_on(data)));
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        while !self.data_ended {
            match ready!(self.recv.poll_data(cx)) {
                Some(data) => {
                    let data = data.map_err(|e| side.error(&e))?;
                    if !data.is_empty() {
                        let data = self.joined(data, cx);
                        return Poll::Ready(Some(self.hand_on(data)));
                    }
                }
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.recv.poll_trailers(cx)).map_err(|e| side.error(&e))?;
        Poll::Ready(trailers.map(|map| {
            trailers_from_h2(&map, &self.limits).map(Frame::Trailers).map_err(|_| {
                BodyError::of(match side {
                    Side::Downstream => FaultKind::BadBody,
                    Side::Upstream => FaultKind::UpstreamProtocol,
                })
            })
        }))
    }

    /// A small piece with those that have arrived behind it. Peers count small frames as we do and end the connection,
    /// which many clients share: what one of them sends byte by byte must not go on so.
    fn joined(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut last = first.len();
        while last < SMALL_BYTES && self.ahead.len() < JOINED_BYTES {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(more))) => {
                    if self.ahead.is_empty() {
                        self.ahead.extend_from_slice(&first);
                    }
                    self.ahead.extend_from_slice(&more);
                    last = more.len();
                }
                Poll::Ready(Some(Err(error))) => {
                    self.broken = Some(self.side.error(&error));
                    break;
                }
                Poll::Ready(None) => {
                    self.data_ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        if self.ahead.is_empty() { first } else { std::mem::take(&mut self.ahead).freeze() }
    }

    fn hand_on(&mut self, data: Bytes) -> Result<Frame, BodyError> {
        let side = self.side;
        self.recv.flow_control().release_capacity(data.len()).map_err(|e| side.error(&e))?;
        if let Some(received) = &self.received {
            received.set(received.get() + data.len() as u64);
        }
        Ok(Frame::Data(data))
    }

    pub(crate) fn poll_background(&mut self, cx: &mut Context<'_>) {
        while !self.data_ended && self.broken.is_none() {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.unread = true;
                    self.ahead.extend_from_slice(&data);
                }
                Poll::Ready(Some(Err(error))) => self.broken = Some(self.side.error(&error)),
                Poll::Ready(None) => self.data_ended = true,
                Poll::Pending => break,
            }
        }
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
        !self.unread && self.ahead.is_empty() && self.broken.is_none() && self.recv.is_end_stream()
    }

    pub(crate) const fn framing(&self) -> BodyFraming {
        self.framing
    }
}

/// A body leaving on an HTTP/2 stream.
pub(crate) struct H2Sender {
    stream: SendStream<Bytes>,
    body: Body,
    pending: Bytes,
    to: Side,
    sent: Sent,
    broken: Option<BodyError>,
}

impl H2Sender {
    pub(crate) const fn new(stream: SendStream<Bytes>, body: Body, to: Side) -> Self {
        Self { stream, body, pending: Bytes::new(), to, sent: Sent { bytes: 0, grpc_status: None }, broken: None }
    }

    /// What was handed to the connection.
    pub(crate) const fn sent(&self) -> Sent {
        self.sent
    }

    /// Moves the body within the peer's window, one piece at a time. On an error the stream has been reset.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let to = self.to;
        let gone = |error: h2::Error| BodyError {
            fault: if to == Side::Upstream { FaultKind::UpstreamReset } else { FaultKind::DownstreamReset },
            reset: error.reason(),
        };
        if let Some(error) = self.broken.take() {
            self.stream.send_reset(reset_reason(error));
            return Poll::Ready(Err(error));
        }
        loop {
            if !self.pending.is_empty() {
                self.stream.reserve_capacity(self.pending.len());
                let room = match self.stream.capacity() {
                    0 => match self.stream.poll_capacity(cx) {
                        Poll::Pending => {
                            self.body.poll_background(cx);
                            return Poll::Pending;
                        }
                        Poll::Ready(None) => return Poll::Ready(Err(gone(Reason::CANCEL.into()))),
                        Poll::Ready(Some(room)) => room.map_err(gone)?,
                    },
                    room => room,
                };
                let piece = self.pending.split_to(room.min(self.pending.len()));
                self.sent.bytes += piece.len() as u64;
                let last = self.pending.is_empty() && self.body.is_end();
                self.stream.send_data(piece, last).map_err(gone)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let frame = match self.body.poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(reason) => Poll::Ready(Err(gone(reason.map_or_else(|e| e, Into::into)))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            };
            match frame {
                Some(Ok(Frame::Data(data))) => self.pending = data,
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.sent.note_trailers(&trailers);
                    return Poll::Ready(self.stream.send_trailers(trailers_to_h2(&trailers)).map_err(gone));
                }
                Some(Err(error)) => {
                    // A reset discards frames that wait to be written, the head among them. The connection's task is
                    // ahead of us in the queue: let it write them first.
                    self.broken = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(gone)),
            }
        }
    }

    /// What is left of the request when its response has left.
    pub(crate) fn take_rest(&mut self) -> Option<RequestRest> {
        self.body.take_rest()
    }

    /// The bare stream.
    pub(crate) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }
}
