//! One type for every message body on its way through the proxy.
//!
//! A closed enum, polled by whoever writes the body out. Bodies from a connection read only while they are polled, which
//! is all the backpressure there is. Dropping a body before its end tells its source: an upstream exchange is cancelled,
//! a downstream request body is left to the server, which drains or closes.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use weft_core::fault::FaultKind;
use weft_core::fields::Fields;
use weft_core::http2::frame::Reason;
use weft_core::message::BodyFraming;
use weft_core::propagate::peer::drop_client_identity;

use super::h1_client::H1ResponseBody;
use super::h1_server::H1RequestBody;
use super::h2_io::H2Body;
use super::rest::RequestRest;

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Some bytes, never empty.
    Data(Bytes),
    /// Trailers; the last frame.
    Trailers(Fields),
}

/// What has left of a body; for records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Data bytes.
    pub(crate) bytes: u64,
    /// gRPC status in its trailers.
    pub(crate) grpc_status: Option<u16>,
}

impl Sent {
    /// Trailers leave.
    pub(crate) fn note_trailers(&mut self, trailers: &Fields) {
        self.grpc_status = trailers.get_str("grpc-status").and_then(|status| status.parse().ok());
    }
}

/// Why a body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyError {
    /// Kind of fault.
    pub fault: FaultKind,
    /// Code of the HTTP/2 reset that broke it, to be passed on.
    pub reset: Option<Reason>,
}

impl BodyError {
    pub(crate) const fn of(fault: FaultKind) -> Self {
        Self { fault, reset: None }
    }
}

/// A message body.
#[derive(Debug, Default)]
pub enum Body {
    /// None, or all of it has been read.
    #[default]
    Empty,
    /// Bytes at hand.
    Full(Bytes),
    /// A request body on an HTTP/1 downstream connection.
    H1Request(H1RequestBody),
    /// A response body on an HTTP/1 upstream connection.
    H1Response(H1ResponseBody),
    /// A body of an HTTP/2 stream, either way.
    H2(H2Body),
}

impl Body {
    /// A body of these bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }

    /// The next frame; `None` after the last, and after an error. Cancelling loses nothing.
    pub async fn frame(&mut self) -> Option<Result<Frame, BodyError>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Polls for the next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut polled = match self {
            Self::Empty => return Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                return Poll::Ready(Some(Ok(Frame::Data(bytes))));
            }
            Self::H1Request(body) => body.poll_frame(cx),
            Self::H1Response(body) => body.poll_frame(cx),
            Self::H2(body) => body.poll_frame(cx),
        };
        match polled {
            Poll::Ready(None) if self.has_rest() => {}
            Poll::Ready(None | Some(Err(_))) => *self = Self::Empty,
            Poll::Ready(Some(Ok(Frame::Trailers(ref mut trailers)))) => drop_client_identity(trailers),
            Poll::Ready(Some(Ok(Frame::Data(_)))) | Poll::Pending => {}
        }
        polled
    }

    /// Awaits `work`, which does not read this body yet. What comes of it meanwhile is kept, within its window: left to
    /// an HTTP/2 connection that others share, many small frames would end it.
    pub async fn kept_during<F: Future>(&mut self, mut work: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            if polled.is_pending() {
                self.poll_background(cx);
            }
            polled
        })
        .await
    }

    /// Keeps the request body of the exchange behind this response body moving while the response itself is not read,
    /// because its reader is slow. Never completes anything.
    pub fn poll_background(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Empty | Self::Full(_) | Self::H1Request(_) => {}
            Self::H1Response(body) => body.poll_background(cx),
            Self::H2(body) => body.poll_background(cx),
        }
    }

    /// Whether a request is sent along with this response body, and goes on after it.
    pub(crate) const fn carries_request(&self) -> bool {
        match self {
            Self::H1Response(body) => body.carries_request(),
            Self::H2(body) => body.has_rest(),
            Self::Empty | Self::Full(_) | Self::H1Request(_) => false,
        }
    }

    /// What is left of the request behind this response body, which has been read to its end.
    pub(crate) fn take_rest(&mut self) -> Option<RequestRest> {
        match self {
            Self::H2(body) => body.take_rest(),
            Self::H1Response(body) if body.has_rest() => {
                let Self::H1Response(body) = std::mem::take(self) else { return None };
                Some(RequestRest::H1(body))
            }
            Self::H1Response(_) | Self::Empty | Self::Full(_) | Self::H1Request(_) => None,
        }
    }

    const fn has_rest(&self) -> bool {
        match self {
            Self::H1Response(body) => body.has_rest(),
            Self::H2(body) => body.has_rest(),
            Self::Empty | Self::Full(_) | Self::H1Request(_) => false,
        }
    }

    /// Whether it is certain that no frame follows.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::H1Request(body) => body.is_end(),
            Self::H1Response(body) => body.is_end(),
            Self::H2(body) => body.is_end(),
        }
    }

    /// Framing as its source announced it: the whole length where known, before anything was read.
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        match self {
            Self::Empty => BodyFraming::None,
            Self::Full(bytes) => BodyFraming::Length(bytes.len() as u64),
            Self::H1Request(body) => body.framing(),
            Self::H1Response(body) => body.framing(),
            Self::H2(body) => body.framing(),
        }
    }
}
