//! What is known of one request while it passes through, and its one record at the end.
//!
//! An [`Exchange`] is made when the request's head is there and ends exactly once: finished by the server when the
//! response is out, or dropped when the downstream left first. Either way the record is written.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use weft_core::balance::InFlight;
use weft_core::fault::FaultKind;
use weft_core::identity::spiffe::SpiffeId;
use weft_core::message::{RequestHead, Version};
use weft_core::propagate::peer::{Introduction, ProvenPeer};
use weft_core::propagate::request_id::RequestId;
use weft_core::propagate::trace::Span;
use weft_core::share::Caller;
use weft_core::time::Moment;

use crate::http::ExchangeEnd;
use crate::route::{HealthOf, Place, Route};
use crate::runtime::drain::Draining;
use crate::runtime::worker::Worker;
use crate::tcp::RelayEnd;
use crate::telemetry::{AccessRecord, Direction, Gauge, Kind};
use crate::tls::{MeshPeer, TLS_VERSION};

/// One downstream connection, for the records of what it carries.
#[derive(Debug)]
pub struct Connection {
    /// Door.
    pub direction: Direction,
    /// When it was accepted.
    pub opened: Moment,
    /// Peer address.
    pub downstream: SocketAddr,
    /// Who called, over mesh TLS. Boxed, being large and absent from most connections that wait.
    pub peer: Option<Box<MeshPeer>>,
    /// The same for what callers share: a proven identity, or else an address.
    pub caller: Rc<Caller>,
    own: OnceCell<SpiffeId>,
    introduction: OnceCell<Box<Introduction>>,
    /// Turns on when it is to finish.
    pub drain: Draining,
}

impl Connection {
    /// One that was accepted just now.
    #[must_use]
    pub fn open(worker: &Worker, downstream: SocketAddr, direction: Direction, drain: Draining) -> Self {
        let (opened, caller) = (worker.now(), Rc::new(Caller::stranger(downstream.ip())));
        let (own, introduction) = (OnceCell::new(), OnceCell::new());
        let connection = Self { direction, opened, downstream, peer: None, caller, own, introduction, drain };
        connection.own(worker);
        connection
    }

    /// The same, now that the caller has proven who it is to who we are by now.
    #[must_use]
    pub fn proven(&self, worker: &Worker, peer: MeshPeer) -> Self {
        let (direction, opened, downstream, drain) = (self.direction, self.opened, self.downstream, self.drain.clone());
        let caller = Rc::new(Caller::Proven(peer.id.clone()));
        let (own, introduction) = (OnceCell::new(), OnceCell::new());
        let proven =
            Self { direction, opened, downstream, peer: Some(Box::new(peer)), caller, own, introduction, drain };
        proven.own(worker);
        proven
    }

    /// Our identity when it began, or the first one there was since: a workload may connect before its proxy has one.
    pub fn own(&self, worker: &Worker) -> Option<&SpiffeId> {
        match self.own.get() {
            Some(own) => Some(own),
            None => worker.connector.identity().map(|identity| self.own.get_or_init(|| identity.id.clone())),
        }
    }

    /// What the application is told of a caller who has proven who it is.
    pub fn introduction(&self, worker: &Worker) -> Option<&Introduction> {
        let (own, peer) = (self.own(worker)?, self.peer.as_ref()?);
        let proven = ProvenPeer { id: &peer.id, certificate_sha256: &peer.leaf_sha256, subject: None };
        Some(self.introduction.get_or_init(|| Box::new(Introduction::of(proven, own))))
    }
}

/// Where an attempt went.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// To the port addressed, which knows its service.
    pub route: Option<Rc<Route>>,
    /// Endpoint chosen.
    pub place: Option<Rc<Place>>,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Who it proved to be.
    pub peer: Option<Rc<MeshPeer>>,
}

/// One request on its way.
#[derive(Debug)]
pub struct Exchange {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    started: Moment,
    method: Method,
    target: Bytes,
    path_end: usize,
    authority: Option<Bytes>,
    version: Version,
    /// Ids, once propagation has settled them.
    pub ids: Option<(RequestId, Span)>,
    /// Where it went.
    pub upstream: Upstream,
    /// Time to the response head.
    pub answered_after: Option<Duration>,
    /// Attempts made.
    pub attempts: u32,
    /// Status sent downstream.
    pub status: Option<u16>,
    /// gRPC status sent downstream, in the head or the trailers.
    pub grpc_status: Option<u16>,
    /// Why it failed.
    pub fault: Option<FaultKind>,
    /// It was certainly not processed, and its client is the one who can send it again.
    pub refused: bool,
    /// Counts at the endpoint while the response is under way.
    pub in_flight: Option<InFlight<HealthOf>>,
    ended: bool,
}

impl Exchange {
    /// Begins at the head.
    #[must_use]
    pub fn begin(worker: &Rc<Worker>, connection: &Rc<Connection>, head: &RequestHead) -> Self {
        worker.telemetry.gauge(Gauge::RequestsInFlight, 1);
        let path_end = head.target.iter().position(|byte| *byte == b'?').unwrap_or(head.target.len());
        Self {
            worker: Rc::clone(worker),
            connection: Rc::clone(connection),
            started: worker.now(),
            method: head.method.clone(),
            target: head.target.clone(),
            path_end,
            authority: head.host_shared(),
            version: head.version,
            ids: None,
            upstream: Upstream::default(),
            answered_after: None,
            attempts: 0,
            status: None,
            grpc_status: None,
            fault: None,
            refused: false,
            in_flight: None,
            ended: false,
        }
    }

    /// Who asks.
    #[must_use]
    pub fn caller(&self) -> &Rc<Caller> {
        &self.connection.caller
    }

    /// Host and port as the request names them.
    #[must_use]
    pub fn authority(&self) -> Option<&[u8]> {
        self.authority.as_deref()
    }

    /// When it began.
    #[must_use]
    pub const fn started(&self) -> Moment {
        self.started
    }

    /// The response is out, or broke on its way. Says when that was.
    pub fn finish(mut self: Box<Self>, end: ExchangeEnd) -> Moment {
        self.fault = self.fault.or(end.fault);
        self.grpc_status = self.grpc_status.or(end.grpc_status);
        self.record(end.bytes_received, end.bytes_sent)
    }

    /// It became a tunnel, which has ended.
    pub fn finish_tunnel(mut self: Box<Self>, end: RelayEnd) {
        self.fault = self.fault.or(end.fault);
        self.record(end.up, end.down);
    }

    fn record(&mut self, bytes_received: u64, bytes_sent: u64) -> Moment {
        let now = self.worker.now();
        self.ended = true;
        self.in_flight = None;
        self.worker.telemetry.gauge(Gauge::RequestsInFlight, -1);
        let mut record = AccessRecord::new(Kind::Request, self.connection.direction, self.started, now);
        describe_peer(&mut record, &self.worker, &self.connection, &self.upstream);
        if let Some((id, span)) = &self.ids {
            record.request_id = Some(id);
            (record.trace_id, record.span_id, record.parent_span_id) = (Some(span.trace), Some(span.id), span.parent);
        }
        record.method = Some(self.method.as_str());
        record.path = self.target.get(..self.path_end);
        record.authority = self.authority.as_deref();
        record.protocol = Some(version_name(self.version));
        record.status = self.status;
        record.grpc_status = self.grpc_status;
        record.upstream = self.answered_after;
        record.bytes_received = bytes_received;
        record.bytes_sent = bytes_sent;
        record.attempts = self.attempts;
        record.fault = self.fault;
        self.worker.telemetry.finish(&record);
        now
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.ended {
            if let Some(in_flight) = &self.in_flight {
                in_flight.abandon(self.worker.now());
            }
            self.fault = self.fault.or(Some(FaultKind::DownstreamReset));
            self.record(0, 0);
        }
    }
}

/// Writes the record of a connection that carried bytes, or ended before a request.
pub fn record_connection(
    worker: &Worker,
    connection: &Connection,
    upstream: &Upstream,
    protocol: Option<&'static str>,
    end: RelayEnd,
) {
    let mut record = AccessRecord::new(Kind::Connection, connection.direction, connection.opened, worker.now());
    describe_peer(&mut record, worker, connection, upstream);
    record.protocol = protocol;
    record.bytes_received = end.up;
    record.bytes_sent = end.down;
    record.fault = end.fault;
    worker.telemetry.finish(&record);
}

/// Identities and TLS facts are those of the mesh side: downstream for inbound, upstream for the others.
fn describe_peer<'a>(
    record: &mut AccessRecord<'a>,
    worker: &Worker,
    connection: &'a Connection,
    upstream: &'a Upstream,
) {
    let peer = connection.peer.as_deref().or(upstream.peer.as_deref());
    record.downstream_address = Some(connection.downstream);
    record.upstream_address = upstream.address;
    record.service = upstream.route.as_ref().map(|route| &route.port.service);
    record.route = upstream.route.as_ref().map(|route| &*route.port.label);
    record.endpoint = upstream.place.as_ref().map(|place| &*place.endpoint.id);
    record.own_id = connection.own(worker);
    record.peer_id = peer.map(|peer| &peer.id);
    record.tls_version = peer.map(|_| TLS_VERSION);
    record.tls_group = peer.map(|peer| peer.group);
    record.alpn = peer.and_then(|peer| std::str::from_utf8(peer.alpn.as_bytes()).ok());
}

const fn version_name(version: Version) -> &'static str {
    match version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
        Version::Http2 => "HTTP/2",
    }
}
