//! HTTP/1 toward the upstream: one connection, one exchange at a time.
//!
//! The request's body is pumped while the response is awaited and while its body is read, so an upstream may answer
//! before it has read everything (RFC 9112 section 9.5). The rest of the request is sent all the same after such an answer
//! is complete ([`H1ResponseBody::poll_rest`]): there are servers that answer an upload first and read it then. Only a
//! server that closes, or said that it would, gets no more of it. A connection goes back to its [`Home`] only when both messages ended
//! where they said and nothing followed; bytes that come without a request are never read as a response.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::unconstrained;
use weft_core::fault::FaultKind;
use weft_core::fields::Known;
use weft_core::h1::{BodyEncoder, HeadFault, Limits, ResponseParser, encode_request_head, persistent};
use weft_core::message::{Asked, BodyFraming, ParsedResponse, RequestHead};
use weft_core::translate::request_for_h1;

use super::conn::{Broken, Conn, Shared};
use super::limits::{INTERIM_MAX, OUT_BYTES_MAX, TURN_BYTES_MAX};
use super::{Body, BodyError, Frame, Interim, Request, Response, SendError};
use crate::io::Stream;

/// Where a connection goes that can carry another exchange; the shelf of a pool.
///
/// Not called when it cannot: then it is dropped, which closes it.
pub trait Home: std::fmt::Debug {
    /// Takes the connection back; `at_once`: in the very poll that found the response's head. Called from inside a poll;
    /// must not block.
    fn give_back(&self, client: H1Client, at_once: bool);
}

/// An upstream HTTP/1 connection with no exchange on it.
#[derive(Debug)]
pub struct H1Client {
    conn: Shared,
}

impl H1Client {
    /// Takes over a fresh stream. The limits bound response heads and trailers.
    #[must_use]
    pub fn new(stream: Stream, limits: Limits) -> Self {
        Self { conn: Rc::new(RefCell::new(Conn::new(stream, limits))) }
    }

    /// Whether the connection is still silent and open, as an idle one must be; costs one read that finds nothing.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut conn = self.conn.borrow_mut();
        if conn.is_silent() {
            return true;
        }
        let looking = pin!(unconstrained(poll_fn(|cx| conn.poll_news(cx))));
        let silent = looking.poll(&mut Context::from_waker(Waker::noop())).is_pending();
        silent && conn.read.is_empty()
    }

    /// Ready once an idle connection ends or says something; drop it then. Looks whatever the task has left of its budget:
    /// "not now" must not be taken for "nothing there".
    pub fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut conn = self.conn.borrow_mut();
        if !conn.read.is_empty() {
            return Poll::Ready(());
        }
        let looking = pin!(unconstrained(poll_fn(|cx| conn.poll_fill_idle(cx))));
        looking.poll(cx).map(drop)
    }

    /// Sends a request and awaits the head of its response, passing interim responses on.
    ///
    /// The head goes out as HTTP/1.1 with framing fields after the body; hop-by-hop fields are the caller's business. With
    /// a body it leaves together with the first piece of it, if that is at hand. `home` gets the connection back. Of the
    /// request the body is taken, if there is one. Cancelling closes the connection.
    ///
    /// # Errors
    /// See [`SendError`]: `UpstreamReset`, `UpstreamProtocol`, `UpstreamHeadTooLarge`, `DownstreamReset` and `BadBody`
    /// for the request's body, `BadRequest` for a head that HTTP/1 cannot carry.
    pub async fn send(
        self,
        Request { head, body }: &mut Request,
        interim: &Interim,
        home: Option<Rc<dyn Home>>,
    ) -> Result<Response, SendError> {
        let framing = request_framing(head, body);
        let encoded =
            request_for_h1(head, framing).and_then(|()| encode_request_head(head, self.conn.borrow_mut().out.tail()));
        if encoded.is_err() {
            return Err(SendError { fault: FaultKind::BadRequest, unsent: true, whole: true });
        }
        let (body, bodiless) = (std::mem::take(body), framing.is_empty());
        let (written_before, limits) = {
            let conn = self.conn.borrow();
            (conn.written(), conn.limits())
        };
        let mut exchange = Exchange {
            written_before,
            asked: Asked::by(head),
            parser: ResponseParser::new(limits),
            pump: (!bodiless).then(|| Box::new(Pump { body, encoder: BodyEncoder::new(framing) })),
            write_failed: false,
            interims: 0,
            waits: false,
            client: self,
        };
        match poll_fn(|cx| exchange.poll_head(cx, interim)).await {
            Ok(parsed) => exchange.into_response(parsed, head, home),
            Err(fault) => {
                let unsent = exchange.client.conn.borrow().written() == exchange.written_before;
                Err(SendError { fault, unsent, whole: unsent && bodiless })
            }
        }
    }
}

/// How the request's body is framed. A request without body keeps a `content-length: 0` it came with, and no other.
fn request_framing(head: &RequestHead, body: &Body) -> BodyFraming {
    match body.framing() {
        BodyFraming::None if head.fields.contains(Known::ContentLength) => BodyFraming::Length(0),
        BodyFraming::UntilClose => BodyFraming::Chunked,
        framing @ (BodyFraming::None | BodyFraming::Length(_) | BodyFraming::Chunked) => framing,
    }
}

/// The request body on its way.
#[derive(Debug)]
struct Pump {
    body: Body,
    encoder: BodyEncoder,
}

impl Pump {
    /// Moves what can be moved; `Ok(true)` once all of it is queued.
    fn poll(&mut self, conn: &RefCell<Conn>, cx: &mut Context<'_>) -> Result<bool, PumpError> {
        let mut moved = 0;
        loop {
            if moved >= TURN_BYTES_MAX {
                cx.waker().wake_by_ref();
                return Ok(false);
            }
            if conn.borrow().out.len() >= OUT_BYTES_MAX {
                let flushed = conn.borrow_mut().poll_flush(cx).map_err(|_| PumpError::Write)?;
                if flushed.is_pending() {
                    self.body.poll_background(cx);
                    return Ok(false);
                }
            }
            let done = match self.body.poll_frame(cx) {
                Poll::Pending => {
                    // Pending or not: the source wakes us, and so does the socket when it takes more.
                    let failed = matches!(conn.borrow_mut().poll_flush(cx), Poll::Ready(Err(_)));
                    return if failed { Err(PumpError::Write) } else { Ok(false) };
                }
                Poll::Ready(Some(Err(error))) => return Err(PumpError::Body(error)),
                Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                    moved += data.len() as u64;
                    conn.borrow_mut().push_data(&mut self.encoder, data).map(|()| false)
                }
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                    self.encoder.finish(Some(&trailers), conn.borrow_mut().out.tail()).map(|()| true)
                }
                Poll::Ready(None) => self.encoder.finish(None, conn.borrow_mut().out.tail()).map(|()| true),
            };
            if done.map_err(|_| PumpError::Body(BodyError::of(FaultKind::BadBody)))? {
                return Ok(true);
            }
        }
    }
}

enum PumpError {
    Body(BodyError),
    Write,
}

/// One exchange until its response head.
struct Exchange {
    client: H1Client,
    parser: ResponseParser,
    asked: Asked,
    pump: Option<Box<Pump>>,
    written_before: u64,
    write_failed: bool,
    interims: u32,
    /// An answer has been looked for.
    waits: bool,
}

impl Exchange {
    fn poll_head(&mut self, cx: &mut Context<'_>, interim: &Interim) -> Poll<Result<ParsedResponse, FaultKind>> {
        if self.client.conn.borrow().written() == self.written_before && !self.client.conn.borrow().read.is_empty() {
            return Poll::Ready(Err(FaultKind::UpstreamProtocol));
        }
        loop {
            if let Err(error) = poll_request(&self.client.conn, &mut self.pump, &mut self.write_failed, cx) {
                return Poll::Ready(Err(error.fault));
            }
            let conn = &mut *self.client.conn.borrow_mut();
            while let Some(parsed) = self.parser.parse(&mut conn.read, self.asked).map_err(response_fault)? {
                if parsed.tunnel || parsed.head.status >= 200 {
                    return Poll::Ready(Ok(parsed));
                }
                self.interims += 1;
                if self.interims > INTERIM_MAX {
                    return Poll::Ready(Err(FaultKind::UpstreamProtocol));
                }
                interim.send(parsed.head);
            }
            // No answer is as fast as the request is sent.
            let news = if std::mem::replace(&mut self.waits, true) { conn.poll_fill(cx) } else { conn.poll_news(cx) };
            match std::task::ready!(news) {
                Ok(0) | Err(_) => return Poll::Ready(Err(FaultKind::UpstreamReset)),
                Ok(_) => {}
            }
        }
    }

    fn into_response(
        self,
        parsed: ParsedResponse,
        sent: &RequestHead,
        home: Option<Rc<dyn Home>>,
    ) -> Result<Response, SendError> {
        let ParsedResponse { head, framing, tunnel } = parsed;
        if tunnel {
            // A tunnel before the end of the request would swallow what is left of it.
            if self.pump.is_some() || self.client.conn.borrow().out.len() > 0 {
                return Err(SendError::sent(FaultKind::UpstreamProtocol));
            }
            let stream = self.client.conn.borrow_mut().take_stream();
            let upgrade = Some(Box::new(stream.ok_or(SendError::sent(FaultKind::Internal))?));
            return Ok(Response { head, body: Body::Empty, upgrade, refused: false });
        }
        let keep = persistent(sent, &head, framing);
        self.client.conn.borrow_mut().begin_body(framing);
        if !framing.is_empty() && self.client.conn.borrow().read.is_empty() {
            self.client.conn.borrow().acknowledge_now();
        }
        let mut body = H1ResponseBody {
            conn: self.client.conn,
            framing,
            pump: self.pump,
            write_failed: self.write_failed,
            home: home.filter(|_| keep),
            ended: false,
            // One without a body ends before anybody has heard of its head.
            at_once: !framing.is_empty(),
        };
        if framing.is_empty() {
            body.finish();
            let body = if body.has_rest() { Body::H1Response(body) } else { Body::Empty };
            return Ok(Response { body, ..Response::new(head) });
        }
        Ok(Response { head, body: Body::H1Response(body), upgrade: None, refused: false })
    }
}

/// Moves the request. A connection that cannot be written may still hold an answer, so that is noted and not an error.
fn poll_request(
    conn: &RefCell<Conn>,
    pump: &mut Option<Box<Pump>>,
    write_failed: &mut bool,
    cx: &mut Context<'_>,
) -> Result<(), BodyError> {
    if *write_failed {
        return Ok(());
    }
    if let Some(pumping) = pump {
        match pumping.poll(conn, cx) {
            Ok(true) => *pump = None,
            Ok(false) => return Ok(()),
            Err(PumpError::Body(error)) => return Err(error),
            Err(PumpError::Write) => {
                *write_failed = true;
                return Ok(());
            }
        }
    }
    if let Poll::Ready(Err(_)) = conn.borrow_mut().poll_flush(cx) {
        *write_failed = true;
    }
    Ok(())
}

const fn response_fault(fault: HeadFault) -> FaultKind {
    match fault.status() {
        431 => FaultKind::UpstreamHeadTooLarge,
        _ => FaultKind::UpstreamProtocol,
    }
}

/// Body of a response on an HTTP/1 connection, with what is left of its request.
pub struct H1ResponseBody {
    conn: Shared,
    framing: BodyFraming,
    pump: Option<Box<Pump>>,
    write_failed: bool,
    home: Option<Rc<dyn Home>>,
    ended: bool,
    /// Not yet waited for since the head.
    at_once: bool,
}

impl std::fmt::Debug for H1ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H1ResponseBody").field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl H1ResponseBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(error) = poll_request(&self.conn, &mut self.pump, &mut self.write_failed, cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = self.conn.borrow_mut().poll_body(cx);
        let Poll::Ready(frame) = polled else {
            self.at_once = false;
            return Poll::Pending;
        };
        if frame.is_none() || self.conn.borrow().body_ended() {
            self.finish();
        }
        Poll::Ready(frame.map(|f| {
            f.map_err(|broken| {
                BodyError::of(match broken {
                    Broken::Malformed => FaultKind::UpstreamProtocol,
                    Broken::Cut => FaultKind::UpstreamTruncated,
                })
            })
        }))
    }

    pub(crate) fn poll_background(&mut self, cx: &mut Context<'_>) {
        self.at_once = false;
        if self.pump.is_some() {
            // A broken request body is found again, and reported, when the response is read next.
            poll_request(&self.conn, &mut self.pump, &mut self.write_failed, cx).unwrap_or_default();
        }
    }

    pub(crate) const fn is_end(&self) -> bool {
        self.ended
    }

    pub(crate) const fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// The response is complete: the connection goes home if the request is too and nothing follows.
    fn finish(&mut self) {
        self.ended = true;
        let open = {
            let conn = self.conn.borrow();
            !self.write_failed && conn.read.is_empty() && !conn.is_eof()
        };
        if !open || self.home.is_none() {
            (self.home, self.pump) = (None, None);
        } else if self.pump.is_none() && self.conn.borrow().out.len() == 0 {
            self.go_home();
        }
    }

    fn go_home(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(H1Client { conn: Rc::clone(&self.conn) }, self.at_once);
        }
    }

    /// Whether the request is still on its way, to a server that keeps the connection.
    pub(crate) const fn carries_request(&self) -> bool {
        self.pump.is_some() && self.home.is_some()
    }

    /// Whether the response is complete and the server may still want what is left of the request.
    pub(crate) const fn has_rest(&self) -> bool {
        self.ended && self.home.is_some()
    }

    /// Bytes written to the server on this connection so far.
    pub(crate) fn written(&self) -> u64 {
        self.conn.borrow().written()
    }

    /// After the end of the response: sends what is left of the request. Ready when all of it was sent, or the server
    /// closed.
    ///
    /// # Errors
    /// The request itself broke off.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if !self.has_rest() {
            return Poll::Ready(Ok(()));
        }
        self.at_once = false;
        let sent = poll_request(&self.conn, &mut self.pump, &mut self.write_failed, cx);
        // Whatever the server says now is no answer to anything.
        let over = sent.is_err() || self.write_failed || self.conn.borrow_mut().poll_fill_idle(cx).is_ready();
        if !over {
            if self.pump.is_some() || self.conn.borrow().out.len() > 0 {
                return Poll::Pending;
            }
            self.go_home();
        }
        (self.home, self.pump) = (None, None);
        Poll::Ready(sent)
    }
}
