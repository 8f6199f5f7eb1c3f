//! What a certificate signing request may ask for: its own key, and at most the identity that its sender proved.
//!
//! PKCS#10 (RFC 2986). The self-signature proves that the sender holds the private key. One kind of key is taken, ECDSA
//! on P-256, so that every handshake in the mesh costs the same.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use weft_core::identity::spiffe::SpiffeId;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509CertificationRequest};

/// Largest request.
pub const CSR_BYTES_MAX: usize = 16 * 1024;

/// id-ecPublicKey, prime256v1 and ecdsa-with-SHA256 (RFC 5480, RFC 5758).
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_BYTES_MAX`].
    #[error("CSR is longer than {CSR_BYTES_MAX} bytes")]
    TooLong,
    /// Not PKCS#10 in DER.
    #[error("CSR is not PKCS#10 in DER")]
    Malformed,
    /// Another key or signature algorithm.
    #[error("CSR must have an ECDSA P-256 key and be signed with SHA-256")]
    Key,
    /// The self-signature is wrong.
    #[error("CSR is not signed by its own key")]
    Signature,
    /// It names somebody whom the sender did not prove to be.
    #[error("CSR asks for {asked}, but the caller proved {proved}")]
    OtherIdentity {
        /// The name in the CSR, cut to 256 characters.
        asked: String,
        /// The proved identity.
        proved: SpiffeId,
    },
}

/// The public key of a good request (SubjectPublicKeyInfo, DER).
///
/// # Errors
/// [`CsrError`].
pub fn public_key(der: &[u8], proved: &SpiffeId) -> Result<Vec<u8>, CsrError> {
    if der.len() > CSR_BYTES_MAX {
        return Err(CsrError::TooLong);
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &csr.certification_request_info;
    let key = &info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let algorithms = key.algorithm.algorithm.to_id_string() == EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve.to_id_string() == P256)
        && csr.signature_algorithm.algorithm.to_id_string() == ECDSA_SHA256;
    if !algorithms {
        return Err(CsrError::Key);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.subject_public_key.data)
        .verify(info.raw, &csr.signature_value.data)
        .map_err(|_unspecified| CsrError::Signature)?;
    check_names(&csr, proved)?;
    Ok(key.raw.to_vec())
}

/// Every URI it asks for must be the proved identity; other kinds of names would not be granted and are ignored.
fn check_names(csr: &X509CertificationRequest<'_>, proved: &SpiffeId) -> Result<(), CsrError> {
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            if let GeneralName::URI(uri) = name
                && *uri != proved.to_string()
            {
                let asked = uri.chars().take(256).collect();
                return Err(CsrError::OtherIdentity { asked, proved: proved.clone() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};

    use super::*;

    fn cart() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()
    }

    fn csr(key: &KeyPair, uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn takes_only_the_proved_identity() {
        let key = KeyPair::generate().unwrap();
        let check = |uris: &[&str], accepted: bool| {
            let result = public_key(&csr(&key, uris), &cart());
            assert_eq!(result.is_ok(), accepted, "{uris:?}: {result:?}");
            assert!(accepted || matches!(result, Err(CsrError::OtherIdentity { .. })));
        };
        check(&[], true);
        check(&["spiffe://cluster.local/ns/shop/sa/cart"], true);
        check(&["spiffe://cluster.local/ns/shop/sa/admin"], false);
        check(&["spiffe://cluster.local/ns/shop/sa/cart", "spiffe://cluster.local/ns/shop/sa/admin"], false);
        check(&["spiffe://cluster.local/ns/shop/sa/cart/"], false);
        check(&["https://example.com"], false);
    }

    #[test]
    fn takes_only_p256() {
        for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(public_key(&csr(&key, &[]), &cart()), Err(CsrError::Key));
        }
    }

    #[test]
    fn a_foreign_signature_is_refused() {
        let mut der = csr(&KeyPair::generate().unwrap(), &[]);
        let last = der.len() - 1;
        der[last] ^= 1;
        assert_eq!(public_key(&der, &cart()), Err(CsrError::Signature));
        der.push(0);
        assert_eq!(public_key(&der, &cart()), Err(CsrError::Malformed));
        assert_eq!(public_key(&[0; CSR_BYTES_MAX + 1], &cart()), Err(CsrError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            prop_assert!(public_key(&bytes, &cart()).is_err());
        }

        #[test]
        fn a_flipped_bit_gains_nothing(bit in 0usize..8 * 200) {
            let mut der = csr(&KeyPair::generate().unwrap(), &["spiffe://cluster.local/ns/shop/sa/cart"]);
            let whole = public_key(&der, &cart());
            let at = (bit / 8) % der.len();
            der[at] ^= 1 << (bit % 8);
            // The outermost tag is not signed; whatever passes yields the key that was.
            let damaged = public_key(&der, &cart());
            prop_assert!(damaged.is_err() || damaged == whole);
        }
    }
}
