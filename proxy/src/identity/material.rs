//! Identity from files, for static mode.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use weft_core::identity::spiffe::TrustDomain;

use super::leaf::{Leaf, LeafError};
use super::{Bundle, Identity};

/// The three PEM files of static mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaterialPaths {
    /// Leaf first.
    pub certificate_chain: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1; readable by its owner (and group) only.
    pub private_key: PathBuf,
    /// Roots of the trust domain.
    pub trust_bundle: PathBuf,
}

/// Why the files make no identity.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A file cannot be read or holds no PEM of the wanted kind.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Others may read the key.
    #[error("{path}: private key is readable by others; chmod 600 it", path = .0.display())]
    Exposed(PathBuf),
    /// The leaf is no SVID.
    #[error("{path}: {source}", path = path.display())]
    Leaf {
        /// Which.
        path: PathBuf,
        /// Why.
        source: LeafError,
    },
    /// The leaf names another trust domain than the mesh.
    #[error("certificate's trust domain is {found}, the mesh's is {expected}")]
    TrustDomain {
        /// In the leaf.
        found: TrustDomain,
        /// Configured.
        expected: TrustDomain,
    },
    /// Key and leaf do not belong together, or the key is of an unsupported kind.
    #[error("private key and certificate do not fit: {0}")]
    Key(rustls::Error),
}

/// Reads and checks the files once, as of `now` (Unix seconds). Blocks on file I/O; call it before serving.
///
/// # Errors
/// Any [`MaterialError`]; each names the file.
pub fn load(paths: &MaterialPaths, trust_domain: &TrustDomain, now: i64) -> Result<Identity, MaterialError> {
    let chain = certificates(&paths.certificate_chain)?;
    let roots = certificates(&paths.trust_bundle)?;
    let key = private_key(&paths.private_key)?;
    let at_chain = |source| MaterialError::Leaf { path: paths.certificate_chain.clone(), source };
    let first = chain.first().ok_or_else(|| at_chain(LeafError::Malformed))?;
    let leaf = Leaf::parse(first).map_err(at_chain)?;
    leaf.check_validity(now).map_err(at_chain)?;
    if leaf.id.trust_domain() != trust_domain {
        return Err(MaterialError::TrustDomain {
            found: leaf.id.trust_domain().clone(),
            expected: trust_domain.clone(),
        });
    }
    let certified = certified_key(chain, key.clone_key()).map_err(MaterialError::Key)?;
    Ok(Identity {
        id: leaf.id,
        certified: Arc::new(certified),
        private_key: Arc::new(key),
        bundle: Arc::new(Bundle { trust_domain: trust_domain.clone(), roots, generation: 0 }),
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    })
}

/// Joins chain and key, and checks that they belong together.
pub(super) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let signing = rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(key)?;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match()?;
    Ok(certified)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let failed = |reason: String| MaterialError::File { path: path.to_owned(), reason };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| failed(error.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|error| failed(error.to_string()))?;
    if found.is_empty() {
        return Err(failed("holds no PEM block CERTIFICATE".to_owned()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let failed = |reason: String| MaterialError::File { path: path.to_owned(), reason };
    let mode = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(MaterialError::Exposed(path.to_owned()));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| failed(error.to_string()))
}
