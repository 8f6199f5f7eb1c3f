//! The certificate authority: it makes a root at first start and signs workload identities.
//!
//! A root certificate of ten years signs an issuing certificate of one year, which signs SVIDs of 24 hours. Proxies trust
//! only the root, so the issuing key can change without anybody noticing, and the root's key is used once a year. Every
//! chain we send as a server ends with the root itself: a joining proxy holds only the root's SHA-256 (in its join
//! token) and needs the certificate to compare.
//!
//! Nothing here decides who may have an identity beyond what the caller proved; see [`csr`] and [`crate::tokens`].

pub mod authority;
pub mod csr;
pub mod peer_cert;
pub mod state;
pub(crate) mod template;

pub use authority::{Authority, Issued};

/// Why the authority could not start or sign.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the authority could not be read or written.
    #[error("cannot access {}: {source}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the authority holds something else than it should. Nothing was changed.
    #[error("{}: {detail}", path.display())]
    Unusable {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// Making a key or certificate failed.
    #[error("cannot sign: {detail}")]
    Signing {
        /// Why.
        detail: String,
    },
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Signing { detail: error.to_string() }
    }
}
