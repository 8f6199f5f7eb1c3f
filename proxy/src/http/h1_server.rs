//! HTTP/1 toward the downstream (RFC 9112): one connection, one request at a time, responses in order.
//!
//! While the application works on a request the connection is watched: a reset drops the work, a plain end of the
//! client's direction does not, because a client may close its side after a complete request and still read. What a
//! client sends ahead is held within [`super::READ_BYTES_MAX`] and then left to TCP.
//!
//! A connection is reused only when the request was read to its end (CVE-2025-4366 is what happens otherwise), and it is
//! closed in two steps, so that a client that is still sending sees the answer and not a reset (RFC 9112 section 9.6).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ::http::Method;
use tokio::time::{Instant, sleep, timeout};
use weft_core::fault::FaultKind;
use weft_core::fields::Known;
use weft_core::h1::{BodyEncoder, BodyFault, HeadFault, RequestParser, encode_response_head};
use weft_core::message::{BodyFraming, ParsedRequest, RequestHead, ResponseHead, Version};
use weft_core::translate::response_for_h1;

use super::body::Sent;
use super::conn::{Broken, Conn, Shared};
use super::limits::{OUT_BYTES_MAX, TURN_BYTES_MAX};
use super::rest::RequestRest;
use super::standby::Standby;
use super::{
    Body, BodyError, ExchangeEnd, Frame, Handler, HttpLimits, Interim, Refusal, Request, Response, ServeEnd,
    refusal_response,
};
use crate::boxed::boxed;
use crate::io::Stream;
use crate::runtime::drain::Draining;

/// Body of a request on an HTTP/1 connection.
#[derive(Debug)]
pub struct H1RequestBody {
    conn: Shared,
    framing: BodyFraming,
}

impl H1RequestBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        self.conn.borrow_mut().poll_body(cx).map_err(|broken| {
            BodyError::of(match broken {
                Broken::Malformed => FaultKind::BadBody,
                Broken::Cut => FaultKind::DownstreamReset,
            })
        })
    }

    pub(crate) fn is_end(&self) -> bool {
        self.conn.borrow().body_ended()
    }

    pub(crate) const fn framing(&self) -> BodyFraming {
        self.framing
    }
}

/// A downstream connection where it stays: a future that was given the stream itself would have room for it for ever.
#[derive(Debug)]
pub struct H1Connection {
    conn: Shared,
    /// Since when it has waited for its next request, if it was handed back.
    since: Option<Instant>,
}

impl H1Connection {
    /// Takes over a fresh stream.
    #[must_use]
    pub fn new(stream: Stream, limits: &HttpLimits) -> Self {
        Self { conn: Rc::new(RefCell::new(Conn::new(stream, limits.message))), since: None }
    }

    /// Takes over the stream of one that was handed back, which has waited since then.
    #[must_use]
    pub fn again(stream: Stream, limits: &HttpLimits, since: Instant) -> Self {
        Self { since: Some(since), ..Self::new(stream, limits) }
    }

    /// The stream of one that was handed back.
    #[must_use]
    pub fn into_stream(self) -> Option<Stream> {
        self.conn.borrow_mut().take_stream()
    }
}

/// Serves one HTTP/1 connection until it ends, or is handed back. Dropping future and connection drops the request at hand
/// and closes.
pub async fn serve_h1<H: Handler>(
    connection: &H1Connection,
    limits: &HttpLimits,
    drain: Draining,
    handler: &H,
) -> ServeEnd {
    let parser = RequestParser::new(limits.message);
    let (timer, draining) = (pin!(sleep(limits.head_timeout)), pin!(drain.draining()));
    let standby = Standby::new(timer, draining, &drain);
    let (conn, again) = (Rc::clone(&connection.conn), connection.since.is_some());
    let mut server = Server { conn, parser, limits, standby, handler, first: !again, again, since: connection.since };
    loop {
        let parsed = match server.next_head().await {
            Ok(parsed) => parsed,
            Err(NoHead::End(end)) => {
                if let ServeEnd::Fault(fault) = end {
                    handler.broken(fault);
                }
                return end;
            }
            Err(NoHead::Refused(refusal)) => {
                boxed(|| server.refuse(refusal)).await;
                return ServeEnd::Fault(refusal_fault(refusal));
            }
        };
        server.first = false;
        // Boxed: a connection that waits for its next request holds nothing of the last one.
        if let Err(end) = boxed(|| server.exchange(parsed)).await {
            return end;
        }
    }
}

/// Why there is no next request.
enum NoHead {
    End(ServeEnd),
    Refused(Refused),
}

/// What refused a head.
#[derive(Clone, Copy)]
enum Refused {
    Head(HeadFault),
    Late,
}

/// What the response depends on, kept from the request.
struct Asked {
    keep: bool,
    /// The client sends nothing after this request (RFC 9112 section 9.6).
    last: bool,
    head: bool,
    version: Version,
    expects_continue: bool,
}

impl Asked {
    fn by(head: &RequestHead) -> Self {
        Self {
            // What follows a CONNECT that is refused may be meant for its tunnel, not for us (RFC 9931).
            keep: head.keeps_alive() && head.method != Method::CONNECT,
            last: !head.keeps_alive() && head.method != Method::CONNECT,
            head: head.method == Method::HEAD,
            version: head.version,
            expects_continue: head.expects_continue(),
        }
    }
}

struct Server<'a, H, D> {
    conn: Shared,
    parser: RequestParser,
    limits: &'a HttpLimits,
    standby: Standby<'a, D>,
    handler: &'a H,
    first: bool,
    /// It was handed back and is served again, and nothing has come since.
    again: bool,
    /// When the last exchange ended, if nothing was awaited since.
    since: Option<Instant>,
}

/// What ends a wait for the next bytes.
enum Woken {
    Read(io::Result<usize>),
    Late,
    Drain,
}

impl<H: Handler, D: Future<Output = ()>> Server<'_, H, D> {
    async fn next_head(&mut self) -> Result<ParsedRequest, NoHead> {
        let (mut deadline, mut timed_head, mut closing, mut since) = (None, false, false, self.since.take());
        let mut hands_back = None;
        loop {
            let in_head = {
                let conn = &mut *self.conn.borrow_mut();
                match self.parser.parse(&mut conn.read) {
                    Ok(Some(parsed)) => return Ok(parsed),
                    Ok(None) => {}
                    Err(fault) => return Err(NoHead::Refused(Refused::Head(fault))),
                }
                let in_head = self.parser.in_head(&conn.read);
                if conn.is_eof() {
                    let cut = ServeEnd::Fault(FaultKind::DownstreamReset);
                    return Err(NoHead::End(if in_head { cut } else { ServeEnd::Closed }));
                }
                in_head
            };
            if deadline.is_none() || (in_head && !timed_head) {
                timed_head = in_head || self.first;
                let wait = if timed_head { self.limits.head_timeout } else { self.limits.idle_timeout };
                let begun = since.take().unwrap_or_else(Instant::now);
                deadline = Some(begun + wait);
                hands_back = if timed_head { None } else { self.hands_back(begun) };
            }
            if !closing && !in_head && self.standby.is_draining() {
                // A client that was about to send is served still, and told to close; the others are let go.
                (closing, hands_back) = (true, None);
                deadline = Some(Instant::now() + self.limits.linger_timeout);
            }
            let wakes_at = hands_back.map_or(deadline, |at| deadline.map(|deadline| deadline.min(at)));
            match self.woken(wakes_at, !closing && !in_head).await {
                Woken::Read(Ok(_)) | Woken::Drain => {}
                Woken::Read(Err(_)) => {
                    let fault = ServeEnd::Fault(FaultKind::DownstreamReset);
                    return Err(NoHead::End(if in_head { fault } else { ServeEnd::Closed }));
                }
                Woken::Late => {
                    if hands_back.take().is_none() || wakes_at == deadline {
                        return Err(self.late(in_head, closing));
                    }
                    // Whoever has it then is told of a drain that begins, not of one that runs.
                    let rests = !self.standby.is_draining() && self.conn.borrow().is_at_rest();
                    let since = deadline.and_then(|deadline| deadline.checked_sub(self.limits.idle_timeout));
                    if let (true, Some(since)) = (rests, since) {
                        return Err(NoHead::End(ServeEnd::Waits(since)));
                    }
                }
            }
        }
    }

    /// When one that has waited since then is handed back, if it can be.
    fn hands_back(&mut self, since: Instant) -> Option<Instant> {
        // One that has waited for long is given its time again to say what it was woken for.
        let from = if std::mem::take(&mut self.again) { Instant::now() } else { since };
        let after = self.limits.hand_back_after.filter(|_| self.conn.borrow().is_plain())?;
        Some(from + after)
    }

    /// Cancelling loses nothing.
    async fn woken(&mut self, deadline: Option<Instant>, heeds_drain: bool) -> Woken {
        poll_fn(|cx| {
            if let Poll::Ready(read) = self.conn.borrow_mut().poll_fill_idle(cx) {
                return Poll::Ready(Woken::Read(read));
            }
            if deadline.is_none_or(|deadline| self.standby.poll_deadline(deadline, cx).is_ready()) {
                return Poll::Ready(Woken::Late);
            }
            if heeds_drain && self.standby.poll_drain(cx).is_ready() {
                return Poll::Ready(Woken::Drain);
            }
            Poll::Pending
        })
        .await
    }

    fn late(&self, in_head: bool, closing: bool) -> NoHead {
        if in_head {
            NoHead::Refused(Refused::Late)
        } else if closing {
            NoHead::End(ServeEnd::Drained)
        } else if self.first {
            NoHead::End(ServeEnd::Fault(FaultKind::HeadTimeout))
        } else {
            NoHead::End(ServeEnd::Idle)
        }
    }

    async fn refuse(&self, refused: Refused) {
        let fault = refusal_fault(refused);
        let (reason, status) = match refused {
            Refused::Head(reason) => (Some(reason), Some(reason.status())),
            Refused::Late => (None, Some(fault.appearance().status)),
        };
        let refusal = Refusal { fault, reason, version: Version::Http11, method: None, status };
        let Response { mut head, mut body, .. } = refusal_response(&refusal);
        self.handler.refused(&refusal);
        let framing = body.framing();
        response_for_h1(&mut head, framing);
        head.fields.set("Connection", "close");
        encode_response_head(&head, self.conn.borrow_mut().out.tail());
        // Not for a request, so nobody is told how its writing went.
        self.write_body(&mut body, framing, &mut Sent::default()).await.unwrap_or_default();
        self.close().await;
    }

    async fn exchange(&mut self, parsed: ParsedRequest) -> Result<(), ServeEnd> {
        let ParsedRequest { head, framing } = parsed;
        let asked = Asked::by(&head);
        self.conn.borrow_mut().begin_body(framing);
        let body = if framing.is_empty() {
            Body::Empty
        } else {
            Body::H1Request(H1RequestBody { conn: Rc::clone(&self.conn), framing })
        };
        let interim = match asked.version {
            Version::Http10 => Interim::none(),
            Version::Http11 | Version::Http2 => Interim::h1(Rc::clone(&self.conn)),
        };
        // Pinned here: handed on by value it would take its place in this future twice.
        let handling = pin!(self.handler.handle(Request { head, body }, &interim));
        let Some((response, ticket)) = self.watched(handling).await else {
            return Err(ServeEnd::Fault(FaultKind::DownstreamReset));
        };
        self.respond(response, ticket, &asked, interim.continued()).await
    }

    /// Runs `work` while the connection stands; `None` once it is reset or cannot be written.
    async fn watched<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(Some(done));
                }
                let mut conn = self.conn.borrow_mut();
                if let Poll::Ready(Err(_)) = conn.poll_flush(cx) {
                    return Poll::Ready(None);
                }
                match conn.poll_watch(cx) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    async fn respond(
        &mut self,
        response: Response,
        ticket: H::Ticket,
        asked: &Asked,
        continued: bool,
    ) -> Result<(), ServeEnd> {
        let Response { mut head, mut body, upgrade, .. } = response;
        let framing = response_framing(&head, &body, asked, upgrade.is_some());
        let keep = self.may_keep(&head, framing, asked, continued, body.carries_request()) && upgrade.is_none();
        let mut rest = None;
        if framing == BodyFraming::None {
            rest = body.take_rest();
            body = Body::Empty;
        }
        response_for_h1(&mut head, framing);
        say_persistence(&mut head, keep, asked.version, upgrade.is_some());
        encode_response_head(&head, self.conn.borrow_mut().out.tail());
        let mut sent = Sent::default();
        let written = self.write_body(&mut body, framing, &mut sent).await;
        // A client that expects to be told whether to send its body was told something else.
        let goes_on = written.is_ok() && upgrade.is_none() && (continued || !asked.expects_continue);
        let rest = if goes_on { self.send_rest(rest.or_else(|| body.take_rest())).await } else { Ok(()) };
        let end = ExchangeEnd {
            fault: written.and(rest).err().map(|e| e.fault),
            bytes_received: self.conn.borrow().received,
            bytes_sent: sent.bytes,
            grpc_status: sent.grpc_status,
        };
        if let Some(upstream) = upgrade
            && end.fault.is_none()
        {
            // What is left of a request body must not become the first bytes of the tunnel.
            let whole = self.conn.borrow().body_ended();
            let downstream = self.conn.borrow_mut().take_stream().filter(|_| whole);
            if let Some(downstream) = downstream {
                Box::pin(self.handler.tunnel(ticket, downstream, *upstream)).await;
            }
            return Err(ServeEnd::Tunnel);
        }
        self.since = Some(self.handler.finished(ticket, end));
        drop(body);
        match (written, end.fault) {
            (Err(BodyError { fault, .. }), _) => {
                self.break_off(fault, framing).await;
                Err(ServeEnd::Fault(fault))
            }
            (Ok(()), Some(fault)) => {
                self.close().await;
                Err(ServeEnd::Fault(fault))
            }
            (Ok(()), None) if keep && self.drained().await => Ok(()),
            (Ok(()), None) => {
                if !(asked.last && self.ended_at_once().await) {
                    self.close().await;
                }
                Err(if self.standby.is_draining() { ServeEnd::Drained } else { ServeEnd::Closed })
            }
        }
    }

    /// After a response that was complete before its request: the rest of the request goes to the server still.
    async fn send_rest(&self, rest: Option<RequestRest>) -> Result<(), BodyError> {
        let Some(rest) = rest else { return Ok(()) };
        let mut rest = rest.within(self.limits.rest_timeout);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(sent) = rest.poll(cx) {
                    // A server that wants no more of it has answered, which is all that matters to the client.
                    return Poll::Ready(
                        sent.or_else(|e| if e.fault == FaultKind::UpstreamReset { Ok(()) } else { Err(e) }),
                    );
                }
                match self.conn.borrow_mut().poll_watch(cx) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(BodyError::of(FaultKind::DownstreamReset))),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// `carried`: what is left of the request goes to the server, however much it is.
    fn may_keep(
        &self,
        head: &ResponseHead,
        framing: BodyFraming,
        asked: &Asked,
        continued: bool,
        carried: bool,
    ) -> bool {
        let conn = self.conn.borrow();
        let few = carried || conn.body_expected() <= self.limits.drain_bytes_max;
        // A client that was not told to go on may send its body, or not: the next byte could be either.
        let body_comes = conn.body_ended() || ((continued || !asked.expects_continue) && !conn.body_failed() && few);
        asked.keep
            && body_comes
            && framing != BodyFraming::UntilClose
            && !head.fields.has_token(Known::Connection, "close")
            && !self.standby.is_draining()
    }

    /// Writes what is queued and then the body, reading it only as fast as it leaves.
    async fn write_body(&self, body: &mut Body, framing: BodyFraming, sent: &mut Sent) -> Result<(), BodyError> {
        let mut encoder = BodyEncoder::new(framing);
        let mut done = framing == BodyFraming::None;
        poll_fn(|cx| {
            let turn_ends = sent.bytes + TURN_BYTES_MAX;
            loop {
                let mut wants_more = false;
                while !done {
                    if self.conn.borrow().out.len() >= OUT_BYTES_MAX {
                        body.poll_background(cx);
                        wants_more = true;
                        break;
                    }
                    let Poll::Ready(frame) = body.poll_frame(cx) else { break };
                    done = self.queue(frame, &mut encoder, sent)?;
                }
                let mut conn = self.conn.borrow_mut();
                match conn.poll_flush(cx) {
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(BodyError::of(FaultKind::DownstreamReset))),
                    Poll::Ready(Ok(())) if done => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) if wants_more && sent.bytes < turn_ends => continue,
                    Poll::Ready(Ok(())) if wants_more => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                match conn.poll_watch(cx) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(BodyError::of(FaultKind::DownstreamReset))),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Queues one frame; true when it was the last.
    fn queue(
        &self,
        frame: Option<Result<Frame, BodyError>>,
        encoder: &mut BodyEncoder,
        sent: &mut Sent,
    ) -> Result<bool, BodyError> {
        // A source that gives more or less than it announced is an upstream fault: downstream bodies end here.
        let broken = |_: BodyFault| BodyError::of(FaultKind::UpstreamTruncated);
        let mut conn = self.conn.borrow_mut();
        match frame {
            Some(Ok(Frame::Data(data))) => {
                sent.bytes += data.len() as u64;
                conn.push_data(encoder, data).map_err(broken)?;
                Ok(false)
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                sent.note_trailers(&trailers);
                encoder.finish(Some(&trailers), conn.out.tail()).map_err(broken)?;
                Ok(true)
            }
            Some(Err(error)) => Err(error),
            None => {
                encoder.finish(None, conn.out.tail()).map_err(broken)?;
                Ok(true)
            }
        }
    }

    /// Reads and drops what is left of the request within bounds; false when the connection cannot be reused.
    async fn drained(&mut self) -> bool {
        if self.conn.borrow().body_ended() {
            return true;
        }
        self.since = None;
        let start = self.conn.borrow().received;
        let all = poll_fn(|cx| {
            let mut conn = self.conn.borrow_mut();
            loop {
                match conn.poll_body(cx) {
                    Poll::Ready(Some(Ok(_))) if conn.received - start <= self.limits.drain_bytes_max => {}
                    Poll::Ready(Some(_)) => return Poll::Ready(false),
                    Poll::Ready(None) => return Poll::Ready(true),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        timeout(self.limits.linger_timeout, all).await.unwrap_or(false)
    }

    /// Ends a response that cannot be completed, so that the client notices (RFC 9112 section 8).
    async fn break_off(&self, fault: FaultKind, framing: BodyFraming) {
        if fault == FaultKind::DownstreamReset {
            return;
        }
        if framing == BodyFraming::UntilClose {
            let stream = self.conn.borrow_mut().take_stream();
            if let Some(stream) = stream {
                stream.abort();
            }
            return;
        }
        self.close().await;
    }

    /// Ends the connection of a client that has sent all that it will send: nothing is left to wait for, and nothing can
    /// come that would make its end a reset. False when there is something after all.
    async fn ended_at_once(&self) -> bool {
        if !self.conn.borrow().is_said() {
            return false;
        }
        poll_fn(|cx| self.conn.borrow_mut().poll_last_word(cx)).await;
        true
    }

    /// Closes in two steps: our direction, then, once the client has ended or the linger time is over, all of it.
    async fn close(&self) {
        let mut shut = false;
        let closing = poll_fn(|cx| {
            let mut conn = self.conn.borrow_mut();
            if !shut {
                let shutting = ready!(conn.poll_flush(cx)).is_ok() && ready!(conn.poll_shutdown(cx)).is_ok();
                if !shutting {
                    return Poll::Ready(());
                }
                shut = true;
            }
            let mut dropped = 0;
            loop {
                conn.read.clear();
                match conn.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(len)) => dropped += len,
                    Poll::Pending => return Poll::Pending,
                }
                if dropped > OUT_BYTES_MAX {
                    // Fairness: the others of this worker first.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        });
        // Over time is the expected end with a client that does not close.
        timeout(self.limits.linger_timeout, closing).await.unwrap_or_default();
    }
}

/// How the response's body is framed on the wire (RFC 9112 section 6.3).
fn response_framing(head: &ResponseHead, body: &Body, asked: &Asked, tunnel: bool) -> BodyFraming {
    if asked.head || tunnel || matches!(head.status, 100..200 | 204 | 304) {
        return BodyFraming::None;
    }
    match body.framing() {
        BodyFraming::None => BodyFraming::Length(0),
        framing @ (BodyFraming::Length(_) | BodyFraming::Chunked) => framing.toward(asked.version),
        // The upstream's end is known by its connection's; ours need not end with it.
        BodyFraming::UntilClose => BodyFraming::Chunked.toward(asked.version),
    }
}

fn say_persistence(head: &mut ResponseHead, keep: bool, version: Version, tunnel: bool) {
    if tunnel {
        head.fields.remove(Known::ContentLength);
        if head.status == 101 && !head.fields.has_token(Known::Connection, "upgrade") {
            head.fields.set("Connection", "Upgrade");
        }
    } else if !keep {
        head.fields.set("Connection", "close");
    } else if version == Version::Http10 {
        head.fields.set("Connection", "keep-alive");
    }
}

const fn refusal_fault(refused: Refused) -> FaultKind {
    match refused {
        Refused::Late => FaultKind::HeadTimeout,
        Refused::Head(fault) => match fault.status() {
            431 => FaultKind::HeadTooLarge,
            414 => FaultKind::TargetTooLong,
            417 | 501 => FaultKind::NotImplemented,
            505 => FaultKind::VersionNotSupported,
            _ => FaultKind::BadRequest,
        },
    }
}

/// Kind of fault for a refused head.
pub(crate) const fn head_fault(fault: HeadFault) -> FaultKind {
    refusal_fault(Refused::Head(fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_path::HttpPath;

    /// It is made in a box for each request; what only some requests need has a box of its own.
    #[test]
    fn the_future_of_an_exchange_is_small() {
        type Idle = std::future::Pending<()>;
        fn bytes<S, F>(_: impl Fn(S, ParsedRequest) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = bytes(|server: &mut Server<'_, HttpPath, Idle>, parsed| server.exchange(parsed));
        assert!(bytes <= 2816, "{bytes} bytes");
        assert!(size_of::<Request>() <= 304 && size_of::<Response>() <= 200, "what is handed from layer to layer");
    }
}
