//! Reads what an SVID says, strictly (X.509-SVID specification, sections 2 to 4).

use rustls::pki_types::CertificateDer;
use weft_core::identity::spiffe::{SpiffeError, SpiffeId};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its one URI SAN.
    pub id: SpiffeId,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

/// Why a certificate is no SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Not one whole X.509 certificate.
    #[error("certificate is not well-formed X.509")]
    Malformed,
    /// A CA certificate cannot be a leaf.
    #[error("certificate is a CA's")]
    Authority,
    /// An SVID has exactly one URI SAN.
    #[error("certificate has {0} URI names where exactly one is needed")]
    UriNames(usize),
    /// The URI is no SPIFFE ID of the mesh's shape.
    #[error("certificate's name is refused: {0}")]
    Name(#[from] SpiffeError),
    /// Now lies outside the validity.
    #[error("certificate is valid from {not_before} to {not_after} and now is {now} (Unix seconds); check both clocks")]
    Validity {
        /// The local clock.
        now: i64,
        /// Start of validity.
        not_before: i64,
        /// End of validity.
        not_after: i64,
    },
}

impl Leaf {
    /// Reads a certificate. Signature, chain and extended key usage are the TLS library's to check.
    ///
    /// # Errors
    /// Any [`LeafError`] but `Validity`.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| LeafError::Malformed)?;
        if !rest.is_empty() {
            return Err(LeafError::Malformed);
        }
        if parsed.is_ca() {
            return Err(LeafError::Authority);
        }
        let names = parsed.subject_alternative_name().map_err(|_| LeafError::Malformed)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        let [uri] = uris.as_slice() else {
            return Err(LeafError::UriNames(uris.len()));
        };
        Ok(Self {
            id: SpiffeId::parse(uri)?,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            public_key: parsed.public_key().raw.to_vec(),
        })
    }

    /// Whether the certificate is valid at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`LeafError::Validity`] with all three times.
    pub fn check_validity(&self, now: i64) -> Result<(), LeafError> {
        if now < self.not_before || now > self.not_after {
            return Err(LeafError::Validity { now, not_before: self.not_before, not_after: self.not_after });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn exactly_one_uri_is_believed() {
        let check = |uris: &[&str], expected: Result<&str, LeafError>| {
            let read = Leaf::parse(&certificate(uris)).map(|leaf| leaf.id.to_string());
            assert_eq!(read, expected.map(str::to_owned), "{uris:?}");
        };
        let cart = "spiffe://a/ns/shop/sa/cart";
        check(&[cart], Ok(cart));
        check(&[], Err(LeafError::UriNames(0)));
        check(&[cart, "spiffe://a/ns/shop/sa/other"], Err(LeafError::UriNames(2)));
        check(&["https://a/"], Err(LeafError::Name(SpiffeError::Scheme)));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = certificate(&["spiffe://a/ns/shop/sa/cart"]);
        for length in 0..whole.len() {
            let cut = CertificateDer::from(whole[..length].to_vec());
            assert_eq!(Leaf::parse(&cut), Err(LeafError::Malformed), "{length}");
        }
    }

    #[test]
    fn validity_includes_both_ends() {
        let leaf =
            Leaf { not_before: 10, not_after: 20, ..Leaf::parse(&certificate(&["spiffe://a/ns/b/sa/c"])).unwrap() };
        assert_eq!([9, 10, 20, 21].map(|now| leaf.check_validity(now).is_ok()), [false, true, true, false]);
    }
}
