//! HTTP/2 toward the upstream (RFC 9113): a handle that many requests share, and a task that drives the connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use tokio::task::spawn_local;
use tokio::time::timeout;
use weft_core::fault::FaultKind;
use weft_core::h1::{HeadFault, Limits};
use weft_core::message::{Asked, BodyFraming, ParsedResponse};
use weft_core::translate::{request_to_h2, response_from_h2};

use super::h2_io::{H2Body, H2Sender, Side};
use super::h2_link::{self, NoLink};
use super::h2_watch::{End, Watch};
use super::keepalive::{InFlight, KeepAlive, Streams};
use super::limits::{INTERIM_MAX, RESETS_REMEMBERED, RESETS_REMEMBERED_MAX, RESETS_SENT_MAX, SMALL_FRAMES_BYTES_MAX};
use super::{Body, BodyError, H2Tunnel, HttpLimits, Interim, Request, Response, SendError};
use crate::io::Stream;

/// A handle on one upstream HTTP/2 connection. The connection closes once all handles and streams are gone.
#[derive(Clone)]
pub struct H2Client {
    /// Shared, since each handle of the crate costs locks to make and to drop.
    send: Rc<RefCell<SendRequest<Bytes>>>,
    streams: Rc<Streams>,
    closed: Rc<Cell<bool>>,
    watch: Watch,
    limits: Limits,
    scheme: &'static str,
}

impl std::fmt::Debug for H2Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Client")
            .field("in_flight", &self.streams.open())
            .field("closed", &self.closed.get())
            .finish_non_exhaustive()
    }
}

impl H2Client {
    /// Opens the connection on a stream and spawns its driver on the current `LocalSet`.
    ///
    /// `scheme` is `:scheme` of requests that have none, `http` or `https`.
    ///
    /// # Errors
    /// `ConnectTimeout` when the peer does not take our preface and say how many streams it takes within the head timeout,
    /// `UpstreamProtocol` when it says something else, `UpstreamReset` otherwise.
    pub async fn connect(stream: Stream, limits: &HttpLimits, scheme: &'static str) -> Result<Self, FaultKind> {
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(0)
            .max_header_list_size(u32::try_from(limits.message.head_bytes_max * 2).unwrap_or(u32::MAX))
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window())
            .data_frame_budget(SMALL_FRAMES_BYTES_MAX)
            .max_concurrent_reset_streams(RESETS_REMEMBERED_MAX)
            .reset_stream_duration(RESETS_REMEMBERED)
            .max_send_buffer_size(super::OUT_BYTES_MAX);
        let (watch, bytes) = Watch::new(End::Client, stream);
        let opening = async {
            let shaken = builder.handshake::<_, Bytes>(bytes).await;
            let (send, mut connection) = shaken.map_err(|_| FaultKind::UpstreamReset)?;
            watch.gather();
            // More streams than the peer takes would wait inside the crate, and fail with the connection when it goes away.
            poll_fn(|cx| {
                watch.begin_turn();
                match std::pin::Pin::new(&mut connection).poll(cx) {
                    Poll::Ready(Err(error)) if error.is_library() => Poll::Ready(Err(FaultKind::UpstreamProtocol)),
                    Poll::Ready(_) => Poll::Ready(Err(FaultKind::UpstreamReset)),
                    Poll::Pending if watch.flooded() => Poll::Ready(Err(FaultKind::UpstreamProtocol)),
                    Poll::Pending if sent_in_vain(&watch, cx) => Poll::Ready(Err(FaultKind::UpstreamReset)),
                    Poll::Pending if send.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await?;
            Ok((send, connection))
        };
        // Boxed: as long as it lives, each request that may need it would have room for a connection.
        let opened = timeout(limits.head_timeout, Box::pin(opening)).await;
        let (send, mut connection) = opened.map_err(|_| FaultKind::ConnectTimeout)??;
        let streams = Rc::<Streams>::default();
        let closed = Rc::new(Cell::new(false));
        let mut keepalive =
            KeepAlive::new(connection.ping_pong().filter(|_| limits.ping_servers), &streams, watch.clone(), limits);
        let (over, watched) = (Rc::clone(&closed), watch.clone());
        spawn_local(async move {
            poll_fn(|cx| {
                watched.begin_turn();
                match std::pin::Pin::new(&mut connection).poll(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending if watched.flooded() || sent_in_vain(&watched, cx) => Poll::Ready(()),
                    Poll::Pending => keepalive.poll(cx).map(|_| ()),
                }
            })
            .await;
            over.set(true);
        });
        Ok(Self { send: Rc::new(RefCell::new(send)), streams, closed, watch, limits: limits.message, scheme })
    }

    /// Streams open now, through all handles.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.streams.open()
    }

    /// Streams the peer allows at once.
    #[must_use]
    pub fn streams_max(&self) -> usize {
        self.send.borrow().current_max_send_streams()
    }

    /// Whether a new stream can be opened here at all: no GOAWAY seen, connection alive, few streams reset on it. Says
    /// nothing about the limit of concurrent streams.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.closed.get()
            && self.watch.resets_sent() < RESETS_SENT_MAX
            && !matches!(
                self.send.borrow_mut().poll_ready(&mut Context::from_waker(std::task::Waker::noop())),
                Poll::Ready(Err(_))
            )
    }

    /// Whether the peer takes HTTP/1 links on streams of this connection.
    #[must_use]
    pub fn takes_links(&self) -> bool {
        self.send.borrow().is_extended_connect_protocol_enabled()
    }

    /// Opens an HTTP/1 link on a stream; the peer has accepted it when this is ready. Gives its bytes, and how many workers
    /// of the peer's connections like this one may be spread over. Cancelling resets the stream.
    ///
    /// # Errors
    /// See [`NoLink`]. Nothing was sent on a link then.
    pub async fn open_link(&self) -> Result<(Stream, usize), NoLink> {
        if !self.takes_links() {
            return Err(NoLink::Refused);
        }
        let mut handle = self.send.borrow().clone();
        poll_fn(|cx| handle.poll_ready(cx)).await.map_err(|_| NoLink::Gone)?;
        let held = InFlight::begin(&self.streams);
        let (response, stream) = handle.send_request(h2_link::request(), false).map_err(|_| NoLink::Gone)?;
        drop(handle);
        let answered = response.await.map_err(|error| match error.reason() {
            Some(Reason::PROTOCOL_ERROR) if error.is_reset() && error.is_remote() => NoLink::Refused,
            _ => NoLink::Gone,
        })?;
        if answered.status() != ::http::StatusCode::OK {
            return Err(NoLink::Refused);
        }
        let workers = h2_link::workers(answered.headers());
        let tunnel = H2Tunnel::new(stream, answered.into_body(), Some(held));
        Ok((Stream::h2_tunnel(tunnel), workers))
    }

    /// Sends a request and awaits the head of its response, passing interim responses on. Waits for a free stream first.
    /// Of the request the body is taken, if there is one. Cancelling resets the stream.
    ///
    /// # Errors
    /// See [`SendError`]; `unsent` for REFUSED_STREAM and for streams that GOAWAY leaves out.
    pub async fn send(&self, Request { head, body }: &mut Request, interim: &Interim) -> Result<Response, SendError> {
        let unsent = |fault| SendError { fault, unsent: true, whole: true };
        let converted = request_to_h2(head, self.scheme).map_err(|_| unsent(FaultKind::BadRequest))?;
        let mut handle = self.send.borrow().clone();
        let ready = pin!(poll_fn(|cx| handle.poll_ready(cx)));
        body.kept_during(ready).await.map_err(|_| unsent(FaultKind::UpstreamReset))?;
        let held = InFlight::begin(&self.streams);
        let asked = Asked::by(head);
        let empty = body.is_end() && !asked.connect;
        let sent = handle.send_request(converted, empty);
        let (response, stream) = sent.map_err(|_| unsent(FaultKind::UpstreamReset))?;
        drop(handle);
        let body = std::mem::take(body);
        let sender = (!empty).then(|| Box::new(H2Sender::new(stream, body, Side::Upstream)));
        let mut exchange = Exchange { response, sender, tunnelling: asked.connect, interims: 0 };
        let answered = poll_fn(|cx| exchange.poll_head(cx, asked, &self.limits, interim)).await;
        self.answered(answered, exchange, (asked, empty), held)
    }

    fn answered(
        &self,
        answered: Result<(::http::response::Parts, RecvStream), Failed>,
        mut exchange: Exchange,
        (asked, bodiless): (Asked, bool),
        held: InFlight,
    ) -> Result<Response, SendError> {
        let (parts, recv) = answered.map_err(|failed| {
            let error = failed.into_error(bodiless);
            // Streams see no more than the end of a connection that we have closed.
            if self.watch.flooded() { SendError { fault: FaultKind::UpstreamProtocol, ..error } } else { error }
        })?;
        let ended = recv.is_end_stream();
        let ParsedResponse { head, framing, tunnel } =
            response_from_h2(&parts, asked, ended, &self.limits).map_err(|e| SendError::sent(response_fault(e)))?;
        if let (true, Some(sender)) = (tunnel, exchange.sender.take_if(|_| tunnel)) {
            let tunnel = H2Tunnel::new(sender.into_stream(), recv, Some(held));
            return Ok(Response {
                head,
                body: Body::Empty,
                upgrade: Some(Box::new(Stream::h2_tunnel(tunnel))),
                refused: false,
            });
        }
        if ended && exchange.sender.is_none() {
            return Ok(Response::new(head));
        }
        let framing = if ended { BodyFraming::None } else { framing };
        let body = H2Body::new(recv, Side::Upstream, framing, self.limits).with_request(exchange.sender, held);
        Ok(Response { head, body: Body::H2(body), upgrade: None, refused: false })
    }
}

/// Ends the turn: what it has written leaves. Whether the connection has turned out to be broken.
fn sent_in_vain(watch: &Watch, cx: &mut Context<'_>) -> bool {
    matches!(watch.poll_send(cx), Poll::Ready(Err(_)))
}

/// One exchange until its response head.
struct Exchange {
    response: ResponseFuture,
    sender: Option<Box<H2Sender>>,
    tunnelling: bool,
    interims: u32,
}

impl Exchange {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
        limits: &Limits,
        interim: &Interim,
    ) -> Poll<Result<(::http::response::Parts, RecvStream), Failed>> {
        if !self.tunnelling
            && let Some(sender) = &mut self.sender
            && let Poll::Ready(outcome) = sender.poll(cx)
        {
            self.sender = None;
            match outcome {
                // The upstream stopped reading; what it answered tells why.
                Err(error) if error.fault != FaultKind::UpstreamReset => {
                    return Poll::Ready(Err(Failed::Request(error)));
                }
                Ok(()) | Err(_) => {}
            }
        }
        while let Poll::Ready(Some(hint)) = self.response.poll_informational(cx) {
            let (parts, ()) = hint.map_err(Failed::Stream)?.into_parts();
            self.interims += 1;
            let parsed = response_from_h2(&parts, asked, false, limits).map_err(Failed::Head)?;
            if self.interims > INTERIM_MAX {
                return Poll::Ready(Err(Failed::Head(HeadFault::StatusCode)));
            }
            interim.send(parsed.head);
        }
        let response = std::task::ready!(std::pin::Pin::new(&mut self.response).poll(cx)).map_err(Failed::Stream)?;
        Poll::Ready(Ok(response.into_parts()))
    }
}

/// Why there is no response head.
enum Failed {
    Request(BodyError),
    Stream(h2::Error),
    Head(HeadFault),
}

impl Failed {
    fn into_error(self, bodiless: bool) -> SendError {
        match self {
            Self::Request(error) => SendError::sent(error.fault),
            Self::Head(fault) => SendError::sent(response_fault(fault)),
            Self::Stream(error) => {
                let refused = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
                // The crate fails only streams above the last one that GOAWAY names with a remote GOAWAY.
                let unsent = refused || (error.is_go_away() && error.is_remote());
                let fault = if error.is_library() { FaultKind::UpstreamProtocol } else { FaultKind::UpstreamReset };
                SendError { fault, unsent, whole: unsent && bodiless }
            }
        }
    }
}

const fn response_fault(fault: HeadFault) -> FaultKind {
    match fault.status() {
        431 => FaultKind::UpstreamHeadTooLarge,
        _ => FaultKind::UpstreamProtocol,
    }
}
