//! The keys, and signing with them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rcgen::{Issuer, KeyPair, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use weft_core::identity::spiffe::{SpiffeId, TrustDomain};
use weft_proto::v1::TrustBundle;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::state::{self, Pair};
use super::template::{self, BACKDATE, ISSUING_LIFE, ROOT_LIFE, SVID_LIFE};
use super::{CaError, peer_cert};

/// Directory of the authority inside the state directory.
pub const CA_DIRECTORY: &str = "ca";

/// The root's file.
pub const ROOT_FILE: &str = "root.pem";

/// The issuing key's file.
pub const ISSUING_FILE: &str = "issuing.pem";

/// An issuing certificate with less than this left is replaced.
const ISSUING_LEFT_MIN: Duration = Duration::from_secs(90 * 24 * 3600);

/// The certificate authority of one trust domain.
pub struct Authority {
    domain: TrustDomain,
    directory: PathBuf,
    root: Pair,
    root_life: Life,
    issuing: RwLock<Arc<Issuing>>,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy)]
struct Life {
    from: SystemTime,
    until: SystemTime,
}

struct Issuing {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    until: SystemTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then the issuing certificate; the root is not included.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf ends.
    pub not_after: SystemTime,
}

impl Authority {
    /// Opens the authority in `state_directory`/ca, or makes one. `store_used` says that the store has been written
    /// to: then a missing root is an error, since a new one would cut off every proxy.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn open(
        state_directory: &Path,
        domain: &TrustDomain,
        store_used: bool,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let directory = state_directory.join(CA_DIRECTORY);
        state::make_private_directory(&directory)
            .map_err(|source| CaError::File { path: directory.clone(), source })?;
        let path = directory.join(ROOT_FILE);
        let root = match Pair::read(&path)? {
            Some(root) => root,
            None if store_used => {
                let detail =
                    "the root is missing although this state directory was in use; restore a backup".to_owned();
                return Err(CaError::Unusable { path, detail });
            }
            None => make_root(&path, domain, now)?,
        };
        let root_life = check(&path, &root, domain)?;
        if root_life.until <= now {
            let detail = "the root has expired; move the state directory away to start a new mesh".to_owned();
            return Err(CaError::Unusable { path, detail });
        }
        let issuing = open_issuing(&directory, &root, domain, root_life, now)?;
        Ok(Self { domain: domain.clone(), directory, root, root_life, issuing: RwLock::new(Arc::new(issuing)) })
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root certificate.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root.certificate
    }

    /// When the root ends.
    #[must_use]
    pub fn root_not_after(&self) -> SystemTime {
        self.root_life.until
    }

    /// SHA-256 of the root certificate's DER, as join tokens carry it.
    #[must_use]
    pub fn root_sha256(&self) -> [u8; 32] {
        let digest = digest::digest(&digest::SHA256, &self.root.certificate);
        digest.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// The bundle that proxies get.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle {
            trust_domain: self.domain.to_string(),
            roots_der: vec![self.root.certificate.to_vec()],
            generation: 1,
        }
    }

    /// Signs a public key (SubjectPublicKeyInfo, DER) for an identity. Whoever calls has checked that it may have it.
    ///
    /// # Errors
    /// [`CaError::Signing`].
    pub fn issue(&self, id: &SpiffeId, spki_der: &[u8], now: SystemTime) -> Result<Issued, CaError> {
        let issuing = Arc::clone(&self.issuing.read().unwrap_or_else(PoisonError::into_inner));
        let not_after = (now + SVID_LIFE).min(issuing.until);
        let key = SubjectPublicKeyInfo::from_der(spki_der)?;
        let leaf = template::svid(id, now - BACKDATE, not_after)?.signed_by(&key, &issuing.issuer)?;
        Ok(Issued { chain: vec![leaf.der().clone(), issuing.certificate.clone()], not_after })
    }

    /// A fresh key and certificate for the control plane's own door; the chain ends with the root.
    ///
    /// # Errors
    /// [`CaError::Signing`].
    pub fn own_certificate(&self, now: SystemTime) -> Result<(CertifiedKey, SystemTime), CaError> {
        let key = KeyPair::generate()?;
        let id = SpiffeId::control_plane(self.domain.clone());
        let mut issued = self.issue(&id, &rcgen::PublicKeyData::subject_public_key_info(&key), now)?;
        issued.chain.push(self.root.certificate.clone());
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private)
            .map_err(|error| CaError::Signing { detail: error.to_string() })?;
        Ok((CertifiedKey::new(issued.chain, signer), issued.not_after))
    }

    /// Replaces the issuing certificate when it nears its end. Called from time to time.
    ///
    /// # Errors
    /// [`CaError`]; the former one stays in use.
    pub fn refresh(&self, now: SystemTime) -> Result<(), CaError> {
        let until = self.issuing.read().unwrap_or_else(PoisonError::into_inner).until;
        if until > now + ISSUING_LEFT_MIN || until == self.root_life.until {
            return Ok(());
        }
        let fresh = open_issuing(&self.directory, &self.root, &self.domain, self.root_life, now)?;
        *self.issuing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(())
    }
}

fn make_root(path: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Pair, CaError> {
    let key = KeyPair::generate()?;
    let name = format!("Weft root of {domain}");
    let certificate = template::signing(domain, &name, 1, now - BACKDATE, now + ROOT_LIFE)?.self_signed(&key)?;
    write(path, &key, &certificate)?;
    tracing::info!(file = %path.display(), trust_domain = %domain, "made a new root");
    Ok(Pair { certificate: certificate.der().clone(), key })
}

/// The issuing pair as it lies there, or a new one when it is missing, near its end, or of another root.
fn open_issuing(
    directory: &Path,
    root: &Pair,
    domain: &TrustDomain,
    root_life: Life,
    now: SystemTime,
) -> Result<Issuing, CaError> {
    let path = directory.join(ISSUING_FILE);
    if let Some(pair) = Pair::read(&path)?
        && signed_by(&pair.certificate, root)
    {
        let Life { from, until } = check(&path, &pair, domain)?;
        if from <= now && (until > now + ISSUING_LEFT_MIN || (until == root_life.until && until > now)) {
            return issuing(pair, until);
        }
    }
    let key = KeyPair::generate()?;
    let issuer = Issuer::from_ca_cert_der(&root.certificate, &root.key)?;
    let name = format!("Weft issuing certificate of {domain}");
    let until = (now + ISSUING_LIFE).min(root_life.until);
    // From the root's beginning on: made while the clock was ahead, it must be valid when the clock is right again.
    let certificate = template::signing(domain, &name, 0, root_life.from, until)?.signed_by(&key, &issuer)?;
    write(&path, &key, &certificate)?;
    tracing::info!(file = %path.display(), "made a new issuing certificate");
    issuing(Pair { certificate: certificate.der().clone(), key }, until)
}

fn issuing(pair: Pair, until: SystemTime) -> Result<Issuing, CaError> {
    let issuer = Issuer::from_ca_cert_der(&pair.certificate, pair.key)?;
    Ok(Issuing { issuer, certificate: pair.certificate, until })
}

fn write(path: &Path, key: &KeyPair, certificate: &rcgen::Certificate) -> Result<(), CaError> {
    state::write_secret(path, Pair::to_pem(key, certificate).as_bytes())
        .map_err(|source| CaError::File { path: path.to_owned(), source })
}

/// That a pair is a signing pair of this trust domain; answers how long it lives.
fn check(path: &Path, pair: &Pair, domain: &TrustDomain) -> Result<Life, CaError> {
    let unusable = |detail: String| CaError::Unusable { path: path.to_owned(), detail };
    let (_rest, certificate) = X509Certificate::from_der(&pair.certificate)
        .map_err(|_| unusable("holds a damaged certificate; restore a backup".to_owned()))?;
    if !certificate.is_ca() || certificate.public_key().subject_public_key.data != pair.key.public_key_raw() {
        return Err(unusable("key and certificate do not belong together; restore a backup".to_owned()));
    }
    let named = peer_cert::only_uri(&certificate).unwrap_or_default();
    if named != format!("spiffe://{domain}") {
        let detail =
            format!("is of {named}, not of trust domain {domain}; start with the trust domain it was made for");
        return Err(unusable(detail));
    }
    let (from, until) = peer_cert::validity(&certificate);
    Ok(Life { from, until })
}

/// Whether the root names and signed it.
fn signed_by(certificate: &CertificateDer<'_>, root: &Pair) -> bool {
    let Ok((_rest, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        root.key.public_key_raw(),
    );
    key.verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data).is_ok()
}
