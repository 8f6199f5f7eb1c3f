//! Mutual TLS as the other sidecar would speak it, on blocking sockets.

use std::net::TcpStream;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::LoadArgs;

/// A connection that is encrypted once it is used.
pub(super) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// What all connections of the client share. X25519 alone, because not all peers know the hybrid groups; no resumption,
/// because full handshakes are what is measured.
pub(super) fn config(args: &LoadArgs) -> anyhow::Result<Arc<ClientConfig>> {
    let file = |name: &str| args.identity.join(name);
    let chain = CertificateDer::pem_file_iter(file("client.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(file("client.key"))?;
    let provider =
        Arc::new(CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() });
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![args.alpn.as_bytes().to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

pub(super) fn connect(stream: TcpStream, config: &Arc<ClientConfig>) -> anyhow::Result<TlsStream> {
    let name = ServerName::try_from("bench.default").context("the server's name")?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, stream))
}

/// The client's own work is not what is measured, so it does not look at certificates.
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
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
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
