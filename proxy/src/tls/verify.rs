//! Chain and name of a peer. The chain must lead to a root of the one trust domain that the bundle is for, and the name
//! must be of that trust domain: a bundle vouches for no other.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use weft_core::identity::spiffe::{SpiffeId, TrustDomain};

use super::verified::Verified;
use crate::identity::Bundle;
use crate::identity::leaf::Leaf;

/// The roots of a bundle in the library's form.
pub(crate) fn roots(bundle: &Bundle) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    for root in &bundle.roots {
        store.add(root.clone())?;
    }
    Ok(Arc::new(store))
}

/// A peer's certificate is genuine and names the wrong somebody.
#[derive(Debug)]
struct WrongName(String);

impl fmt::Display for WrongName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongName {}

fn wrong_name(text: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(WrongName(text)))))
}

/// Whether a handshake failed because of who the peer is, rather than how it speaks.
pub(super) fn is_identity_error(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented))
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

/// What makes a root believable.
#[derive(Debug)]
enum Roots {
    Of(Arc<RootCertStore>),
    /// The certificate of the presented chain that has this SHA-256.
    Pinned([u8; 32]),
}

/// Accepts exactly one identity.
#[derive(Debug)]
pub(crate) struct ServerIs {
    roots: Roots,
    /// `None`: the control plane of whatever trust domain the pinned root vouches for.
    expected: Option<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
    verified: Verified,
}

impl ServerIs {
    /// Who proves `expected` by a chain to one of these roots.
    pub(crate) fn new(roots: Arc<RootCertStore>, expected: SpiffeId) -> Self {
        Self {
            roots: Roots::Of(roots),
            expected: Some(expected),
            algorithms: algorithms(),
            verified: Verified::default(),
        }
    }

    /// The control plane whose chain leads to the root with this SHA-256; its trust domain is not known yet.
    pub(crate) fn control_plane_pinned(root_sha256: [u8; 32]) -> Self {
        Self {
            roots: Roots::Pinned(root_sha256),
            expected: None,
            algorithms: algorithms(),
            verified: Verified::default(),
        }
    }

    fn roots(&self, presented: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        let pin = match &self.roots {
            Roots::Of(roots) => return Ok(Arc::clone(roots)),
            Roots::Pinned(pin) => pin,
        };
        let pinned = presented.iter().find(|certificate| crate::identity::sha256(certificate) == *pin);
        let mut store = RootCertStore::empty();
        store.add(pinned.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?.clone().into_owned())?;
        Ok(Arc::new(store))
    }
}

impl ServerCertVerifier for ServerIs {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = || {
            let roots = self.roots(intermediates)?;
            let parsed = ParsedCertificate::try_from(end_entity)?;
            verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, self.algorithms.all)?;
            let leaf = Leaf::parse(end_entity).map_err(|error| wrong_name(error.to_string()))?;
            let control_plane = || SpiffeId::control_plane(leaf.id.trust_domain().clone());
            let expected = self.expected.clone().unwrap_or_else(control_plane);
            if leaf.id != expected {
                return Err(wrong_name(format!("peer is {}, expected {expected}", leaf.id)));
            }
            Ok(())
        };
        self.verified.or_else(end_entity, intermediates, now, verify)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts any SVID of one trust domain, and nobody without one.
#[derive(Debug)]
pub(super) struct ClientOf {
    trust_domain: TrustDomain,
    chain: Arc<dyn ClientCertVerifier>,
    verified: Verified,
}

impl ClientOf {
    pub(super) fn new(roots: Arc<RootCertStore>, trust_domain: TrustDomain) -> Result<Self, Error> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(aws_lc_rs::default_provider()))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { trust_domain, chain, verified: Verified::default() })
    }
}

impl ClientCertVerifier for ClientOf {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A peer has one identity; hints would only lengthen the handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verify = || {
            self.chain.verify_client_cert(end_entity, intermediates, now)?;
            let leaf = Leaf::parse(end_entity).map_err(|error| wrong_name(error.to_string()))?;
            if *leaf.id.trust_domain() != self.trust_domain {
                return Err(wrong_name(format!("peer is {}, not of trust domain {}", leaf.id, self.trust_domain)));
            }
            Ok(())
        };
        self.verified.or_else(end_entity, intermediates, now, verify)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
