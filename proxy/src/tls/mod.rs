//! Mutual TLS between sidecars (S1, S7).
//!
//! The name that counts is the SPIFFE ID in the peer's certificate, not a host name. rustls resumes sessions without
//! calling a verifier and remembers them by server name only; so every configuration, with its session store, belongs to
//! one own SVID, one bundle and (on the client side) one expected identity, and after every handshake, resumed or not,
//! the peer's certificate is judged again. No 0-RTT; TLS 1.3 only.

mod acceptor;
mod connector;
mod handshake;
mod leaves;
mod received;
mod records;
mod scratch;
mod session;
mod sessions;
mod stream;
mod turns;
mod verified;
mod verify;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use weft_core::detect::MeshAlpn;
use weft_core::fault::FaultKind;
use weft_core::identity::spiffe::SpiffeId;

pub use acceptor::Acceptor;
pub use connector::Connector;
pub use stream::TlsStream;
pub use turns::Turns;
pub(crate) use verify::{ServerIs, roots};

use self::leaves::Leaves;
use crate::identity::leaf::LeafError;

/// What a mesh handshake established; for decisions and records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshPeer {
    /// Identity that the peer proved.
    pub id: SpiffeId,
    /// SHA-256 of the peer's leaf certificate, DER, for `x-forwarded-client-cert`.
    pub leaf_sha256: [u8; 32],
    /// When the peer's leaf expires, seconds since the Unix epoch.
    pub not_after: i64,
    /// What is spoken inside.
    pub alpn: MeshAlpn,
    /// Negotiated key exchange group, for example `X25519MLKEM768`.
    pub group: &'static str,
    /// An earlier session was resumed.
    pub resumed: bool,
}

/// Version of every mesh handshake, as records show it.
pub const TLS_VERSION: &str = "TLSv1.3";

/// Why a mesh connection was refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is no identity yet, or it has expired: nothing is sent and nothing is believed.
    #[error("this proxy has no valid identity")]
    NoIdentity,
    /// The handshake did not finish in time.
    #[error("handshake took longer than {0:?}")]
    Timeout(std::time::Duration),
    /// More handshakes than can be served waited before this one.
    #[error("too many handshakes at once")]
    Busy,
    /// The handshake failed.
    #[error("handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    /// The peer's certificate is not acceptable.
    #[error("peer's certificate is refused: {0}")]
    Peer(#[from] LeafError),
    /// The peer is somebody else than expected.
    #[error("peer is {found}, expected {expected}")]
    Somebody {
        /// Who it is.
        found: SpiffeId,
        /// Who it must be.
        expected: String,
    },
    /// The peer did not agree on one of our protocols.
    #[error("peer speaks none of the mesh's protocols")]
    Alpn,
    /// The TLS library refuses our own credentials.
    #[error("own credentials make no TLS configuration: {0}")]
    Credentials(#[from] rustls::Error),
}

impl TlsError {
    /// The fault when the peer is upstream.
    #[must_use]
    pub fn upstream_fault(&self) -> FaultKind {
        match self {
            Self::NoIdentity | Self::Credentials(_) => FaultKind::NotReady,
            Self::Timeout(_) => FaultKind::ConnectTimeout,
            Self::Busy => FaultKind::Overload,
            Self::Somebody { .. } => FaultKind::UpstreamIdentity,
            Self::Handshake(error) if verify::is_identity_error(error) => FaultKind::UpstreamIdentity,
            Self::Handshake(_) | Self::Peer(_) | Self::Alpn => FaultKind::UpstreamTls,
        }
    }

    /// The fault when the peer is downstream.
    #[must_use]
    pub fn downstream_fault(&self) -> FaultKind {
        match self {
            Self::NoIdentity | Self::Credentials(_) => FaultKind::NotReady,
            Self::Timeout(_) => FaultKind::DetectTimeout,
            Self::Busy => FaultKind::Overload,
            Self::Somebody { .. } | Self::Peer(_) => FaultKind::DownstreamIdentity,
            Self::Handshake(error) if verify::is_identity_error(error) => FaultKind::DownstreamIdentity,
            Self::Handshake(_) | Self::Alpn => FaultKind::DownstreamTls,
        }
    }
}

/// The library's cryptography, with AES-128-GCM and SHA-256 before its own first choice, as Go and BoringSSL order them: a
/// handshake hashes a lot, and processors have instructions for SHA-256 and not for SHA-384.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// The judgement after every handshake: who the peer is and that its certificate is valid now.
fn judge(connection: &rustls::CommonState, leaves: &Leaves, now: i64) -> Result<MeshPeer, TlsError> {
    let certificate: &CertificateDer<'_> =
        connection.peer_certificates().and_then(<[_]>::first).ok_or(LeafError::Malformed)?;
    let leaf_sha256 = crate::identity::sha256(certificate);
    let leaf = leaves.read(&leaf_sha256, certificate)?;
    leaf.check_validity(now)?;
    let alpn = connection.alpn_protocol().and_then(MeshAlpn::from_bytes).ok_or(TlsError::Alpn)?;
    let group = connection.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    Ok(MeshPeer {
        id: leaf.id.clone(),
        leaf_sha256,
        not_after: leaf.not_after,
        alpn,
        group: group.unwrap_or("unknown"),
        resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
    })
}
