//! The whole control plane in this process, with real sockets and TLS. Every refusal stands beside the same call with the
//! right credentials.

mod backup;
mod doors;
mod identity;
mod registry;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::{TcpSocket, UnixStream};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use weft_core::identity::join_token::JoinToken;
use weft_core::identity::spiffe::TrustDomain;
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::operator_client::OperatorClient;
use weft_proto::v1::{CreateTokenRequest, IssueRequest, IssueResponse};

use super::*;
use crate::bootstrap::{Cli, Command};
use crate::ca::peer_cert::peer_svid;
use crate::shutdown::{self, Trigger};
use clap::Parser as _;

/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// A control plane of this test.
struct Mesh {
    plane: Plane,
    listen: SocketAddr,
    status: SocketAddr,
    socket: PathBuf,
    trigger: Trigger,
    serving: JoinHandle<anyhow::Result<()>>,
}

/// A key and a certificate chain for the client's side of a handshake.
#[derive(Clone)]
struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key_der: Vec<u8>,
}

fn args(directory: &Path) -> ServeArgs {
    let line = ["weft-control-plane", "serve", "--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"];
    let line = line.iter().chain(&["--mesh-range", "10.0.0.0/8"]);
    let socket = directory.join("run/control.sock");
    let state = directory.join("state");
    let paths = ["--socket", socket.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
    let Command::Serve(args) = Cli::try_parse_from(line.chain(&paths)).unwrap().command else { panic!("not serve") };
    *args
}

impl Mesh {
    async fn start(directory: &Path) -> Self {
        Self::try_start(directory).await.unwrap()
    }

    async fn try_start(directory: &Path) -> anyhow::Result<Self> {
        let (trigger, shutdown) = shutdown::channel();
        let running = start(args(directory), shutdown).await?;
        Ok(Self {
            plane: running.plane.clone(),
            listen: running.listen,
            status: running.status_listen,
            socket: running.socket.clone(),
            trigger,
            serving: tokio::spawn(running.finished()),
        })
    }

    async fn stop(self) {
        self.trigger.pull();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("an end").unwrap().unwrap();
    }

    async fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.operators_channel().await)
    }

    async fn operators_channel(&self) -> Channel {
        let path = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://socket").connect_with_connector(connect).await.unwrap()
    }

    /// A join token for ns shop, service account cart.
    async fn token(&self, uses: u32) -> JoinToken {
        let request =
            CreateTokenRequest { namespace: "shop".into(), service_account: "cart".into(), ttl_seconds: 0, uses };
        let made = self.operator().await.create_token(request).await.unwrap().into_inner();
        let token: JoinToken = made.join_token.parse().unwrap();
        assert_eq!(*token.root_sha256(), self.plane.authority.root_sha256());
        token
    }

    /// A connection as a proxy makes it, or why there is none.
    async fn try_connect(&self, credentials: Option<&Credentials>, from: [u8; 4]) -> Result<Channel, String> {
        let verifier = Arc::new(ControlPlaneOnly::new(self.plane.authority.root_sha256()));
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match credentials {
            Some(Credentials { chain, key_der }) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_der.clone()));
                config.with_client_auth_cert(chain.clone(), key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let listen = self.listen;
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let socket = TcpSocket::new_v4()?;
                socket.bind((IpAddr::from(from), 0).into())?;
                let tcp = socket.connect(listen).await?;
                let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
                std::io::Result::Ok(TokioIo::new(connector.connect(name, tcp).await?))
            }
        });
        let endpoint = Endpoint::from_static("https://control-plane");
        endpoint.connect_with_connector(connect).await.map_err(|error| format!("{error:?}"))
    }

    async fn connect(&self, credentials: Option<&Credentials>) -> IdentityClient<Channel> {
        IdentityClient::new(self.try_connect(credentials, [127, 0, 0, 1]).await.unwrap())
    }

    /// Joins with a new token; the key and certificate of ns shop, service account cart.
    async fn join(&self) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let request = IssueRequest { csr_der: csr(&key, &[]), join_token: self.token(1).await.secret().to_owned() };
        let issued = self.connect(None).await.issue(request).await.unwrap().into_inner();
        credentials(&key, &issued)
    }
}

fn csr(key: &KeyPair, uris: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn credentials(key: &KeyPair, issued: &IssueResponse) -> Credentials {
    let chain = issued.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    Credentials { chain, key_der: key.serialize_der() }
}

fn code<T>(result: Result<T, Status>) -> Result<T, Code> {
    result.map_err(|status| status.code())
}

/// What a joining proxy demands: a chain that leads to the pinned root, and the control plane's name.
#[derive(Debug)]
struct ControlPlaneOnly {
    pin: [u8; 32],
}

impl ControlPlaneOnly {
    fn new(pin: [u8; 32]) -> Self {
        Self { pin }
    }
}

impl ServerCertVerifier for ControlPlaneOnly {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |certificate: &&CertificateDer<'_>| {
            ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, certificate).as_ref() == self.pin
        };
        let root = intermediates.iter().find(pinned).ok_or_else(|| rustls::Error::General("no pinned root".into()))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms.all)?;
        let domain = TrustDomain::new("cluster.local").unwrap();
        let svid = peer_svid(leaf, &domain, SystemTime::now()).unwrap();
        assert_eq!(svid.spiffe_id.to_string(), "spiffe://cluster.local/ns/weft-system/sa/control-plane");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
