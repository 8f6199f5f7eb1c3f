//! The door on 15012: TLS 1.3 and HTTP/2, client certificates optional but, if presented, ours and valid.
//!
//! Handshakes run beside each other, outside of the accept loop, each with a deadline; a slow client delays nobody. A
//! caller without a certificate can only want one, so its connection ends after a minute. Handshakes, callers without
//! and callers with a certificate have bounds of their own: who proved nothing cannot take the place of who did. Of each
//! a single source, or identity at a source, has a share: none can keep all others out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_core::identity::spiffe::{SpiffeId, TrustDomain};

use super::connection::{Connection, Places};
use super::own_certificate::OwnCertificate;
use super::shares::{Share, Shares, aggregate};
use crate::api::peer::{Peer, PeerAddr, PeerSvid};
use crate::ca::Authority;
use crate::ca::peer_cert::peer_svid;
use crate::metrics::Counter;

/// Connections with a client certificate at once. A proxy holds three; beyond this, new ones are closed.
pub const CONNECTIONS_MAX: usize = 30_000;

/// Of those, of one identity at one address; many replicas may stand behind one address translation.
pub const CONNECTIONS_PER_IDENTITY_MAX: usize = 1000;

/// Connections without a client certificate at once; beyond this, new ones are closed.
pub const ANONYMOUS_MAX: usize = 1000;

/// Of those, of one address (or /64 of IPv6).
pub const ANONYMOUS_PER_SOURCE_MAX: usize = 100;

/// Handshakes at once; beyond this, new connections wait in the kernel's queue.
pub const HANDSHAKES_MAX: usize = 1000;

/// Of those, of one address (or /64 of IPv6); beyond this, new ones are closed.
pub const HANDSHAKES_PER_SOURCE_MAX: usize = 100;

/// Time for a handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a caller without a certificate may stay connected.
pub const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);

/// Pause after a failed accept, for example when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Finished handshakes that may wait to be served.
const READY_MAX: usize = 64;

/// A connection that came through this door.
pub type TlsConnection = Connection<TlsStream<TcpStream>>;

/// What happened at the door so far.
#[derive(Debug, Default)]
pub struct TlsCounts {
    /// Connections accepted.
    pub accepted: Counter,
    /// Handshakes that failed or took too long.
    pub handshakes_failed: Counter,
    /// Certificates that verified but are no SVID of ours.
    pub certificates_refused: Counter,
    /// Closed because of a bound on connections, or of a share in one.
    pub beyond_bound: Counter,
}

/// The door.
#[derive(Clone)]
pub struct TlsDoor {
    acceptor: TlsAcceptor,
    domain: TrustDomain,
    counts: Arc<TlsCounts>,
    handshakes: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    handshakes_of_source: Arc<Shares<IpAddr>>,
    anonymous_of_source: Arc<Shares<IpAddr>>,
    connections_of_identity: Arc<Shares<(SpiffeId, IpAddr)>>,
    handshake_timeout: Duration,
}

impl std::fmt::Debug for TlsDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsDoor").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl TlsDoor {
    /// A door that presents `own` and takes client certificates of `authority`.
    ///
    /// # Errors
    /// When rustls does not accept the root.
    pub fn new(authority: &Authority, own: Arc<OwnCertificate>, counts: Arc<TlsCounts>) -> io::Result<Self> {
        let config = server_config(authority, own).map_err(io::Error::other)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            domain: authority.domain().clone(),
            counts,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            anonymous: Arc::new(Semaphore::new(ANONYMOUS_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            handshakes_of_source: Shares::new(HANDSHAKES_PER_SOURCE_MAX),
            anonymous_of_source: Shares::new(ANONYMOUS_PER_SOURCE_MAX),
            connections_of_identity: Shares::new(CONNECTIONS_PER_IDENTITY_MAX),
            handshake_timeout: HANDSHAKE_TIMEOUT,
        })
    }

    /// Connections open now: in their handshake, without a client certificate, with one.
    #[must_use]
    pub fn open(&self) -> [usize; 3] {
        let taken = |max: usize, bound: &Semaphore| max.saturating_sub(bound.available_permits());
        [
            taken(HANDSHAKES_MAX, &self.handshakes),
            taken(ANONYMOUS_MAX, &self.anonymous),
            taken(CONNECTIONS_MAX, &self.connections),
        ]
    }

    /// Accepts on `listener` until the receiver is dropped.
    #[must_use]
    pub fn accept(&self, listener: TcpListener) -> mpsc::Receiver<io::Result<TlsConnection>> {
        let (ready, receiver) = mpsc::channel(READY_MAX);
        let door = self.clone();
        tokio::spawn(async move { door.accept_loop(listener, ready).await });
        receiver
    }

    async fn accept_loop(self, listener: TcpListener, ready: mpsc::Sender<io::Result<TlsConnection>>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            match accepted {
                Ok((tcp, addr)) => {
                    self.counts.accepted.increment();
                    let Some(share) = self.handshakes_of_source.take(aggregate(addr.ip())) else {
                        self.counts.beyond_bound.increment();
                        tracing::debug!(peer = %addr, "refused a connection: too many handshakes of this address");
                        continue;
                    };
                    // At the bound this one waits here and the next ones in the kernel. The semaphore is never closed.
                    let Ok(permit) = Arc::clone(&self.handshakes).acquire_owned().await else { return };
                    let (door, ready) = (self.clone(), ready.clone());
                    tokio::spawn(async move { door.shake_hands(tcp, addr, (permit, share), ready).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn shake_hands(
        self,
        tcp: TcpStream,
        addr: SocketAddr,
        shaking: (OwnedSemaphorePermit, Share<IpAddr>),
        ready: mpsc::Sender<io::Result<TlsConnection>>,
    ) {
        let handshake = async {
            tcp.set_nodelay(true)?;
            self.acceptor.accept(tcp).await
        };
        let failed = match tokio::time::timeout(self.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                drop(shaking);
                if let Some(connection) = self.admit(stream, addr) {
                    // A closed receiver means that the process ends.
                    drop(ready.send(Ok(connection)).await);
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "took too long".to_owned(),
        };
        self.counts.handshakes_failed.increment();
        tracing::info!(peer = %addr, error = %failed, "refused a TLS handshake");
    }

    /// Reads who is there. The chain is verified; what it says is not yet.
    fn admit(&self, stream: TlsStream<TcpStream>, addr: SocketAddr) -> Option<TlsConnection> {
        let now = SystemTime::now();
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let svid = match leaf.map(|leaf| peer_svid(leaf, &self.domain, now)).transpose() {
            Ok(svid) => svid,
            Err(error) => {
                self.counts.certificates_refused.increment();
                tracing::warn!(peer = %addr, %error, "refused a client certificate");
                return None;
            }
        };
        let Some(places) = self.places(svid.as_ref(), aggregate(addr.ip())) else {
            self.counts.beyond_bound.increment();
            tracing::warn!(peer = %addr, known = svid.is_some(), "refused a connection: too many are open");
            return None;
        };
        let left = svid.as_ref().map_or(ANONYMOUS_LIFE, |svid| svid.not_after.duration_since(now).unwrap_or_default());
        let peer = Peer { svid, local_operator: false, addr: PeerAddr::Tcp(addr) };
        Some(Connection::new(stream, peer, Some(left), places))
    }
}

impl TlsDoor {
    fn places(&self, svid: Option<&PeerSvid>, source: IpAddr) -> Option<Places> {
        let bound = if svid.is_some() { &self.connections } else { &self.anonymous };
        let mut places = Places::from(Arc::clone(bound).try_acquire_owned().ok()?);
        match svid {
            Some(svid) => {
                places.of_identity = Some(self.connections_of_identity.take((svid.spiffe_id.clone(), source))?);
            }
            None => places.of_source = Some(self.anonymous_of_source.take(source)?),
        }
        Some(places)
    }
}

fn server_config(
    authority: &Authority,
    own: Arc<OwnCertificate>,
) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the verification of the client; connections here are few and long.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// A silent client is cut off, gives its share back, and does not keep others from being accepted.
    #[tokio::test]
    async fn a_stalled_handshake_ends() {
        let directory = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let authority = Arc::new(Authority::open(directory.path(), &domain, false, SystemTime::now()).unwrap());
        let own = Arc::new(OwnCertificate::new(Arc::clone(&authority), SystemTime::now()).unwrap());
        let counts = Arc::new(TlsCounts::default());
        let mut door = TlsDoor::new(&authority, own, Arc::clone(&counts)).unwrap();
        door.handshake_timeout = Duration::from_millis(50);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let _connections = door.accept(listener);
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        for stream in &mut silent {
            let ended = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0])).await;
            assert_eq!(ended.unwrap().unwrap(), 0);
        }
        assert_eq!(counts.accepted.value(), 3);
        let given_back = async {
            while door.open() != [0, 0, 0] || counts.handshakes_failed.value() < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), given_back).await.unwrap();
    }
}
