//! HTTP/2 toward the downstream (RFC 9113), on the `h2` crate: a task per stream, all on the connection's worker.
//!
//! The crate bounds fragments of heads, answers that nobody reads and resets; what it leaves open is seen to in
//! [`super::h2_watch`]. Here the concurrent streams, head sizes and windows are set and heads are checked as HTTP/1 heads
//! are. A head that is refused costs its stream, not the connection.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use weft_core::fault::FaultKind;
use weft_core::h1::HeadFault;
use weft_core::message::{BodyFraming, ParsedRequest, Version};
use weft_core::translate::{request_from_h2, response_to_h2};

use super::body::Sent;
use super::h1_server::head_fault;
use super::h2_io::{H2Body, H2Sender, Side};
use super::h2_link;
use super::h2_watch::{End, Watch, Watched};
use super::keepalive::{InFlight, KeepAlive, Streams, Verdict};
use super::limits::SMALL_FRAMES_BYTES_MAX;
use super::rest::RequestRest;
use super::{
    Body, BodyError, ExchangeEnd, H2Tunnel, Handler, HttpLimits, Interim, Refusal, Request, Response, ServeEnd,
    refusal_response,
};
use crate::io::Stream;
use crate::runtime::drain::Draining;

/// After a GOAWAY for this long a client has heard it; streams that it opens later are refused, unprocessed.
const GOAWAY_HEARD: Duration = Duration::from_secs(10);

/// The crate counts a field as name, value and 32 bytes (RFC 9113 section 6.5.2) and before cookie crumbs are joined, so
/// its bound is above ours; ours is applied to the checked head.
fn header_list_max(limits: &HttpLimits) -> u32 {
    u32::try_from(limits.message.head_bytes_max.saturating_add(limits.message.fields_max * 32)).unwrap_or(u32::MAX)
}

/// Serves one HTTP/2 connection until it ends; needs a `LocalSet` for the tasks of its streams.
///
/// While draining, GOAWAY tells the client to go elsewhere and streams finish. Dropping the future closes the connection,
/// which resets its streams.
pub async fn serve_h2<H: Handler + 'static>(
    stream: Stream,
    limits: &Rc<HttpLimits>,
    drain: Draining,
    handler: &Rc<H>,
) -> ServeEnd {
    let end = serve(stream, limits, drain, handler).await;
    if let ServeEnd::Fault(fault) = end {
        handler.broken(fault);
    }
    end
}

async fn serve<H: Handler + 'static>(
    stream: Stream,
    limits: &Rc<HttpLimits>,
    drain: Draining,
    handler: &Rc<H>,
) -> ServeEnd {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(header_list_max(limits))
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window())
        .data_frame_budget(SMALL_FRAMES_BYTES_MAX)
        .max_pending_accept_reset_streams(limits.pending_resets_max)
        .max_concurrent_reset_streams(limits.resets_remembered_max)
        .max_send_buffer_size(super::OUT_BYTES_MAX);
    if handler.link().is_some() {
        builder.enable_connect_protocol();
    }
    let (watch, bytes) = Watch::new(End::Server, stream);
    let shaking = builder.handshake::<_, Bytes>(bytes);
    let mut connection = match timeout(limits.head_timeout, shaking).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return ServeEnd::Fault(connection_fault(&error)),
        Err(_) => return ServeEnd::Fault(FaultKind::HeadTimeout),
    };
    watch.gather();
    let open = Rc::<Streams>::default();
    let mut keepalive = KeepAlive::new(connection.ping_pong(), &open, watch.clone(), limits);
    let mut draining = pin!(drain.draining());
    let (mut told, mut idle, mut new_turn, mut refused) = (None, false, false, None);
    loop {
        let next = poll_fn(|cx| {
            if std::mem::take(&mut new_turn) {
                watch.begin_turn();
            }
            if told.is_none() && draining.as_mut().poll(cx).is_ready() {
                told = Some(Instant::now());
                connection.graceful_shutdown();
            }
            let polled = connection.poll_accept(cx);
            if let Poll::Ready(Some(Ok((_, respond)))) = &polled {
                refused = watch.accepted(respond.stream_id().as_u32());
            } else {
                watch.take_refused().for_each(|fault| handler.refused(&unseen(fault)));
            }
            if let Poll::Ready(next) = polled {
                return Poll::Ready(Next::Stream(next));
            }
            if watch.flooded() || open.premature() > limits.premature_resets_max {
                return Poll::Ready(Next::Flood);
            }
            new_turn = true;
            if matches!(watch.poll_send(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Next::Broken);
            }
            keepalive.poll(cx).map(Next::Over)
        });
        match next.await {
            // A client that does not answer the PING of the shutdown would go on for ever, with an expired certificate too.
            Next::Stream(Some(Ok((_, mut respond)))) if told.is_some_and(|told| told.elapsed() > GOAWAY_HEARD) => {
                respond.send_reset(Reason::REFUSED_STREAM);
            }
            Next::Stream(Some(Ok((request, respond)))) if h2_link::is_asked_for(&request) => {
                let Some(served_by) = handler.link() else { continue };
                let asked = h2_link::Asked { request, respond, held: InFlight::begin(&open) };
                let (limits, drain) = (Rc::clone(limits), drain.clone());
                spawn_local(async move { h2_link::serve(asked, &limits, drain, served_by).await });
            }
            Next::Stream(Some(Ok((request, respond)))) => {
                let stream = Accepted { request, respond, refused, held: InFlight::begin(&open) };
                // Boxed: what is spawned is moved several times.
                spawn_local(Box::pin(serve_stream(stream, Rc::clone(limits), Rc::clone(handler))));
            }
            Next::Stream(Some(Err(error))) => {
                let clean = error.reason() == Some(Reason::NO_ERROR);
                return if clean { ServeEnd::Closed } else { ServeEnd::Fault(connection_fault(&error)) };
            }
            Next::Stream(None) => {
                return match (told.is_some(), idle) {
                    (true, _) => ServeEnd::Drained,
                    (false, true) => ServeEnd::Idle,
                    (false, false) => ServeEnd::Closed,
                };
            }
            Next::Flood => {
                dismiss(&mut connection, limits).await;
                return ServeEnd::Fault(FaultKind::Flood);
            }
            Next::Broken => return ServeEnd::Fault(FaultKind::DownstreamReset),
            Next::Over(Verdict::Stuck) => {
                dismiss(&mut connection, limits).await;
                return ServeEnd::Fault(FaultKind::HeadTimeout);
            }
            Next::Over(Verdict::Gone) => return ServeEnd::Fault(FaultKind::IdleTimeout),
            // GOAWAY first: a request on its way is answered, or known to be unprocessed.
            Next::Over(Verdict::Idle) if idle => return ServeEnd::Idle,
            Next::Over(Verdict::Idle) => {
                idle = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// Who broke a connection, and how: the crate ends one by itself where frames break the protocol or its bounds.
fn connection_fault(error: &h2::Error) -> FaultKind {
    match error.reason() {
        _ if !error.is_library() => FaultKind::DownstreamReset,
        Some(Reason::ENHANCE_YOUR_CALM) => FaultKind::Flood,
        Some(_) => FaultKind::BadRequest,
        None => FaultKind::DownstreamReset,
    }
}

type Opened = (::http::Request<RecvStream>, SendResponse<Bytes>);

/// A stream that a client has opened.
struct Accepted {
    request: ::http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    /// Why the crate has reset it already.
    refused: Option<FaultKind>,
    held: InFlight,
}

#[allow(clippy::large_enum_variant, reason = "the large variant is the common one")]
enum Next {
    Stream(Option<Result<Opened, h2::Error>>),
    Over(Verdict),
    Flood,
    /// It cannot be written any more.
    Broken,
}

/// Ends a connection at once, with the reason if the client still reads.
async fn dismiss(connection: &mut server::Connection<Watched, Bytes>, limits: &HttpLimits) {
    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    // Whether it is heard or not, the connection ends.
    timeout(limits.linger_timeout, poll_fn(|cx| connection.poll_closed(cx))).await.ok();
}

/// A stream that ended before anything was done for it.
const fn unseen(fault: FaultKind) -> Refusal {
    let status = if matches!(fault, FaultKind::HeadTooLarge) { Some(431) } else { None };
    Refusal { fault, reason: None, version: Version::Http2, method: None, status }
}

/// Serves one stream.
#[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice, as such and as variables")]
fn serve_stream<H: Handler>(mut stream: Accepted, limits: Rc<HttpLimits>, handler: Rc<H>) -> impl Future<Output = ()> {
    async move {
        let begun = Instant::now();
        // Nothing is begun for a stream that was reset before it could be.
        if poll_fn(|cx| Poll::Ready(stream.respond.poll_reset(cx).is_ready())).await {
            let fault = stream.refused.unwrap_or(FaultKind::DownstreamReset);
            handler.refused(&Refusal { method: Some(stream.request.method().clone()), ..unseen(fault) });
            return stream.held.end(begun, true);
        }
        let (request, asked) = match take(stream.request, &limits) {
            Ok(taken) => taken,
            Err((reason, method)) => {
                refuse(reason, method, stream.respond, &*handler);
                return stream.held.end(begun, false);
            }
        };
        let interim = Interim::h2(stream.respond);
        let handled = {
            let work = pin!(handler.handle(request, &interim));
            unless_reset(work, &interim).await
        };
        let left = match (handled, interim.into_h2()) {
            (None, _) => Left::Reset,
            (Some(_), None) => Left::Otherwise,
            (Some((response, ticket)), Some(respond)) => {
                let sending = begin_answer(response, respond, asked.head_only, asked.connect);
                finish_answer(sending, ticket, asked.received.as_deref(), &limits, &*handler).await
            }
        };
        stream.held.end(begun, left == Left::Reset);
    }
}

/// What is to be known of a request until its response is out.
struct AskedFor {
    /// It is a HEAD.
    head_only: bool,
    /// What the client sends into the tunnel that it asks for.
    connect: Option<RecvStream>,
    /// Counts the bytes of the body, if there is one.
    received: Option<Rc<Cell<u64>>>,
}

/// The request, checked.
fn take(request: ::http::Request<RecvStream>, limits: &HttpLimits) -> Result<(Request, AskedFor), (HeadFault, Method)> {
    // Many small fields take ten times the room in a map; it must not live as long as the request does.
    let (parts, recv) = request.into_parts();
    let parsed = request_from_h2(&parts, None, recv.is_end_stream(), &limits.message);
    let ParsedRequest { head, framing } = parsed.map_err(|reason| (reason, parts.method))?;
    let mut asked = AskedFor { head_only: head.method == Method::HEAD, connect: None, received: None };
    if head.method == Method::CONNECT {
        asked.connect = Some(recv);
    } else if framing != BodyFraming::None {
        let received = asked.received.insert(Rc::default());
        let body = H2Body::new(recv, Side::Downstream, framing, limits.message).counting(Rc::clone(received));
        return Ok((Request { head, body: Body::H2(body) }, asked));
    }
    Ok((Request { head, body: Body::Empty }, asked))
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// By its client, who wants no answer.
    Reset,
    Otherwise,
}

fn refuse<H: Handler>(reason: HeadFault, method: Method, mut respond: SendResponse<Bytes>, handler: &H) {
    let fault = head_fault(reason);
    let status = Some(reason.status());
    let refusal = Refusal { fault, reason: Some(reason), version: Version::Http2, method: Some(method), status };
    handler.refused(&refusal);
    let Response { head, body, .. } = refusal_response(&refusal);
    // Where sending fails the stream is gone already. A request body still on its way is stopped by dropping the stream.
    if let Ok(response) = response_to_h2(&head)
        && let Ok(mut stream) = respond.send_response(response, false)
    {
        let text = if let Body::Full(text) = body { text } else { Bytes::new() };
        stream.send_data(text, true).unwrap_or_default();
    }
}

/// What comes of the handler's work; `None` when the client resets first, and the work is to be dropped.
async fn unless_reset<F: Future>(mut work: Pin<&mut F>, interim: &Interim) -> Option<F::Output> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => interim.poll_reset(cx).map(|()| None),
    })
    .await
}

/// What is left to do when the head of a response is out.
enum Sending {
    /// Nothing, or nothing can be.
    Over(Option<FaultKind>),
    /// The whole response is out; the request may go on.
    Request(RequestRest, SendStream<Bytes>),
    /// The body is to be sent, and what of the request has been split off from it.
    Body(H2Sender, Option<RequestRest>),
    /// It is a tunnel: its two ends.
    Tunnel(Box<(Stream, Stream)>),
}

fn begin_answer(
    response: Response,
    mut respond: SendResponse<Bytes>,
    head_only: bool,
    connect: Option<RecvStream>,
) -> Sending {
    let Response { head, mut body, upgrade, refused } = response;
    if refused {
        respond.send_reset(Reason::REFUSED_STREAM);
        return Sending::Over(None);
    }
    let Ok(converted) = response_to_h2(&head) else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Sending::Over(Some(FaultKind::UpstreamProtocol));
    };
    let (mut body, rest) = match head_only || matches!(head.status, 204 | 304) {
        true => (Body::Empty, body.take_rest()),
        false => (body, None),
    };
    let empty = body.is_end() && upgrade.is_none();
    let Ok(send) = respond.send_response(converted, empty) else {
        return Sending::Over(Some(FaultKind::DownstreamReset));
    };
    if let (Some(upstream), Some(recv)) = (upgrade, connect) {
        return Sending::Tunnel(Box::new((Stream::h2_tunnel(H2Tunnel::new(send, recv, None)), *upstream)));
    }
    if empty {
        let rest = rest.or_else(|| body.take_rest());
        return rest.map_or(Sending::Over(None), |rest| Sending::Request(rest, send));
    }
    Sending::Body(H2Sender::new(send, body, Side::Downstream), rest)
}

/// Sends what is left of a response, and tells the handler unless the stream became a tunnel.
#[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice, as such and as variables")]
fn finish_answer<H: Handler>(
    sending: Sending,
    ticket: H::Ticket,
    received: Option<&Cell<u64>>,
    limits: &HttpLimits,
    handler: &H,
) -> impl Future<Output = Left> {
    async move {
        let (sent, fault) = match sending {
            Sending::Over(fault) => (Sent::default(), fault),
            Sending::Request(rest, mut send) => {
                let stopped = Box::pin(finish_request(rest, &mut send, limits)).await;
                (Sent::default(), stopped.map(|error| error.fault))
            }
            Sending::Body(mut sender, rest) => {
                let outcome = poll_fn(|cx| sender.poll(cx)).await;
                let (sent, mut error) = (sender.sent(), outcome.err());
                if error.is_none()
                    && let Some(rest) = rest.or_else(|| sender.take_rest())
                {
                    error = Box::pin(finish_request(rest, &mut sender.into_stream(), limits)).await;
                }
                (sent, error.map(|error| error.fault))
            }
            Sending::Tunnel(ends) => {
                let (downstream, upstream) = *ends;
                Box::pin(handler.tunnel(ticket, downstream, upstream)).await;
                return Left::Otherwise;
            }
        };
        let bytes_received = received.map_or(0, Cell::get);
        let Sent { bytes: bytes_sent, grpc_status } = sent;
        handler.finished(ticket, ExchangeEnd { fault, bytes_received, bytes_sent, grpc_status });
        if fault == Some(FaultKind::DownstreamReset) { Left::Reset } else { Left::Otherwise }
    }
}

/// After a whole response the client may go on with its request (RFC 9113 section 8.1), unless the server stops it or
/// nothing of it moves. Gives what is to be recorded: the client has all that it asked for, whatever becomes of the rest.
async fn finish_request(
    rest: RequestRest,
    downstream: &mut SendStream<Bytes>,
    limits: &HttpLimits,
) -> Option<BodyError> {
    let mut rest = rest.within(limits.rest_timeout);
    let error = poll_fn(|cx| rest.poll(cx)).await.err()?;
    // Dropping the stream says NO_ERROR, as most servers do.
    if let BodyError { fault: FaultKind::UpstreamReset, reset: Some(reason) } = error
        && reason != Reason::NO_ERROR
    {
        downstream.send_reset(reason);
    }
    Some(error).filter(|error| error.fault == FaultKind::IdleTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_path::HttpPath;

    /// It is made, boxed and taken apart for each request; what only some requests need has a box of its own.
    #[test]
    fn the_future_of_a_stream_is_small() {
        fn bytes<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = bytes(serve_stream::<HttpPath>);
        assert!(bytes <= 3072, "{bytes} bytes");
    }
}
