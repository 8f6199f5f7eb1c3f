//! One request to one of the endpoints that may serve it: pick, connect, send, observe, try again where that is safe.
//!
//! Tried again is only what certainly was not processed: no connection, or not one byte of the request written, or
//! HTTP/2 said so. The one exception is an idempotent request without body on a connection that was open before: it may
//! have met the server closing that connection, and gets one fresh connection (U2). A POST never goes out twice.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use weft_core::balance::{InFlight, Outcome};
use weft_core::fault::{FaultKind, Origin};
use weft_core::message::Version;
use weft_core::model::AppProtocol;
use weft_core::share::Caller;
use weft_core::time::Moment;

use crate::dial::{dial_http1, dial_http2};
use crate::exchange::{Exchange, Upstream};
use crate::http::{Interim, Request, Response, SendError};
use crate::pool::{LinkKey, Taken};
use crate::route::{HealthOf, Place, Route};
use crate::runtime::worker::Worker;
use crate::telemetry::Counter;
use crate::tls::MeshPeer;

/// Attempts for one request, the first included.
const ATTEMPTS_MAX: u32 = 3;

/// Where a request or connection goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To a port of a service: balanced, or to one endpoint.
    Service(Rc<Route>),
    /// To an address outside the mesh, in the clear.
    Passthrough(SocketAddr),
    /// To the local application.
    Local {
        /// Its address.
        address: SocketAddr,
        /// What it speaks.
        protocol: AppProtocol,
    },
}

impl Destination {
    /// What the application speaks.
    #[must_use]
    pub fn protocol(&self) -> AppProtocol {
        match self {
            Self::Service(route) => route.port.port.protocol,
            Self::Passthrough(_) => AppProtocol::Detect,
            Self::Local { protocol, .. } => *protocol,
        }
    }

    /// What records say before an endpoint is chosen.
    #[must_use]
    pub fn describe(&self) -> Upstream {
        match self {
            Self::Service(route) => Upstream { route: Some(Rc::clone(route)), ..Upstream::default() },
            Self::Passthrough(address) | Self::Local { address, .. } => {
                Upstream { address: Some(*address), ..Upstream::default() }
            }
        }
    }
}

/// Where one attempt goes.
#[derive(Debug)]
pub(crate) enum Chosen {
    /// To an endpoint.
    Endpoint(Rc<Place>),
    /// To an address, in the clear.
    Address(LinkKey),
}

impl Chosen {
    /// Where its connections lead.
    pub(crate) fn key(&self) -> &LinkKey {
        match self {
            Self::Endpoint(place) => &place.key,
            Self::Address(key) => key,
        }
    }

    /// The endpoint, if it is one.
    pub(crate) fn place(&self) -> Option<Rc<Place>> {
        match self {
            Self::Endpoint(place) => Some(Rc::clone(place)),
            Self::Address(_) => None,
        }
    }

    /// Counts at the endpoint from now until dropped.
    pub(crate) fn begin(&self, now: Moment) -> Option<InFlight<HealthOf>> {
        self.place().map(|place| InFlight::begin(HealthOf(place), now))
    }
}

/// Chooses at `now` for the next attempt, not again what was tried. `None`: nothing is left.
pub(crate) fn choose(now: Moment, to: &Destination, tried: &[usize]) -> Option<(Chosen, usize)> {
    let (address, delivery) = match to {
        Destination::Service(route) => {
            return route.choose(now, tried).map(|(place, index)| (Chosen::Endpoint(place), index));
        }
        Destination::Passthrough(address) => (*address, false),
        Destination::Local { address, .. } => (*address, true),
    };
    tried.is_empty().then_some((Chosen::Address(LinkKey { address, identity: None, delivery }), 0))
}

/// Sends the request to where it goes as of `now`, and awaits the head of its response. The exchange learns where it went
/// and how often it was tried; what is left of the request is of no use.
///
/// # Errors
/// The fault of the last attempt; `NoEndpoint` when there is nobody to try.
pub async fn forward(
    worker: &Rc<Worker>,
    (to, mut now): (&Destination, Moment),
    request: &mut Request,
    interim: &Interim,
    exchange: &mut Exchange,
) -> Result<Response, FaultKind> {
    exchange.upstream = to.describe();
    let mut tried = Vec::new();
    let mut last = FaultKind::NoEndpoint;
    let mut fresh_only = false;
    while exchange.attempts < ATTEMPTS_MAX {
        let Some((chosen, index)) = choose(now, to, &tried) else { break };
        if exchange.attempts > 0 {
            worker.telemetry.count(Counter::Retried);
        }
        exchange.attempts += 1;
        exchange.upstream.address = Some(chosen.key().address);
        let begun = now;
        exchange.in_flight = chosen.begin(begun);
        exchange.upstream.place = chosen.place();
        let attempt = attempt(worker, to, (chosen.key(), now), request, interim, (exchange.caller(), fresh_only)).await;
        now = attempt.ended.unwrap_or_else(|| worker.now());
        // A handshake says nothing of how fast the endpoint answers: what counts begins when there is a connection.
        let took = now.since(attempt.sent.unwrap_or(begun));
        exchange.upstream.peer = attempt.peer;
        match attempt.outcome {
            Ok(response) => {
                observe(exchange, judge(response.head.status, took), now);
                exchange.answered_after = Some(now.since(exchange.started()));
                return Ok(response);
            }
            Err(failed) => {
                observe(exchange, blame(failed.fault, took), now);
                exchange.in_flight = None;
                last = failed.fault;
                match failed.again {
                    Again::Elsewhere => tried.push(index),
                    Again::Fresh => fresh_only = true,
                    Again::ByClient => {
                        exchange.refused = true;
                        break;
                    }
                    Again::Never => break,
                }
            }
        }
    }
    Err(last)
}

/// An endpoint that fails fast must not look like a fast one: its errors count as failures, but for those that say what
/// it does not do (501, 505).
const fn judge(status: u16, took: Duration) -> Outcome {
    match status {
        500 | 502..=504 | 506..=599 => Outcome::Failed(took),
        _ => Outcome::Answered(took),
    }
}

fn observe(exchange: &Exchange, outcome: Outcome, now: Moment) {
    if let Some(in_flight) = &exchange.in_flight {
        in_flight.observe(outcome, now);
    }
}

/// A fault of ours says nothing of the endpoint, one of the caller's that it had not answered yet.
fn blame(fault: FaultKind, took: Duration) -> Outcome {
    match fault.appearance().origin {
        Origin::Upstream => Outcome::Failed(took),
        Origin::Downstream => Outcome::Abandoned(took),
        Origin::Proxy => Outcome::Unknown,
    }
}

struct Attempt {
    peer: Option<Rc<MeshPeer>>,
    /// When there was a connection to send on.
    sent: Option<Moment>,
    /// When it ended, if the clock was read then.
    ended: Option<Moment>,
    outcome: Result<Response, Failed>,
}

impl Attempt {
    const fn unconnected(fault: FaultKind) -> Self {
        Self { peer: None, sent: None, ended: None, outcome: Err(Failed { fault, again: Again::Elsewhere }) }
    }
}

struct Failed {
    fault: FaultKind,
    again: Again,
}

/// The request is there to be sent where it is sent again.
enum Again {
    /// Not processed; at another endpoint.
    Elsewhere,
    /// The connection was stale; on a fresh one.
    Fresh,
    /// Not processed, but part of its body is gone: by its client only.
    ByClient,
    Never,
}

impl Failed {
    /// `spare`: the request has no body and may be sent once more on a fresh connection. Its head is still there, and
    /// what made it fit to be sent does nothing to it a second time.
    fn of(error: SendError, spare: bool) -> Self {
        let again = match (error.whole, spare) {
            (true, false) => Again::Elsewhere,
            (true, true) => Again::Fresh,
            (false, true) if error.fault == FaultKind::UpstreamReset => Again::Fresh,
            // Not where the client itself broke the body off.
            (false, _) if error.unsent && error.fault.appearance().origin == Origin::Upstream => Again::ByClient,
            (false, _) => Again::Never,
        };
        Self { fault: error.fault, again }
    }
}

async fn attempt(
    worker: &Rc<Worker>,
    to: &Destination,
    (key, now): (&LinkKey, Moment),
    request: &mut Request,
    interim: &Interim,
    (caller, fresh_only): (&Rc<Caller>, bool),
) -> Attempt {
    let http2 = match to.protocol() {
        AppProtocol::Http1 => false,
        AppProtocol::H2c => true,
        AppProtocol::Detect | AppProtocol::Tcp => request.head.version == Version::Http2,
    };
    if http2 {
        attempt_http2(worker, key, request, interim).await
    } else {
        attempt_http1(worker, (key, now), request, interim, (caller, fresh_only)).await
    }
}

async fn attempt_http1(
    worker: &Rc<Worker>,
    (key, now): (&LinkKey, Moment),
    request: &mut Request,
    interim: &Interim,
    (caller, fresh_only): (&Rc<Caller>, bool),
) -> Attempt {
    let shelf = worker.pools.http1(key);
    let Some(used) = shelf.admit(caller) else { return Attempt::unconnected(FaultKind::Overload) };
    let (taken, stale) = shelf.take(now, key.identity.is_some(), fresh_only);
    for _ in 0..stale {
        worker.telemetry.count(Counter::PoolStale);
    }
    let reused = matches!(taken, Taken::Idle(..));
    let (client, link) = match taken {
        Taken::Idle(client, link) => {
            worker.telemetry.count(Counter::PoolReused);
            (client, link)
        }
        Taken::Open(carrier) => {
            let Some(slot) = shelf.reserve() else { return Attempt::unconnected(FaultKind::Overload) };
            // Boxed, being rare and large: every request would have room for it.
            let mut dialling = Box::pin(dial_http1(worker, key, (&shelf, slot), carrier));
            match request.body.kept_during(dialling.as_mut()).await {
                Ok(opened) => opened,
                Err(fault) => return Attempt::unconnected(fault),
            }
        }
    };
    link.begin(used);
    let peer = link.peer.clone();
    let sent = Some(if reused { now } else { worker.now() });
    let spare = reused && request.body.is_end() && is_idempotent(&request.head.method);
    if request.head.version == Version::Http10 && request.head.host().is_none() {
        // HTTP/1.1 upstream needs a Host; the destination is all that is known.
        request.head.authority = Some(key.address.to_string().into());
    }
    match client.send(request, interim, Some(link)).await {
        Ok(response) => {
            let now = worker.now();
            shelf.heard(&response.head.fields, now);
            Attempt { peer, sent, ended: Some(now), outcome: Ok(response) }
        }
        Err(error) => {
            if reused && error.fault == FaultKind::UpstreamReset {
                worker.telemetry.count(Counter::PoolStale);
            }
            // Untouched on a stale connection: the endpoint is not to blame, so it is tried again on a fresh one.
            let failed = match error {
                SendError { fault, whole: true, .. } if reused => Failed { fault, again: Again::Fresh },
                error => Failed::of(error, spare),
            };
            Attempt { peer, sent, ended: None, outcome: Err(failed) }
        }
    }
}

async fn attempt_http2(worker: &Rc<Worker>, key: &LinkKey, request: &mut Request, interim: &Interim) -> Attempt {
    let lane = worker.pools.http2(key);
    let checkout = if let Some(checkout) = lane.open() {
        checkout
    } else {
        // Boxed as for HTTP/1.
        let mut opening = Box::pin(lane.checkout(|| {
            let (worker, key) = (Rc::clone(worker), key.clone());
            async move { dial_http2(&worker, &key).await }
        }));
        match request.body.kept_during(opening.as_mut()).await {
            Ok(checkout) => checkout,
            Err(fault) => return Attempt::unconnected(fault),
        }
    };
    if checkout.reused {
        worker.telemetry.count(Counter::PoolReused);
    }
    let sent = Some(worker.now());
    let outcome = checkout.client.send(request, interim).await.map_err(|error| match error {
        // GOAWAY or a closed connection that this request never got onto.
        SendError { fault, whole: true, .. } if checkout.reused => Failed { fault, again: Again::Fresh },
        error => Failed::of(error, false),
    });
    Attempt { peer: checkout.peer, sent, ended: None, outcome }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}
