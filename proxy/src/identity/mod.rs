//! Who this proxy is: its key, its certificate chain, and the roots it believes.
//!
//! Keys are made in the process and leave it only for a state directory, where one is given. Everybody who needs the
//! identity watches one channel, so a renewal reaches the next handshake and cuts no connection (S4).

mod channel;
mod issue;
pub mod leaf;
mod material;
mod renew;
mod store;

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use weft_core::identity::spiffe::{SpiffeId, TrustDomain};

pub use channel::{ControlPlane, DialError};
pub use issue::IssueError;
pub use material::{MaterialError, MaterialPaths, load};
pub use renew::{IdentityKeeper, Proof, RenewalStatus};
pub use store::{IDENTITY_FILE, Kept, Store, StoreError, StoreInUse, keep_on_disk};

/// The roots that vouch for one trust domain, and for no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Whose roots these are.
    pub trust_domain: TrustDomain,
    /// X.509 DER; at least one.
    pub roots: Vec<CertificateDer<'static>>,
    /// Grows with every change of the roots.
    pub generation: u64,
}

/// An SVID with its private key and the bundle it came with.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name in the leaf.
    pub id: SpiffeId,
    /// Chain (leaf first, without the root) and key.
    pub certified: Arc<CertifiedKey>,
    /// The key as it is kept; `Debug` does not show it.
    pub private_key: Arc<PrivateKeyDer<'static>>,
    /// Roots of the own trust domain.
    pub bundle: Arc<Bundle>,
    /// Start of the leaf's validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of the leaf's validity, seconds since the Unix epoch.
    pub not_after: i64,
}

/// Where the present identity is seen; `None` until the first one was issued.
pub type IdentityWatch = tokio::sync::watch::Receiver<Option<Arc<Identity>>>;

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}
