//! Handshakes over real sockets: the right peer gets in, every wrong one does not, resumed or not.

mod stream;

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use weft_core::detect::MeshAlpn;
use weft_core::fault::FaultKind;
use weft_core::identity::spiffe::{SpiffeId, TrustDomain};

use super::{Acceptor, Connector, MeshPeer, TlsError};
use crate::clock::Clock;
use crate::identity::{Bundle, Identity};

pub(crate) const CART: &str = "spiffe://a/ns/shop/sa/cart";
pub(crate) const WEB: &str = "spiffe://a/ns/shop/sa/web";
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Authority {
    bundle: Arc<Bundle>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let bundle = Bundle {
            trust_domain: TrustDomain::new(trust_domain).unwrap(),
            roots: vec![root.der().clone()],
            generation: 1,
        };
        Self { bundle: Arc::new(bundle), issuer: Issuer::new(params, key) }
    }

    /// An identity whose leaf says `uris` and is valid `life` seconds from now on.
    pub(crate) fn identity(&self, id: &str, uris: &[&str], life: i64) -> Arc<Identity> {
        let names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        self.signed(id, names, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth], life)
    }

    fn signed(&self, id: &str, names: Vec<SanType>, usages: &[ExtendedKeyUsagePurpose], life: i64) -> Arc<Identity> {
        let key = KeyPair::generate().unwrap();
        let now = Clock::start().unix_seconds();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.extended_key_usages = usages.to_vec();
        params.not_before = ::time::OffsetDateTime::from_unix_timestamp(now - 120).unwrap();
        params.not_after = ::time::OffsetDateTime::from_unix_timestamp(now + life).unwrap();
        let leaf: CertificateDer<'static> = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing =
            rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(private.clone_key()).unwrap();
        Arc::new(Identity {
            id: SpiffeId::parse(id).unwrap(),
            certified: Arc::new(CertifiedKey::new(vec![leaf], signing)),
            private_key: Arc::new(private),
            bundle: Arc::clone(&self.bundle),
            not_before: now - 120,
            // Claimed to be long, so that the library's and not only our own check is met.
            not_after: now + 3600,
        })
    }
}

struct Pair {
    acceptor: Acceptor,
    connector: Connector,
}

impl Pair {
    fn new(server: Arc<Identity>, client: Arc<Identity>) -> Self {
        let clock = Clock::start();
        let watch = |identity| watch::channel(Some(identity)).1;
        Self {
            acceptor: Acceptor::new(watch(server), clock, PATIENCE, std::rc::Rc::default()),
            connector: Connector::new(watch(client), clock, PATIENCE, std::rc::Rc::default()),
        }
    }

    /// One handshake and one byte each way: what each side says, and whether the session was resumed.
    async fn shake(&self, expected: &str) -> (Result<MeshPeer, TlsError>, Result<(MeshPeer, bool), TlsError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            // As after detection: a part of the hello has been read already.
            let mut hello = vec![0; 100];
            socket.read_exact(&mut hello).await?;
            let (mut stream, peer) = self.acceptor.accept(socket, &hello).await?;
            stream.write_all(b"s").await?;
            stream.flush().await?;
            stream.read_u8().await?;
            Ok(peer)
        };
        let client = async {
            let socket = TcpStream::connect(address).await.unwrap();
            let expected = SpiffeId::parse(expected).unwrap();
            let (mut stream, peer) = self.connector.connect(socket, &expected, MeshAlpn::Http1).await?;
            // In TLS 1.3 the client learns of a refusal only with the server's next bytes.
            stream.read_u8().await?;
            stream.write_all(b"c").await?;
            stream.flush().await?;
            let resumed = peer.resumed;
            Ok((peer, resumed))
        };
        tokio::join!(server, client)
    }
}

#[tokio::test]
async fn the_right_peer_gets_in_and_resumes() {
    let authority = Authority::new("a");
    let pair = Pair::new(authority.identity(CART, &[CART], 600), authority.identity(WEB, &[WEB], 600));
    for resumed in [false, true] {
        let (server, client) = pair.shake(CART).await;
        let (server, client) = (server.unwrap(), client.unwrap());
        assert_eq!((server.id.to_string().as_str(), server.alpn), (WEB, MeshAlpn::Http1));
        assert_eq!(client.0.id.to_string(), CART);
        assert_eq!((server.group, client.0.group), ("X25519MLKEM768", "X25519MLKEM768"));
        assert_eq!(client.1, resumed);
    }
}

#[tokio::test]
async fn wrong_servers_are_refused() {
    let (authority, stranger, other) = (Authority::new("a"), Authority::new("a"), Authority::new("b"));
    let web = || authority.identity(WEB, &[WEB], 600);
    let check = async |server: Arc<Identity>, fault: FaultKind| {
        let (_, client) = Pair::new(server, web()).shake(CART).await;
        assert_eq!(client.unwrap_err().upstream_fault(), fault);
    };
    check(stranger.identity(CART, &[CART], 600), FaultKind::UpstreamIdentity).await;
    check(other.identity(CART, &["spiffe://b/ns/shop/sa/cart"], 600), FaultKind::UpstreamIdentity).await;
    check(authority.identity(WEB, &[WEB], 600), FaultKind::UpstreamIdentity).await;
    check(authority.identity(CART, &[CART, WEB], 600), FaultKind::UpstreamIdentity).await;
    check(authority.identity(CART, &[CART], -10), FaultKind::UpstreamIdentity).await;
    let foreign = Pair::new(authority.identity(CART, &[CART], 600), web()).shake("spiffe://b/ns/shop/sa/cart").await;
    drop(foreign.0);
    assert_eq!(foreign.1.unwrap_err().upstream_fault(), FaultKind::UpstreamIdentity);
}

/// Envoy took certificates that were issued for something else.
#[tokio::test]
async fn cve_2022_21657_leaves_of_another_purpose_are_refused() {
    let authority = Authority::new("a");
    let uri = |id: &str| vec![SanType::URI(id.try_into().unwrap())];
    let only = |id: &str, usage| authority.signed(id, uri(id), &[usage], 600);
    let (cart, web) = (authority.identity(CART, &[CART], 600), authority.identity(WEB, &[WEB], 600));
    let (server, _) = Pair::new(Arc::clone(&cart), only(WEB, ExtendedKeyUsagePurpose::ServerAuth)).shake(CART).await;
    assert_eq!(server.unwrap_err().downstream_fault(), FaultKind::DownstreamIdentity);
    for usage in [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::EmailProtection] {
        let (_, client) = Pair::new(only(CART, usage), Arc::clone(&web)).shake(CART).await;
        assert_eq!(client.unwrap_err().upstream_fault(), FaultKind::UpstreamIdentity);
    }
}

/// Envoy compared a name of one kind with what was expected of another.
#[tokio::test]
async fn cve_2022_21656_names_of_another_kind_are_no_identity() {
    let authority = Authority::new("a");
    let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    for name in [SanType::DnsName(WEB.try_into().unwrap()), SanType::Rfc822Name(WEB.try_into().unwrap())] {
        let client = authority.signed(WEB, vec![name], &both, 600);
        let (server, _) = Pair::new(authority.identity(CART, &[CART], 600), client).shake(CART).await;
        assert_eq!(server.unwrap_err().downstream_fault(), FaultKind::DownstreamIdentity);
    }
}

#[tokio::test]
async fn wrong_clients_are_refused() {
    let (authority, stranger) = (Authority::new("a"), Authority::new("a"));
    let check = async |client: Arc<Identity>| {
        let (server, client) = Pair::new(authority.identity(CART, &[CART], 600), client).shake(CART).await;
        assert_eq!(server.unwrap_err().downstream_fault(), FaultKind::DownstreamIdentity);
        assert!(client.is_err());
    };
    let mut self_made = (*stranger.identity(WEB, &[WEB], 600)).clone();
    self_made.bundle = Arc::clone(&authority.bundle);
    check(Arc::new(self_made)).await;
    check(authority.identity(WEB, &["spiffe://b/ns/shop/sa/web"], 600)).await;
    check(authority.identity(WEB, &[WEB, CART], 600)).await;
    check(authority.identity(WEB, &[], 600)).await;
    check(authority.identity(WEB, &[WEB], -10)).await;
}

#[tokio::test]
async fn without_a_valid_identity_nothing_is_opened_or_accepted() {
    let authority = Authority::new("a");
    let mut expired = (*authority.identity(WEB, &[WEB], -10)).clone();
    expired.not_after = Clock::start().unix_seconds() - 10;
    let pair = Pair::new(authority.identity(CART, &[CART], 600), Arc::new(expired));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let outcome = pair.connector.connect(socket, &SpiffeId::parse(CART).unwrap(), MeshAlpn::Tcp).await;
    assert!(matches!(outcome, Err(TlsError::NoIdentity)));
    let (mut accepted, _) = listener.accept().await.unwrap();
    assert_eq!(accepted.read(&mut [0; 10]).await.unwrap(), 0, "not one byte was sent");
}

#[tokio::test]
async fn a_session_does_not_outlive_the_peers_certificate() {
    let authority = Authority::new("a");
    let pair = Pair::new(authority.identity(CART, &[CART], 3), authority.identity(WEB, &[WEB], 3));
    let (server, client) = pair.shake(CART).await;
    server.unwrap();
    client.unwrap();
    let clock = Clock::start();
    let expiry = clock.unix_seconds() + 4;
    while clock.unix_seconds() <= expiry {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (server, client) = pair.shake(CART).await;
    assert!(server.is_err() && client.is_err());
}
