//! One certificate signing request, and the checks before its answer is believed (K3).

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, SanType};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use tonic::transport::Channel;
use weft_core::identity::spiffe::{SYSTEM_NAMESPACE, SpiffeError, SpiffeId, TrustDomain};
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::{IssueRequest, IssueResponse, TrustBundle};

use super::leaf::{Leaf, LeafError};
use super::material::certified_key;
use super::{Bundle, Identity};

/// A request for a certificate is answered within this, or tried again.
const ISSUE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);

/// Why no identity came out.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Key or request could not be made.
    #[error("certificate request could not be made: {0}")]
    Request(#[from] rcgen::Error),
    /// The control plane refused.
    #[error("control plane refuses the certificate request: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// No answer within [`ISSUE_TIMEOUT`].
    #[error("control plane does not answer the certificate request")]
    Silent,
    /// The answer is incomplete.
    #[error("control plane's answer lacks {0}")]
    Incomplete(&'static str),
    /// The leaf is no SVID, or not valid now.
    #[error("issued certificate is refused: {0}")]
    Leaf(#[from] LeafError),
    /// The bundle names an illegal trust domain.
    #[error("issued bundle is refused: {0}")]
    Bundle(#[from] SpiffeError),
    /// The leaf is for somebody else.
    #[error("issued certificate is for {found}, expected {expected}")]
    Somebody {
        /// In the leaf.
        found: SpiffeId,
        /// Ours, or what an issued name must be.
        expected: String,
    },
    /// The leaf is for another key.
    #[error("issued certificate is for another key than was sent")]
    Key,
    /// The chain does not lead to the bundle's roots.
    #[error("issued chain does not lead to the issued roots: {0}")]
    Chain(#[from] rustls::Error),
}

/// How the request is authorised.
#[derive(Clone, Copy, Debug)]
pub(super) enum Authorisation<'a> {
    /// By the secret of a join token; the name is the token's.
    Token(&'a str),
    /// By the SVID on the channel, for the same name again.
    Renewal(&'a SpiffeId),
}

/// A key for an identity.
///
/// # Errors
/// [`IssueError::Request`].
pub(super) fn make_key() -> Result<KeyPair, IssueError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

/// Has a key signed and checks the answer. A key whose answer was lost is to be tried again: a token's use is spent on it.
pub(super) async fn issue(
    channel: Channel,
    authorisation: Authorisation<'_>,
    key: &KeyPair,
    now: i64,
) -> Result<Identity, IssueError> {
    let request = match authorisation {
        Authorisation::Token(secret) => {
            IssueRequest { csr_der: signing_request(key, None)?, join_token: secret.to_owned() }
        }
        Authorisation::Renewal(id) => {
            IssueRequest { csr_der: signing_request(key, Some(id))?, join_token: String::new() }
        }
    };
    let mut client = IdentityClient::new(channel);
    let answer = tokio::time::timeout(ISSUE_TIMEOUT, client.issue(request)).await.map_err(|_| IssueError::Silent)?;
    let answer = answer.map_err(|status| IssueError::Refused(Box::new(status)))?.into_inner();
    let expected = match authorisation {
        Authorisation::Token(_) => None,
        Authorisation::Renewal(id) => Some(id),
    };
    accept(answer, key, expected, now)
}

fn signing_request(key: &KeyPair, id: Option<&SpiffeId>) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(id) = id {
        params.subject_alt_names.push(SanType::URI(id.to_string().as_str().try_into()?));
    }
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// The identity in an answer, once everything about it holds.
///
/// # Errors
/// What does not hold.
pub(super) fn accept(
    answer: IssueResponse,
    key: &KeyPair,
    expected: Option<&SpiffeId>,
    now: i64,
) -> Result<Identity, IssueError> {
    let chain: Vec<_> = answer.chain_der.into_iter().map(CertificateDer::from).collect();
    let [first, intermediates @ ..] = chain.as_slice() else {
        return Err(IssueError::Incomplete("a certificate"));
    };
    let bundle = answer.bundle.ok_or(IssueError::Incomplete("a trust bundle"))?;
    let bundle = read_bundle(bundle)?;
    let leaf = Leaf::parse(first)?;
    leaf.check_validity(now)?;
    check_name(&leaf, &bundle, expected)?;
    if leaf.public_key != key.subject_public_key_info() {
        return Err(IssueError::Key);
    }
    check_chain(first, intermediates, &bundle, now)?;
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let certified = certified_key(chain.clone(), private.clone_key())?;
    Ok(Identity {
        id: leaf.id,
        certified: Arc::new(certified),
        private_key: Arc::new(private),
        bundle: Arc::new(bundle),
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    })
}

/// A bundle as the control plane tells it.
///
/// # Errors
/// An illegal trust domain, no root, or one that is no certificate.
pub(super) fn read_bundle(told: TrustBundle) -> Result<Bundle, IssueError> {
    let bundle = Bundle {
        trust_domain: TrustDomain::new(&told.trust_domain)?,
        roots: told.roots_der.into_iter().map(CertificateDer::from).collect(),
        generation: told.generation,
    };
    if bundle.roots.is_empty() {
        return Err(IssueError::Incomplete("a root"));
    }
    crate::tls::roots(&bundle)?;
    Ok(bundle)
}

fn check_name(leaf: &Leaf, bundle: &Bundle, expected: Option<&SpiffeId>) -> Result<(), IssueError> {
    let somebody = |expected: String| IssueError::Somebody { found: leaf.id.clone(), expected };
    if leaf.id.trust_domain() != &bundle.trust_domain {
        return Err(somebody(format!("a name in {}", bundle.trust_domain)));
    }
    match expected {
        Some(id) if leaf.id != *id => Err(somebody(id.to_string())),
        None if leaf.id.namespace() == SYSTEM_NAMESPACE => Err(somebody("a workload's name".to_owned())),
        Some(_) | None => Ok(()),
    }
}

fn check_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: i64,
) -> Result<(), rustls::Error> {
    let roots = crate::tls::roots(bundle)?;
    let parsed = ParsedCertificate::try_from(leaf)?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms.all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, Certificate, ExtendedKeyUsagePurpose, IsCa, Issuer};

    const NOW: i64 = 1_700_000_000;
    const CART: &str = "spiffe://a/ns/shop/sa/cart";

    struct Authority {
        root: Certificate,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = params.self_signed(&key).unwrap();
            Self { root, issuer: Issuer::new(params, key) }
        }

        fn sign(&self, key: &KeyPair, uri: &str, from: i64, to: i64) -> IssueResponse {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.not_before = time_of(from);
            params.not_after = time_of(to);
            let leaf = params.signed_by(key, &self.issuer).unwrap();
            IssueResponse {
                chain_der: vec![leaf.der().to_vec()],
                bundle: Some(TrustBundle {
                    trust_domain: "a".to_owned(),
                    roots_der: vec![self.root.der().to_vec()],
                    generation: 1,
                }),
            }
        }
    }

    fn time_of(unix: i64) -> ::time::OffsetDateTime {
        ::time::OffsetDateTime::from_unix_timestamp(unix).unwrap()
    }

    #[test]
    fn a_right_answer_is_accepted_and_wrong_ones_are_not() {
        let (authority, other) = (Authority::new(), Authority::new());
        let key = KeyPair::generate().unwrap();
        let cart = SpiffeId::parse(CART).unwrap();
        let right = || authority.sign(&key, CART, NOW - 10, NOW + 10);
        let check = |answer: IssueResponse, expected: Option<&SpiffeId>, verdict: &str| {
            let got = accept(answer, &key, expected, NOW).map(|identity| identity.id.to_string());
            let got = got.unwrap_or_else(|error| error.to_string());
            assert!(got.contains(verdict), "{got} lacks {verdict}");
        };
        check(right(), None, CART);
        check(right(), Some(&cart), CART);
        let somebody = authority.sign(&key, "spiffe://a/ns/shop/sa/other", NOW - 10, NOW + 10);
        check(somebody, Some(&cart), "expected spiffe://a/ns/shop/sa/cart");
        check(authority.sign(&key, "spiffe://b/ns/shop/sa/cart", NOW - 10, NOW + 10), None, "a name in a");
        check(authority.sign(&key, "spiffe://a/ns/weft-system/sa/x", NOW - 10, NOW + 10), None, "a workload's name");
        check(authority.sign(&key, CART, NOW - 10, NOW - 5), None, "is valid from");
        check(authority.sign(&KeyPair::generate().unwrap(), CART, NOW - 10, NOW + 10), None, "another key");
        let foreign = IssueResponse { chain_der: other.sign(&key, CART, NOW - 10, NOW + 10).chain_der, ..right() };
        check(foreign, None, "does not lead to the issued roots");
        check(IssueResponse { chain_der: Vec::new(), ..right() }, None, "lacks a certificate");
        check(IssueResponse { bundle: None, ..right() }, None, "lacks a trust bundle");
    }
}
