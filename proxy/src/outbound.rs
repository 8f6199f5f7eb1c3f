//! A connection of the local workload's on its way out. Start reading here: this is the life of a captured request.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use weft_core::fault::FaultKind;
use weft_core::model::AppProtocol;

use crate::boxed::{Going, Serving, boxed};
use crate::exchange::{Connection, Upstream};
use crate::forward::Destination;
use crate::http_path::HttpPath;
use crate::intercept::original_dst;
use crate::io::Stream;
use crate::l4::{self, Way};
use crate::peek::{Peeked, Silence, peek, peek_speculating};
use crate::runtime::drain::Draining;
use crate::runtime::worker::Worker;
use crate::site::{Site, count_destination};
use crate::telemetry::{Counter, Direction};

/// Begins to serve one captured outbound connection.
pub async fn serve(worker: Rc<Worker>, socket: TcpStream, downstream: SocketAddr) -> Going {
    let connection = open(&worker, downstream, Direction::Outbound);
    let Some(original) = captured_from(&socket) else {
        refuse_loop(&worker, &connection, socket);
        return None;
    };
    serve_to(worker, connection, Stream::plain(socket), Site::Captured(original)).await
}

/// Begins to serve one connection whose destination is `site`: of the workload, of a gateway's client, or of a static
/// listener.
pub async fn serve_to(worker: Rc<Worker>, connection: Rc<Connection>, mut stream: Stream, site: Site) -> Going {
    match begin(&worker, &connection, &mut stream, site).await {
        Begun::Http(site, http2) => {
            let drain = connection.drain.clone();
            Some(HttpPath { worker, connection, site }.serve(stream, http2, drain, ()))
        }
        Begun::Other(other) => finish(worker, connection, stream, other),
        Begun::Left => None,
    }
}

/// What a connection turned out to be.
pub(crate) enum Begun {
    /// HTTP to this site; true: HTTP/2.
    Http(Site, bool),
    /// No HTTP.
    Other(Box<Other>),
    /// Over already.
    Left,
}

/// A connection that carries no HTTP.
pub(crate) enum Other {
    /// Bytes, by the way that is open already or by one that is still to be opened, and what the record calls them.
    Bytes(Destination, Option<Way>, &'static str),
    /// To be reset, with a record.
    Refused(Upstream, FaultKind),
}

impl Begun {
    pub(crate) fn bytes(to: Destination, way: Option<Way>, protocol: &'static str) -> Self {
        Self::Other(Box::new(Other::Bytes(to, way, protocol)))
    }

    pub(crate) fn refused(worker: &Worker, upstream: Upstream, fault: FaultKind) -> Self {
        if fault == FaultKind::DetectTimeout {
            worker.telemetry.count(Counter::DetectTimeout);
        }
        Self::Other(Box::new(Other::Refused(upstream, fault)))
    }
}

/// What there is to do for a connection without HTTP.
pub(crate) fn finish(worker: Rc<Worker>, connection: Rc<Connection>, stream: Stream, other: Box<Other>) -> Going {
    match *other {
        Other::Bytes(to, way, protocol) => Some(carry(worker, connection, to, stream, way, protocol)),
        Other::Refused(upstream, fault) => {
            l4::refuse(&worker, &connection, &upstream, stream, fault, None);
            None
        }
    }
}

/// Carries bytes.
pub(crate) fn carry(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    to: Destination,
    stream: Stream,
    way: Option<Way>,
    protocol: &'static str,
) -> Serving {
    boxed(move || async move {
        l4::carry(&worker, &connection, &to, stream, way, protocol).await;
        None
    })
}

/// From the connection to what it speaks.
async fn begin(worker: &Worker, connection: &Connection, stream: &mut Stream, site: Site) -> Begun {
    let located = site.locate(worker).await;
    count_destination(worker, &located);
    let timeouts = &worker.shared.timeouts;
    let looked = {
        let looking = pin!(async {
            match &located {
                Ok(to) => look(worker, stream, to, &site, timeouts.silence).await,
                // Refused: an HTTP client is told so in its own language.
                Err(_) => peek(stream, timeouts.detect).await,
            }
        });
        unless_drained(&connection.drain, looking).await
    };
    let Some(peeked) = looked else { return Begun::Left };
    worker.telemetry.detected(worker.now().since(connection.opened));
    match (peeked, located) {
        (Ok(Peeked::Left), _) => Begun::Left,
        (Ok(Peeked::Http1), Ok(_)) => Begun::Http(site, false),
        (Ok(Peeked::Http2), Ok(_)) => Begun::Http(site, true),
        (Ok(Peeked::Http1), Err(fault)) => Begun::Http(Site::Refused(fault), false),
        (Ok(Peeked::Http2), Err(fault)) => Begun::Http(Site::Refused(fault), true),
        (Ok(Peeked::Tls(_)), Ok(to)) => Begun::bytes(to, None, "tls"),
        // What HTTP policy cannot read must not get past it; the client is told so.
        (Ok(Peeked::Opaque(_)), Ok(to)) if is_http(to.protocol()) => Begun::Http(site, false),
        (Ok(Peeked::Opaque(way)), Ok(to)) => Begun::bytes(to, way, "tcp"),
        (Ok(Peeked::Tls(_) | Peeked::Opaque(_)), Err(fault)) => Begun::refused(worker, Upstream::default(), fault),
        (Err(fault), located) => Begun::refused(worker, located.map(|to| to.describe()).unwrap_or_default(), fault),
    }
}

/// Finds out what the connection speaks, as far as the destination does not declare it.
pub(crate) async fn look(
    worker: &Worker,
    stream: &mut Stream,
    to: &Destination,
    site: &Site,
    silence: Duration,
) -> Result<Peeked<Way>, FaultKind> {
    let timeouts = &worker.shared.timeouts;
    match to.protocol() {
        AppProtocol::Tcp => return Ok(Peeked::Opaque(None)),
        AppProtocol::Http1 | AppProtocol::H2c => return peek(stream, timeouts.detect).await,
        AppProtocol::Detect => {}
    }
    let remembered = site.remembered_as();
    let known = remembered.is_some_and(|at| worker.first_bytes.borrow().is_server_first(at, worker.now()));
    let silence = if known { Duration::ZERO } else { silence };
    // Boxed, being rare and large: most clients speak before it is begun.
    let dial = async { boxed(|| l4::open(worker, to)).await.map_err(|(fault, _)| fault) };
    let (peeked, ended_by) = peek_speculating(stream, timeouts.detect, silence, dial).await?;
    match ended_by {
        Silence::ServerFirst => worker.telemetry.count(Counter::ServerFirst),
        Silence::BrokenLate => worker.telemetry.count(Counter::LateClient),
        Silence::Broken => {}
    }
    if let Some(at) = remembered {
        let mut first_bytes = worker.first_bytes.borrow_mut();
        match ended_by {
            Silence::ServerFirst => first_bytes.remember(at, worker.now()),
            Silence::Broken | Silence::BrokenLate => first_bytes.forget(at),
        }
    }
    Ok(peeked)
}

/// The facts of a new connection.
pub(crate) fn open(worker: &Worker, downstream: SocketAddr, direction: Direction) -> Rc<Connection> {
    let drain = match direction {
        Direction::Outbound => worker.egress_drain.clone(),
        Direction::Inbound | Direction::Gateway => worker.drain.clone(),
    };
    Rc::new(Connection::open(worker, downstream, direction, drain))
}

/// Where a captured connection was going; `None` when it was not captured but made straight to the capture port.
pub(crate) fn captured_from(socket: &TcpStream) -> Option<SocketAddr> {
    let local = socket.local_addr().ok()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    match original_dst(socket) {
        Ok(original) => (original != local).then_some(original),
        Err(error) => {
            tracing::debug!(%error, "no original destination");
            None
        }
    }
}

/// Waits for a connection's first bytes, but once it is to drain only a moment more: a client that has said nothing by
/// then loses nothing. `None`: close it.
///
/// Takes what is pinned already: by value it would take its place twice, in this future and in the caller's.
pub(crate) async fn unless_drained<T>(drain: &Draining, looking: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::select! {
        looked = looking => Some(looked),
        () = async { drain.draining().await; tokio::time::sleep(FIRST_BYTES_WHILE_DRAINING).await } => None,
    }
}

/// See [`unless_drained`].
const FIRST_BYTES_WHILE_DRAINING: Duration = Duration::from_secs(1);

pub(crate) const fn is_http(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Http1 | AppProtocol::H2c)
}

pub(crate) fn refuse_loop(worker: &Worker, connection: &Connection, socket: TcpStream) {
    worker.telemetry.count(Counter::LoopRefused);
    tracing::warn!(from = %connection.downstream, "connection straight to a capture port, or a loop: refused");
    l4::refuse(worker, connection, &Upstream::default(), Stream::plain(socket), FaultKind::Loop, None);
}
