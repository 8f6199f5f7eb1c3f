//! SPIFFE IDs of the one shape the mesh issues: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
//!
//! SPIFFE-ID specification, section 2. Parsing is strict (no percent-encoding, no empty or dot segments, no query),
//! because two spellings of one name would be two answers of one policy.

use std::fmt;
use std::sync::Arc;

/// Longest SPIFFE ID accepted, in bytes (SPIFFE-ID section 2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// Namespace of the mesh's own servers. No token and no API issues an identity in it.
pub const SYSTEM_NAMESPACE: &str = "weft-system";

/// Service account of the control plane.
pub const CONTROL_PLANE_SERVICE_ACCOUNT: &str = "control-plane";

/// The name of a trust domain: lower-case letters, digits, `.`, `-`, `_`, at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`SpiffeError::TrustDomain`] when it is empty, too long, or has another character.
    pub fn new(name: &str) -> Result<Self, SpiffeError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        // Of dots alone it could be taken for a step in a path.
        let dots = name.bytes().all(|b| b == b'.');
        if dots || name.len() > 255 || !name.bytes().all(legal) {
            return Err(SpiffeError::TrustDomain);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identity of a workload. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    trust_domain: TrustDomain,
    namespace: Box<str>,
    service_account: Box<str>,
}

/// Why a SPIFFE ID was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Not `spiffe://` (lower case).
    #[error("SPIFFE ID must begin with spiffe://")]
    Scheme,
    /// Longer than [`SPIFFE_ID_BYTES_MAX`].
    #[error("SPIFFE ID is longer than 2048 bytes")]
    TooLong,
    /// Illegal trust domain.
    #[error("trust domain must be 1-255 of a-z 0-9 . - _, and not dots alone")]
    TrustDomain,
    /// The path is not `/ns/<namespace>/sa/<service-account>`.
    #[error("SPIFFE path must be /ns/<namespace>/sa/<service-account>")]
    Path,
    /// A namespace or service account is not 1-253 characters of a-z 0-9 . - _, or is all dots.
    #[error("namespace and service account must be 1-253 of a-z A-Z 0-9 . - _")]
    Segment,
}

impl SpiffeId {
    /// From its three parts.
    ///
    /// # Errors
    /// [`SpiffeError::Segment`] for an illegal namespace or service account.
    pub fn new(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Result<Self, SpiffeError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        Ok(Self::of(trust_domain, namespace, service_account))
    }

    /// From the text of a URI SAN.
    ///
    /// # Errors
    /// Any [`SpiffeError`].
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(SpiffeError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(SpiffeError::Path)?;
        let trust_domain = TrustDomain::new(trust_domain)?;
        let mut segments = path.split('/');
        let (Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(SpiffeError::Path);
        };
        Self::new(trust_domain, namespace, account)
    }

    /// The identity that the control plane of `trust_domain` must prove.
    #[must_use]
    pub fn control_plane(trust_domain: TrustDomain) -> Self {
        Self::of(trust_domain, SYSTEM_NAMESPACE, CONTROL_PLANE_SERVICE_ACCOUNT)
    }

    fn of(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Self {
        Self(Arc::new(Parts { trust_domain, namespace: namespace.into(), service_account: service_account.into() }))
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.0.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain(), self.namespace(), self.service_account())
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let dots = segment.bytes().all(|b| b == b'.');
    if segment.is_empty() || segment.len() > 253 || dots || !segment.bytes().all(legal) {
        return Err(SpiffeError::Segment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_refuses() {
        let check = |text: &str, expected: Result<&str, SpiffeError>| {
            let parsed = SpiffeId::parse(text).map(|id| id.to_string());
            assert_eq!(parsed, expected.map(str::to_owned), "{text}");
        };
        check("spiffe://cluster.local/ns/shop/sa/cart", Ok("spiffe://cluster.local/ns/shop/sa/cart"));
        check("SPIFFE://cluster.local/ns/shop/sa/cart", Err(SpiffeError::Scheme));
        check("spiffe://Cluster.local/ns/shop/sa/cart", Err(SpiffeError::TrustDomain));
        check("spiffe:///ns/shop/sa/cart", Err(SpiffeError::TrustDomain));
        check("spiffe://../ns/shop/sa/cart", Err(SpiffeError::TrustDomain));
        check("spiffe://a:1/ns/shop/sa/cart", Err(SpiffeError::TrustDomain));
        check("spiffe://a", Err(SpiffeError::Path));
        check("spiffe://a/ns/shop/sa/cart/", Err(SpiffeError::Path));
        check("spiffe://a/ns/shop/sa", Err(SpiffeError::Path));
        check("spiffe://a/ns//sa/cart", Err(SpiffeError::Segment));
        check("spiffe://a/ns/../sa/cart", Err(SpiffeError::Segment));
        check("spiffe://a/ns/sh%6fp/sa/cart", Err(SpiffeError::Segment));
        check("spiffe://a/ns/shop/sa/cart?x=1", Err(SpiffeError::Segment));
        check(&format!("spiffe://a/ns/{}/sa/cart", "x".repeat(3000)), Err(SpiffeError::TooLong));
    }
}
