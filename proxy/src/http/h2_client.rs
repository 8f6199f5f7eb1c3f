//! HTTP/2 toward the upstream (RFC 9113): a handle that many requests share, and a task that drives the connection.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::task::spawn_local;
use tokio::time::timeout;
use weft_core::fault::FaultKind;
use weft_core::h1::HeadFault;
use weft_core::http2::connection::{Broken, Config, Connection, Place, Role};
use weft_core::http2::frame::Reason;
use weft_core::http2::hpack::BlockLimits;
use weft_core::message::{BodyFraming, ParsedResponse, RequestHead};

use super::h2_drive::{Drive, Over, Shared};
use super::h2_io::{H2Body, H2Sender, Side};
use super::h2_link::{self, NoLink};
use super::h2_stream::{H2Reader, H2Stream};
use super::keepalive::{InFlight, KeepAlive, Streams};
use super::limits::{INTERIM_MAX, RESETS_REMEMBERED_MAX, RESETS_SENT_MAX, surplus};
use super::{Body, BodyError, H2Tunnel, HttpLimits, Interim, Request, Response, SendError};
use crate::io::Stream;

/// A handle on one upstream HTTP/2 connection. The connection closes once all handles and streams are gone.
#[derive(Clone)]
pub struct H2Client {
    handle: Rc<Handle>,
    streams: Rc<Streams>,
    scheme: &'static str,
}

/// Waits in line to open a stream, and leaves it however the waiting ends.
struct Waiting<'a> {
    shared: &'a Shared,
    place: Place,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.borrow_mut().give_up(self.place);
    }
}

/// What the handles on a connection share; the connection is let go with it.
struct Handle(Shared);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.borrow_mut().dismiss();
    }
}

impl std::fmt::Debug for H2Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Client").field("in_flight", &self.in_flight()).finish_non_exhaustive()
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
        let mut connection = Connection::new(config(limits));
        if limits.ping_servers {
            connection = connection.growing(surplus());
        }
        let mut drive = Drive::new(connection, stream);
        let opening = poll_fn(|cx| match poll_turn(&mut drive, cx) {
            Poll::Ready(Over::Fatal(_)) => Poll::Ready(Err(FaultKind::UpstreamProtocol)),
            Poll::Ready(_) => Poll::Ready(Err(FaultKind::UpstreamReset)),
            Poll::Pending if takes_any(&drive) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        });
        timeout(limits.head_timeout, opening).await.map_err(|_| FaultKind::ConnectTimeout)??;
        let streams = Rc::<Streams>::default();
        let handle = Rc::new(Handle(Rc::clone(drive.shared())));
        let mut keepalive = KeepAlive::new(limits.ping_servers, &streams, limits);
        let linger = limits.linger_timeout;
        spawn_local(async move {
            poll_fn(|cx| match poll_turn(&mut drive, cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => keepalive.poll(&drive, cx).map(drop),
            })
            .await;
            drive.shared().borrow_mut().say_goodbye();
            drive.close_within(linger).await;
        });
        Ok(Self { handle, streams, scheme })
    }

    fn shared(&self) -> &Shared {
        let Handle(shared) = &*self.handle;
        shared
    }

    /// Streams open now, through all handles.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.streams.open()
    }

    /// Streams the peer allows at once.
    #[must_use]
    pub fn streams_max(&self) -> usize {
        usize::try_from(self.shared().borrow().streams_max()).unwrap_or(usize::MAX)
    }

    /// Whether a new stream can be opened here at all: no GOAWAY seen, connection alive, few streams reset on it. Says
    /// nothing about the limit of concurrent streams.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let connection = self.shared().borrow();
        connection.takes_streams() && connection.resets_sent() < RESETS_SENT_MAX
    }

    /// Whether the peer takes HTTP/1 links on streams of this connection.
    #[must_use]
    pub fn takes_links(&self) -> bool {
        self.shared().borrow().takes_connect_protocol()
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
        self.ready().await.map_err(|_| NoLink::Gone)?;
        let held = InFlight::begin(&self.streams);
        let stream = self.open(&h2_link::request(), false).map_err(|_| NoLink::Gone)?;
        let answered = poll_fn(|cx| stream.poll_response(cx)).await;
        let answered = answered.map_err(|broken| {
            if broken == Broken::Reset(Reason::PROTOCOL_ERROR) { NoLink::Refused } else { NoLink::Gone }
        })?;
        if answered.head.status != 200 {
            return Err(NoLink::Refused);
        }
        let workers = h2_link::workers(&answered.head.fields);
        Ok((Stream::h2_tunnel(H2Tunnel::new(stream, Some(held))), workers))
    }

    async fn ready(&self) -> Result<(), Broken> {
        let mut waiting = Waiting { shared: self.shared(), place: Place::default() };
        poll_fn(|cx| waiting.shared.borrow_mut().poll_ready(&mut waiting.place, cx)).await
    }

    fn open(&self, head: &RequestHead, end: bool) -> Result<H2Stream, HeadFault> {
        let key = self.shared().borrow_mut().send_request(head, self.scheme, end)?;
        Ok(H2Stream::held(Rc::clone(self.shared()), key))
    }

    /// Sends a request and awaits the head of its response, passing interim responses on. Waits for a free stream first.
    /// Of the request the body is taken, if there is one. Cancelling resets the stream.
    ///
    /// # Errors
    /// See [`SendError`]; `unsent` for REFUSED_STREAM and for streams that GOAWAY leaves out.
    pub async fn send(&self, Request { head, body }: &mut Request, interim: &Interim) -> Result<Response, SendError> {
        let unsent = |fault| SendError { fault, unsent: true, whole: true };
        body.kept_during(pin!(self.ready())).await.map_err(|_| unsent(FaultKind::UpstreamReset))?;
        let held = InFlight::begin(&self.streams);
        let tunnelling = head.method == ::http::Method::CONNECT;
        let empty = body.is_end() && !tunnelling;
        let stream = self.open(head, empty).map_err(|_| unsent(FaultKind::BadRequest))?;
        let body = std::mem::take(body);
        let sender = (!empty).then(|| Box::new(H2Sender::new(stream.clone(), body, Side::Upstream)));
        let mut exchange = Exchange { stream, sender, tunnelling };
        match poll_fn(|cx| exchange.poll_head(cx, interim)).await {
            Ok(parsed) => Ok(exchange.answered(parsed, held)),
            Err(failed) => Err(failed.into_error(empty)),
        }
    }
}

fn config(limits: &HttpLimits) -> Config {
    Config {
        role: Role::Client,
        message: limits.message,
        list_bytes_max: BlockLimits::of(&limits.message).list_bytes_max,
        streams_max: 0,
        stream_window: limits.stream_window,
        connection_window: limits.connection_window(),
        connect_protocol: false,
        pending_resets_max: usize::MAX,
        resets_remembered_max: RESETS_REMEMBERED_MAX,
        interims_max: INTERIM_MAX,
    }
}

/// More streams than the peer takes would have to wait, and fail with the connection when it goes away.
fn takes_any(drive: &Drive) -> bool {
    let connection = drive.shared().borrow();
    connection.is_greeted() && connection.streams_max() > 0
}

fn poll_turn(drive: &mut Drive, cx: &mut Context<'_>) -> Poll<Over> {
    match drive.poll_read(cx) {
        Poll::Pending => drive.poll_write(cx),
        over => over,
    }
}

/// One exchange until its response head.
struct Exchange {
    stream: H2Stream,
    sender: Option<Box<H2Sender>>,
    tunnelling: bool,
}

impl Exchange {
    fn poll_head(&mut self, cx: &mut Context<'_>, interim: &Interim) -> Poll<Result<ParsedResponse, Failed>> {
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
        while let Some(hint) = self.stream.next_interim() {
            interim.send(hint);
        }
        self.stream.poll_response(cx).map_err(Failed::Stream)
    }

    fn answered(mut self, ParsedResponse { head, framing, tunnel }: ParsedResponse, held: InFlight) -> Response {
        if let (true, Some(sender)) = (tunnel, self.sender.take_if(|_| tunnel)) {
            drop(self.stream);
            let tunnel = H2Tunnel::new(sender.into_stream(), Some(held));
            let upgrade = Some(Box::new(Stream::h2_tunnel(tunnel)));
            return Response { head, body: Body::Empty, upgrade, refused: false };
        }
        let reader = H2Reader::new(self.stream);
        let ended = reader.is_end();
        if ended && self.sender.is_none() {
            return Response::new(head);
        }
        let framing = if ended { BodyFraming::None } else { framing };
        let body = H2Body::new(reader, Side::Upstream, framing).with_request(self.sender, held);
        Response { head, body: Body::H2(body), upgrade: None, refused: false }
    }
}

/// Why there is no response head.
enum Failed {
    Request(BodyError),
    Stream(Broken),
}

impl Failed {
    fn into_error(self, bodiless: bool) -> SendError {
        let broken = match self {
            Self::Request(error) => return SendError::sent(error.fault),
            Self::Stream(broken) => broken,
        };
        let fault = match broken {
            Broken::Head(fault) => response_fault(fault),
            Broken::Misused(_) | Broken::Trailers(_) | Broken::Ended => FaultKind::UpstreamProtocol,
            Broken::Reset(_) | Broken::Left(_) | Broken::Unprocessed | Broken::Closed => FaultKind::UpstreamReset,
        };
        let unsent = matches!(broken, Broken::Reset(Reason::REFUSED_STREAM) | Broken::Unprocessed);
        SendError { fault, unsent, whole: unsent && bodiless }
    }
}

const fn response_fault(fault: HeadFault) -> FaultKind {
    match fault.status() {
        431 => FaultKind::UpstreamHeadTooLarge,
        _ => FaultKind::UpstreamProtocol,
    }
}
