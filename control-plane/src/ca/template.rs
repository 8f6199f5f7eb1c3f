//! What our certificates contain.
//!
//! SPIFFE X509-SVID: a leaf has exactly one URI SAN and no meaning in its subject, which therefore stays empty; a
//! signing certificate names its trust domain by a SPIFFE ID without path (section 3.1, 4.1-4.4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use weft_core::identity::spiffe::{SpiffeId, TrustDomain};

use super::CaError;

/// How far NotBefore lies back: the clocks of two machines may differ by that much.
pub(crate) const BACKDATE: Duration = Duration::from_secs(120);

/// Life of an SVID.
pub(crate) const SVID_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Life of an issuing certificate.
pub(crate) const ISSUING_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Life of a root.
pub(crate) const ROOT_LIFE: Duration = Duration::from_secs(3652 * 24 * 3600);

/// A root or an issuing certificate. `below` is how many signing certificates may follow.
pub(crate) fn signing(
    domain: &TrustDomain,
    name: &str,
    below: u8,
    from: SystemTime,
    to: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = base(from, to)?;
    params.distinguished_name.push(DnType::OrganizationName, "Weft");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A leaf.
pub(crate) fn svid(id: &SpiffeId, from: SystemTime, to: SystemTime) -> Result<CertificateParams, CaError> {
    let mut params = base(from, to)?;
    params.subject_alt_names = vec![uri(&id.to_string())?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn base(from: SystemTime, to: SystemTime) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(to);
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 127 random bits, positive and never zero (RFC 5280 section 4.1.2.2).
fn serial() -> Result<[u8; 16], CaError> {
    let mut serial = random::<16>()?;
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(serial)
}

/// Fresh random bytes of the quality of keys.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_unspecified| CaError::Signing { detail: "no random numbers".to_owned() })?;
    Ok(bytes)
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into()?))
}

/// Whole seconds since the epoch, as certificates count.
fn since_epoch(time: SystemTime) -> Duration {
    Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
