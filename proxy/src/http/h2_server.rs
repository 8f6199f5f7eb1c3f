//! HTTP/2 toward the downstream (RFC 9113): a task per stream, all on the connection's worker.
//!
//! A head that is refused costs its stream, not the connection.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use weft_core::fault::FaultKind;
use weft_core::http2::connection::{Config, Connection, Opened, Refused, Role, Unseen};
use weft_core::http2::frame::Reason;
use weft_core::http2::hpack::BlockLimits;
use weft_core::message::{BodyFraming, ParsedRequest, Version};

use super::body::Sent;
use super::h1_server::head_fault;
use super::h2_drive::{Drive, Over};
use super::h2_io::{H2Body, H2Sender, Side};
use super::h2_link;
use super::h2_stream::{H2Reader, H2Stream};
use super::keepalive::{InFlight, KeepAlive, Streams, Verdict};
use super::limits::{INTERIM_MAX, surplus};
use super::rest::RequestRest;
use super::{
    Body, BodyError, ExchangeEnd, H2Tunnel, Handler, HttpLimits, Interim, Refusal, Request, Response, ServeEnd,
    refusal_response,
};
use crate::io::Stream;
use crate::runtime::drain::Draining;

/// After a GOAWAY for this long a client has heard it; streams that it opens later are refused, unprocessed.
const GOAWAY_HEARD: Duration = Duration::from_secs(10);

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
    let connection = Connection::new(config(limits, handler.link().is_some())).growing(surplus());
    let mut drive = Drive::new(connection, stream);
    let greeting = poll_fn(|cx| match poll_turn(&mut drive, cx) {
        Poll::Pending if drive.shared().borrow().is_greeted() => Poll::Ready(None),
        polled @ (Poll::Ready(_) | Poll::Pending) => polled.map(Some),
    });
    let Ok(over) = timeout(limits.head_timeout, greeting).await else {
        return ServeEnd::Fault(FaultKind::HeadTimeout);
    };
    let open = Rc::<Streams>::default();
    let keepalive = KeepAlive::new(true, &open, limits);
    let told = None;
    let mut serving = Serving { drive, open, keepalive, told, idle: false, limits, drain: drain.clone(), handler };
    let end = match over {
        Some(over) => End::Over(over),
        None => {
            let mut draining = pin!(drain.draining());
            poll_fn(|cx| serving.poll(draining.as_mut(), cx)).await
        }
    };
    let (end, last_word) = serving.ended(end);
    if last_word {
        serving.drive.close_within(limits.linger_timeout).await;
    }
    end
}

fn config(limits: &HttpLimits, connect_protocol: bool) -> Config {
    Config {
        role: Role::Server,
        message: limits.message,
        list_bytes_max: BlockLimits::of(&limits.message).list_bytes_max,
        streams_max: limits.streams_max,
        stream_window: limits.stream_window,
        connection_window: limits.connection_window(),
        connect_protocol,
        pending_resets_max: limits.pending_resets_max,
        resets_remembered_max: limits.resets_remembered_max,
        interims_max: INTERIM_MAX,
    }
}

fn poll_turn(drive: &mut Drive, cx: &mut Context<'_>) -> Poll<Over> {
    match drive.poll_read(cx) {
        Poll::Pending => drive.poll_write(cx),
        over => over,
    }
}

/// Why serving is over.
enum End {
    Over(Over),
    Kept(Verdict),
    /// More streams were reset in vain than an honest client does.
    Premature,
}

/// One connection that is served.
struct Serving<'a, H> {
    drive: Drive,
    open: Rc<Streams>,
    keepalive: KeepAlive,
    /// When the client was told that we drain.
    told: Option<Instant>,
    /// It was told so because nothing came.
    idle: bool,
    limits: &'a Rc<HttpLimits>,
    drain: Draining,
    handler: &'a Rc<H>,
}

impl<H: Handler + 'static> Serving<'_, H> {
    fn poll(&mut self, draining: Pin<&mut impl Future<Output = ()>>, cx: &mut Context<'_>) -> Poll<End> {
        if self.told.is_none() && draining.poll(cx).is_ready() {
            self.told = Some(Instant::now());
            self.drive.shared().borrow_mut().go_away();
        }
        let read = self.drive.poll_read(cx);
        self.take_streams();
        if let Poll::Ready(over) = read {
            return Poll::Ready(End::Over(over));
        }
        if self.open.premature() > self.limits.premature_resets_max {
            return Poll::Ready(End::Premature);
        }
        if let Poll::Ready(over) = self.drive.poll_write(cx) {
            return Poll::Ready(End::Over(over));
        }
        match std::task::ready!(self.keepalive.poll(&self.drive, cx)) {
            // GOAWAY first: a request on its way is answered, or known to be unprocessed.
            Verdict::Idle if !self.idle => {
                self.idle = true;
                self.drive.shared().borrow_mut().go_away();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            verdict @ (Verdict::Idle | Verdict::Gone | Verdict::Stuck) => Poll::Ready(End::Kept(verdict)),
        }
    }

    /// Has a task begin for each stream that was opened.
    fn take_streams(&self) {
        loop {
            let opened = self.drive.shared().borrow_mut().next_opened();
            let Some(Opened { key, request }) = opened else { break };
            self.begin(H2Stream::held(Rc::clone(self.drive.shared()), key), request);
        }
        loop {
            let unseen = self.drive.shared().borrow_mut().next_unseen();
            let fault = match unseen {
                Some(Unseen::TooMany) => FaultKind::Overload,
                Some(Unseen::Malformed) => FaultKind::BadRequest,
                None => break,
            };
            self.handler.refused(&unseen_refusal(fault));
        }
    }

    fn begin(&self, stream: H2Stream, request: Result<ParsedRequest, Refused>) {
        // A client that does not answer the PING of the shutdown would go on for ever, with an expired certificate too.
        if self.told.is_some_and(|told| told.elapsed() > GOAWAY_HEARD) {
            return stream.reset(Reason::REFUSED_STREAM);
        }
        let held = InFlight::begin(&self.open);
        let limits = Rc::clone(self.limits);
        match request {
            Ok(parsed) if h2_link::is_asked_for(&parsed.head) => {
                let Some(served_by) = self.handler.link() else { return };
                let asked = h2_link::Asked { request: parsed.head, stream, held };
                let drain = self.drain.clone();
                spawn_local(async move { h2_link::serve(asked, &limits, drain, served_by).await });
            }
            request => {
                let accepted = Accepted { request, stream, held };
                // Boxed: what is spawned is moved several times.
                spawn_local(Box::pin(serve_stream(accepted, limits, Rc::clone(self.handler))));
            }
        }
    }

    /// What came of it, and whether something is left to be said.
    fn ended(&self, end: End) -> (ServeEnd, bool) {
        let calm = || self.drive.shared().borrow_mut().fail(Reason::ENHANCE_YOUR_CALM);
        match end {
            End::Premature => {
                calm();
                (ServeEnd::Fault(FaultKind::Flood), true)
            }
            End::Kept(Verdict::Stuck) => {
                calm();
                (ServeEnd::Fault(FaultKind::HeadTimeout), true)
            }
            End::Kept(Verdict::Gone) => (ServeEnd::Fault(FaultKind::IdleTimeout), false),
            End::Kept(Verdict::Idle) => (ServeEnd::Idle, false),
            End::Over(Over::Fatal(Reason::ENHANCE_YOUR_CALM)) => (ServeEnd::Fault(FaultKind::Flood), true),
            End::Over(Over::Fatal(_)) => (ServeEnd::Fault(FaultKind::BadRequest), true),
            End::Over(Over::Cut) => (ServeEnd::Fault(FaultKind::DownstreamReset), false),
            End::Over(over @ (Over::Ended | Over::Finished)) => {
                if over == Over::Ended {
                    // The client has left: nobody goes on with its requests while the farewell is written.
                    self.drive.shared().borrow_mut().say_goodbye();
                }
                let end = match (self.told.is_some(), self.idle) {
                    (true, _) => ServeEnd::Drained,
                    (false, true) => ServeEnd::Idle,
                    (false, false) => ServeEnd::Closed,
                };
                (end, true)
            }
        }
    }
}

/// A stream that a client has opened.
struct Accepted {
    request: Result<ParsedRequest, Refused>,
    stream: H2Stream,
    held: InFlight,
}

/// A stream that ended before anything was done for it.
const fn unseen_refusal(fault: FaultKind) -> Refusal {
    Refusal { fault, reason: None, version: Version::Http2, method: None, status: None }
}

/// Serves one stream.
#[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice, as such and as variables")]
fn serve_stream<H: Handler>(accepted: Accepted, limits: Rc<HttpLimits>, handler: Rc<H>) -> impl Future<Output = ()> {
    async move {
        let begun = Instant::now();
        let Accepted { request, stream, held } = accepted;
        // Nothing is begun for a stream that was reset before it could be.
        if let Some(broken) = stream.broken() {
            let fault = if broken.is_misuse() { FaultKind::BadRequest } else { FaultKind::DownstreamReset };
            let method = request.map_or_else(|refused| refused.method, |parsed| Some(parsed.head.method));
            handler.refused(&Refusal { method, ..unseen_refusal(fault) });
            return held.end(begun, true);
        }
        let (request, asked) = match request {
            Ok(parsed) => take(parsed, &stream),
            Err(refused) => {
                refuse(refused, &stream, &*handler);
                return held.end(begun, false);
            }
        };
        let interim = Interim::h2(stream);
        let handled = {
            let work = pin!(handler.handle(request, &interim));
            unless_reset(work, &interim).await
        };
        let left = match (handled, interim.into_h2()) {
            (None, _) => Left::Reset,
            (Some(_), None) => Left::Otherwise,
            (Some((response, ticket)), Some(stream)) => {
                let sending = begin_answer(response, stream, asked.head_only, asked.connect);
                finish_answer(sending, ticket, asked.received.as_deref(), &limits, &*handler).await
            }
        };
        held.end(begun, left == Left::Reset);
    }
}

/// What is to be known of a request until its response is out.
struct AskedFor {
    /// It is a HEAD.
    head_only: bool,
    /// It is a CONNECT.
    connect: bool,
    /// Counts the bytes of the body, if there is one.
    received: Option<Rc<Cell<u64>>>,
}

fn take(ParsedRequest { head, framing }: ParsedRequest, stream: &H2Stream) -> (Request, AskedFor) {
    let connect = head.method == Method::CONNECT;
    let mut asked = AskedFor { head_only: head.method == Method::HEAD, connect, received: None };
    if connect || framing == BodyFraming::None {
        return (Request { head, body: Body::Empty }, asked);
    }
    let received = asked.received.insert(Rc::default());
    let reader = H2Reader::new(stream.clone());
    let body = H2Body::new(reader, Side::Downstream, framing).counting(Rc::clone(received));
    (Request { head, body: Body::H2(body) }, asked)
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// By its client, who wants no answer.
    Reset,
    Otherwise,
}

fn refuse<H: Handler>(Refused { fault: reason, method }: Refused, stream: &H2Stream, handler: &H) {
    let fault = head_fault(reason);
    let status = Some(reason.status());
    let refusal = Refusal { fault, reason: Some(reason), version: Version::Http2, method, status };
    handler.refused(&refusal);
    let Response { head, body, .. } = refusal_response(&refusal);
    // A request body still on its way is stopped by dropping the stream.
    if stream.send_response(&head, false).is_ok() {
        let text = if let Body::Full(text) = body { text } else { Bytes::new() };
        let mut sender = H2Sender::new(stream.clone(), Body::full(text), Side::Downstream);
        // It fits: nothing was sent on this stream, and who gives no window gets no explanation.
        if sender.poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending() {
            stream.reset(Reason::REFUSED_STREAM);
        }
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
    Request(RequestRest, H2Stream),
    /// The body is to be sent, and what of the request has been split off from it.
    Body(H2Sender, Option<RequestRest>),
    /// It is a tunnel: its two ends.
    Tunnel(Box<(Stream, Stream)>),
}

fn begin_answer(response: Response, stream: H2Stream, head_only: bool, connect: bool) -> Sending {
    let Response { head, mut body, upgrade, refused } = response;
    if refused {
        stream.reset(Reason::REFUSED_STREAM);
        return Sending::Over(None);
    }
    let (mut body, rest) = match head_only || matches!(head.status, 204 | 304) {
        true => (Body::Empty, body.take_rest()),
        false => (body, None),
    };
    let empty = body.is_end() && upgrade.is_none();
    if stream.broken().is_some() {
        return Sending::Over(Some(FaultKind::DownstreamReset));
    }
    if stream.send_response(&head, empty).is_err() {
        stream.reset(Reason::INTERNAL_ERROR);
        return Sending::Over(Some(FaultKind::UpstreamProtocol));
    }
    if let (Some(upstream), true) = (upgrade, connect) {
        return Sending::Tunnel(Box::new((Stream::h2_tunnel(H2Tunnel::new(stream, None)), *upstream)));
    }
    if empty {
        let rest = rest.or_else(|| body.take_rest());
        return rest.map_or(Sending::Over(None), |rest| Sending::Request(rest, stream));
    }
    Sending::Body(H2Sender::new(stream, body, Side::Downstream), rest)
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
            Sending::Request(rest, stream) => {
                let stopped = Box::pin(finish_request(rest, &stream, limits)).await;
                (Sent::default(), stopped.map(|error| error.fault))
            }
            Sending::Body(mut sender, rest) => {
                let outcome = poll_fn(|cx| sender.poll(cx)).await;
                let (sent, mut error) = (sender.sent(), outcome.err());
                if error.is_none()
                    && let Some(rest) = rest.or_else(|| sender.take_rest())
                {
                    error = Box::pin(finish_request(rest, &sender.into_stream(), limits)).await;
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
async fn finish_request(rest: RequestRest, downstream: &H2Stream, limits: &HttpLimits) -> Option<BodyError> {
    let mut rest = rest.within(limits.rest_timeout);
    let error = poll_fn(|cx| rest.poll(cx)).await.err()?;
    // Dropping the stream says NO_ERROR, as most servers do.
    if let BodyError { fault: FaultKind::UpstreamReset, reset: Some(reason) } = error
        && reason != Reason::NO_ERROR
    {
        downstream.reset(reason);
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
