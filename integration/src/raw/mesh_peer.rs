//! An authenticated peer: mutual TLS as between sidecars, with the client proxy's own identity.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Speaks as the client's sidecar, whose identity is in `directory` (that of a [`super::Pair`]), and offers one protocol of
/// the mesh, `weft-h1/1` or `weft-h2/1`. Cancelling closes.
///
/// # Errors
/// There is no such identity, or the other side refuses it.
pub async fn mesh_peer(stream: TcpStream, directory: &Path, protocol: &str) -> anyhow::Result<TlsStream<TcpStream>> {
    mesh_peer_as(stream, directory, "client", protocol).await
}

/// As [`mesh_peer`], with the identity in `NAME.pem` and `NAME.key`.
///
/// # Errors
/// As [`mesh_peer`].
pub async fn mesh_peer_as(
    stream: TcpStream,
    directory: &Path,
    name: &str,
    protocol: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let config = mesh_config(directory, name, protocol, rustls::crypto::aws_lc_rs::default_provider())?;
    let name = ServerName::try_from("weft.invalid")?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("the handshake")
}

/// What such a peer has: the identity in `NAME.pem` and `NAME.key`, one protocol, and no interest in the server's own
/// certificate: attackers do not care whom they attack, and a load generator's work is not what is measured.
///
/// # Errors
/// There is no such identity.
pub fn mesh_config(
    directory: &Path,
    name: &str,
    protocol: &str,
    provider: CryptoProvider,
) -> anyhow::Result<ClientConfig> {
    let file = |ending: &str| directory.join(format!("{name}.{ending}"));
    let chain = CertificateDer::pem_file_iter(file("pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(file("key"))?;
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Ok(config)
}

/// Takes every certificate.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("sidecars speak TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
