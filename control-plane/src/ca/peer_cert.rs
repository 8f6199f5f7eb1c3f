//! Reading what a certificate says, after rustls has verified its signatures.
//!
//! SPIFFE X509-SVID section 5.2: the leaf must be no signing certificate and have exactly one URI SAN, a SPIFFE ID. A
//! chain that verifies is not enough: the trust domain must be the one whose roots verified it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use weft_core::identity::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::api::peer::PeerSvid;

/// Why a certificate is no SVID of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertError {
    /// Not a certificate.
    #[error("certificate cannot be parsed")]
    Malformed,
    /// It may sign others.
    #[error("certificate is a signing certificate, not an SVID")]
    Signing,
    /// No or several names, or one that is not a URI.
    #[error("certificate must have exactly one subject alternative name, a URI")]
    Names,
    /// The URI is not a SPIFFE ID of ours.
    #[error("certificate's URI is refused: {0}")]
    SpiffeId(#[from] SpiffeError),
    /// Of somebody else's mesh.
    #[error("certificate is of trust domain {0}, not ours")]
    TrustDomain(TrustDomain),
    /// Expired or not yet valid.
    #[error("certificate is not valid now")]
    Time,
}

/// The identity that a verified leaf proves at `now`.
///
/// # Errors
/// [`PeerCertError`].
pub fn peer_svid(leaf: &CertificateDer<'_>, ours: &TrustDomain, now: SystemTime) -> Result<PeerSvid, PeerCertError> {
    let (_rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| PeerCertError::Malformed)?;
    if certificate.is_ca() {
        return Err(PeerCertError::Signing);
    }
    let spiffe_id = SpiffeId::parse(&only_uri(&certificate)?)?;
    if spiffe_id.trust_domain() != ours {
        return Err(PeerCertError::TrustDomain(spiffe_id.trust_domain().clone()));
    }
    let (not_before, not_after) = validity(&certificate);
    if now < not_before || now >= not_after {
        return Err(PeerCertError::Time);
    }
    Ok(PeerSvid { spiffe_id, not_after })
}

/// The one URI SAN.
pub(crate) fn only_uri(certificate: &X509Certificate<'_>) -> Result<String, PeerCertError> {
    let names = certificate.subject_alternative_name().ok().flatten().ok_or(PeerCertError::Names)?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Ok((*uri).to_owned()),
        _ => Err(PeerCertError::Names),
    }
}

/// From when until when.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()))
}
