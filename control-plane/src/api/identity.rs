//! `Identity`: a CSR in, an SVID out, for the identity that the caller proved and no other.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use tonic::{Request, Response, Status, async_trait};
use weft_core::identity::spiffe::{SYSTEM_NAMESPACE, SpiffeId};
use weft_proto::v1::identity_server::Identity;
use weft_proto::v1::{IssueRequest, IssueResponse};

use super::peer::{Peer, PeerAddr};
use crate::ca::csr::{self, CsrError};
use crate::ca::{Authority, CaError};
use crate::metrics::Counter;
use crate::tokens::{Proof, TokenError, Tokens};

/// Issuance so far, for metrics.
#[derive(Debug, Default)]
pub struct IssueCounts {
    /// First certificates, by token.
    pub joined: Counter,
    /// Renewals, by certificate.
    pub renewed: Counter,
    /// Refusals of any kind.
    pub refused: Counter,
}

/// The service.
#[derive(Clone, Debug)]
pub struct IdentityService {
    authority: Arc<Authority>,
    tokens: Arc<Tokens>,
    counts: Arc<IssueCounts>,
}

/// Why nothing is issued.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("neither a join token nor a client certificate was presented")]
    NoProof,
    #[error("no identity of namespace {SYSTEM_NAMESPACE} is issued by this API")]
    SystemNamespace,
    #[error(transparent)]
    Caller(#[from] CallerError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Authority(#[from] CaError),
}

/// What [`Peer::of`] refused.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message())]
struct CallerError(Box<Status>);

impl IdentityService {
    /// Over the authority and the tokens.
    #[must_use]
    pub fn new(authority: Arc<Authority>, tokens: Arc<Tokens>, counts: Arc<IssueCounts>) -> Self {
        Self { authority, tokens, counts }
    }

    async fn decide(&self, request: &Request<IssueRequest>, source: IpAddr) -> Result<IssueResponse, Refusal> {
        let message = request.get_ref();
        let (id, proof) = self.proved(request, source).await?;
        let key = csr::public_key(&message.csr_der, &id)?;
        let issued = self.authority.issue(&id, &key, SystemTime::now())?;
        match proof {
            // Spent only now that the certificate exists, and before it leaves.
            Some(proof) => {
                self.tokens.consume(proof, &key).await?;
                self.counts.joined.increment();
            }
            None => self.counts.renewed.increment(),
        }
        let chain_der = issued.chain.iter().map(|certificate| certificate.to_vec()).collect();
        tracing::info!(%id, %source, "issued an SVID");
        Ok(IssueResponse { chain_der, bundle: Some(self.authority.bundle()) })
    }

    /// Who the caller is: by token if there is one, else by its certificate.
    async fn proved(
        &self,
        request: &Request<IssueRequest>,
        source: IpAddr,
    ) -> Result<(SpiffeId, Option<Proof>), Refusal> {
        let secret = request.get_ref().join_token.as_str();
        if !secret.is_empty() {
            let proof = self.tokens.prove(secret, source).await?;
            return Ok((proof.id.clone(), Some(proof)));
        }
        if Peer::any(request).is_ok_and(|peer| peer.svid.is_none()) {
            return Err(Refusal::NoProof);
        }
        let id = Peer::of(request).map_err(|status| CallerError(Box::new(status)))?;
        if id.namespace() == SYSTEM_NAMESPACE {
            return Err(Refusal::SystemNamespace);
        }
        Ok((id, None))
    }
}

#[async_trait]
impl Identity for IdentityService {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = Peer::any(&request)?.clone();
        let source = match peer.addr {
            PeerAddr::Tcp(addr) => addr.ip(),
            PeerAddr::Socket { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        self.decide(&request, source).await.map(Response::new).map_err(|refusal| {
            self.counts.refused.increment();
            let id = peer.svid.as_ref().map(|svid| svid.spiffe_id.to_string());
            let why = refusal.reason();
            tracing::warn!(peer = %peer.addr, id, why, error = %refusal, "refused to issue an SVID");
            refusal.status()
        })
    }
}

impl Refusal {
    /// A word for the log that tells apart what the answer does not.
    fn reason(&self) -> &'static str {
        match self {
            Self::NoProof => "no_proof",
            Self::SystemNamespace | Self::Token(TokenError::SystemNamespace) => "system_namespace",
            Self::Caller(_) => "certificate",
            Self::Token(TokenError::Invalid { why }) => why,
            Self::Token(TokenError::TooManyAttempts) => "too_many_attempts",
            Self::Token(
                TokenError::Field { .. } | TokenError::TooMany | TokenError::Random(_) | TokenError::Store(_),
            ) => "store",
            Self::Csr(_) => "csr",
            Self::Authority(_) => "authority",
        }
    }

    fn status(self) -> Status {
        let text = self.to_string();
        match self {
            Self::Caller(CallerError(status)) => *status,
            Self::NoProof | Self::Token(TokenError::Invalid { .. }) => Status::unauthenticated(text),
            Self::SystemNamespace
            | Self::Token(TokenError::SystemNamespace)
            | Self::Csr(CsrError::OtherIdentity { .. }) => Status::permission_denied(text),
            Self::Token(TokenError::TooManyAttempts) => Status::resource_exhausted(text),
            Self::Csr(CsrError::TooLong | CsrError::Malformed | CsrError::Key | CsrError::Signature) => {
                Status::invalid_argument(text)
            }
            Self::Token(
                TokenError::Field { .. } | TokenError::TooMany | TokenError::Random(_) | TokenError::Store(_),
            ) => Status::unavailable("the control plane's store does not answer; try again"),
            Self::Authority(_) => Status::internal("the certificate could not be signed"),
        }
    }
}
