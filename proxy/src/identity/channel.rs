//! The way to the control plane: TLS 1.3 on TCP, on which exactly the control plane's SPIFFE ID is accepted.
//!
//! Any workload's SVID chains to the same roots, so the name is checked and not only the chain. Before the first SVID
//! the roots are not known; then the join token's pin says which root the presented chain must lead to, and the trust
//! domain is learned from the certificate that the pinned root vouches for.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use weft_core::identity::spiffe::SpiffeId;

use super::Identity;
use crate::net::dialling;
use crate::tls::{ServerIs, roots};

/// Time for resolving, connecting and the handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A silent control plane is noticed within the sum of both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The control plane's address; makes channels to it.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    address: Arc<str>,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The credentials make no TLS configuration.
    #[error("credentials make no TLS configuration: {0}")]
    Credentials(#[from] rustls::Error),
    /// No connection, or its handshake failed.
    #[error("control plane at {address} cannot be reached: {reason}")]
    Connect {
        /// Host and port.
        address: Arc<str>,
        /// The whole chain of causes.
        reason: String,
    },
    /// Somebody else answers there: the certificate leads to no root that is believed. Times out of their bounds are not
    /// this, since clocks can be wrong.
    #[error("{address} is not the control plane that is meant: {reason}")]
    Stranger {
        /// Host and port.
        address: Arc<str>,
        /// The whole chain of causes.
        reason: String,
    },
}

impl ControlPlane {
    /// `address` is `host:port`.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { address: address.into() }
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its host: a name, or an IP address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host)
    }

    /// A channel on which the control plane is known by the bundle and this proxy by its SVID. Connects now. Dropping
    /// the future leaves nothing behind.
    ///
    /// # Errors
    /// [`DialError`] when the control plane cannot be reached or proves another identity.
    pub async fn dial(&self, identity: &Identity) -> Result<Channel, DialError> {
        let control_plane = SpiffeId::control_plane(identity.bundle.trust_domain.clone());
        let verifier = ServerIs::new(roots(&identity.bundle)?, control_plane);
        let key = SingleCertAndKey::from(Arc::clone(&identity.certified));
        let config = client_config(verifier)?.with_client_cert_resolver(Arc::new(key));
        self.connect(config).await
    }

    /// A channel for joining: the server's chain must hold the root whose SHA-256 is `pin`. No client certificate.
    ///
    /// # Errors
    /// As [`ControlPlane::dial`].
    pub async fn dial_pinned(&self, pin: [u8; 32]) -> Result<Channel, DialError> {
        let config = client_config(ServerIs::control_plane_pinned(pin))?.with_no_client_auth();
        self.connect(config).await
    }

    async fn connect(&self, mut config: ClientConfig) -> Result<Channel, DialError> {
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(config));
        let address = Arc::clone(&self.address);
        let failed = |error: tonic::transport::Error| {
            let (address, reason) = (Arc::clone(&self.address), chain_of_causes(&error));
            if is_of_a_stranger(&error) {
                DialError::Stranger { address, reason }
            } else {
                DialError::Connect { address, reason }
            }
        };
        // The URI is only a label: the connector below dials the address.
        Endpoint::from_static("https://control-plane.weft-system")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector(tower::service_fn(move |_| open(Arc::clone(&address), connector.clone())))
            .await
            .map_err(failed)
    }
}

/// Whether the server's certificate was refused for what it is, not for when it is shown.
fn is_of_a_stranger(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.any(|cause| {
        // An I/O error names the cause of what it wraps, not what it wraps.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = cause.downcast_ref().or_else(|| wrapped.and_then(|wrapped| wrapped.downcast_ref()));
        let Some(rustls::Error::InvalidCertificate(why)) = tls else { return false };
        !matches!(why, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
    })
}

async fn open(
    address: Arc<str>,
    connector: TlsConnector,
) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let tcp = dial_any(&address).await?;
    tcp.set_nodelay(true)?;
    // The name takes no part in verification (the SPIFFE ID does) and is not sent in the clear.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    Ok(TokioIo::new(connector.connect(name, tcp).await?))
}

/// Tries the addresses of a name one after the other.
async fn dial_any(address: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for to in tokio::net::lookup_host(address).await? {
        match dialling(to)?.connect(to).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn client_config(
    verifier: ServerIs,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn chain_of_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
