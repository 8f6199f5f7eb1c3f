//! One HTTP request through the proxy, the same for every door: settle what is handed on, locate, forward, answer.
//! What differs by door is in [`HttpPath::settle`].

use std::net::IpAddr;
use std::rc::Rc;

use http::Method;
use tokio::time::Instant;
use weft_core::authority::Authority;
use weft_core::detect::MeshAlpn;
use weft_core::fault::FaultKind;
use weft_core::fields::{Fields, Known};
use weft_core::message::{RequestHead, ResponseHead, Version};
use weft_core::propagate::forwarded::{Edge, note_origin};
use weft_core::propagate::hop_by_hop::{Upgrade, strip_request, strip_response};
use weft_core::propagate::peer::{drop_between_proxies, drop_client_identity, set_client_identity};
use weft_core::propagate::request_id::{RequestId, Trust, ensure, say};
use weft_core::propagate::trace::{Sampling, Span, propagate};

use crate::boxed::{Serving, boxed};
use crate::entropy::ThreadEntropy;
use crate::exchange::{Connection, Exchange, Upstream, record_connection};
use crate::forward::{Destination, forward};
use crate::http::{
    ExchangeEnd, H1Connection, Handler, HttpLimits, Interim, Refusal, Request, Response, ServeEnd, fault_response,
    serve_h1, serve_h2,
};
use crate::io::Stream;
use crate::runtime::drain::Draining;
use crate::runtime::worker::Worker;
use crate::site::Site;
use crate::tcp::{Moved, RelayEnd, relay};
use crate::telemetry::{AccessRecord, Counter, Direction, Kind};
use crate::tls::MeshPeer;
use crate::waiting::Waiting;

/// Serves the requests of one downstream connection.
#[derive(Debug)]
pub struct HttpPath {
    /// The worker it is on.
    pub worker: Rc<Worker>,
    /// The connection.
    pub connection: Rc<Connection>,
    /// Where its requests go.
    pub site: Site,
}

impl HttpPath {
    /// Serves until the connection ends or waits for long, and drops `held` then. Dropping the future closes it and cancels
    /// what is under way.
    ///
    /// No async function: it would hold the stream for ever.
    pub fn serve(self, stream: Stream, http2: bool, drain: Draining, held: impl Sized + 'static) -> Serving {
        let limits = if self.connection.peer.is_some() { &self.worker.mesh_limits } else { &self.worker.limits };
        let limits = Rc::clone(limits);
        if http2 {
            let path = Rc::new(self);
            return boxed(move || async move {
                ended(serve_h2(stream, &limits, drain, &path).await, held);
                None
            });
        }
        let conn = H1Connection::new(stream, &limits);
        self.serve_h1(conn, limits, drain, held)
    }

    /// Serves a connection in the clear on that has waited since then.
    pub(crate) fn serve_again(self, stream: Stream, since: Instant) -> Serving {
        let limits = Rc::clone(&self.worker.limits);
        let conn = H1Connection::again(stream, &limits, since);
        let drain = self.connection.drain.clone();
        self.serve_h1(conn, limits, drain, ())
    }

    fn serve_h1(
        self,
        conn: H1Connection,
        limits: Rc<HttpLimits>,
        drain: Draining,
        held: impl Sized + 'static,
    ) -> Serving {
        boxed(move || async move {
            let end = serve_h1(&conn, &limits, drain, &self).await;
            ended(end, held);
            if let ServeEnd::Waits(since) = end { Waiting::new(self, conn, since) } else { None }
        })
    }

    async fn answer(
        &self,
        request: &mut Request,
        interim: &Interim,
        exchange: &mut Exchange,
    ) -> Result<Response, FaultKind> {
        let upgrade = if request.head.wants_upgrade().is_some() { Upgrade::Keep } else { Upgrade::Drop };
        exchange.ids = Some(self.settle(&mut request.head, upgrade, exchange.authority()));
        let (to, now) = match self.site.known(&self.worker, exchange.started())? {
            Some(to) => (to, exchange.started()),
            None => {
                // Boxed, being rare: every request would have room for it.
                let mut asking = Box::pin(self.site.ask(&self.worker));
                (request.body.kept_during(asking.as_mut()).await?, self.worker.now())
            }
        };
        self.admit(&request.head, &to)?;
        let asks_for_tunnel = upgrade == Upgrade::Keep || request.head.method == Method::CONNECT;
        let mut response = forward(&self.worker, (&to, now), request, interim, exchange).await?;
        let tunnel = response.upgrade.is_some();
        let closes = asks_for_tunnel && !tunnel && !response.head.keeps_alive();
        // 426 tells the client what to ask for (RFC 9110 section 15.5.22), and it can: upgrades are carried through.
        let speaks_of_one = tunnel || response.head.status == 426;
        strip_response(&mut response.head, if speaks_of_one { Upgrade::Keep } else { Upgrade::Drop });
        if closes {
            end_connection(&mut response.head);
        }
        Ok(response)
    }

    /// A tunnel leads where the connection was going anyway, and its request must say so: at the edge it would lead
    /// wherever the client says, and at a service of the mesh it would carry what is meant for somebody else. An inbound
    /// one can lead to the local application only, under whatever name. Outside the mesh there are forward proxies, of
    /// which other names are asked; one inside the mesh is declared as `tcp`.
    fn admit(&self, head: &RequestHead, to: &Destination) -> Result<(), FaultKind> {
        if head.method != Method::CONNECT {
            return Ok(());
        }
        let admitted = match (&self.site, to) {
            (Site::Captured(address), Destination::Service(route)) => {
                let authority = head.authority.as_deref().and_then(Authority::parse);
                authority.is_some_and(|authority| authority.names(*address, &route.port.service))
            }
            (Site::Captured(_) | Site::Local { .. }, Destination::Passthrough(_) | Destination::Local { .. }) => true,
            (Site::Local { .. }, Destination::Service(_)) | (Site::Service(..) | Site::Refused(_), _) => false,
        };
        if admitted { Ok(()) } else { Err(FaultKind::ConnectRefused) }
    }

    /// Takes off what ends at this hop, puts on what this hop says.
    fn settle(&self, head: &mut RequestHead, upgrade: Upgrade, named: Option<&[u8]>) -> (RequestId, Span) {
        strip_request(head, upgrade);
        let fields = &mut head.fields;
        let trust = match self.connection.direction {
            Direction::Inbound => {
                self.say_who_called(fields);
                Trust::PassOn
            }
            Direction::Outbound => Trust::PassOn,
            Direction::Gateway => {
                drop_between_proxies(fields);
                drop_client_identity(fields);
                note_origin(fields, self.edge(named));
                Trust::Replace
            }
        };
        let id = ensure(fields, trust, &mut ThreadEntropy);
        let span = propagate(fields, Sampling::Accept, &mut ThreadEntropy);
        (id, span)
    }

    fn say_who_called(&self, fields: &mut Fields) {
        if self.connection.peer.is_none() {
            drop_between_proxies(fields);
        }
        set_client_identity(fields, self.connection.introduction(&self.worker));
    }

    fn edge<'a>(&self, host: Option<&'a [u8]>) -> Edge<'a> {
        let peer: IpAddr = self.connection.downstream.ip();
        Edge { peer, tls: false, host, trusted_hops: 0 }
    }
}

impl Handler for HttpPath {
    /// Boxed: it is handed on more often than a request has stages.
    type Ticket = Box<Exchange>;

    #[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice, as such and as variables")]
    fn handle(&self, mut request: Request, interim: &Interim) -> impl Future<Output = (Response, Box<Exchange>)> {
        async move {
            // Made in its place.
            let mut exchange =
                Box::write(Box::new_uninit(), Exchange::begin(&self.worker, &self.connection, &request.head));
            let (grpc, http2) = (request.head.is_grpc(), request.head.version == Version::Http2);
            let connects = request.head.method == Method::CONNECT;
            let mut response = match self.answer(&mut request, interim, &mut exchange).await {
                Ok(response) => response,
                Err(fault) => {
                    exchange.fault = Some(fault);
                    let mut response = fault_response(fault, grpc);
                    response.refused = http2 && exchange.refused;
                    if connects {
                        end_connection(&mut response.head);
                    }
                    response
                }
            };
            if self.connection.direction == Direction::Gateway
                && let Some((id, _)) = &exchange.ids
            {
                say(&mut response.head.fields, id);
            }
            if !response.refused {
                exchange.status = Some(response.head.status);
                exchange.grpc_status = grpc_status(&response.head);
            }
            (response, exchange)
        }
    }

    fn finished(&self, ticket: Box<Exchange>, end: ExchangeEnd) -> Instant {
        self.worker.shared.clock.instant(ticket.finish(end))
    }

    fn refused(&self, refusal: &Refusal) {
        self.worker.telemetry.count(Counter::HeadRefused);
        let now = self.worker.now();
        let mut record = AccessRecord::new(Kind::Request, self.connection.direction, now, now);
        record.downstream_address = Some(self.connection.downstream);
        record.own_id = self.connection.own(&self.worker);
        record.peer_id = self.connection.peer.as_ref().map(|peer| &peer.id);
        record.method = refusal.method.as_ref().map(Method::as_str);
        record.protocol = Some(if refusal.version == Version::Http2 { "HTTP/2" } else { "HTTP/1.1" });
        record.status = refusal.status;
        record.fault = Some(refusal.fault);
        self.worker.telemetry.finish(&record);
    }

    fn broken(&self, fault: FaultKind) {
        let end = RelayEnd { fault: Some(fault), ..RelayEnd::default() };
        record_connection(&self.worker, &self.connection, &Upstream::default(), Some("http"), end);
    }

    /// Links are taken from sidecars that speak the mesh's HTTP/2, never from who speaks HTTP/2 through bytes.
    fn link(self: &Rc<Self>) -> Option<(Rc<Self>, usize)> {
        let peer = self.connection.peer.as_ref().filter(|peer| peer.alpn == MeshAlpn::Http2)?;
        let peer = MeshPeer { alpn: MeshAlpn::Http1, ..(**peer).clone() };
        let mut connection = self.connection.proven(&self.worker, peer);
        connection.opened = self.worker.now();
        let path = Self { worker: Rc::clone(&self.worker), connection: Rc::new(connection), site: self.site.clone() };
        Some((Rc::new(path), self.worker.shared.workers))
    }

    async fn tunnel(&self, ticket: Box<Exchange>, downstream: Stream, upstream: Stream) {
        let end = relay(&self.worker.reserve, downstream, upstream, &Moved::default()).await;
        ticket.finish_tunnel(end);
    }
}

fn ended(end: ServeEnd, held: impl Sized) {
    tracing::trace!(?end, "connection ended");
    drop(held);
}

/// A client that hoped for a tunnel may have sent the first bytes of somebody else's protocol after its request already.
/// Where the tunnel is refused they would be read as the next request; servers that know this close, and so it is passed
/// on instead of ending at this hop.
fn end_connection(head: &mut ResponseHead) {
    head.fields.set(Known::Connection, "close");
}

fn grpc_status(head: &ResponseHead) -> Option<u16> {
    head.fields.get_str(Known::GrpcStatus)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of connections wait for their next request: what they hold then is what they cost.
    #[test]
    fn a_connection_that_waits_holds_little() {
        let size = size(serve_h1::<HttpPath>);
        assert!(size <= 896, "{size} bytes for what every connection is");
        let (known, waiting) = (size_of::<Connection>(), size_of::<Waiting>());
        assert!(known <= 96 && waiting <= 80, "{known} and {waiting} bytes for what it is without a task");
    }
}
