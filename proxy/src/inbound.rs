//! A connection to the local workload. Mesh TLS ends here; what it proved is what the application is told. The
//! application is dialled only after the connection has been judged.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use weft_core::detect::MeshAlpn;
use weft_core::fault::FaultKind;
use weft_core::model::{AppProtocol, InboundMode};

use crate::boxed::{Going, boxed};
use crate::exchange::{Connection, Upstream};
use crate::forward::Destination;
use crate::http_path::HttpPath;
use crate::io::Stream;
use crate::l4;
use crate::outbound::{Begun, Other, captured_from, carry, finish, is_http, look, open, refuse_loop, unless_drained};
use crate::peek::{Peeked, peek};
use crate::runtime::worker::Worker;
use crate::site::Site;
use crate::telemetry::{Counter, Direction, Side};
use crate::tls::TlsError;

/// A connection that many requests of another sidecar share, before its handshake. It is served by whichever worker has
/// the fewest of these.
#[derive(Debug)]
pub struct Carrier {
    connection: Rc<Connection>,
    /// Nothing of it is read but the hello.
    pub socket: TcpStream,
    /// What was.
    pub heard: Heard,
}

/// What is known of a [`Carrier`] but for its socket, on any thread.
#[derive(Clone, Debug)]
pub struct Heard {
    site: Site,
    hello: Bytes,
}

impl Carrier {
    /// The same, come from another worker.
    #[must_use]
    pub fn joined(worker: &Worker, (socket, downstream): (TcpStream, SocketAddr), heard: Heard) -> Self {
        Self { connection: open(worker, downstream, Direction::Inbound), socket, heard }
    }

    /// Serves it to its end.
    pub async fn serve(self, worker: Rc<Worker>) {
        let Self { connection, socket, heard: Heard { site, hello } } = self;
        let stream = Stream::plain(socket).with_prefix(hello);
        if let Some(going) = boxed(|| mesh(worker, connection, stream, site)).await {
            going.await;
        }
    }
}

/// What came of a connection's beginning.
pub(crate) enum Came {
    /// What it does until its end.
    Goes(Going),
    /// One that several workers may serve.
    Shared(Box<Carrier>),
}

/// Begins to serve one captured inbound connection.
pub(crate) async fn serve(worker: Rc<Worker>, socket: TcpStream, downstream: SocketAddr) -> Came {
    let connection = open(&worker, downstream, Direction::Inbound);
    let Some(original) = captured_from(&socket) else {
        refuse_loop(&worker, &connection, socket);
        return Came::Goes(None);
    };
    let rules = &worker.shared.inbound;
    let protocol = rules.protocols.get(&original.port()).copied().unwrap_or_default();
    let mode = rules.mode;
    serve_to(worker, connection, socket, original, protocol, mode).await
}

/// Begins to serve one connection to the application at `address`.
pub(crate) async fn serve_to(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    socket: TcpStream,
    address: SocketAddr,
    protocol: AppProtocol,
    mode: InboundMode,
) -> Came {
    let mut stream = Stream::plain(socket);
    Came::Goes(match begin(&worker, &connection, &mut stream, address, protocol, mode).await {
        Start::Mesh(MeshAlpn::Http2) if worker.shared.loads.workers() > 1 => {
            let heard = Heard { site: Site::Local { address, protocol }, hello: stream.take_prefix() };
            return match stream.into_socket() {
                Ok(socket) => Came::Shared(Box::new(Carrier { connection, socket, heard })),
                Err(_) => Came::Goes(None),
            };
        }
        // Boxed, being large: a gateway's connections begin in the same room.
        Start::Mesh(_) => boxed(|| mesh(worker, connection, stream, Site::Local { address, protocol })).await,
        Start::Plain(Begun::Http(site, http2)) => http(worker, connection, stream, site, http2, None),
        Start::Plain(Begun::Other(other)) => finish(worker, connection, stream, other),
        Start::Plain(Begun::Left) => None,
    })
}

/// What a connection turned out to be.
enum Start {
    /// Mesh TLS for this protocol, its first bytes in the stream.
    Mesh(MeshAlpn),
    /// Anything else.
    Plain(Begun),
}

/// From the connection to what it speaks.
async fn begin(
    worker: &Worker,
    connection: &Connection,
    stream: &mut Stream,
    address: SocketAddr,
    protocol: AppProtocol,
    mode: InboundMode,
) -> Start {
    let site = Site::Local { address, protocol };
    let to = Destination::Local { address, protocol };
    let timeouts = &worker.shared.timeouts;
    let looked = {
        let looking = pin!(async {
            match mode {
                // The application is not dialled for who may not speak to it, nor where the client must speak first.
                InboundMode::Strict => peek(stream, timeouts.detect).await,
                InboundMode::Permissive if is_http(protocol) => peek(stream, timeouts.detect).await,
                // A declared tcp port is looked at too: mesh TLS is told from the application's own bytes only by looking.
                InboundMode::Permissive => {
                    look(worker, stream, &undeclared(&to), &site, timeouts.silence_inbound).await
                }
            }
        });
        unless_drained(&connection.drain, looking).await
    };
    let Some(peeked) = looked else { return Start::Plain(Begun::Left) };
    worker.telemetry.detected(worker.now().since(connection.opened));
    if let Ok(Peeked::Tls(hello)) = &peeked
        && let Some(alpn) = hello.mesh()
    {
        return Start::Mesh(alpn);
    }
    if mode == InboundMode::Strict {
        // Plaintext, and TLS that proves nothing to us.
        let fault = peeked.err().unwrap_or(FaultKind::DownstreamIdentity);
        return Start::Plain(Begun::Other(Box::new(Other::Refused(to.describe(), fault))));
    }
    Start::Plain(match peeked {
        Ok(Peeked::Left) => Begun::Left,
        Ok(Peeked::Http1 | Peeked::Http2) if protocol == AppProtocol::Tcp => Begun::bytes(to, None, "tcp"),
        Ok(Peeked::Http1) => Begun::Http(site, false),
        Ok(Peeked::Http2) => Begun::Http(site, true),
        Ok(Peeked::Tls(_)) => Begun::bytes(to, None, "tls"),
        // What is no HTTP where HTTP is declared is told so.
        Ok(Peeked::Opaque(_)) if is_http(protocol) => Begun::Http(site, false),
        Ok(Peeked::Opaque(way)) => Begun::bytes(to, way, "tcp"),
        Err(fault) => Begun::refused(worker, to.describe(), fault),
    })
}

/// As the destination, with its protocol left to detection.
fn undeclared(to: &Destination) -> Destination {
    match to {
        Destination::Local { address, .. } => Destination::Local { address: *address, protocol: AppProtocol::Detect },
        Destination::Service(_) | Destination::Passthrough(_) => to.clone(),
    }
}

/// Ends mesh TLS and serves what is inside.
async fn mesh(worker: Rc<Worker>, connection: Rc<Connection>, stream: Stream, site: Site) -> Going {
    let (stream, proven, alpn, until) = shake_hands(&worker, &connection, stream).await?;
    match alpn {
        MeshAlpn::Http1 => http(worker, proven, stream, site, false, Some(until)),
        MeshAlpn::Http2 => http(worker, proven, stream, site, true, Some(until)),
        MeshAlpn::Tcp => bytes(worker, proven, stream, site, until).await,
    }
}

/// The handshake: what is inside, whose it is, what it speaks, and when the peer's certificate expires.
async fn shake_hands(
    worker: &Worker,
    connection: &Connection,
    mut stream: Stream,
) -> Option<(Stream, Rc<Connection>, MeshAlpn, i64)> {
    let hello = stream.take_prefix();
    let socket = stream.into_socket().ok()?;
    match worker.acceptor.accept(socket, &hello).await {
        Ok((tls, peer)) => {
            worker.telemetry.handshake(Side::Downstream, peer.group, peer.resumed);
            let (alpn, until) = (peer.alpn, peer.not_after);
            Some((Stream::tls(tls), Rc::new(connection.proven(worker, peer)), alpn, until))
        }
        Err(error) => {
            worker.telemetry.count(Counter::DownstreamHandshakeFailed);
            if matches!(error, TlsError::Busy) {
                worker.telemetry.count(Counter::HandshakeShed);
            }
            tracing::info!(%error, from = %connection.downstream, "mesh handshake refused");
            let end = crate::tcp::RelayEnd { fault: Some(error.downstream_fault()), ..Default::default() };
            crate::exchange::record_connection(worker, connection, &Upstream::default(), Some("tls"), end);
            None
        }
    }
}

/// Serves the mesh's protocol for bytes. The peer does not choose to be spared what is done to HTTP: only bytes for a port
/// declared as such are carried unread; on any other they are looked at, beside a connection to the application, which
/// may have to speak first.
async fn bytes(worker: Rc<Worker>, connection: Rc<Connection>, mut stream: Stream, site: Site, until: i64) -> Going {
    let Ok(to) = site.locate(&worker).await else { return None };
    if to.protocol() == AppProtocol::Tcp {
        return Some(carry(worker, connection, to, stream, None, "tcp"));
    }
    let looked = {
        let looking = pin!(look(&worker, &mut stream, &to, &site, Duration::ZERO));
        unless_drained(&connection.drain, looking).await
    };
    match looked? {
        Ok(Peeked::Left) => None,
        Ok(Peeked::Http1) => http(worker, connection, stream, site, false, Some(until)),
        Ok(Peeked::Http2) => http(worker, connection, stream, site, true, Some(until)),
        Ok(Peeked::Opaque(_)) if is_http(to.protocol()) => http(worker, connection, stream, site, false, Some(until)),
        Ok(Peeked::Opaque(way)) => Some(carry(worker, connection, to, stream, way, "tcp")),
        Ok(Peeked::Tls(_)) => Some(carry(worker, connection, to, stream, None, "tls")),
        Err(fault) => {
            l4::refuse(&worker, &connection, &to.describe(), stream, fault, None);
            None
        }
    }
}

/// Serves HTTP. A connection on which an identity was proven is drained when the certificate that proved it expires (K6);
/// `until` is that time in Unix seconds.
fn http(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    stream: Stream,
    site: Site,
    http2: bool,
    until: Option<i64>,
) -> Going {
    let expiring = until.map(|until| worker.expiries.watch(worker.shared.clock, until));
    let drain = match &expiring {
        None => connection.drain.clone(),
        Some((expired, _)) => connection.drain.or(Rc::clone(expired)),
    };
    Some(HttpPath { worker, connection, site }.serve(stream, http2, drain, expiring))
}
